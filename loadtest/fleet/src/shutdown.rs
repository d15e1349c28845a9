//! `fleet shutdown`: a gateway with thousands of real clients gets SIGTERM; how it closes them is measured and judged.
//!
//! The clients do not come back: they stand for those that land at another replica. See `loadtest/README.md`.

mod account;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use scenario::reconnect::{Kind, Reconnect};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use crate::child::{Child, What, Who};
use crate::demo::Demo;
use crate::gateway::Gateway;
use crate::protocol::{Answer, ClientSession, ClientsPlan, Order};
use account::Seen;

/// Longest wait for all endpoints to listen.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Longest wait for all clients to be connected.
const CONNECT_WITHIN: Duration = Duration::from_secs(120);
/// New connections a second.
const CONNECT_PER_SECOND: f64 = 1000.0;
/// Everybody talks for this long before the signal.
const TALK_FOR: Duration = Duration::from_secs(2);
/// The process may take this much longer than its grace before it is not waited for any more.
const LATE: Duration = Duration::from_secs(10);
/// How often it is asked whether it is ready, and whether it listens.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for the clients' account.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(40);

/// What `fleet shutdown` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// WebSocket clients
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=9_800))]
    pub sessions: u32,
    /// The gateway's `shutdown.grace`, whole seconds with their unit
    #[arg(long, default_value = "30s", value_parser = seconds)]
    pub grace: Duration,
    /// The gateway's `shutdown.propagation`, whole seconds with their unit
    #[arg(long, default_value = "5s", value_parser = seconds)]
    pub propagation: Duration,
    /// Demo endpoints
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub endpoints: u32,
    /// Milliseconds between two messages of a client; 0: they are silent
    #[arg(long, default_value_t = 5_000)]
    pub message_every_ms: u64,
    /// Folder of configurations and logs
    #[arg(long, default_value = "target/shutdown")]
    pub out: PathBuf,
}

/// Runs it once, prints what was seen; the exit code is 1 when a bar is missed.
///
/// # Errors
/// When a process cannot be started, or the clients do not connect.
pub async fn shutdown(args: Args) -> anyhow::Result<ExitCode> {
    let folder = &args.out;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (tx, mut events) = mpsc::unbounded_channel();
    let list = folder.join("endpoints.yaml");
    let mut demo = Demo::new(folder, &list, None, tx.clone());
    demo.start(args.endpoints)?;
    timeout(START_WITHIN, listening(&mut demo, &mut events))
        .await
        .context("the demo endpoints did not listen within 15 s")??;
    let gateway = Gateway::configured(folder, &configuration(&args, &list)).await?;
    let mut clients = Child::spawn(Who::Clients, &["clients".into()], &tx, folder.join("clients.log"))?;
    clients.order(&Order::Start(plan(&args, &gateway))).await;
    let began =
        timeout(CONNECT_WITHIN, connected(args.sessions, &mut events)).await.with_context(|| {
            format!("{} clients were not connected within {CONNECT_WITHIN:?}", args.sessions)
        })??;
    tokio::time::sleep(TALK_FOR).await;
    let signalled = Instant::now();
    let mut seen = stop(&args, gateway).await?;
    clients.order(&Order::Finish).await;
    let sessions = timeout(ACCOUNT_WITHIN, accounts(&mut events))
        .await
        .with_context(|| format!("the clients' account was not complete within {ACCOUNT_WITHIN:?}"))??;
    seen.ends = account::ends(&sessions, (signalled - began).as_secs_f64());
    let missed = seen.missed();
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(seen.text().as_bytes())?;
    for line in &missed {
        writeln!(stdout, "MISSED  {line}")?;
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `30s`, `2m`: what both this program and the gateway's configuration understand.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = |digits: &str| digits.parse::<u32>().ok().map(u64::from);
    let seconds = text
        .strip_suffix('s')
        .and_then(number)
        .or_else(|| text.strip_suffix('m').and_then(number).map(|minutes| minutes * 60));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("found {text:?}, expected for example 30s or 2m"))
}

fn configuration(args: &Args, list: &Path) -> Value {
    let list = std::path::absolute(list).unwrap_or_else(|_| list.to_owned());
    let text = |time: Duration| format!("{}s", time.as_secs());
    json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "routes": [{"path": "/", "pool": "demo"}],
        "pools": {"demo": {"endpoints_file": list.to_string_lossy()}},
        "admin": {"address": "127.0.0.1:0"},
        "shutdown": {"grace": text(args.grace), "propagation": text(args.propagation)},
    })
}

fn plan(args: &Args, gateway: &Gateway) -> ClientsPlan {
    let address = gateway.listener.to_string();
    ClientsPlan {
        host: address.clone(),
        address,
        path: "/".into(),
        count: args.sessions,
        addresses: 1,
        connect_per_second: CONNECT_PER_SECOND,
        message_every_ms: (args.message_every_ms > 0).then_some(args.message_every_ms),
        message_bytes: 64,
        reconnect: Reconnect { kind: Kind::Never, ..Reconnect::default() },
        seed: 1,
    }
}

async fn listening(demo: &mut Demo, events: &mut mpsc::UnboundedReceiver<(Who, What)>) -> anyhow::Result<()> {
    while !demo.settled() {
        if let Some((Who::Endpoint(name), what)) = events.recv().await {
            demo.handle(Instant::now(), &name, &what)?;
        }
    }
    Ok(())
}

/// Waits until so many sessions are open; answers when the clients began, which their first words tell.
async fn connected(
    sessions: u32,
    events: &mut mpsc::UnboundedReceiver<(Who, What)>,
) -> anyhow::Result<Instant> {
    let mut began = None;
    while let Some((who, what)) = events.recv().await {
        match (who, what) {
            (Who::Clients, What::Said(Answer::Clients(sample))) => {
                let began = *began.get_or_insert_with(Instant::now);
                if sample.open.values().sum::<u32>() == sessions {
                    return Ok(began);
                }
                if !sample.failed.is_empty() || !sample.ends.is_empty() {
                    bail!("not every client is connected: {:?} {:?}", sample.failed, sample.ends);
                }
            }
            (Who::Clients, What::Gone) => bail!("the clients' process ended by itself"),
            (Who::Clients | Who::Endpoint(_), _) => {}
        }
    }
    bail!("all processes are gone")
}

/// SIGTERM, and what can be seen of the gateway until it has ended.
async fn stop(args: &Args, mut gateway: Gateway) -> anyhow::Result<Seen> {
    let (listener, admin) = (gateway.listener, gateway.admin);
    let signalled = Instant::now();
    gateway.terminate();
    let (mut unready_after, mut closed_after) = (None, None);
    let look = async {
        let mut every = interval(LOOK);
        while unready_after.is_none() || closed_after.is_none() {
            every.tick().await;
            if unready_after.is_none()
                && admin.call("GET", "/api/v1/status").await.is_ok_and(|status| status["ready"] == false)
            {
                unready_after = Some(signalled.elapsed());
            }
            if closed_after.is_none() && TcpStream::connect(listener).await.is_err() {
                closed_after = Some(signalled.elapsed());
            }
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = timeout(args.grace + LATE, gateway.ended()) => ended,
        () = look => bail!("looking at the gateway never ends"),
    };
    let exit_code = match ended {
        Ok(status) => status.context("the gateway's end could not be seen")?.code(),
        Err(_) => None,
    };
    Ok(Seen {
        sessions: args.sessions as usize,
        grace: args.grace,
        ends: Vec::new(),
        unready_after,
        closed_after,
        exit_code,
        ended_after: signalled.elapsed(),
    })
}

async fn accounts(events: &mut mpsc::UnboundedReceiver<(Who, What)>) -> anyhow::Result<Vec<ClientSession>> {
    let mut sessions = Vec::new();
    while let Some((who, what)) = events.recv().await {
        match (who, what) {
            (Who::Clients, What::Said(Answer::ClientSessions(some))) => sessions.extend(some),
            (Who::Clients, What::Said(Answer::Done)) => return Ok(sessions),
            (Who::Clients, What::Gone) => bail!("the clients' process ended by itself"),
            (Who::Clients | Who::Endpoint(_), _) => {}
        }
    }
    bail!("all processes are gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_with_a_unit() {
        assert_eq!(seconds("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["30", "s", "1.5s", "-1s", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
