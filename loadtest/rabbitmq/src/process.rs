//! A process by its pid and start time, so that a number that was given to another process is never signalled.
//!
//! Children that must not outlive us are started by one thread that lives as long as the program: the kernel's
//! "parent died" means the thread that forked, and a test's thread ends with the test.

use std::fs;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at something that is awaited.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process that was started here or by an earlier run.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its start, clock ticks since boot; 0: it had ended before this could be read.
    pub started: u64,
    /// Of ours: it must be reaped.
    child: Option<Child>,
}

type Request = (Command, Sender<std::io::Result<Child>>);

impl Process {
    /// Starts a child of this thread.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.spawn();
        Self::of(child, &command)
    }

    /// Starts a child of the thread that lives as long as the program.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start_mortal(command: Command) -> anyhow::Result<Self> {
        static KEEPER: OnceLock<Sender<Request>> = OnceLock::new();
        let keeper = KEEPER.get_or_init(|| {
            let (requests, rx) = channel::<Request>();
            std::thread::spawn(move || {
                while let Ok((mut command, answer)) = rx.recv() {
                    // Nobody waits any more: the child is dropped, and dies with this thread at the latest.
                    let _ = answer.send(command.spawn());
                }
            });
            requests
        });
        let (answer, child) = channel();
        let shown = Command::new(command.get_program());
        keeper.send((command, answer)).context("the thread that starts processes has ended")?;
        Self::of(child.recv().context("the thread that starts processes has ended")?, &shown)
    }

    /// One that an earlier run recorded.
    pub fn known(pid: u32, started: u64) -> Self {
        Self { pid, started, child: None }
    }

    fn of(child: std::io::Result<Child>, command: &Command) -> anyhow::Result<Self> {
        let child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = child.id();
        Ok(Self { pid, started: start_of(pid).unwrap_or(0), child: Some(child) })
    }

    /// Whether it runs (or is stopped by a signal), and is still the same.
    pub fn alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.started != 0 && start_of(self.pid) == Some(self.started),
        }
    }

    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.alive()) {
            // It may end in this very moment, which is no error.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM, and SIGKILL when it has not ended `within`; returns whether it ended by itself.
    ///
    /// # Errors
    /// When it survives even that.
    pub fn end(&mut self, within: Duration) -> anyhow::Result<bool> {
        self.signal(Signal::TERM);
        // A stopped process takes SIGTERM only when it goes on.
        self.signal(Signal::CONT);
        if self.gone(within) {
            return Ok(true);
        }
        self.kill().map(|()| false)
    }

    /// SIGKILL, and its end.
    ///
    /// # Errors
    /// When it is there still after 10 s.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL);
        if !self.gone(Duration::from_secs(10)) {
            bail!("process {} is still there 10 s after SIGKILL", self.pid);
        }
        Ok(())
    }

    fn gone(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while self.alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }
}

/// When `pid` started, clock ticks since boot; `None` when it is gone, or only its exit status is left.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; behind it are state, ..., and the start as the 20th.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    }

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let mut ours = Process::start(sleeper()).unwrap();
        assert!(ours.alive() && ours.started > 0);
        let mut known = Process::known(ours.pid, ours.started);
        let mut other = Process::known(ours.pid, ours.started + 1);
        assert!(known.alive() && !other.alive());
        other.signal(Signal::KILL);
        assert!(ours.alive(), "a signal to another process of the same number");
        assert!(ours.end(Duration::from_secs(10)).unwrap());
        assert!(!known.alive());
    }

    #[test]
    fn a_stopped_process_can_be_ended() {
        let mut process = Process::start_mortal(sleeper()).unwrap();
        process.signal(Signal::STOP);
        assert!(process.alive());
        assert!(process.end(Duration::from_secs(10)).unwrap());
    }

    #[test]
    fn what_ended_is_not_alive_even_before_it_is_reaped() {
        let mut ended = Process::start(Command::new("true")).unwrap();
        let mut known = Process::known(ended.pid, ended.started);
        while known.alive() {
            std::thread::yield_now();
        }
        assert!(!ended.alive());
    }
}
