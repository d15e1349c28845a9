//! The brokers of a run: started, added, restarted and killed while everything else goes on.
//!
//! A node's life is that of a StatefulSet's Pod behind a preStop hook: with a gateway it is drained there first, and
//! stopped when it is empty. Without one it leaves the list of nodes that clients connect to, and is stopped at once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rabbitmq::{Cluster, Options};
use scenario::Action;
use scenario::series::State;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::gateway::Admin;

/// Name of the gateway's pool.
pub const POOL: &str = "rabbit";
/// How long the list still shows a killed node, about what Kubernetes takes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);
/// Between two looks at a node that is being drained.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Longest wait for empty queues: quorum queues count themselves every 5 s.
const COUNTED_WITHIN: Duration = Duration::from_secs(15);

/// What happens to nodes.
#[derive(Debug)]
pub enum Happened {
    /// A node is there that was not, and takes clients.
    Added(String, SocketAddr),
    /// A node is this from now on.
    State(String, State),
    /// A step is done, or why not.
    Done(anyhow::Result<()>),
}

/// The nodes of a run.
pub struct Nodes {
    cluster: Arc<Mutex<Cluster>>,
    list: PathBuf,
    /// What each node is; those that are not there yet are absent.
    pub states: BTreeMap<String, State>,
    addresses: BTreeMap<String, SocketAddr>,
    happened: mpsc::UnboundedSender<Happened>,
}

impl Nodes {
    /// Starts `count` nodes in `folder`, and lists them in `list` for the gateway.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn start(
        folder: &Path,
        list: &Path,
        count: u32,
        happened: mpsc::UnboundedSender<Happened>,
    ) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        let options = Options { nodes: count as usize, ..Options::default() };
        let cluster = tokio::task::spawn_blocking(move || Cluster::up(&folder, &options)).await??;
        let states = cluster.nodes().iter().map(|node| (short(node.name()), State::Ready)).collect();
        let addresses = cluster.nodes().iter().map(|node| (short(node.name()), node.address())).collect();
        let nodes = Self {
            cluster: Arc::new(Mutex::new(cluster)),
            list: list.to_owned(),
            states,
            addresses,
            happened,
        };
        nodes.write_list()?;
        Ok(nodes)
    }

    /// Where the nodes are that take clients.
    pub fn ready(&self) -> Vec<SocketAddr> {
        let ready = self.states.iter().filter(|(_, state)| **state == State::Ready);
        ready.filter_map(|(name, _)| self.addresses.get(name)).copied().collect()
    }

    /// Port of each node that was ever there, by its short name.
    pub fn ports(&self) -> BTreeMap<u16, &str> {
        self.addresses.iter().map(|(name, address)| (address.port(), name.as_str())).collect()
    }

    /// Begins what a step asks for; [`Happened`] tells how it goes on.
    pub fn act(&self, action: Action, deadline: Duration, admin: Option<Admin>) {
        let job = Job { cluster: self.cluster.clone(), happened: self.happened.clone(), admin, deadline };
        tokio::task::spawn_local(async move {
            let done = job.run(&action).await.with_context(|| format!("the step `{action}` failed"));
            job.tell(Happened::Done(done));
        });
    }

    /// A node is there that was not.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn add(&mut self, name: &str, address: SocketAddr) -> anyhow::Result<()> {
        self.addresses.insert(name.to_owned(), address);
        self.note(name, State::Ready)
    }

    /// A node has become something.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn note(&mut self, name: &str, state: State) -> anyhow::Result<()> {
        self.states.insert(name.to_owned(), state);
        self.write_list()
    }

    /// Messages in all queues, ready or unacknowledged, as the brokers count them; waits a while for none.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn messages(&self) -> anyhow::Result<u64> {
        let end = Instant::now() + COUNTED_WITHIN;
        loop {
            let left = self.messages_now().await?;
            if left == 0 || Instant::now() >= end {
                return Ok(left);
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn messages_now(&self) -> anyhow::Result<u64> {
        let cluster = self.cluster.clone();
        let count = move || {
            let text = lock(&cluster).ctl(0, &["list_queues", "messages", "--no-table-headers"])?;
            let numbers = text.lines().map(|line| line.trim().parse::<u64>());
            numbers.sum::<Result<u64, _>>().with_context(|| format!("rabbitmqctl said {text:?}"))
        };
        tokio::task::spawn_blocking(count).await?
    }

    fn write_list(&self) -> anyhow::Result<()> {
        let mut text = String::from("# Written by fleet at each step.\n");
        for (name, state) in &self.states {
            let Some(address) = self.addresses.get(name) else { continue };
            // A draining one is drained by the call, as a preStop hook does it.
            let listed = if *state == State::Gone { "unready" } else { "ready" };
            writeln!(text, "- {{address: \"{address}\", id: {name}, state: {listed}}}")?;
        }
        let new = self.list.with_extension("new");
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &self.list).with_context(|| format!("cannot write {}", self.list.display()))
    }
}

struct Job {
    cluster: Arc<Mutex<Cluster>>,
    happened: mpsc::UnboundedSender<Happened>,
    admin: Option<Admin>,
    deadline: Duration,
}

impl Job {
    async fn run(&self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Scale(count) => self.scale(*count as usize).await,
            Action::Restart(name) => self.restart(name).await,
            Action::Kill(name) => {
                let index = index(name)?;
                self.with(move |cluster| cluster.kill_node(index)).await?;
                sleep(FORGOTTEN_AFTER).await;
                self.tell(Happened::State(name.clone(), State::Gone));
                Ok(())
            }
            Action::Revive(name) => {
                let index = index(name)?;
                self.with(move |cluster| cluster.start_node(index)).await?;
                self.tell(Happened::State(name.clone(), State::Ready));
                Ok(())
            }
            Action::ScaleDeployment(_)
            | Action::Drain(_)
            | Action::Flap(_)
            | Action::Pause
            | Action::Resume => {
                bail!("{action} is no step of a cluster; the scenario was checked for that")
            }
        }
    }

    async fn scale(&self, count: usize) -> anyhow::Result<()> {
        let present = lock(&self.cluster).nodes().len();
        for _ in present..count {
            let added = self.with(|cluster| {
                let index = cluster.add_node()?;
                let node = &cluster.nodes()[index];
                Ok((short(node.name()), node.address()))
            });
            let (name, address) = added.await?;
            self.tell(Happened::Added(name, address));
        }
        Ok(())
    }

    async fn restart(&self, name: &str) -> anyhow::Result<()> {
        let (index, drain) = (index(name)?, format!("/api/v1/pools/{POOL}/endpoints/{name}/drain"));
        if let Some(admin) = self.admin {
            self.tell(Happened::State(name.into(), State::Draining));
            let deadline = self.deadline.as_millis();
            admin.call("POST", &format!("{drain}?deadline={deadline}ms")).await?;
            empty(admin, name, self.deadline).await?;
        }
        self.tell(Happened::State(name.into(), State::Gone));
        self.with(move |cluster| cluster.stop_node(index)).await?;
        self.with(move |cluster| cluster.start_node(index)).await?;
        self.tell(Happened::State(name.into(), State::Ready));
        if let Some(admin) = self.admin {
            admin.call("DELETE", &drain).await?;
        }
        Ok(())
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cluster) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || work(&mut lock(&cluster))).await?
    }

    fn tell(&self, happened: Happened) {
        // A run that has ended does not listen any more.
        let _ = self.happened.send(happened);
    }
}

/// Waits until the gateway has no session at the node, or `deadline` has passed, as it would for a Pod.
async fn empty(admin: Admin, name: &str, deadline: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        let status = admin.call("GET", "/api/v1/status").await?;
        let endpoints = status["pools"][POOL]["endpoints"].as_array();
        let node = endpoints.and_then(|all| all.iter().find(|endpoint| endpoint["id"] == name));
        let node = node.with_context(|| format!("the gateway's status does not know {name}"))?;
        if node["sessions"] == 0 && node["pending"] == 0 {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// `ek1` of `ek1@localhost`.
fn short(name: &str) -> String {
    name.split('@').next().unwrap_or(name).to_owned()
}

/// 0 of `ek1`.
fn index(name: &str) -> anyhow::Result<usize> {
    let number = name.strip_prefix("ek").and_then(|number| number.parse::<usize>().ok());
    number.and_then(|number| number.checked_sub(1)).with_context(|| format!("{name} is no node's name"))
}

/// A cluster whose user panicked is still a cluster.
fn lock(cluster: &Mutex<Cluster>) -> std::sync::MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Established connections by the local ports in `ports`, from the kernel's table of IPv4 sockets.
pub fn connections(table: &str, ports: &BTreeMap<u16, &str>) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<String, u32> = ports.values().map(|name| ((*name).to_owned(), 0)).collect();
    for line in table.lines().skip(1) {
        // Number, local address, remote address, state.
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        let port = local.and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
        let name = port.filter(|_| state == Some("01")).and_then(|port| ports.get(&port));
        if let Some(count) = name.and_then(|name| counts.get_mut(*name)) {
            *count += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_are_counted_at_the_nodes_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
             0: 0100007F:A6AF 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
             1: 0100007F:A6AF 0100007F:C001 01 00000000:00000000 00:00000000 00000000\n\
             2: 0100007F:C001 0100007F:A6AF 01 00000000:00000000 00:00000000 00000000\n\
             3: 0100007F:A6AF 0100007F:C002 06 00000000:00000000 00:00000000 00000000\n\
             4: 0100007F:A6B0 0100007F:C003 01 00000000:00000000 00:00000000 00000000\n";
        let ports = [(0xA6AF, "ek1"), (0xA6B0, "ek2"), (0xA6B1, "ek3")].into();
        let expected = [("ek1".to_owned(), 1), ("ek2".into(), 1), ("ek3".into(), 0)].into();
        assert_eq!(connections(table, &ports), expected);
    }

    #[test]
    fn nodes_are_numbered_from_one() {
        assert_eq!((index("ek1").unwrap(), index("ek12").unwrap()), (0, 11));
        assert!(index("ek0").is_err() && index("demo-1").is_err());
        assert_eq!(short("ek1@localhost"), "ek1");
    }
}
