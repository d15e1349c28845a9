//! Plays schedules of the AMQP model check, as many as one wants, and says what they came to.
//!
//! `cargo run --release -p session --example model -- --schedules 1000000 --seed 1`
//! `cargo run --release -p session --example model -- --seed 4711 --case faulty --trace`
//!
//! The world that it plays is that of the tests (`tests/amqp`); only what is said on the command line is here.

#![allow(missing_docs, reason = "a tool")]
#![allow(dead_code, reason = "the tests use more of the world")]
#![allow(clippy::print_stdout, reason = "talking to the person at the terminal is the purpose")]
#![allow(clippy::disallowed_methods, reason = "the schedules are pure, the command line is not")]

#[path = "../tests/amqp/broker.rs"]
mod broker;
#[path = "../tests/amqp/channel.rs"]
mod channel;
#[path = "../tests/amqp/client.rs"]
mod client;
#[path = "../tests/amqp/dice.rs"]
mod dice;
#[path = "../tests/amqp/fault.rs"]
mod fault;
#[path = "../tests/amqp/gateway.rs"]
mod gateway;
#[path = "../tests/amqp/habits.rs"]
mod habits;
#[path = "../tests/amqp/ledger.rs"]
mod ledger;
#[path = "../tests/amqp/queue.rs"]
mod queue;
#[path = "../tests/amqp/tally.rs"]
mod tally;
#[path = "../tests/amqp/wire.rs"]
mod wire;
#[path = "../tests/amqp/world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tally::Tally;
use world::{Case, World, play};

const USAGE: &str =
    "model [--schedules N] [--seed FIRST] [--case calm|faulty|mixed|still] [--threads N] [--trace]";

struct Arguments {
    schedules: u64,
    seed: u64,
    case: String,
    threads: u64,
    trace: bool,
}

fn arguments() -> Option<Arguments> {
    let mut arguments =
        Arguments { schedules: 10_000, seed: 1, case: "mixed".into(), threads: 2, trace: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--schedules" => arguments.schedules = words.next()?.parse().ok()?,
            "--seed" => arguments.seed = words.next()?.parse().ok()?,
            "--case" => arguments.case = words.next()?,
            "--threads" => arguments.threads = words.next()?.parse().ok()?,
            "--trace" => arguments.trace = true,
            _ => return None,
        }
    }
    Some(arguments)
}

/// The case of a seed. `mixed`: every other one is faulty.
fn case(name: &str, seed: u64) -> Option<Case> {
    match name {
        "calm" => Some(Case::calm()),
        "faulty" => Some(Case::faulty()),
        "mixed" if seed.is_multiple_of(2) => Some(Case::calm()),
        "mixed" => Some(Case::faulty()),
        "still" => Some(Case { moves: false, ..Case::calm() }),
        _ => None,
    }
}

fn main() -> ExitCode {
    let Some(arguments) = arguments().filter(|given| case(&given.case, 0).is_some()) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let case = |seed| case(&arguments.case, seed).unwrap_or(Case::calm());
    if arguments.trace {
        let outcome = World::new(&case(arguments.seed), arguments.seed).traced().run();
        outcome.trace.iter().for_each(|line| println!("{line}"));
        println!("{}", outcome.failure.as_deref().unwrap_or("held"));
        return ExitCode::from(u8::from(outcome.failure.is_some()));
    }
    let next = AtomicU64::new(arguments.seed);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                let mut tally = Tally::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seed + arguments.schedules {
                        break;
                    }
                    tally.add(seed, play(&case(seed), seed));
                }
                if let Ok(mut total) = total.lock() {
                    total.join(tally);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_default();
    println!("{total}");
    ExitCode::from(u8::from(!total.failures.is_empty()))
}
