//! `fleet rollout`: all endpoints are replaced, one after the other, as a Deployment does it.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::seen::{after, ends, level_after, most_of_one, moves};
use super::{Setup, World, print};

/// A terminating Pod is killed after this, its grace period; the pool's `drain_deadline` as well.
const GRACE: Duration = Duration::from_secs(15);
/// From the last replacement to the end.
const SETTLE: Duration = Duration::from_secs(40);
/// Sessions stand for longer than `min_age` before the first replacement.
const STAND: Duration = Duration::from_secs(4);
/// A Pod that is empty ends no earlier than this after it began to terminate.
const EMPTY_AFTER: Duration = Duration::from_millis(600);

/// What `fleet rollout` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Gateway processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gateways: u32,
    /// Endpoints, each of which is replaced
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=20))]
    pub endpoints: u32,
    /// WebSocket clients
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(100..=9_000))]
    pub clients: u32,
    /// Folder of configurations and logs
    #[arg(long, default_value = "target/rollout")]
    pub out: PathBuf,
}

/// Runs it once, prints what was seen; the exit code is 1 when a bar is missed.
///
/// # Errors
/// When a process cannot be started, or the clients do not connect.
pub async fn rollout(args: Args) -> anyhow::Result<ExitCode> {
    let setup = Setup {
        folder: args.out.clone(),
        gateways: args.gateways,
        endpoints: args.endpoints,
        clients: args.clients,
        rebalance: json!({"min_age": "2s", "drain_deadline": format!("{}s", GRACE.as_secs())}),
    };
    let mut world = World::start(setup).await?;
    world.watch(STAND, |_| false).await?;
    let began = world.now();
    let (mut new, mut waits) = (Vec::new(), Vec::new());
    for number in 1..=args.endpoints {
        let old = format!("demo-{number}");
        let (added, _) = world.add(1).await?;
        new.extend(added);
        let terminated = world.now();
        world.terminate(&old)?;
        let earliest = terminated + EMPTY_AFTER.as_secs_f64();
        world
            .watch(GRACE, |sample| sample.t >= earliest && sample.open.get(&old).is_none_or(|n| *n == 0))
            .await?;
        waits.push(world.now() - terminated);
        world.remove(&old)?;
    }
    let replaced = world.now();
    world.watch(SETTLE, |_| false).await?;
    let (sessions, samples) = world.account().await?;
    let moves = moves(&sessions, began);
    let ends = ends(&sessions, began);
    let polite = ends.get("1012 rebalance").copied().unwrap_or(0);
    let others: u64 = ends.values().sum::<u64>() - polite;
    let most = most_of_one(&moves);
    let level = level_after(&samples, replaced, &new, args.clients);
    let slowest = waits.iter().copied().fold(0.0, f64::max);
    let mut text = format!(
        "{} endpoints replaced one by one, {} clients, {} gateways, grace {} s\n",
        args.endpoints,
        args.clients,
        args.gateways,
        GRACE.as_secs()
    );
    let _ = writeln!(text, "  slowest endpoint empty after {slowest:.1} s");
    let _ = writeln!(
        text,
        "  moves {} ({:.2} a client), most of one client {most}",
        moves.len(),
        moves.len() as f64 / f64::from(args.clients)
    );
    let _ = writeln!(text, "  level on the new ones {}", after(level));
    ends.iter().for_each(|(ending, count)| {
        let _ = writeln!(text, "  {count:6} x {ending}");
    });
    let mut missed = Vec::new();
    if others > 0 {
        missed.push(format!("{others} sessions ended in another way than by a polite close"));
    }
    if most > 2 {
        missed.push(format!("a client was moved {most} times, expected at most 2"));
    }
    if level.is_none() {
        missed.push("the new endpoints are not level at the end".to_owned());
    }
    print(&text, &missed)
}
