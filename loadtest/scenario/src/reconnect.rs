//! When a client comes back after its connection ended: the first-attempt and backoff numbers of real libraries.
//!
//! Each preset is what the library does after a connection that had been up for a while, taken from its source.
//! No timer here: a client asks for the delay of its next attempt and waits by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// How a client's library reconnects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Kind {
    /// At once; after a failed attempt 100 ms.
    #[default]
    #[serde(rename = "immediate")]
    Immediate,
    /// The numbers of the scenario: `first`, `factor`, `max`, `jitter`.
    #[serde(rename = "backoff")]
    Backoff,
    /// The first end is the last.
    #[serde(rename = "never")]
    Never,
    /// 0 ms, then 3 s x 1.3 a time, at most 10 s.
    #[serde(rename = "partysocket")]
    PartySocket,
    /// 10, 50, 100, 150, 200, 250, 500 ms, 1 s, 2 s, then 5 s.
    #[serde(rename = "phoenix")]
    Phoenix,
    /// 1 s x 2 a time, +-50 %, at most 5 s.
    #[serde(rename = "socket.io")]
    SocketIo,
    /// 1 to 5 s, x 1.3 a time, at most 10 s.
    #[serde(rename = "reconnecting-websocket")]
    ReconnectingWebSocket,
}

/// `reconnect:` of a scenario, checked.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Reconnect {
    /// Which library, or the own numbers.
    pub kind: Kind,
    /// The own numbers; meaningful with [`Kind::Backoff`] only.
    pub backoff: Backoff,
    /// Whether a refusal's Retry-After is waited for.
    pub honour_retry_after: bool,
}

/// Delays that grow by a factor.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Backoff {
    /// Delay of the first attempt, milliseconds.
    pub first_ms: f64,
    /// Each further delay is the one before times this, 1.0 to 10.0.
    pub factor: f64,
    /// Longest delay, milliseconds.
    pub max_ms: f64,
    /// Share by which a delay varies either way, 0.0 to 1.0.
    pub jitter: f64,
}

/// Over which time clients spread that were told to come back in the same second.
pub const RETRY_SPREAD: Duration = Duration::from_secs(1);

const PHOENIX_MS: [f64; 9] = [10.0, 50.0, 100.0, 150.0, 200.0, 250.0, 500.0, 1000.0, 2000.0];

impl Reconnect {
    /// The delay before attempt number `attempt` (0 is the first after a connection that stood); `None`: never.
    pub fn delay(&self, attempt: u32, rng: &mut Rng) -> Option<Duration> {
        let ms = match self.kind {
            Kind::Never => return None,
            Kind::Immediate if attempt == 0 => 0.0,
            Kind::Immediate => 100.0,
            Kind::PartySocket if attempt == 0 => 0.0,
            Kind::PartySocket => grown(3_000.0, 1.3, attempt - 1).min(10_000.0),
            Kind::Phoenix => PHOENIX_MS.get(attempt as usize).copied().unwrap_or(5_000.0),
            Kind::SocketIo => (grown(1_000.0, 2.0, attempt) * around(0.5, rng)).min(5_000.0),
            Kind::ReconnectingWebSocket => grown(1_000.0 + 4_000.0 * rng.unit(), 1.3, attempt).min(10_000.0),
            Kind::Backoff => {
                let Backoff { first_ms, factor, max_ms, jitter } = self.backoff;
                (grown(first_ms, factor, attempt).min(max_ms)) * around(jitter, rng)
            }
        };
        Some(Duration::from_micros((ms * 1000.0) as u64))
    }

    /// The delay after an answer that said Retry-After: the library's own or that time, whichever is longer, and up to
    /// [`RETRY_SPREAD`] more, because the header knows whole seconds only and many were told the same one.
    pub fn delay_after_refusal(
        &self,
        attempt: u32,
        retry_after: Duration,
        rng: &mut Rng,
    ) -> Option<Duration> {
        let own = self.delay(attempt, rng)?;
        if !self.honour_retry_after {
            return Some(own);
        }
        Some(own.max(retry_after) + RETRY_SPREAD.mul_f64(rng.unit()))
    }
}

fn grown(first_ms: f64, factor: f64, times: u32) -> f64 {
    // Beyond 60 doublings the maximum has long been reached; the bound keeps the power finite.
    first_ms * factor.powi(times.min(60) as i32)
}

fn around(share: f64, rng: &mut Rng) -> f64 {
    1.0 - share + 2.0 * share * rng.unit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(kind: Kind, seed: u64) -> Vec<u64> {
        let backoff = Backoff { first_ms: 200.0, factor: 2.0, max_ms: 2_500.0, jitter: 0.0 };
        let mut rng = Rng::new(seed, 0);
        (0..12)
            .filter_map(|n| Reconnect { kind, backoff, honour_retry_after: true }.delay(n, &mut rng))
            .map(|d| d.as_millis() as u64)
            .collect()
    }

    #[test]
    fn each_preset_has_the_numbers_of_its_library() {
        assert!(delays(Kind::Never, 1).is_empty());
        assert_eq!(delays(Kind::Immediate, 1)[..3], [0, 100, 100]);
        assert_eq!(delays(Kind::PartySocket, 1)[..7], [0, 3000, 3900, 5070, 6591, 8568, 10000]);
        assert_eq!(delays(Kind::Phoenix, 1)[..4], [10, 50, 100, 150]);
        assert_eq!(delays(Kind::Phoenix, 1)[9..], [5000, 5000, 5000]);
        assert_eq!(delays(Kind::Backoff, 1)[..6], [200, 400, 800, 1600, 2500, 2500]);
    }

    #[test]
    fn a_preset_with_chance_stays_in_its_bounds_and_repeats_by_seed() {
        for seed in 0..100 {
            let socket_io = delays(Kind::SocketIo, seed);
            assert!((500..=1500).contains(&socket_io[0]), "seed {seed}: {socket_io:?}");
            assert!(socket_io.iter().all(|d| *d <= 5_000), "seed {seed}: {socket_io:?}");
            let rws = delays(Kind::ReconnectingWebSocket, seed);
            assert!((1000..=5000).contains(&rws[0]), "seed {seed}: {rws:?}");
            assert!(rws.iter().all(|d| *d <= 10_000), "seed {seed}: {rws:?}");
            assert_eq!(socket_io, delays(Kind::SocketIo, seed));
        }
        assert_ne!(delays(Kind::SocketIo, 1), delays(Kind::SocketIo, 2));
    }

    #[test]
    fn a_refused_client_waits_as_long_as_it_was_told_and_spreads_within_a_second() {
        let polite = Reconnect { kind: Kind::PartySocket, honour_retry_after: true, ..Reconnect::default() };
        let wait = |rule: Reconnect, attempt, secs, seed| {
            let after = Duration::from_secs(secs);
            rule.delay_after_refusal(attempt, after, &mut Rng::new(seed, 0)).unwrap().as_millis()
        };
        for seed in 0..100 {
            assert!((7_000..8_000).contains(&wait(polite, 1, 7, seed)), "seed {seed}");
            assert!(
                (10_000..11_000).contains(&wait(polite, 9, 2, seed)),
                "its own 10 s are longer, seed {seed}"
            );
        }
        assert_ne!(wait(polite, 1, 7, 1), wait(polite, 1, 7, 2));
        let browser = Reconnect { honour_retry_after: false, ..polite };
        assert_eq!(wait(browser, 1, 7, 1), 3_000);
        let gone = Reconnect { kind: Kind::Never, ..polite };
        assert_eq!(gone.delay_after_refusal(0, Duration::ZERO, &mut Rng::new(1, 0)), None);
    }
}
