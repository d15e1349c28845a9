//! Gateways in a cluster that is not there: a scripted API server in this process, real gateways, demo endpoints and
//! clients as children, clients that land at any gateway as behind a NodePort.
//!
//! `tier`, `rollout` and `discovery` are what is played in it; `seen` judges. Where a real cluster takes a gateway out of its
//! Service once its node says so, here it is taken out 2 s after it was killed.

pub mod discovery;
pub mod rollout;
mod seen;
pub mod tier;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use apiserver::ApiServer;
use apiserver::controller::{Backend, Service};
use scenario::Action;
use scenario::reconnect::{Kind, Reconnect};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use crate::child::{Child, What, Who};
use crate::demo::Demo;
use crate::gateway::Gateway;
use crate::protocol::{Answer, ClientSession, ClientsPlan, Order};
use seen::Sample;

/// Longest wait for all endpoints to listen.
const START_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for all clients to be connected.
const CONNECT_WITHIN: Duration = Duration::from_secs(180);
/// New connections a second at the start.
const CONNECT_PER_SECOND: f64 = 500.0;
/// Longest wait for the clients' account.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(60);
/// Of everything here.
const NAMESPACE: &str = "default";

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Folder of configurations and logs.
    pub folder: PathBuf,
    /// Gateway processes.
    pub gateways: u32,
    /// Demo endpoints at the start.
    pub endpoints: u32,
    /// WebSocket clients.
    pub clients: u32,
    /// The pool's `rebalance`.
    pub rebalance: Value,
}

/// A running world.
pub struct World {
    setup: Setup,
    /// The cluster's API.
    pub api: ApiServer,
    demo: Demo,
    gateways: Vec<(String, Gateway)>,
    clients: Child,
    events: mpsc::UnboundedReceiver<(Who, What)>,
    /// Endpoints in the slices, and whether they are terminating.
    listed: BTreeMap<String, bool>,
    /// When the clients began: the origin of all times.
    began: Instant,
    /// What the clients were seen to have, in order of time.
    pub samples: Vec<Sample>,
}

impl World {
    /// Starts everything and waits until every client has a session.
    ///
    /// # Errors
    /// When a process cannot be started, or the clients do not connect.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let folder = setup.folder.clone();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let api = ApiServer::start()?;
        let kubeconfig = std::path::absolute(folder.join("kubeconfig"))?;
        api.kubeconfig(&kubeconfig)?;
        let (tx, mut events) = mpsc::unbounded_channel();
        let mut demo = Demo::new(&folder, &folder.join("unused.yaml"), None, tx.clone());
        demo.start(setup.endpoints)?;
        listen(&mut demo, &mut events).await?;
        let listed: BTreeMap<String, bool> =
            demo.listening().into_iter().map(|(name, _)| (name, false)).collect();
        publish(&api, &demo, &listed)?;
        let mut gateways = Vec::new();
        for number in 1..=setup.gateways {
            let name = format!("gateway-{number}");
            let folder = folder.join(&name);
            std::fs::create_dir_all(&folder)?;
            let gateway =
                Gateway::configured_as(&folder, &configuration(&setup), &identity(&name, &kubeconfig))
                    .await?;
            gateways.push((name, gateway));
            publish_gateways(&api, &gateways)?;
        }
        let mut clients = Child::spawn(Who::Clients, &["clients".into()], &tx, folder.join("clients.log"))?;
        clients.order(&Order::Start(plan(&setup, &gateways))).await;
        clients.order(&targets(&gateways)).await;
        let began = Instant::now();
        let samples = Vec::new();
        let mut world = Self { setup, api, demo, gateways, clients, events, listed, began, samples };
        let count = world.setup.clients;
        if !world.watch(CONNECT_WITHIN, |sample| sample.total() == count).await? {
            bail!("{count} clients were not connected within {CONNECT_WITHIN:?}");
        }
        Ok(world)
    }

    /// Seconds since the clients began.
    pub fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Looks at the clients until `enough`, or for so long. Answers whether it was enough.
    ///
    /// # Errors
    /// When a process ends that should not have.
    pub async fn watch(
        &mut self,
        longest: Duration,
        mut enough: impl FnMut(&Sample) -> bool,
    ) -> anyhow::Result<bool> {
        let end = tokio::time::Instant::now() + longest;
        loop {
            let Ok(said) = tokio::time::timeout_at(end, self.events.recv()).await else { return Ok(false) };
            match said.context("all processes are gone")? {
                (Who::Clients, What::Said(Answer::Clients(sample))) => {
                    if self.samples.is_empty() {
                        // The clock of the clients begins with their first words.
                        self.began = Instant::now();
                    }
                    let sample = Sample { t: self.now(), open: sample.open, away: sample.away };
                    let is_enough = enough(&sample);
                    self.samples.push(sample);
                    if is_enough {
                        return Ok(true);
                    }
                }
                (Who::Clients, What::Gone) => bail!("the clients' process ended by itself"),
                (Who::Endpoint(name), what) => self.demo.handle(Instant::now(), &name, &what)?,
                (Who::Clients, _) => {}
            }
        }
    }

    /// Starts so many endpoints more and lists them as soon as all listen. Answers their names and the time of that.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub async fn add(&mut self, count: u32) -> anyhow::Result<(Vec<String>, f64)> {
        self.demo.start(count)?;
        listen(&mut self.demo, &mut self.events).await?;
        let names = self.demo.listening().into_iter().map(|(name, _)| name);
        let new: Vec<String> = names.filter(|name| !self.listed.contains_key(name)).collect();
        self.listed.extend(new.iter().map(|name| (name.clone(), false)));
        publish(&self.api, &self.demo, &self.listed)?;
        Ok((new, self.now()))
    }

    /// An endpoint is being deleted: terminating, and still serving.
    ///
    /// # Errors
    /// When the API server refuses the slices.
    pub fn terminate(&mut self, name: &str) -> anyhow::Result<()> {
        self.listed.insert(name.to_owned(), true);
        publish(&self.api, &self.demo, &self.listed)
    }

    /// A deleted endpoint's process ends, and it leaves the slices.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.demo.act(Instant::now(), &Action::Kill(name.to_owned()), Duration::ZERO)?;
        self.listed.remove(name);
        publish(&self.api, &self.demo, &self.listed)
    }

    /// SIGKILL for the last gateway.
    pub fn kill_gateway(&mut self) -> f64 {
        if let Some((_, gateway)) = self.gateways.last_mut() {
            gateway.kill();
        }
        self.now()
    }

    /// The last gateway leaves its Service, and no client is sent there any more.
    ///
    /// # Errors
    /// When the API server refuses the slices.
    pub async fn forget_gateway(&mut self) -> anyhow::Result<()> {
        self.gateways.pop();
        self.clients.order(&targets(&self.gateways)).await;
        publish_gateways(&self.api, &self.gateways)
    }

    /// Ends the clients and takes their account.
    ///
    /// # Errors
    /// When it is not complete in time.
    pub async fn account(mut self) -> anyhow::Result<(Vec<ClientSession>, Vec<Sample>)> {
        self.clients.order(&Order::Finish).await;
        let mut sessions = Vec::new();
        let account = async {
            while let Some((who, what)) = self.events.recv().await {
                match (who, what) {
                    (Who::Clients, What::Said(Answer::ClientSessions(some))) => sessions.extend(some),
                    (Who::Clients, What::Said(Answer::Done)) => return Ok(()),
                    (Who::Clients, What::Gone) => bail!("the clients' process ended by itself"),
                    (Who::Clients | Who::Endpoint(_), _) => {}
                }
            }
            bail!("all processes are gone")
        };
        timeout(ACCOUNT_WITHIN, account)
            .await
            .with_context(|| format!("the clients' account was not complete within {ACCOUNT_WITHIN:?}"))??;
        Ok((sessions, self.samples))
    }
}

/// Prints the report of a case; the exit code is 1 when a bar is missed.
pub fn print(text: &str, missed: &[String]) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    for line in missed {
        writeln!(stdout, "MISSED  {line}")?;
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn listen(demo: &mut Demo, events: &mut mpsc::UnboundedReceiver<(Who, What)>) -> anyhow::Result<()> {
    let all = async {
        let mut every = interval(Duration::from_millis(50));
        while !demo.settled() {
            tokio::select! {
                said = events.recv() => match said.context("all processes are gone")? {
                    (Who::Endpoint(name), what) => demo.handle(Instant::now(), &name, &what)?,
                    (Who::Clients, What::Gone) => bail!("the clients' process ended by itself"),
                    (Who::Clients, _) => {}
                },
                _ = every.tick() => {}
            }
        }
        Ok(())
    };
    timeout(START_WITHIN, all).await.context("the demo endpoints did not listen within 30 s")?
}

/// Brings the slices of the demo Service to what is listed.
fn publish(api: &ApiServer, demo: &Demo, listed: &BTreeMap<String, bool>) -> anyhow::Result<()> {
    let backends = demo.listening().into_iter().filter_map(|(name, address)| {
        let is_terminating = *listed.get(&name)?;
        let backend = Backend::new(&name, address.ip(), address.port());
        Some(if is_terminating { backend.terminating() } else { backend })
    });
    let backends: Vec<Backend> = backends.collect();
    apply(api, &Service::new(NAMESPACE, "demo"), &backends)
}

fn publish_gateways(api: &ApiServer, gateways: &[(String, Gateway)]) -> anyhow::Result<()> {
    let backend = |(name, gateway): &(String, Gateway)| {
        let admin = gateway.admin.address();
        Backend::new(name, admin.ip(), admin.port())
    };
    let backends: Vec<Backend> = gateways.iter().map(backend).collect();
    let service = Service { port_name: "admin".to_owned(), ..Service::new(NAMESPACE, "gateways") };
    apply(api, &service, &backends)
}

fn apply(api: &ApiServer, service: &Service, backends: &[Backend]) -> anyhow::Result<()> {
    let applied = api.apply_backends(service, backends);
    applied.map_err(|failure| anyhow::anyhow!("the scripted API server refuses its own slices: {failure:?}"))
}

fn configuration(setup: &Setup) -> Value {
    json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "routes": [{"path": "/", "pool": "demo"}],
        "pools": {"demo": {"kubernetes": {"service": "demo"}, "rebalance": setup.rebalance}},
        "tier": {"service": "gateways"},
        "admin": {"address": "127.0.0.1:0"},
        "shutdown": {"grace": "4s", "propagation": "0s"},
        "workers": 1,
    })
}

/// What the downward API tells a Pod.
fn identity(name: &str, kubeconfig: &Path) -> Vec<(OsString, OsString)> {
    [
        ("POD_NAME", name.to_owned().into()),
        ("POD_UID", format!("uid-{name}").into()),
        ("POD_IP", Ipv4Addr::LOCALHOST.to_string().into()),
        ("POD_NAMESPACE", NAMESPACE.into()),
        ("KUBECONFIG", kubeconfig.as_os_str().to_owned()),
    ]
    .map(|(key, value)| (key.into(), value))
    .into()
}

/// What a NodePort does: any of the ready ones.
fn targets(gateways: &[(String, Gateway)]) -> Order {
    Order::Targets(gateways.iter().map(|(_, gateway)| gateway.listener).collect())
}

fn plan(setup: &Setup, gateways: &[(String, Gateway)]) -> ClientsPlan {
    let first = gateways.first().map(|(_, gateway)| gateway.listener.to_string()).unwrap_or_default();
    ClientsPlan {
        host: first.clone(),
        address: first,
        path: "/".into(),
        count: setup.clients,
        addresses: setup.clients.min(5_000),
        connect_per_second: CONNECT_PER_SECOND,
        message_every_ms: Some(10_000),
        message_bytes: 64,
        reconnect: Reconnect { kind: Kind::SocketIo, honour_retry_after: true, ..Reconnect::default() },
        seed: 1,
    }
}
