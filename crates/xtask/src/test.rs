//! `cargo xtask test`: everything that must hold, in one run.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::steps::{Counts, Steps, call, call_tests};
use crate::{book, fuzz, image, manifests, purity, setup, tidy};

/// Tests of the interop run: they get a step of their own, with their counts shown.
const INTEROP_TESTS: [&str; 2] = ["the_two_ends_agree_without_a_gateway", "real_clients_lose_nothing"];

/// Beginning of the names of the tests that need a cluster of RabbitMQ, and a step of their own.
const AMQP_TESTS: &str = "on_rabbitmq::";

/// Runs all steps; true when none failed.
///
/// # Errors
/// None at present: what fails is a failed step.
pub fn run(root: &Path, long: bool) -> anyhow::Result<bool> {
    let mut steps = Steps::default();
    steps.run("setup", || {
        println!("{}", setup::run(root)?);
        Ok(Counts::default())
    });
    steps.run("format", || call(cargo(root).args(["fmt", "--all", "--check"])));
    steps.run("purity", || none(purity::run(root)?));
    steps.run("tidy", || none(tidy::run(root)?));
    steps.run("manifests", || manifests::run(root));
    steps.run("clippy", || {
        call(cargo(root).args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    });
    steps.run("doc", || {
        call(
            cargo(root)
                .args(["doc", "--workspace", "--no-deps", "--locked"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    steps.run("fuzz targets", || fuzz::check(root));
    steps.run("test", || {
        let mut tests = cargo(root);
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]);
        for name in INTEROP_TESTS {
            tests.args(["--skip", name]);
        }
        tests.args(["--skip", AMQP_TESTS]);
        if long {
            tests.env("PROPTEST_CASES", "50000");
        }
        call_tests(&mut tests)
    });
    steps.run("interop", || {
        let mut tests = cargo(root);
        // One after the other: each of the two loads both cores.
        tests.args(["test", "--package", "evenkeel", "--test", "interop", "--locked", "--"]);
        call_tests(tests.args(["--nocapture", "--test-threads", "1"]).args(INTEROP_TESTS))
    });
    steps.run("interop AMQP", || {
        let mut tests = cargo(root);
        // One after the other: they share the cluster.
        tests.args(["test", "--package", "evenkeel", "--test", "amqp", "--locked", "--"]);
        if long {
            tests.env("EVENKEEL_LONG", "1");
        }
        call_tests(tests.args(["--nocapture", "--test-threads", "1", AMQP_TESTS]))
    });
    steps.run("image", || image::run(root));
    if long {
        steps.run("book", || book::build(root));
        steps.run("fuzz", || {
            fuzz::run(root, 10, None)?;
            Ok(Counts::default())
        });
        steps.run("large scenario", || {
            let scenario = "loadtest/scenarios/large.yaml";
            call(cargo(root).args(["run", "--release", "--locked", "-p", "fleet", "--", "replay", scenario]))
        });
    }
    Ok(steps.summary())
}

/// The cargo that runs us, in the workspace's folder.
pub fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

fn none(findings: Vec<String>) -> anyhow::Result<Counts> {
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(Counts::default()),
        count => bail!("{count} findings, the first: {}", findings[0]),
    }
}
