//! What a shutdown looked like: closes by second, the fullest second beside the mean, codes, the end of the process.
//!
//! Pure: the times come in, the verdict and its text go out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::protocol::{ClientSession, Ending};

/// Most closes in a second, as a multiple of the mean.
const PEAK_MAX: f64 = 1.5;
/// The close code of a gateway that stops.
const CODE: u16 = 1012;
/// Width of the longest bar, characters.
const BAR: usize = 50;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Sessions that were open before the signal.
    pub sessions: usize,
    /// The configured grace.
    pub grace: Duration,
    /// Seconds from the signal to the first sign of each session's end, and how it ended; ascending.
    pub ends: Vec<(f64, Ending)>,
    /// From the signal to the first answer that it is not ready. `None`: it was never seen.
    pub unready_after: Option<Duration>,
    /// From the signal to the first refused connection. `None`: it was never seen.
    pub closed_after: Option<Duration>,
    /// The process's exit code; `None` when it did not end in time, or by a signal.
    pub exit_code: Option<i32>,
    /// From the signal to the end of the process.
    pub ended_after: Duration,
}

/// The ends of sessions, `offset` seconds being when the signal was sent.
pub fn ends(sessions: &[ClientSession], offset: f64) -> Vec<(f64, Ending)> {
    let mut ends: Vec<_> = sessions.iter().map(|s| (s.closed_s - offset, s.ending.clone())).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    ends
}

impl Seen {
    /// Every bar that is missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let polite = self.polite();
        if polite != self.sessions {
            missed
                .push(format!("{polite} of {} sessions were closed with {CODE} and answered", self.sessions));
        }
        let (peak, mean) = (self.peak(), self.mean());
        if peak as f64 > PEAK_MAX * mean {
            missed
                .push(format!("{peak} closes within a second, more than {PEAK_MAX} x the mean of {mean:.0}"));
        }
        if self.exit_code != Some(0) {
            missed.push(format!("the exit code is {:?}, expected 0", self.exit_code));
        }
        if self.ended_after > self.grace {
            missed.push(format!("the process ended after {:.1} s", self.ended_after.as_secs_f64()));
        }
        if self.unready_after.is_none() {
            missed.push("it was never seen not to be ready".into());
        }
        missed
    }

    /// Sessions that got the Close frame of a gateway that stops, answered it, and then saw the end of the stream.
    fn polite(&self) -> usize {
        let is_polite = |ending: &Ending| matches!(ending, Ending::Closed { code: CODE, .. });
        self.ends.iter().filter(|(_, ending)| is_polite(ending)).count()
    }

    /// Most closes in any stretch of a second.
    fn peak(&self) -> usize {
        let times: Vec<f64> = self.ends.iter().map(|(t, _)| *t).collect();
        let within = |(place, from): (usize, &f64)| times[place..].partition_point(|t| *t < from + 1.0);
        times.iter().enumerate().map(within).max().unwrap_or(0)
    }

    /// Closes a second between the first and the last.
    fn mean(&self) -> f64 {
        let (Some((first, _)), Some((last, _))) = (self.ends.first(), self.ends.last()) else { return 0.0 };
        self.ends.len() as f64 / (last - first).max(1.0)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut seconds: BTreeMap<i64, usize> = BTreeMap::new();
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        for (t, ending) in &self.ends {
            *seconds.entry(t.floor() as i64).or_default() += 1;
            *labels.entry(ending.label()).or_default() += 1;
        }
        let most = seconds.values().copied().max().unwrap_or(1);
        let mut text = String::from("second after SIGTERM, closes\n");
        let (first, last) = (seconds.keys().next().copied(), seconds.keys().last().copied());
        for second in first.unwrap_or(0)..last.map_or(0, |last| last + 1) {
            let count = seconds.get(&second).copied().unwrap_or(0);
            let _ = writeln!(text, "{second:4} {count:6}  {}", "#".repeat(count * BAR / most));
        }
        let (peak, mean) = (self.peak(), self.mean());
        let _ = writeln!(
            text,
            "mean {mean:.1} a second, most within any second {peak}: {:.2} x the mean (at most {PEAK_MAX})",
            peak as f64 / mean.max(f64::MIN_POSITIVE)
        );
        for (label, count) in labels {
            let _ = writeln!(text, "{count:6} x {label}");
        }
        let _ = writeln!(
            text,
            "{} of {} sessions were closed with {CODE} and answered",
            self.polite(),
            self.sessions
        );
        let after = |time: Option<Duration>| match time {
            Some(time) => format!("after {:.2} s", time.as_secs_f64()),
            None => "was not seen".into(),
        };
        let _ = writeln!(text, "not ready {}", after(self.unready_after));
        let _ = writeln!(text, "listener closed {}", after(self.closed_after));
        let code = self.exit_code.map_or("none".into(), |code| code.to_string());
        let (ended, grace) = (self.ended_after.as_secs_f64(), self.grace.as_secs_f64());
        let _ = writeln!(text, "exit code {code} after {ended:.2} s of {grace:.0} s");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(times: impl Iterator<Item = f64>) -> Seen {
        let closed = || Ending::Closed { code: 1012, reason: "rebalance".into() };
        let ends: Vec<_> = times.map(|t| (t, closed())).collect();
        Seen {
            sessions: ends.len(),
            grace: Duration::from_secs(30),
            ends,
            unready_after: Some(Duration::ZERO),
            closed_after: Some(Duration::from_secs(5)),
            exit_code: Some(0),
            ended_after: Duration::from_secs(22),
        }
    }

    #[test]
    fn an_even_pace_meets_every_bar_and_its_text_has_the_numbers() {
        let seen = seen((0..2000).map(|n| f64::from(n) / 100.0));
        assert_eq!(seen.missed(), Vec::<String>::new());
        let text = seen.text();
        assert!(text.contains("   7    100"), "{text}");
        assert!(text.contains("2000 of 2000 sessions were closed with 1012 and answered"), "{text}");
        assert!(text.contains("exit code 0 after 22.00 s of 30 s"), "{text}");
    }

    #[test]
    fn a_burst_is_found_wherever_the_second_begins() {
        let burst = (0..1000).map(|n| f64::from(n) / 50.0).chain((0..60).map(|n| 9.5 + f64::from(n) / 60.0));
        let mut seen = seen(burst);
        seen.ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert_eq!(seen.missed().len(), 1, "{:?}", seen.missed());
        assert!(seen.missed()[0].contains("closes within a second"), "{:?}", seen.missed());
    }

    #[test]
    fn whatever_is_not_polite_or_not_in_time_is_missed() {
        let mut seen = seen((0..100).map(f64::from));
        seen.ends[3].1 = Ending::Cut("reset".into());
        seen.exit_code = None;
        seen.ended_after = Duration::from_secs(31);
        seen.unready_after = None;
        let missed = seen.missed().join("\n");
        for part in ["99 of 100", "exit code is None", "after 31.0 s", "not to be ready"] {
            assert!(missed.contains(part), "{missed}");
        }
    }
}
