//! The commands that speak with running gateways: which call each makes, at which replicas, and what it prints.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use futures_util::future::join_all;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::client::{Address, Bearer, Call, ClientError, all_behind, ask};
use crate::command::EXIT_USAGE;
use crate::render;
use crate::wait::{self, Wait};

/// Exit code when the gateway can not do what is asked.
const EXIT_REFUSED: u8 = 1;
/// Exit code when a gateway can not be reached: EX_UNAVAILABLE of sysexits.h.
const EXIT_UNREACHABLE: u8 = 69;
/// Exit code when the gateway does not let us: EX_NOPERM of sysexits.h.
const EXIT_FORBIDDEN: u8 = 77;
/// Said below the help of each of these commands.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or not found, 64 wrong arguments, 69 not reachable, \
                          77 not allowed. With several replicas: the highest.";

/// What may be asked of running gateways.
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Show sessions, targets and moves by pool and endpoint.
    #[command(after_help = EXIT_CODES)]
    Status {
        #[command(flatten)]
        reach: Reach,
    },
    /// Show what would be moved now, and what keeps it. Moves nothing.
    #[command(after_help = EXIT_CODES)]
    Plan {
        /// One pool. Default: all.
        pool: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Empty an endpoint: nothing new is placed there, its sessions leave. Each replica does this for its own sessions.
    #[command(after_help = EXIT_CODES)]
    Drain {
        /// The pool's name, a slash, and the endpoint's id as `evenkeel status` shows it.
        #[arg(value_name = "POOL/ENDPOINT")]
        target: Target,
        /// When the last session must be gone, from now: 100ms to 1d. Default: the pool's `rebalance.drain_deadline`.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "cancel")]
        deadline: Option<Duration>,
        /// Return when no connection of ours to the endpoint is left, and fail if some are after TIME. Default: the deadline that
        /// counts, and 5s for the last closes.
        #[arg(
            long,
            value_name = "TIME",
            value_parser = Wait::from_str,
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "deadline",
            conflicts_with = "cancel"
        )]
        wait: Option<Wait>,
        /// Take it back: what discovery says of the endpoint counts again.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Migrate every session of a pool that can migrate to another endpoint, once. Nobody is closed.
    #[command(after_help = EXIT_CODES)]
    Rehearse {
        /// The pool.
        pool: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Level a pool now, without waiting for a check, and show what that takes.
    #[command(after_help = EXIT_CODES)]
    Rebalance {
        /// The pool.
        pool: String,
        /// Show it and move nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Move nothing for balance until `evenkeel resume`. Draining endpoints are emptied all the same.
    #[command(after_help = EXIT_CODES)]
    Pause {
        /// One pool. Default: all.
        pool: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// End a pause, and the return guard's stop.
    #[command(after_help = EXIT_CODES)]
    Resume {
        /// One pool. Default: all.
        pool: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Which gateways, and how.
#[derive(Debug, Args)]
pub struct Reach {
    /// Admin port of a replica: HOST:PORT or http://HOST:PORT. For several, repeat it or separate them by commas.
    #[arg(
        long,
        value_name = "ADDR",
        env = "EVENKEEL_ADMIN",
        value_delimiter = ',',
        default_value = "127.0.0.1:9900"
    )]
    admin: Vec<Address>,
    /// NAME:PORT of a name that leads to every replica, as that of a headless Service does: all its addresses are asked.
    #[arg(long, value_name = "ADDR", env = "EVENKEEL_REPLICAS", conflicts_with = "admin")]
    replicas: Option<Address>,
    /// File with the token of `admin.token_file`. Only sent with calls that change something.
    #[arg(long, value_name = "FILE", env = "EVENKEEL_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// For people, or for programs: a list with one answer a replica.
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
    /// Longest wait for a replica's whole answer.
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "10s")]
    timeout: Duration,
}

/// In what form an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    Human,
    Json,
}

/// An endpoint of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pool: String,
    endpoint: String,
}

impl FromStr for Target {
    type Err = String;

    /// A pool's name holds no slash; an endpoint's id may.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((pool, endpoint)) if !pool.is_empty() && !endpoint.is_empty() => {
                Ok(Self { pool: pool.into(), endpoint: endpoint.into() })
            }
            _ => Err("expected POOL/ENDPOINT, such as chat/10.0.0.7:8080".into()),
        }
    }
}

impl Target {
    /// The path of its drain, behind the version.
    fn drain(&self) -> String {
        format!("pools/{}/endpoints/{}/drain", encoded(&self.pool), encoded(&self.endpoint))
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    match humantime::parse_duration(text) {
        Ok(timeout) if range.contains(&timeout) => Ok(timeout),
        Ok(_) => Err("expected 1ms to 1h".into()),
        Err(error) => Err(format!("{error}; expected for example 500ms or 10s")),
    }
}

/// How an answer is shown to people.
type Render = fn(&Value) -> String;

impl Operation {
    fn reach(&self) -> &Reach {
        match self {
            Self::Status { reach }
            | Self::Plan { reach, .. }
            | Self::Drain { reach, .. }
            | Self::Rehearse { reach, .. }
            | Self::Rebalance { reach, .. }
            | Self::Pause { reach, .. }
            | Self::Resume { reach, .. } => reach,
        }
    }

    fn call(&self) -> (Call, Render) {
        let (method, path, render): (_, _, Render) = match self {
            Self::Status { .. } => (Method::GET, "status".into(), render::status),
            Self::Plan { pool, .. } => {
                let query = pool.as_deref().map_or(String::new(), |pool| format!("?pool={}", encoded(pool)));
                (Method::GET, format!("plan{query}"), render::plans)
            }
            Self::Drain { target, deadline, cancel, .. } => {
                let query = deadline.map_or(String::new(), |deadline| {
                    format!("?deadline={}", encoded(&humantime::format_duration(deadline).to_string()))
                });
                let method = if *cancel { Method::DELETE } else { Method::POST };
                (method, format!("{}{query}", target.drain()), render::drained)
            }
            Self::Rehearse { pool, .. } => (Method::POST, of_pool(Some(pool), "rehearse"), render::rehearsed),
            Self::Rebalance { pool, dry_run, .. } => {
                let query = if *dry_run { "?dry_run=true" } else { "" };
                (Method::POST, format!("pools/{}/rebalance{query}", encoded(pool)), render::rebalanced)
            }
            Self::Pause { pool, .. } => (Method::POST, of_pool(pool.as_deref(), "pause"), render::paused),
            Self::Resume { pool, .. } => (Method::POST, of_pool(pool.as_deref(), "resume"), render::resumed),
        };
        (Call { method, path: format!("/api/v1/{path}") }, render)
    }

    /// What has to be over before the command is done.
    fn until(&self) -> Option<(&Target, Wait)> {
        match self {
            Self::Drain { target, wait, .. } => wait.map(|wait| (target, wait)),
            Self::Status { .. }
            | Self::Plan { .. }
            | Self::Rehearse { .. }
            | Self::Rebalance { .. }
            | Self::Pause { .. }
            | Self::Resume { .. } => None,
        }
    }
}

fn of_pool(pool: Option<&str>, what: &str) -> String {
    pool.map_or(what.into(), |pool| format!("pools/{}/{what}", encoded(pool)))
}

/// Every byte that could mean something in a path or a query is written as `%` and two digits.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Asks all replicas at once and prints what they answer, in the order in which they were named.
pub fn run(operation: &Operation) -> ExitCode {
    let reach = operation.reach();
    let (call, render) = operation.call();
    let bearer = match reach.token_file.as_deref().filter(|_| call.method != Method::GET).map(Bearer::read) {
        None => None,
        Some(Ok(bearer)) => Some(bearer),
        Some(Err(error)) => return fail(&error, EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string(), EXIT_UNREACHABLE),
    };
    let addresses = match &reach.replicas {
        None => reach.admin.clone(),
        Some(name) => match runtime.block_on(all_behind(name, reach.timeout)) {
            Ok(addresses) => addresses,
            Err(error) => return fail(&error.to_string(), exit_code(&error)),
        },
    };
    let asked = addresses.iter().map(async |address| {
        let answer = ask(address, &call, bearer.as_ref(), reach.timeout).await?;
        match operation.until() {
            None => Ok(answer),
            Some((target, wait)) => {
                wait::for_drain(address, &target.drain(), answer, wait, reach.timeout).await
            }
        }
    });
    let answers = runtime.block_on(join_all(asked));
    let mut worst = 0;
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        eprintln!("evenkeel: {error}");
        worst = worst.max(exit_code(error));
    }
    let text = match reach.output {
        Output::Human => for_people(&addresses, &answers, render),
        Output::Json => for_programs(&addresses, &answers),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(&format!("standard output: {error}"), EXIT_REFUSED.max(worst))
        }
        _ => ExitCode::from(worst),
    }
}

fn fail(text: &str, code: u8) -> ExitCode {
    eprintln!("evenkeel: {text}");
    ExitCode::from(code)
}

const fn exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::NobodyThere(_)
        | ClientError::NoReplica(..)
        | ClientError::Unreachable(..)
        | ClientError::TooSlow(..)
        | ClientError::Strange(..) => EXIT_UNREACHABLE,
        ClientError::Unauthorized(..) | ClientError::Forbidden(..) => EXIT_FORBIDDEN,
        ClientError::Refused(..) => EXIT_REFUSED,
    }
}

/// A section for each replica that answered, under its address when there are several.
fn for_people(replicas: &[Address], answers: &[Result<Value, ClientError>], render: Render) -> String {
    let sections = replicas.iter().zip(answers).filter_map(|(address, answer)| {
        let text = render(answer.as_ref().ok()?);
        Some(if replicas.len() > 1 { format!("== {address} ==\n{text}") } else { text })
    });
    sections.collect::<Vec<_>>().join("\n")
}

/// One entry for each replica.
fn for_programs(replicas: &[Address], answers: &[Result<Value, ClientError>]) -> String {
    let entries = replicas.iter().zip(answers).map(|(address, answer)| match answer {
        Ok(answer) => json!({"admin": address.to_string(), "exit_code": 0, "answer": answer}),
        Err(error) => {
            let (code, error) = (exit_code(error), error.to_string());
            json!({"admin": address.to_string(), "exit_code": code, "error": error})
        }
    });
    format!("{:#}\n", Value::Array(entries.collect()))
}
