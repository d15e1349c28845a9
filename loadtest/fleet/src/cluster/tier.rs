//! A tier of gateways during a run: what it says now, and what it has said.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use scenario::series::{Change, Sample};
use scenario::{Action, DeploymentScale, Scenario};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::api::Cluster;
use super::counts::{Counts, together};
use super::poll::{self, Look, Replicas};

/// Longest wait for the endpoints that a scenario begins with: images may have to be pulled.
const SETTLE_WITHIN: Duration = Duration::from_secs(180);

/// Where a tier is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its gateways.
    pub replicas: Replicas,
    /// The pool that is meant; none: the only one.
    pub pool: Option<String>,
}

/// A tier of gateways that is asked all the time.
pub struct Tier {
    cluster: Option<Cluster>,
    counts: Counts,
    looks: mpsc::UnboundedReceiver<Look>,
    asking: JoinHandle<()>,
    began: Instant,
    last: Vec<Value>,
    silent: Vec<String>,
}

impl Tier {
    /// Begins to ask, brings the Deployment of the scenario to the endpoints that it begins with, and returns when the
    /// gateways see them.
    ///
    /// # Errors
    /// When the cluster cannot be reached or refuses, or the endpoints are not there in time.
    pub async fn start(place: &Place, scenario: &Scenario) -> anyhow::Result<Self> {
        let deployment = scenario.steps.iter().find_map(|step| match step.action() {
            Ok(Action::ScaleDeployment(scale)) => Some(scale),
            _ => None,
        });
        let found_by_api = matches!(place.replicas, Replicas::Of { .. });
        let cluster = if deployment.is_some() || found_by_api { Some(Cluster::infer().await?) } else { None };
        let (sender, looks) = mpsc::unbounded_channel();
        let asking = tokio::task::spawn_local(poll::watch(place.replicas.clone(), cluster.clone(), sender));
        let mut tier = Self {
            cluster,
            counts: Counts::of(place.pool.clone()),
            looks,
            asking,
            began: Instant::now(),
            last: Vec::new(),
            silent: Vec::new(),
        };
        let count = scenario.endpoints.count;
        if let Some(deployment) = deployment {
            tier.scale(&DeploymentScale { replicas: count, ..deployment }).await?;
        }
        tier.settle(count as usize).await?;
        Ok(tier)
    }

    /// The first client connects now: times are from here on.
    pub fn begin(&mut self, now: Instant) {
        self.began = now;
        for change in &mut self.counts.changes {
            change.t = 0.0;
        }
    }

    /// The next look at all gateways, as a sample; it takes as long as it takes.
    ///
    /// # Errors
    /// When the gateways do not say what is expected of them.
    pub async fn look(&mut self) -> anyhow::Result<Sample> {
        let look = self.looks.recv().await.context("the gateways are no longer asked")?;
        let t = look.at.saturating_duration_since(self.began).as_secs_f64();
        self.silent = look.silent;
        let sample = self.counts.look(t, &look.statuses)?;
        self.last = look.statuses;
        Ok(sample)
    }

    /// Gives a Deployment so many replicas.
    ///
    /// # Errors
    /// When the API cannot be reached or refuses.
    pub async fn scale(&self, scale: &DeploymentScale) -> anyhow::Result<()> {
        let cluster = self.cluster.as_ref().context("there is no cluster to scale in")?;
        cluster.scale(scale).await
    }

    /// Whether an endpoint is ready.
    pub fn is_ready(&self, name: &str) -> bool {
        self.counts.is_ready(name)
    }

    /// What became of endpoints.
    pub fn changes(&self) -> Vec<Change> {
        self.counts.changes.clone()
    }

    /// What all gateways said last, as one status.
    pub fn status(&self) -> Value {
        together(&self.last)
    }

    /// Gateways that did not answer the last time, one line each.
    pub fn silent(&self) -> &[String] {
        &self.silent
    }

    async fn settle(&mut self, count: usize) -> anyhow::Result<()> {
        let settled = timeout(SETTLE_WITHIN, async {
            loop {
                self.look().await?;
                if self.silent.is_empty() && self.counts.ready() == count {
                    return anyhow::Ok(());
                }
            }
        })
        .await;
        match settled {
            Ok(settled) => settled,
            Err(_) => bail!(
                "the scenario begins with {count} ready endpoints, and after {SETTLE_WITHIN:?} the gateways see {}{}",
                self.counts.ready(),
                self.silent.iter().map(|line| format!("; {line}")).collect::<String>()
            ),
        }
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.asking.abort();
    }
}
