//! The evenkeel command.

use std::process::ExitCode;

fn main() -> ExitCode {
    evenkeel::run(std::env::args_os())
}
