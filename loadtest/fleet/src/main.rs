//! fleet: real WebSocket clients against demo endpoints, or real AMQP clients against RabbitMQ, through the real gateway,
//! by the steps of a scenario.
//!
//! `fleet replay SCENARIO.yaml` is the program; the other subcommands are the processes that it starts, each of its
//! own, so that descriptors, CPU time and memory are the gateway's own. `fleet cost` measures the last two, `fleet shutdown` how a
//! gateway ends, and `fleet tier`, `rollout` and `discovery` several of them in a cluster. See `loadtest/README.md`.

mod accounting;
mod amqp;
mod child;
mod client;
mod clients;
mod cluster;
mod cost;
mod demo;
mod endpoint;
mod gateway;
mod in_cluster;
mod progress;
mod protocol;
mod ranges;
mod recording;
mod replay;
mod run;
mod shutdown;
mod usage;
mod wire;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::task::LocalSet;

/// Replay load scenarios with real WebSocket and AMQP clients
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario with evenkeel, then with a random pick or without a gateway, and compare
    Replay(replay::Args),
    /// Measure what AMQP sessions and messages cost, beside HAProxy in TCP mode
    Cost(cost::Args),
    /// Stop a gateway with thousands of sessions and look how they are closed
    Shutdown(shutdown::Args),
    /// Level several gateways over one Kubernetes API, and kill one
    Tier(in_cluster::tier::Args),
    /// Replace all endpoints one by one
    Rollout(in_cluster::rollout::Args),
    /// See how soon a new endpoint has sessions, and break watches
    Discovery(in_cluster::discovery::Args),
    /// The gateway's whole command line, as a child of replay
    #[command(hide = true, disable_help_flag = true)]
    Gateway {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// One demo endpoint
    #[command(hide = true)]
    Endpoint(endpoint::Args),
    /// All clients, as a child of replay
    #[command(hide = true)]
    Clients,
    /// All AMQP clients, as a child of replay
    #[command(hide = true)]
    AmqpClients,
    /// The broker of cost
    #[command(hide = true)]
    CostBroker(cost::broker::Args),
    /// The clients of one measurement of cost
    #[command(hide = true)]
    CostLoad(cost::load::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Gateway { args } => return run_gateway(args),
        Command::Replay(args) => on_one_thread(replay::replay(args)),
        Command::Shutdown(args) => on_one_thread(shutdown::shutdown(args)),
        Command::Tier(args) => on_one_thread(in_cluster::tier::tier(args)),
        Command::Rollout(args) => on_one_thread(in_cluster::rollout::rollout(args)),
        Command::Discovery(args) => on_one_thread(in_cluster::discovery::discovery(args)),
        Command::Endpoint(args) => on_one_thread(endpoint::serve(args)).map(|()| ExitCode::SUCCESS),
        Command::Clients => on_one_thread(clients::run()).map(|()| ExitCode::SUCCESS),
        Command::Cost(args) => on_one_thread(cost::cost(args)),
        Command::CostBroker(args) => on_one_thread(cost::broker::serve(args)).map(|()| ExitCode::SUCCESS),
        Command::CostLoad(args) => on_one_thread(cost::load::run(args)).map(|()| ExitCode::SUCCESS),
        Command::AmqpClients => on_few_threads(amqp::clients::run()).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("fleet: {error:#}");
        ExitCode::from(2)
    })
}

/// Becomes the gateway. It dies with the replay that started it.
fn run_gateway(args: Vec<OsString>) -> ExitCode {
    let signal = rustix::process::Signal::KILL;
    // Refused only where the kernel has no such signal; then an interrupted replay leaves its gateway behind.
    let _ = rustix::process::set_parent_process_death_signal(Some(signal));
    let own = ["evenkeel", "gateway"].map(OsString::from);
    evenkeel::run(own.into_iter().chain(args))
}

fn on_one_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    usage::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    LocalSet::new().block_on(&runtime, work)
}

/// The AMQP library spawns tasks of its own for each connection, and they should not wait for ours.
fn on_few_threads<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    usage::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    LocalSet::new().block_on(&runtime, work)
}
