//! The gateways of a tier, asked for their status several times a second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::api::Cluster;
use crate::gateway::Admin;

/// How often they are asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked which there are.
const FIND_EVERY: Duration = Duration::from_secs(2);

/// Where the gateways are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replicas {
    /// Admin ports, `host:port`.
    Given(Vec<String>),
    /// Behind a headless Service.
    Of {
        /// Where it is.
        namespace: String,
        /// Its name.
        service: String,
    },
}

/// What the gateways said.
#[derive(Debug)]
pub struct Look {
    /// When they had answered.
    pub at: Instant,
    /// Of those that answered.
    pub statuses: Vec<Value>,
    /// Why others did not, one line each; or why there is nobody to ask.
    pub silent: Vec<String>,
}

impl Replicas {
    /// By what the command line says: `--status` addresses, `http://host:port`, or `--replicas-of` `namespace/service`.
    ///
    /// # Errors
    /// When one is not of that form.
    pub fn parse(status: &[String], replicas_of: Option<&str>) -> anyhow::Result<Option<Self>> {
        if let Some(text) = replicas_of {
            let Some((namespace, service)) =
                text.split_once('/').filter(|(n, s)| !n.is_empty() && !s.is_empty())
            else {
                bail!(
                    "--replicas-of is {text:?}, expected namespace/service of the gateways' headless Service"
                );
            };
            return Ok(Some(Self::Of { namespace: namespace.into(), service: service.into() }));
        }
        let given: Vec<String> = status.iter().map(|url| host_of(url)).collect::<Result<_, _>>()?;
        Ok((!given.is_empty()).then_some(Self::Given(given)))
    }

    async fn find(&self, cluster: Option<&Cluster>) -> anyhow::Result<Vec<SocketAddr>> {
        match self {
            Self::Given(hosts) => {
                let mut found = Vec::new();
                for host in hosts {
                    let mut addresses = tokio::net::lookup_host(host)
                        .await
                        .with_context(|| format!("cannot find the address of {host}"))?;
                    found.extend(addresses.next());
                }
                Ok(found)
            }
            Self::Of { namespace, service } => {
                let cluster = cluster.context("there is no cluster to ask for the gateways")?;
                let found = cluster.admin_ports(namespace, service).await?;
                if found.is_empty() {
                    bail!("no gateway is ready behind {namespace}/{service}; does the Service exist?");
                }
                Ok(found)
            }
        }
    }
}

/// Asks until nobody listens any more.
pub async fn watch(replicas: Replicas, cluster: Option<Cluster>, looks: mpsc::UnboundedSender<Look>) {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut found, mut found_at) = (Vec::new(), None::<Instant>);
    loop {
        every.tick().await;
        let mut silent = Vec::new();
        if found_at.is_none_or(|at| at.elapsed() >= FIND_EVERY) {
            match replicas.find(cluster.as_ref()).await {
                Ok(addresses) => (found, found_at) = (addresses, Some(Instant::now())),
                // Those that are known are asked on.
                Err(error) => silent.push(format!("{error:#}")),
            }
        }
        let ask = |address: &SocketAddr| {
            let address = *address;
            async move { (address, Admin::at(address).call("GET", "/api/v1/status").await) }
        };
        let mut statuses = Vec::new();
        for (address, answer) in join_all(found.iter().map(ask)).await {
            match answer {
                Ok(status) => statuses.push(status),
                Err(error) => {
                    silent.push(format!("the gateway at {address} does not tell its status: {error:#}"))
                }
            }
        }
        if looks.send(Look { at: Instant::now(), statuses, silent }).is_err() {
            return;
        }
    }
}

fn host_of(url: &str) -> anyhow::Result<String> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("--status is {url:?}, expected http://host:port of a gateway's admin port");
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.rsplit_once(':').is_none_or(|(name, port)| name.is_empty() || port.parse::<u16>().is_err()) {
        bail!(
            "--status is {url:?}, which names no port; expected http://host:port of a gateway's admin port"
        );
    }
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_addresses_or_a_service() {
        let urls = ["http://a:9900".to_owned(), "http://[::1]:9900/api/v1/status".to_owned()];
        let given = Replicas::Given(vec!["a:9900".into(), "[::1]:9900".into()]);
        assert_eq!(Replicas::parse(&urls, None).unwrap(), Some(given));
        let of = Replicas::Of { namespace: "a".into(), service: "b".into() };
        assert_eq!(Replicas::parse(&[], Some("a/b")).unwrap(), Some(of));
        assert_eq!(Replicas::parse(&[], None).unwrap(), None);
        for wrong in ["https://a:1", "http://a", "a:1", "http://:1"] {
            assert!(Replicas::parse(&[wrong.to_owned()], None).is_err(), "{wrong}");
        }
        assert!(Replicas::parse(&[], Some("service")).is_err());
    }
}
