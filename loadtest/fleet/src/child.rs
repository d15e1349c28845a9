//! A process that the replay started: this same program with another subcommand, orders in, answers out.
//!
//! Everything that children say arrives in one channel, in order for each child. A child is killed when its handle is dropped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::protocol::{Answer, Order};

/// Which child.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// The clients' process.
    Clients,
    /// An endpoint by name.
    Endpoint(String),
}

/// What a child did.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// It answered.
    Said(Answer),
    /// Its output ended: it has exited, or is about to.
    Gone,
}

/// The senders' end of what children do.
pub type Events = mpsc::UnboundedSender<(Who, What)>;

/// A running process of ours.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Child {
    /// Starts `fleet ARGS`; its answers go to `events` as `who`, its standard error to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the process not be started.
    pub fn spawn(who: Who, args: &[OsString], events: &Events, log: PathBuf) -> anyhow::Result<Self> {
        let mut child = Self::start(args, &[], Stdio::piped(), Stdio::piped(), log)?;
        let stdout = child.process.stdout.take().expect("standard output was piped");
        tokio::spawn(listen(who, stdout, events.clone()));
        Ok(child)
    }

    /// Starts `fleet ARGS` with these variables beside its own, as a process that answers nothing; all of its output goes
    /// to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the process not be started.
    pub fn spawn_silent(
        args: &[OsString],
        variables: &[(OsString, OsString)],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        Self::start(args, variables, Stdio::null(), Stdio::null(), log)
    }

    fn start(
        args: &[OsString],
        variables: &[(OsString, OsString)],
        stdin: Stdio,
        stdout: Stdio,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program's own path is not known")?;
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut process = Command::new(own)
            .args(args)
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a process of this same program")?;
        let stdin = process.stdin.take();
        Ok(Self { process, stdin, log })
    }

    /// Sends an order. A child that is gone is told by its event, so that is no error here.
    pub async fn order(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).expect("orders have string keys only");
        line.push(b'\n');
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(&line).await;
            let _ = stdin.flush().await;
        }
    }

    /// Its process id; `None` once it was seen to have ended.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // It fails only for a process that has ended, which is what was wanted.
        let _ = self.process.start_kill();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = self.pid().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system refuses to tell.
    pub async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.process.wait().await
    }

    /// The last lines of its log, for an error message.
    pub fn last_words(&self) -> String {
        last_lines(&self.log, 12)
    }
}

async fn listen(who: Who, stdout: ChildStdout, events: Events) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(answer) => {
                if events.send((who.clone(), What::Said(answer))).is_err() {
                    return;
                }
            }
            Err(e) => eprintln!("fleet: {who:?} said something that is no answer ({e}): {line:.80}"),
        }
    }
    let _ = events.send((who, What::Gone));
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    format!("{}\n(from {})", lines[from..].join("\n"), path.display())
}
