//! `cargo xtask fuzz`: runs the fuzz targets on stable Rust and tells what they did.
//!
//! Without a sanitizer: our code has no `unsafe`, so that panics, wrong results and endless loops are what can
//! be found, and those need none. Not here: the targets (fuzz/).

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::setup::apt;
use crate::steps::{Counts, call};
use crate::test::cargo;

const TARGETS: [&str; 4] = ["scanner", "request_head", "amqp", "configuration"];
/// One input may not take longer than this, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;

/// Runs one target, or all.
///
/// # Errors
/// When a target is unknown, cannot be built, or found something.
pub fn run(root: &Path, minutes: u32, only: Option<&str>) -> anyhow::Result<()> {
    let targets: Vec<&str> =
        TARGETS.into_iter().filter(|target| only.is_none_or(|name| name == *target)).collect();
    if targets.is_empty() {
        bail!("no fuzz target {:?}; expected one of {TARGETS:?}", only.unwrap_or_default());
    }
    have_compiler()?;
    if !is_there(cargo(root).args(["fuzz", "--version"])) {
        call(cargo(root).args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let mut lines = Vec::new();
    let mut findings = 0;
    for target in targets {
        let run = run_target(root, target, minutes * 60)?;
        findings += u32::from(!run.clean);
        lines.push(run.to_string());
        println!("{run}");
    }
    println!("\n{}", lines.join("\n"));
    if findings > 0 {
        bail!("{findings} targets with findings; the inputs are in fuzz/artifacts");
    }
    Ok(())
}

/// Checks that the targets still fit the crates that they test; runs none.
///
/// # Errors
/// When one does not compile.
pub fn check(root: &Path) -> anyhow::Result<Counts> {
    have_compiler()?;
    call(cargo(root).args(["check", "--manifest-path", "fuzz/Cargo.toml", "--bins", "--locked"]))
}

/// libFuzzer is C++.
fn have_compiler() -> anyhow::Result<()> {
    if !is_there(Command::new("c++").arg("--version")) {
        apt(&["g++"])?;
    }
    Ok(())
}

fn is_there(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

struct Run {
    target: String,
    executions: u64,
    seconds: f64,
    clean: bool,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let findings = if self.clean { "no finding" } else { "FINDING" };
        write!(
            f,
            "fuzz {}: {} executions, {:.0} seconds, {findings}",
            self.target, self.executions, self.seconds
        )
    }
}

fn run_target(root: &Path, target: &str, seconds: u32) -> anyhow::Result<Run> {
    let corpus = root.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    call(cargo(root).args(["fuzz", "build", "-s", "none", target]))?;
    let mut command: Command = cargo(root);
    // The first folder takes new inputs, the second is only read.
    command
        .args(["fuzz", "run", "-s", "none", target])
        .arg(&corpus)
        .arg(root.join("fuzz/seeds").join(target));
    command.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg("-print_final_stats=1");
    let start = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().context("cargo fuzz does not start")?;
    let output = child.stderr.take().context("stderr is piped")?;
    let mut executions = 0;
    let mut last = Vec::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        executions = parse_executions(&line).unwrap_or(executions);
        last.push(line);
        if last.len() > 40 {
            last.remove(0);
        }
    }
    let clean = child.wait()?.success();
    if !clean {
        println!("{}", last.join("\n"));
    }
    Ok(Run { target: target.into(), executions, seconds: start.elapsed().as_secs_f64(), clean })
}

/// `stat::number_of_executed_units: 1234`
fn parse_executions(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_executions_is_read_from_the_final_statistics() {
        assert_eq!(parse_executions("stat::number_of_executed_units: 1234"), Some(1234));
        assert_eq!(parse_executions("#2 INITED cov: 5"), None);
    }

    #[test]
    fn an_unknown_target_is_refused_by_name() {
        let error =
            run(Path::new("."), 1, Some("nothing")).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("nothing") && error.contains("scanner"), "{error}");
    }
}
