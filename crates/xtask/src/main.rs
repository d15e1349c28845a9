//! Project chores as programs: `cargo xtask test`, `tidy`, `purity`, `reference`, `book`, `manifests`, `image`,
//! `fuzz`, `setup`, `rabbitmq`.
//!
//! A rule that matters is a program here, so that neither memory nor review has to hold it. Everything is called
//! through ordinary tools (cargo, npm, pip); there is no other build system. Not here: the tests themselves.

#![allow(clippy::print_stdout, reason = "talking to the person at the terminal is the purpose")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod book;
mod broker;
mod fuzz;
mod image;
mod manifests;
mod metadata;
mod purity;
mod reference;
mod setup;
mod source;
mod steps;
mod telemetry;
mod test;
mod tidy;
mod tree;

/// Project chores of evenkeel.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything that must hold before a change is handed in; installs what is missing.
    Test {
        /// Also 50,000 cases for each property, 10 minutes of each fuzz target, and the 9,000-client scenario.
        #[arg(long)]
        long: bool,
    },
    /// Sizes, headers, links, licences, stale references: what a reader notices first.
    Tidy,
    /// Which crate may import which, and what the pure crates must not know.
    Purity,
    /// Writes the pages that come from the source: keys of the configuration, metrics.
    Reference,
    /// Builds the documents as a book into target/book; installs mdbook when it is missing.
    Book,
    /// Builds the static program of the image, and runs it alone in its root. Needs root.
    Image,
    /// Renders deploy/ and holds it against the schemas of Kubernetes, the gateway, and itself.
    Manifests,
    /// Runs fuzz targets on stable Rust.
    Fuzz {
        /// Time for each target.
        #[arg(long, default_value_t = 1)]
        minutes: u32,
        /// Only this one: scanner, request_head, amqp or configuration.
        target: Option<String>,
    },
    /// Installs Node.js, `ws` and Python `websockets` for the interop tests, into target/interop, and RabbitMQ.
    Setup,
    /// A real RabbitMQ cluster on loopback to try things with, in target/rabbitmq/NAME.
    Rabbitmq {
        #[command(subcommand)]
        action: broker::Action,
    },
}

fn main() -> ExitCode {
    let root = root();
    let outcome = match Arguments::parse().chore {
        Chore::Test { long } => test::run(&root, long),
        Chore::Tidy => tidy::run(&root).and_then(report),
        Chore::Purity => purity::run(&root).and_then(report),
        Chore::Book => book::build(&root).map(|_| true),
        Chore::Reference => reference::run(&root),
        Chore::Image => image::run(&root).map(|_| true),
        Chore::Manifests => manifests::run(&root).map(|counts| {
            println!("{} resources", counts.passed);
            true
        }),
        Chore::Fuzz { minutes, target } => fuzz::run(&root, minutes, target.as_deref()).map(|_| true),
        Chore::Setup => setup::run(&root).map(|told| {
            println!("{told}");
            true
        }),
        Chore::Rabbitmq { action } => broker::run(&root, &action),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints findings; true when there are none.
fn report(findings: Vec<String>) -> anyhow::Result<bool> {
    for finding in &findings {
        println!("{finding}");
    }
    println!("{} findings", findings.len());
    Ok(findings.is_empty())
}

/// The workspace's folder.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is two folders below the root").to_path_buf()
}
