//! `fleet discovery`: how soon a new endpoint has its first session, and that a watch that breaks a hundred times moves
//! nobody.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::seen::{after, ends};
use super::{Setup, World, print};

/// The pool's `min_ready`.
const MIN_READY_S: f64 = 3.0;
/// A first session may come so much later.
const BEYOND_S: f64 = 1.0;
/// The watches are cut so many times,
const CUTS: u32 = 100;
/// so often.
const CUT_EVERY: Duration = Duration::from_millis(200);
/// And nobody may be moved until this long after the last.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// Sessions stand for longer than `min_age` before.
const STAND: Duration = Duration::from_secs(4);
/// Longest wait for a first session.
const FIRST_WITHIN: Duration = Duration::from_secs(20);
/// How much of a run the clients' samples can be late.
const SAMPLE_S: f64 = 0.2;

/// What `fleet discovery` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Gateway processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gateways: u32,
    /// WebSocket clients
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(100..=9_000))]
    pub clients: u32,
    /// Folder of configurations and logs
    #[arg(long, default_value = "target/discovery")]
    pub out: PathBuf,
}

/// Runs it once, prints what was seen; the exit code is 1 when a bar is missed.
///
/// # Errors
/// When a process cannot be started, or the clients do not connect.
pub async fn discovery(args: Args) -> anyhow::Result<ExitCode> {
    let min_ready = format!("{MIN_READY_S}s");
    let setup = Setup {
        folder: args.out.clone(),
        gateways: args.gateways,
        endpoints: 3,
        clients: args.clients,
        // The endpoints have settled by the time that a new one counts.
        rebalance: json!({"settle": "1s", "min_ready": min_ready, "min_age": "2s"}),
    };
    let mut world = World::start(setup).await?;
    world.watch(STAND, |_| false).await?;
    let cut_from = world.now();
    for _ in 0..CUTS {
        world.api.cut_watches(apiserver::Cut::Reset);
        world.watch(CUT_EVERY, |_| false).await?;
    }
    world.watch(AFTERWARDS, |_| false).await?;
    let cut_to = world.now();
    let (new, listed) = world.add(1).await?;
    let name = new[0].clone();
    world.watch(FIRST_WITHIN, |sample| sample.open.get(&name).is_some_and(|n| *n > 0)).await?;
    world.watch(Duration::from_secs(1), |_| false).await?;
    let (sessions, _) = world.account().await?;
    let moved: u64 = ends(&sessions, cut_to).values().sum();
    let ended: Vec<_> =
        sessions.iter().filter(|session| (cut_from..cut_to).contains(&session.closed_s)).collect();
    let on_new = sessions.iter().filter(|session| session.endpoint == name).map(|session| session.opened_s);
    let first = on_new.min_by(f64::total_cmp).map(|t| t - listed);
    let mut text =
        format!("{} clients, {} gateways, min_ready {MIN_READY_S} s\n", args.clients, args.gateways);
    let _ = writeln!(text, "  watches cut {CUTS} times: {} sessions ended", ended.len());
    let _ = writeln!(text, "  first session on a new endpoint {} ({moved} sessions moved)", after(first));
    let mut missed = Vec::new();
    if !ended.is_empty() {
        missed.push(format!("{} sessions ended while only watches were cut", ended.len()));
    }
    if first.is_none_or(|first| first > MIN_READY_S + BEYOND_S + SAMPLE_S) {
        missed.push(format!("the first session came {}, expected within min_ready and 1 s", after(first)));
    }
    print(&text, &missed)
}
