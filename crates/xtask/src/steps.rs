//! Steps that all run, whatever the others do, and the table at the end.
//!
//! A step that fails does not hide the next one: one run tells everything that is wrong.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// What ran so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: String,
    took: Duration,
    /// What it has to tell, or why it failed.
    outcome: Result<Counts, String>,
}

/// Tests of one step. A step that is no test run counts as one check.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
}

impl Steps {
    /// Runs one step, telling its name first and its duration after.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<Counts>) {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = step().map_err(|error| format!("{error:#}"));
        let took = start.elapsed();
        match &outcome {
            Ok(_) => println!("=== {name}: ok, {:.1} s", took.as_secs_f64()),
            Err(error) => println!("=== {name}: FAILED, {:.1} s: {error}", took.as_secs_f64()),
        }
        self.done.push(Step { name: name.into(), took, outcome });
    }

    /// Prints the table and, alone on the last line, the sum; true when nothing failed.
    pub fn summary(&self) -> bool {
        println!("\n{:<10} {:>9}  step", "outcome", "seconds");
        let mut sum = Counts::default();
        for step in &self.done {
            let (word, why) = match &step.outcome {
                Ok(counts) => {
                    sum.passed += counts.passed.max(1);
                    ("ok", String::new())
                }
                Err(error) => ("FAILED", format!(": {}", error.lines().next().unwrap_or_default())),
            };
            sum.failed += u64::from(step.outcome.is_err());
            println!("{word:<10} {:>9.1}  {}{why}", step.took.as_secs_f64(), step.name);
        }
        println!("\n{} passed, {} failed", sum.passed, sum.failed);
        sum.failed == 0
    }
}

/// Runs a command in the foreground.
///
/// # Errors
/// When it does not start or does not succeed.
pub fn call(command: &mut Command) -> anyhow::Result<Counts> {
    let line = shown(command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("{line} does not start"))?;
    if !status.success() {
        bail!("{line} ended with {status}");
    }
    Ok(Counts::default())
}

/// Runs a command that prints test results as cargo does; shows its output and adds the results up.
///
/// # Errors
/// When it does not start, does not succeed, or ran no test at all.
pub fn call_tests(command: &mut Command) -> anyhow::Result<Counts> {
    let line = shown(command);
    println!("$ {line}");
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("{line} does not start"))?;
    let output = child.stdout.take().context("stdout is piped")?;
    let mut counts = Counts::default();
    for text in BufReader::new(output).lines() {
        let text = text.context("the output is not text")?;
        println!("{text}");
        if let Some(result) = parse_result(&text) {
            counts.passed += result.passed;
            counts.failed += result.failed;
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{line} ended with {status}: {} passed, {} failed", counts.passed, counts.failed);
    }
    if counts.passed == 0 {
        bail!("{line} ran no test");
    }
    Ok(counts)
}

/// `test result: ok. 5 passed; 0 failed; ...`
fn parse_result(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut numbers = rest.split("; ").map(|part| part.split(' ').next().unwrap_or_default().parse());
    Some(Counts { passed: numbers.next()?.ok()?, failed: numbers.next()?.ok()? })
}

/// The command as one would type it: the program by its name, without its folder.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_result_line_is_counted_and_no_other() {
        let line = "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s";
        assert_eq!(parse_result(line), Some(Counts { passed: 5, failed: 2 }));
        assert_eq!(parse_result("test a::b ... ok"), None);
    }

    #[test]
    fn a_failing_step_does_not_stop_the_next_and_fails_the_whole() {
        let mut steps = Steps::default();
        steps.run("first", || bail!("no"));
        steps.run("second", || Ok(Counts { passed: 3, failed: 0 }));
        assert_eq!(steps.done.len(), 2);
        assert!(!steps.summary());
    }
}
