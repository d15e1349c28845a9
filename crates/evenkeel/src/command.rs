//! Arguments and exit codes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use config::Checked;

use crate::install::install;
use crate::operate::{self, Operation};
use crate::serve;

/// Exit code for a configuration that can not be used: EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// Exit code when the system does not allow what is configured: EX_OSERR of sysexits.h.
const EXIT_SYSTEM: u8 = 71;
/// Exit code for wrong arguments: EX_USAGE of sysexits.h.
pub(crate) const EXIT_USAGE: u8 = 64;

/// A gateway that keeps long-lived connections evenly spread over their endpoints.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT.
    Gateway {
        /// The configuration: docs/configuration-reference.md lists every key. Read again on SIGHUP and when it changes.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Write the addresses it listens on to this file, as JSON, once it does.
        #[arg(long, value_name = "FILE")]
        address_file: Option<PathBuf>,
    },
    /// Validate a configuration and explain what it does. Exit code 0: it can be used, 78: it can not. Files that it names are not opened.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the JSON schema of the configuration, for editors.
    Schema,
    /// Copy this program into a folder, for another container of a Pod that calls it in a hook.
    Install {
        /// Where to; it must exist.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    #[command(flatten)]
    Operate(Operation),
}

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match arguments.command {
        Command::Check { config } => check(&config),
        Command::Schema => schema(),
        Command::Operate(operation) => operate::run(&operation),
        Command::Install { folder } => finish(install(&folder)),
        Command::Gateway { config, address_file } => match load(&config) {
            Err(error) => refuse(&error),
            Ok(checked) => finish(serve::serve(&config, checked, address_file.as_deref())),
        },
    }
}

/// The exit code of what only the system can keep from succeeding.
fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evenkeel: {error:#}");
            ExitCode::from(EXIT_SYSTEM)
        }
    }
}

/// Reads and validates the configuration.
///
/// # Errors
/// The file can not be read, or all that is wrong with it.
pub fn load(path: &Path) -> anyhow::Result<Checked> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} can not be read; is the path right?", path.display()))?;
    let base = path.parent().unwrap_or(Path::new(""));
    config::parse(&text, base).map_err(|errors| anyhow::anyhow!("{}:\n{errors}", path.display()))
}

#[expect(clippy::print_stdout, reason = "the explanation is what the command is for")]
fn check(path: &Path) -> ExitCode {
    match load(path) {
        Err(error) => refuse(&error),
        Ok(checked) => {
            for warning in &checked.warnings {
                eprintln!("warning: {}: {warning}", path.display());
            }
            print!("{}", config::explain(&checked.config));
            println!("\n{}: valid, {} warnings", path.display(), checked.warnings.len());
            ExitCode::SUCCESS
        }
    }
}

#[expect(clippy::print_stdout, reason = "the schema is what the command is for")]
fn schema() -> ExitCode {
    println!("{:#}", config::json_schema());
    ExitCode::SUCCESS
}

fn refuse(error: &anyhow::Error) -> ExitCode {
    eprintln!("evenkeel: {error:#}");
    ExitCode::from(EXIT_CONFIG)
}
