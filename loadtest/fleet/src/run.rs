//! One run of a scenario, from the first process to the last account: everything that happens becomes a recording.
//!
//! Nothing is computed here: see `recording`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use scenario::series::Sample;
use scenario::{Action, Mark, Scenario, Timeline};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::child::{Child, What, Who};
use crate::cluster::{Place, Tier};
use crate::demo::Demo;
use crate::gateway::Gateway;
use crate::progress::Progress;
use crate::protocol::{Answer, ClientsPlan, ClientsSample, Order};
use crate::recording::Recording;
use crate::usage;

/// Longest wait for all endpoints to listen.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Everything is still when the counts have not changed for this long.
const STILL_FOR: Duration = Duration::from_millis(900);
/// Longest wait for stillness.
const STILL_WITHIN: Duration = Duration::from_secs(6);
/// Longest wait for all accounts.
const ACCOUNTS_WITHIN: Duration = Duration::from_secs(40);

/// Which run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `evenkeel`, or the baseline's policy.
    pub label: String,
    /// How long, from the first connection.
    pub length: Duration,
    /// Whom the clients drive.
    pub target: Target,
    /// Takes configuration, list and logs.
    pub folder: PathBuf,
    /// No progress is shown.
    pub quiet: bool,
}

/// Whom the clients drive.
#[derive(Clone, Debug)]
pub enum Target {
    /// A gateway of our own with these keys in its pool.
    Own(Map<String, Value>),
    /// One that runs elsewhere.
    Elsewhere {
        /// `host:port`.
        address: String,
        /// Path, with its query.
        path: String,
        /// Where its endpoints come from.
        endpoints: Endpoints,
    },
}

/// The endpoints of a gateway that runs elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoints {
    /// Ours, listed in a file that it watches.
    Ours(PathBuf),
    /// Its own, told by all gateways of its tier; a cluster may scale them.
    Told(Place),
    /// Its own, known by what clients see of them; steps of endpoints cannot be taken.
    Seen,
}

struct Run<'a> {
    scenario: &'a Scenario,
    setup: &'a Setup,
    events: mpsc::UnboundedReceiver<(Who, What)>,
    demo: Demo,
    clients: Child,
    gateway: Option<Gateway>,
    tier: Option<Tier>,
    progress: Progress,
    began: Instant,
    latest: ClientsSample,
    clients_done: bool,
    recording: Recording,
}

/// Runs the scenario once.
///
/// # Errors
/// When a process cannot be started or ends too early, or a step cannot be taken. What merely ends badly is a fault
/// in the recording.
pub async fn record(scenario: &Scenario, setup: &Setup) -> anyhow::Result<Recording> {
    std::fs::create_dir_all(&setup.folder)
        .with_context(|| format!("cannot create {}", setup.folder.display()))?;
    let (tx, mut events) = mpsc::unbounded_channel();
    let (list, own_endpoints) = match &setup.target {
        Target::Own(_) => (setup.folder.join("endpoints.yaml"), true),
        Target::Elsewhere { endpoints: Endpoints::Ours(file), .. } => (file.clone(), true),
        Target::Elsewhere { .. } => (PathBuf::new(), false),
    };
    let mut demo = Demo::new(&setup.folder, &list, scenario.clients.push_every, tx.clone());
    if own_endpoints {
        demo.start(scenario.endpoints.count)?;
        timeout(START_WITHIN, settle(&mut demo, &mut events))
            .await
            .context("the demo endpoints did not listen within 15 s")??;
    }
    let gateway = match &setup.target {
        Target::Own(pool) => Some(Gateway::start(&setup.folder, pool, &list).await?),
        Target::Elsewhere { .. } => None,
    };
    let mut tier = match &setup.target {
        Target::Elsewhere { endpoints: Endpoints::Told(place), .. } => {
            Some(Tier::start(place, scenario).await?)
        }
        Target::Own(_) | Target::Elsewhere { .. } => None,
    };
    let usage_idle = gateway.as_ref().and_then(|gateway| usage::of(gateway.pid()?).ok());
    let clients = Child::spawn(Who::Clients, &["clients".into()], &tx, setup.folder.join("clients.log"))?;
    let began = Instant::now();
    demo.began = Some(began);
    if let Some(tier) = &mut tier {
        tier.begin(began);
    }
    let mut run = Run {
        scenario,
        setup,
        events,
        demo,
        clients,
        gateway,
        tier,
        progress: Progress::new(setup.quiet, &setup.label, setup.length),
        began,
        latest: ClientsSample::default(),
        clients_done: false,
        recording: Recording {
            timeline: Timeline {
                label: setup.label.clone(),
                length_s: setup.length.as_secs_f64(),
                ..Timeline::default()
            },
            verified: own_endpoints,
            ..Recording::default()
        },
    };
    let plan = run.plan()?;
    run.clients.order(&Order::Start(plan)).await;
    run.play().await?;
    run.recording.usage = run.usage().and_then(|end| Some((usage_idle?, end)));
    run.wind_up().await?;
    Ok(run.recording)
}

/// What the tier says next; for ever when there is none.
async fn look(tier: &mut Option<Tier>) -> anyhow::Result<Sample> {
    match tier {
        Some(tier) => tier.look().await,
        None => std::future::pending().await,
    }
}

async fn settle(demo: &mut Demo, events: &mut mpsc::UnboundedReceiver<(Who, What)>) -> anyhow::Result<()> {
    while !demo.settled() {
        if let Some((Who::Endpoint(name), what)) = events.recv().await {
            demo.handle(Instant::now(), &name, &what)?;
        }
    }
    Ok(())
}

impl Run<'_> {
    fn plan(&self) -> anyhow::Result<ClientsPlan> {
        let (address, path) = match (&self.setup.target, &self.gateway) {
            (Target::Elsewhere { address, path, .. }, _) => (address.clone(), path.clone()),
            (Target::Own(_), Some(gateway)) => (gateway.listener.to_string(), "/".to_owned()),
            (Target::Own(_), None) => bail!("the gateway is not there"),
        };
        let clients = &self.scenario.clients;
        Ok(ClientsPlan {
            host: address.clone(),
            address,
            path,
            count: clients.count,
            // Only loopback has addresses to spare.
            addresses: if self.gateway.is_some() { clients.addresses } else { 1 },
            connect_per_second: clients.connect_per_second,
            message_every_ms: clients.message_every.map(|every| every.as_millis() as u64),
            message_bytes: clients.message_bytes,
            reconnect: clients.reconnect().map_err(anyhow::Error::msg)?,
            seed: self.scenario.seed,
        })
    }

    /// The timed part.
    async fn play(&mut self) -> anyhow::Result<()> {
        let end = self.began + self.setup.length;
        let mut next_step = 0;
        let mut every = interval(Duration::from_millis(50));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                Some((who, what)) = self.events.recv() => self.handle(who, what)?,
                sample = look(&mut self.tier) => self.recording.timeline.series.samples.push(sample?),
                _ = every.tick() => {
                    let now = Instant::now();
                    self.step(now, &mut next_step).await?;
                    self.demo.tick(now).await?;
                    self.show(now);
                    if let Some(death) = self.gateway.as_mut().and_then(Gateway::died) {
                        bail!(death);
                    }
                }
            }
        }
        Ok(())
    }

    async fn step(&mut self, now: Instant, next: &mut usize) -> anyhow::Result<()> {
        let Some(step) = self.scenario.steps.get(*next) else {
            return Ok(());
        };
        if now < self.began + step.at {
            return Ok(());
        }
        *next += 1;
        let action = step.action().map_err(anyhow::Error::msg)?;
        let t = (now - self.began).as_secs_f64();
        self.progress.say(&format!("          {t:5.1} s  {}", action));
        self.recording.timeline.steps.push(Mark { t, action: action.clone() });
        let command = match action {
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::ScaleDeployment(scale) => {
                let tier = self.tier.as_ref().context("a Deployment is scaled without a cluster")?;
                return tier.scale(&scale).await;
            }
            _ => return self.demo.act(now, &action, step.deadline),
        };
        match &self.gateway {
            Some(gateway) => gateway.command(command).await,
            None => {
                self.progress.say(&format!("  {t:.1} s: {action} is left out: the gateway is not ours"));
                Ok(())
            }
        }
    }

    fn handle(&mut self, who: Who, what: What) -> anyhow::Result<()> {
        let now = Instant::now();
        match (who, what) {
            (Who::Clients, What::Gone) if self.clients_done => Ok(()),
            (Who::Clients, What::Gone) => {
                bail!("the clients' process ended by itself; it said:\n{}", self.clients.last_words())
            }
            (Who::Clients, What::Said(answer)) => {
                self.hear(now, answer);
                Ok(())
            }
            (Who::Endpoint(name), what) => {
                if let What::Said(Answer::EndpointSessions(sessions)) = &what {
                    self.recording.endpoints.extend_from_slice(sessions);
                }
                self.demo.handle(now, &name, &what)
            }
        }
    }

    fn hear(&mut self, now: Instant, answer: Answer) {
        match answer {
            Answer::Clients(sample) => {
                let t = (now - self.began).as_secs_f64();
                if self.tier.is_some() {
                    self.latest = sample;
                    return;
                }
                if !self.recording.verified {
                    self.demo.discover(t, sample.open.keys());
                }
                self.recording.timeline.series.samples.push(Sample { t, open: sample.open.clone() });
                self.latest = sample;
            }
            Answer::ClientSessions(sessions) => self.recording.clients.extend(sessions),
            Answer::Done => self.clients_done = true,
            Answer::Listening(_)
            | Answer::Open(_)
            | Answer::EndpointSessions(_)
            | Answer::Amqp(_)
            | Answer::AmqpOutcome(_) => {}
        }
    }

    fn show(&mut self, now: Instant) {
        let is_ready = |name: &str| match &self.tier {
            Some(tier) => tier.is_ready(name),
            None => self.demo.is_ready(name),
        };
        let shown = |(name, open): &(&String, &u32)| **open > 0 || is_ready(name);
        let open: Vec<String> =
            self.latest.open.iter().filter(shown).map(|(name, open)| format!("{name} {open}")).collect();
        let total: u32 = self.latest.open.values().sum();
        let failed: u64 = self.latest.failed.values().sum();
        let text = format!("{total} open, {} away, {failed} failed | {}", self.latest.away, open.join("  "));
        self.progress.show(now, &self.setup.label, now - self.began, &text);
    }

    fn usage(&self) -> Option<usage::Usage> {
        usage::of(self.gateway.as_ref()?.pid()?).ok()
    }

    /// After the last measurement: no new message, stillness, polite closes, accounts, the end of all processes.
    async fn wind_up(&mut self) -> anyhow::Result<()> {
        if let Some(gateway) = &self.gateway {
            match gateway.status().await {
                Ok(status) => self.recording.status = Some(status),
                Err(e) => self.recording.faults.push(format!("the gateway's status could not be read: {e}")),
            }
        }
        if let Some(tier) = &self.tier {
            self.recording.status = Some(tier.status());
            self.recording.faults.extend_from_slice(tier.silent());
        }
        self.clients.order(&Order::Quiet).await;
        self.demo.order(&Order::Quiet).await;
        self.still().await?;
        self.recording.timeline.series.changes = match &self.tier {
            Some(tier) => tier.changes(),
            None => self.demo.changes.clone(),
        };
        self.recording.failed = self.latest.failed.clone();
        self.clients.order(&Order::Finish).await;
        self.accounts(|run| run.clients_done, "the clients'").await?;
        self.demo.order(&Order::Finish).await;
        self.accounts(|run| run.demo.unfinished().is_empty(), "the endpoints'").await?;
        self.recording.killed = self.demo.killed.clone();
        let length = self.setup.length.as_secs_f64();
        self.recording.timeline.series.samples.retain(|sample| sample.t <= length);
        self.recording.timeline.series.changes.retain(|change| change.t <= length);
        let left = self.demo.left_open();
        if left > 0 {
            self.recording
                .faults
                .push(format!("{left} sessions were still open at endpoints after all clients had left"));
        }
        if let Some(gateway) = self.gateway.take() {
            self.recording.faults.extend(gateway.stop().await.err());
        }
        Ok(())
    }

    /// Waits until nobody has sent, received, come or gone for a while, within bounds.
    async fn still(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + STILL_WITHIN;
        let (mut seen, mut since) = (self.latest.clone(), Instant::now());
        while Instant::now() < end && since.elapsed() < STILL_FOR {
            if let Ok(Some((who, what))) = timeout(Duration::from_millis(100), self.events.recv()).await {
                self.handle(who, what)?;
            }
            self.demo.tick(Instant::now()).await?;
            if self.latest != seen {
                (seen, since) = (self.latest.clone(), Instant::now());
            }
        }
        Ok(())
    }

    async fn accounts(&mut self, complete: impl Fn(&Self) -> bool, whose: &str) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + ACCOUNTS_WITHIN;
        while !complete(self) {
            let Ok(event) = tokio::time::timeout_at(end, self.events.recv()).await else {
                bail!("{whose} accounts were not complete within {ACCOUNTS_WITHIN:?}");
            };
            if let Some((who, what)) = event {
                self.handle(who, what)?;
            }
        }
        Ok(())
    }
}

/// The folder of a run's files.
pub fn folder(out: &Path, scenario: &str, label: &str) -> PathBuf {
    out.join(scenario).join(label)
}
