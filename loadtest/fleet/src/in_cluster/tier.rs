//! `fleet tier`: several gateways over one API, endpoints 3 to 5, then the same again with a gateway killed amid the moves.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::seen::{LEVEL, Sample, after, all_back_after, ends, level_after, most_of_one, most_within, moves};
use super::{Setup, World, print};
use crate::protocol::ClientSession;

/// The pool's `moves_per_second_max`, for all gateways together.
const RATE: u32 = 100;
/// Level, and all clients back, within this.
const WITHIN_S: f64 = 30.0;
/// Looked at for so long after the change.
const LENGTH: Duration = Duration::from_secs(60);
/// From the change to the kill: amid the moves.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// Sessions stand for longer than `min_age` before the change.
const STAND: Duration = Duration::from_secs(4);

/// What `fleet tier` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Gateway processes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub gateways: u32,
    /// WebSocket clients
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(100..=9_000))]
    pub clients: u32,
    /// Folder of configurations and logs
    #[arg(long, default_value = "target/tier")]
    pub out: PathBuf,
}

/// What was seen of one run.
struct Seen {
    clients: u32,
    samples: Vec<Sample>,
    sessions: Vec<ClientSession>,
    endpoints: Vec<String>,
    changed: f64,
    killed: Option<f64>,
}

/// Runs both, prints what was seen; the exit code is 1 when a bar is missed.
///
/// # Errors
/// When a process cannot be started, or the clients do not connect.
pub async fn tier(args: Args) -> anyhow::Result<ExitCode> {
    let mut text = format!(
        "{} gateways, {} clients landing at random, endpoints 3 -> 5, moves_per_second_max {RATE}\n",
        args.gateways, args.clients
    );
    let mut missed = Vec::new();
    for is_killed in [false, true] {
        let seen = play(&args, is_killed).await?;
        let (lines, bad) = seen.judge();
        text += &lines;
        missed.extend(bad);
    }
    print(&text, &missed)
}

async fn play(args: &Args, is_killed: bool) -> anyhow::Result<Seen> {
    let setup = Setup {
        folder: args.out.join(if is_killed { "killed" } else { "whole" }),
        gateways: args.gateways,
        endpoints: 3,
        clients: args.clients,
        rebalance: json!({"settle": "1s", "min_ready": "2s", "min_age": "2s", "moves_per_second_max": RATE}),
    };
    let mut world = World::start(setup).await?;
    world.watch(STAND, |_| false).await?;
    let (_, changed) = world.add(2).await?;
    let mut killed = None;
    if is_killed {
        world.watch(KILL_AFTER, |_| false).await?;
        killed = Some(world.kill_gateway());
        world.watch(Duration::from_secs(2), |_| false).await?;
        world.forget_gateway().await?;
    }
    let left = LENGTH.saturating_sub(Duration::from_secs_f64((world.now() - changed).max(0.0)));
    world.watch(left, |_| false).await?;
    let endpoints = (1..=5).map(|n| format!("demo-{n}")).collect();
    let (sessions, samples) = world.account().await?;
    Ok(Seen { clients: args.clients, samples, sessions, endpoints, changed, killed })
}

impl Seen {
    /// In words, and every bar that is missed.
    fn judge(&self) -> (String, Vec<String>) {
        let (mut text, mut missed) = (String::new(), Vec::new());
        let moves = moves(&self.sessions, self.changed);
        let floor = f64::from(self.clients) * 2.0 / 5.0;
        let level = level_after(&self.samples, self.changed, &self.endpoints, self.clients);
        let end = self.samples.last().map_or(0.0, |sample| sample.imbalance(&self.endpoints));
        let (ratio, peak) = (moves.len() as f64 / floor, most_within(&moves, 10.0));
        let title =
            if self.killed.is_some() { "one gateway killed amid the moves" } else { "all gateways live" };
        let _ = writeln!(text, "{title}:");
        let _ = writeln!(text, "  level (max/mean <= {LEVEL:.2}) {}, {end:.3} at the end", after(level));
        let _ = writeln!(text, "  moves {}: {ratio:.3} x the floor of {floor:.0}", moves.len());
        let _ = writeln!(text, "  most moves within 10 s: {peak}, budget {}", RATE * 10);
        let _ = writeln!(text, "  most moves of one client: {}", most_of_one(&moves));
        let mut bar = |holds: bool, what: String| {
            if !holds {
                missed.push(format!("{title}: {what}"));
            }
        };
        bar(ratio <= 1.1, format!("{ratio:.3} x the floor was moved, expected at most 1.1"));
        // A bucket's tenth of a second on top, of each gateway.
        bar(
            peak as f64 <= f64::from(RATE) * 10.2,
            format!("{peak} moves within 10 s, expected at most {}", RATE * 10),
        );
        match self.killed {
            None => bar(
                level.is_some_and(|s| s <= WITHIN_S),
                format!("level {}, expected within 30 s", after(level)),
            ),
            Some(killed) => {
                let back = all_back_after(&self.samples, killed, self.clients);
                let _ = writeln!(
                    text,
                    "  killed {:.1} s after the change; all clients back {}",
                    killed - self.changed,
                    after(back)
                );
                bar(level.is_some(), "it is not level at the end".to_owned());
                bar(
                    back.is_some_and(|s| s <= WITHIN_S),
                    format!("all back {}, expected within 30 s", after(back)),
                );
            }
        }
        for (ending, count) in ends(&self.sessions, self.changed) {
            let _ = writeln!(text, "  {count:6} x {ending}");
        }
        (text, missed)
    }
}
