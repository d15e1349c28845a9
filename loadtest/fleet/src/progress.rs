//! What is seen while a run goes on: a bar with live counts on a terminal, a plain line every 2 s elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Where it goes; decided once.
#[derive(Debug)]
pub enum Progress {
    /// Nothing is shown.
    Quiet,
    /// Lines on standard error.
    Lines {
        /// When the last one was written.
        last: Option<Instant>,
    },
    /// A bar on standard error.
    Bar(ProgressBar),
}

impl Progress {
    /// What suits standard error, for a run of `length`.
    pub fn new(quiet: bool, label: &str, length: Duration) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let bar = ProgressBar::new(length.as_millis() as u64);
        // The template is a constant; were it refused, the default style shows the same numbers.
        if let Ok(style) = ProgressStyle::with_template("{prefix:>9} {bar:24.cyan/blue} {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.set_prefix(label.to_owned());
        Self::Bar(bar)
    }

    /// Shows the state `t` after the first connection.
    pub fn show(&mut self, now: Instant, label: &str, t: Duration, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Lines { last } if last.is_none_or(|last| now >= last + LINE_EVERY) => {
                *last = Some(now);
                eprintln!("{label:>9} {:5.1} s  {text}", t.as_secs_f64());
            }
            Self::Lines { .. } => {}
            Self::Bar(bar) => {
                bar.set_position(t.as_millis() as u64);
                bar.set_message(format!("{:5.1} s  {text}", t.as_secs_f64()));
            }
        }
    }

    /// Shows a line that stays.
    pub fn say(&self, line: &str) {
        match self {
            Self::Quiet => {}
            Self::Lines { .. } => eprintln!("{line}"),
            Self::Bar(bar) => bar.println(line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
