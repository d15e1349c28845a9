//! An AMQP scenario in; a run through the gateway, one without, reports and a verdict out.

use std::path::Path;

use anyhow::{Context, bail};
use scenario::Report;
use scenario::amqp::AmqpScenario;

use crate::amqp::run::{self, Setup};
use crate::replay::Args;
use crate::run::folder;
use crate::usage;

/// All runs of a scenario.
///
/// # Errors
/// When a run cannot be carried through.
pub async fn play(args: &Args, scenario: &AmqpScenario, out: &Path) -> anyhow::Result<Report> {
    if args.target.is_some() {
        bail!("--target is for WebSocket scenarios; {} brings its own brokers", scenario.name);
    }
    let mut runs = Vec::new();
    for setup in setups(args, scenario, out) {
        let run = run::run(scenario, &setup).await;
        runs.push(run.with_context(|| format!("the run `{}` failed", setup.label))?);
    }
    let judged = runs.first().filter(|_| !args.no_gateway);
    Ok(Report {
        name: scenario.name.clone(),
        description: scenario.description.clone(),
        program: "fleet, with real AMQP clients and RabbitMQ".into(),
        clients: scenario.connections(),
        seed: scenario.seed,
        machine: usage::machine(),
        verdicts: judged.map_or_else(Vec::new, |run| scenario.expect.judge(&run.summary)),
        runs,
    })
}

fn setups(args: &Args, scenario: &AmqpScenario, out: &Path) -> Vec<Setup> {
    let setup = |label: &str, length, pool| Setup {
        label: label.to_owned(),
        length,
        pool,
        folder: folder(out, &scenario.name, label),
        quiet: args.quiet,
    };
    let mut setups = Vec::new();
    if !args.no_gateway {
        setups.push(setup("evenkeel", scenario.run_for, Some(scenario.gateway.clone())));
    }
    let baseline = &scenario.baseline;
    if args.no_gateway || baseline.enabled && !args.no_baseline {
        setups.push(setup("direct", baseline.run_for.unwrap_or(scenario.run_for), None));
    }
    setups
}
