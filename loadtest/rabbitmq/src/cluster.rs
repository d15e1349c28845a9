//! A cluster that this program runs: up, its nodes stopped, started, killed, paused one by one, and down when dropped.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::install::{Install, own_environment};
use crate::node::Node;
use crate::ports::Port;
use crate::probe;
use crate::process::{LOOK_EVERY, Process};
use crate::record::{self, NodeRecord, Record};

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 5;

/// Longest wait for a node to serve; a machine with other work needs ten times what an idle one does.
const START_WITHIN: Duration = Duration::from_secs(180);
/// Longest wait for a node to end after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Longest answer of `rabbitmqctl`.
const CTL_WITHIN: Duration = Duration::from_secs(60);

/// Who ends a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lifetime {
    /// It ends with its [`Cluster`], and with this process however that ends.
    #[default]
    Ours,
    /// It lives on until [`down`](crate::down).
    Detached,
}

/// How a cluster is started.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Its nodes at the start, 1 to [`NODES_MAX`].
    pub nodes: usize,
    /// Who ends it.
    pub lifetime: Lifetime,
    /// Is told what happens, a line at a time.
    pub tell: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, lifetime: Lifetime::Ours, tell: |_| {} }
    }
}

/// A running cluster. With [`Lifetime::Ours`], dropping it ends every process of it.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    install: Install,
    lifetime: Lifetime,
    cookie: String,
    epmd: Process,
    epmd_port: Port,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a new cluster in `folder`, whose old content it removes, and waits until every node serves AMQP. Three
    /// nodes take about 14 s on two cores. What an earlier run left running there is ended first.
    ///
    /// # Errors
    /// When RabbitMQ is not installed, or a node ends or does not serve in time; the message has its last words.
    pub fn up(folder: &Path, options: &Options) -> anyhow::Result<Self> {
        if !(1..=NODES_MAX).contains(&options.nodes) {
            bail!("a cluster of {} nodes, expected 1 to {NODES_MAX}", options.nodes);
        }
        let install = Install::find()?;
        let folder = std::path::absolute(folder).context("the folder has no absolute path")?;
        if record::down(&folder)? > 0 {
            (options.tell)("ended what an earlier run had left there");
        }
        empty(&folder)?;
        let cookie = cookie();
        let epmd_port = Port::pick()?;
        let epmd = start_epmd(&folder, &epmd_port, options.lifetime)?;
        let mut cluster =
            Self { folder, install, lifetime: options.lifetime, cookie, epmd, epmd_port, nodes: Vec::new() };
        cluster.save()?;
        for number in 1..=options.nodes {
            cluster.nodes.push(Node::create(&cluster.folder, number, &cluster.cookie)?);
        }
        // All at once, and each by itself: a boot is seconds of CPU, and one that looks for others in the meantime may
        // find the first half made.
        for index in 0..options.nodes {
            cluster.launch(index, None)?;
            let node = &cluster.nodes[index];
            (options.tell)(&format!("{} starts, AMQP will be at {}", node.name(), node.address()));
        }
        for index in 0..options.nodes {
            cluster.await_node(index)?;
        }
        cluster.join()?;
        (options.tell)(&format!("{} nodes are one cluster", options.nodes));
        Ok(cluster)
    }

    /// Its nodes, also those that do not run at present.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where everything of it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a node and waits until it serves; answers its index.
    ///
    /// # Errors
    /// When the cluster is full, no node runs that it could join, or it does not serve in time.
    pub fn add_node(&mut self) -> anyhow::Result<usize> {
        if self.nodes.len() == NODES_MAX {
            bail!("the cluster has {NODES_MAX} nodes, which is the most");
        }
        let running = self.nodes.iter().find(|node| probe::answers(node.address()));
        let seed = running.context("no node runs that a new one could join")?.name().to_owned();
        let index = self.nodes.len();
        self.nodes.push(Node::create(&self.folder, index + 1, &self.cookie)?);
        self.launch(index, Some(&seed))?;
        self.await_node(index)?;
        Ok(index)
    }

    /// Stops a node as an operator would (SIGTERM) and waits for its end. Nothing happens when it does not run.
    ///
    /// # Errors
    /// When there is no such node, or it survives SIGKILL.
    pub fn stop_node(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.node(index)?.process.take() {
            process.end(STOP_WITHIN)?;
        }
        self.save()
    }

    /// Ends a node without a word (SIGKILL).
    ///
    /// # Errors
    /// When there is no such node, or it survives.
    pub fn kill_node(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.node(index)?.process.take() {
            process.kill()?;
        }
        self.save()
    }

    /// Starts a stopped or killed node again, with its data and at its old address, and waits until it serves.
    ///
    /// # Errors
    /// When it runs already, or does not serve in time.
    pub fn start_node(&mut self, index: usize) -> anyhow::Result<()> {
        let node = self.node(index)?;
        if node.process.as_mut().is_some_and(Process::alive) {
            bail!("{} runs already", node.name());
        }
        self.launch(index, None)?;
        self.await_node(index)
    }

    /// Stops a node's process where it is (SIGSTOP): its connections stay open and say nothing.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn pause(&mut self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::STOP)
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn resume(&mut self, index: usize) -> anyhow::Result<()> {
        self.signal(index, Signal::CONT)
    }

    /// `rabbitmqctl -n NODE ARGUMENTS`; answers its standard output.
    ///
    /// # Errors
    /// When it fails; the message has what it said.
    pub fn ctl(&self, index: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let node = self.nodes.get(index).with_context(|| self.no_such_node(index))?;
        let mut command = self.install.program("rabbitmqctl", &node.home(), self.epmd_port.number());
        let within = CTL_WITHIN.as_secs().to_string();
        command.args(["-n", node.name(), "--timeout", &within, "--quiet"]).args(arguments);
        let output = command.stdin(Stdio::null()).output().context("cannot start rabbitmqctl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("rabbitmqctl {} at {}: {}: {said}", arguments.join(" "), node.name(), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What is written down of it.
    pub fn record(&self) -> Record {
        let node = |node: &Node| NodeRecord {
            name: node.name().to_owned(),
            amqp_port: node.amqp.number(),
            dist_port: node.dist.number(),
            pid: node.pid().unwrap_or(0),
            started: node.process.as_ref().map_or(0, |process| process.started),
        };
        Record {
            nodes: self.nodes.iter().map(node).collect(),
            epmd_port: self.epmd_port.number(),
            epmd_pid: self.epmd.pid,
            epmd_started: self.epmd.started,
            cookie: self.cookie.clone(),
        }
    }

    /// Makes one cluster of nodes that are up, each by itself.
    fn join(&mut self) -> anyhow::Result<()> {
        let first = self.nodes[0].name().to_owned();
        let others = 1..self.nodes.len();
        self.ctl_each(others.clone(), &["stop_app"])?;
        for index in others.clone() {
            self.ctl(index, &["join_cluster", &first])?;
        }
        self.ctl_each(others.clone(), &["start_app"])?;
        others.into_iter().try_for_each(|index| self.await_node(index))
    }

    /// The same command at several nodes at once.
    fn ctl_each(&self, indices: Range<usize>, arguments: &[&str]) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                indices.map(|index| scope.spawn(move || self.ctl(index, arguments))).collect();
            for call in calls {
                call.join().map_err(|_| anyhow::anyhow!("a call of rabbitmqctl panicked"))??;
            }
            Ok(())
        })
    }

    fn launch(&mut self, index: usize, seed: Option<&str>) -> anyhow::Result<()> {
        let node = &mut self.nodes[index];
        node.launch(&self.install, self.epmd_port.number(), self.lifetime, seed)?;
        self.save()
    }

    fn await_node(&mut self, index: usize) -> anyhow::Result<()> {
        let end = Instant::now() + START_WITHIN;
        let node = &mut self.nodes[index];
        while !probe::answers(node.address()) {
            if !node.process.as_mut().is_some_and(Process::alive) {
                bail!("{} ended while it started; it said:\n{}", node.name(), node.last_words());
            }
            if Instant::now() >= end {
                bail!(
                    "{} did not serve AMQP within {START_WITHIN:?}; it said:\n{}",
                    node.name(),
                    node.last_words()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn signal(&mut self, index: usize, signal: Signal) -> anyhow::Result<()> {
        if let Some(process) = &mut self.node(index)?.process {
            process.signal(signal);
        }
        Ok(())
    }

    fn node(&mut self, index: usize) -> anyhow::Result<&mut Node> {
        let missing = self.no_such_node(index);
        self.nodes.get_mut(index).context(missing)
    }

    fn no_such_node(&self, index: usize) -> String {
        format!("there is no node with index {index}, the cluster has {}", self.nodes.len())
    }

    fn save(&self) -> anyhow::Result<()> {
        self.record().save(&self.folder)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Detached {
            return;
        }
        // Nobody needs its data: SIGKILL is the quickest. What survives has no place to be told.
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            process.signal(Signal::KILL);
        }
        for mut process in self.nodes.iter_mut().filter_map(|node| node.process.take()) {
            let _ = process.kill();
        }
        let _ = self.epmd.kill();
        Record::remove(&self.folder);
    }
}

/// A folder without anything of an earlier cluster.
fn empty(folder: &Path) -> anyhow::Result<()> {
    for number in 1..=NODES_MAX {
        let old = folder.join(format!("ek{number}"));
        if old.exists() {
            fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Erlang's register of names and ports. Nodes would start the system's own when there is none at the port.
fn start_epmd(folder: &Path, port: &Port, lifetime: Lifetime) -> anyhow::Result<Process> {
    let mut command = match lifetime {
        Lifetime::Ours => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", "epmd"]);
            command
        }
        Lifetime::Detached => Command::new("epmd"),
    };
    command = own_environment(command, folder, port.number());
    let number = port.number().to_string();
    use std::os::unix::process::CommandExt;
    command.args(["-port", &number]).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = match lifetime {
        Lifetime::Ours => Process::start_mortal(command)?,
        Lifetime::Detached => Process::start(command)?,
    };
    let end = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port.number())).is_err() {
        if !process.alive() {
            bail!("epmd ended at once; it comes with Erlang: is `epmd` in PATH?");
        }
        if Instant::now() >= end {
            process.kill()?;
            bail!("epmd did not listen within 10 s");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(process)
}

/// Keeps clusters apart that would meet by accident; it is no secret, and valid on loopback only.
fn cookie() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("EK{:X}{:X}", std::process::id(), now.as_nanos())
}
