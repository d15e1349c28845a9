//! `fleet cost`: what an AMQP session and a message cost in the gateway, beside HAProxy in TCP mode.
//!
//! Broker, clients and proxies are processes of their own. Every round starts fresh proxies, reads their memory with
//! thousands of idle sessions, then their CPU time under load, first one then the other: what disturbs the machine
//! disturbs both, and medians are taken of ratios within a round. See `loadtest/README.md`.

pub mod broker;
pub mod load;
mod peers;
mod table;
mod wire;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::child::{Child, Events, What, Who};
use crate::protocol::Answer;
use crate::usage;
use load::{Measured, Work};
use peers::Peer;
use table::{GATEWAY, HAPROXY, Row, Table};

/// Longest wait for one measurement, its connections included.
const MEASURE_WITHIN: Duration = Duration::from_secs(180);
/// Longest wait for the broker's ports.
const BROKER_WITHIN: Duration = Duration::from_secs(15);

/// What `fleet cost` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rounds; what is told is their median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Idle sessions, of 2 channels and 1 consumer each; 0: none
    #[arg(long, default_value_t = 5_000)]
    pub idle: u32,
    /// Connections that carry messages
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Messages in flight on each of them
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    pub windows: Vec<u16>,
    /// Bytes of a message
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Nodes behind each proxy
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub nodes: u16,
    /// Leave out HAProxy; the CPU time is not judged then
    #[arg(long)]
    pub no_haproxy: bool,
    /// Folder of configurations and logs, and of the report cost.json
    #[arg(long, default_value = "target/cost")]
    pub out: PathBuf,
}

/// Measures, prints the table, and answers 1 when a bar is missed.
///
/// # Errors
/// When a process can not be started or a measurement fails.
pub async fn cost(args: Args) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let haproxy = peers::find_haproxy().filter(|_| !args.no_haproxy);
    if haproxy.is_none() {
        eprintln!("fleet: without haproxy there is nothing to compare with");
    }
    let (events, mut heard) = mpsc::unbounded_channel();
    let broker = start_broker(&args, &events)?;
    let nodes =
        timeout(BROKER_WITHIN, ports(&mut heard, args.nodes)).await.context("the broker has no ports")??;
    let bench = Bench { pid: broker.pid().context("the broker has ended")?, args, nodes, haproxy };
    let mut table = Table::default();
    for round in 0..bench.args.rounds {
        bench.round(round, &mut table).await?;
    }
    let verdicts = table.verdicts();
    writeln!(
        io::stdout().lock(),
        "{}\n\n{}, {} rounds",
        table.markdown(),
        usage::machine(),
        bench.args.rounds
    )?;
    let report = bench.args.out.join("cost.json");
    let text = json!({"machine": usage::machine(), "verdicts": verdicts, "rows": table.rows});
    fs::write(&report, serde_json::to_string_pretty(&text)?)
        .with_context(|| format!("cannot write {}", report.display()))?;
    Ok(ExitCode::from(u8::from(verdicts.iter().any(|verdict| !verdict.kept))))
}

struct Bench {
    args: Args,
    nodes: Vec<SocketAddr>,
    /// The broker's process.
    pid: u32,
    haproxy: Option<PathBuf>,
}

impl Bench {
    async fn round(&self, round: u32, table: &mut Table) -> anyhow::Result<()> {
        let folder = self.args.out.as_path();
        let mut peers = vec![(GATEWAY, Peer::gateway(folder, &self.nodes).await?)];
        if let Some(program) = &self.haproxy {
            peers.push((HAPROXY, Peer::haproxy(program, folder, &self.nodes).await?));
        }
        // Neither is always the one that runs on the warmer machine.
        if round % 2 == 1 {
            peers.reverse();
        }
        for (work, window) in self.tests() {
            for (name, peer) in &peers {
                let measured = self.measure(peer, work, window).await;
                let measured = measured.with_context(|| format!("{work:?} through {name} failed"))?;
                eprintln!("round {round} {work:?} {window} {name}: {measured:?}");
                table.rows.push(Row { round, peer: (*name).into(), work, window, measured });
            }
        }
        Ok(())
    }

    fn tests(&self) -> Vec<(Work, u16)> {
        let idle = (self.args.idle > 0).then_some((Work::Idle, 1));
        let windows = self.args.windows.iter();
        idle.into_iter()
            .chain(windows.flat_map(|window| [(Work::Publish, *window), (Work::Consume, *window)]))
            .collect()
    }

    /// One process of clients, from its first connection to its end.
    async fn measure(&self, peer: &Peer, work: Work, window: u16) -> anyhow::Result<Measured> {
        let (name, connections) = match work {
            Work::Idle => ("idle", self.args.idle),
            Work::Publish => ("publish", self.args.connections),
            Work::Consume => ("consume", self.args.connections),
        };
        let own = std::env::current_exe().context("this program's own path is not known")?;
        let mut command = Command::new(own);
        command.args(["cost-load", "--work", name]);
        for (key, value) in [
            ("--target", peer.address().to_string()),
            ("--proxy", peer.pid()?.to_string()),
            ("--broker", self.pid.to_string()),
            ("--connections", connections.to_string()),
            ("--window", window.to_string()),
            ("--bytes", self.args.bytes.to_string()),
            ("--seconds", self.args.seconds.to_string()),
        ] {
            command.args([key, &value]);
        }
        let run = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).output();
        let output = timeout(MEASURE_WITHIN, run)
            .await
            .with_context(|| format!("no result within {MEASURE_WITHIN:?}"))?
            .context("the clients can not be started")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the clients' result is not what was expected")
    }
}

fn start_broker(args: &Args, events: &Events) -> anyhow::Result<Child> {
    let nodes = args.nodes.to_string();
    let bytes = args.bytes.to_string();
    let words: Vec<OsString> =
        ["cost-broker", "--nodes", &nodes, "--bytes", &bytes].into_iter().map(OsString::from).collect();
    let log: &Path = &args.out.join("broker.log");
    Child::spawn(Who::Endpoint("broker".into()), &words, events, log.to_owned())
}

async fn ports(
    heard: &mut mpsc::UnboundedReceiver<(Who, What)>,
    count: u16,
) -> anyhow::Result<Vec<SocketAddr>> {
    let mut ports = Vec::new();
    while ports.len() < usize::from(count) {
        match heard.recv().await {
            Some((_, What::Said(Answer::Listening(address)))) => ports.push(address),
            Some((_, What::Said(_))) => {}
            Some((_, What::Gone)) | None => bail!("the broker has ended at start"),
        }
    }
    Ok(ports)
}
