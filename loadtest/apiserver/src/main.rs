//! apiserver: the scripted API server as a program, for a gateway and kubectl on a laptop without a cluster.
//!
//! It prints its address and runs until it is killed or told to quit; what happens meanwhile is said on its standard input.

mod commands;

use std::fs;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use apiserver::ApiServer;
use clap::Parser;

use crate::commands::{Command, Next};

/// A scripted Kubernetes API server on loopback
#[derive(Parser)]
#[command(version, after_help = commands::HELP)]
struct Cli {
    /// Port on 127.0.0.1 [default: one that the system picks]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Write a kubeconfig for it
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Objects to begin with, YAML or JSON
    #[arg(long, value_name = "FILE")]
    objects: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("apiserver: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let server = ApiServer::start_on(cli.port)?;
    for path in &cli.objects {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        commands::apply(&server, &text).with_context(|| format!("{} is refused", path.display()))?;
    }
    if let Some(path) = &cli.kubeconfig {
        server.kubeconfig(path)?;
    }
    say(&server.url())?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read the standard input")?;
        let done = Command::parse(&line).and_then(|command| command.run(&server));
        match done {
            Ok(Next::Go(text)) => say(&text)?,
            Ok(Next::Quit) => return Ok(()),
            Err(error) => eprintln!("apiserver: {error:#}"),
        }
    }
    // Nobody is there to say more; a signal ends it.
    loop {
        std::thread::park();
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    writeln!(std::io::stdout(), "{text}").context("cannot write to the standard output")
}
