//! What was seen of a run in a cluster, and the numbers that bars are about. Pure: samples and records in, numbers out.

use std::collections::BTreeMap;

use crate::protocol::{ClientSession, Ending};

/// The fullest endpoint may have so much more than the mean.
pub const LEVEL: f64 = 1.10;

/// The clients' sessions at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Seconds since the clients began.
    pub t: f64,
    /// Open sessions by endpoint.
    pub open: BTreeMap<String, u32>,
    /// Clients without one.
    pub away: u32,
}

impl Sample {
    /// Open sessions.
    pub fn total(&self) -> u32 {
        self.open.values().sum()
    }

    /// The fullest of `endpoints` against their mean.
    pub fn imbalance(&self, endpoints: &[String]) -> f64 {
        let counts = || endpoints.iter().map(|name| self.open.get(name).copied().unwrap_or(0));
        let (sum, most) = counts().fold((0u32, 0u32), |(sum, most), n| (sum + n, most.max(n)));
        if sum == 0 { 1.0 } else { f64::from(most) * endpoints.len() as f64 / f64::from(sum) }
    }
}

/// Seconds after `from` from which on `endpoints` are level, with nearly all of the clients there, to the end. `None`: they
/// are not at the end.
pub fn level_after(samples: &[Sample], from: f64, endpoints: &[String], clients: u32) -> Option<f64> {
    let mut since = None;
    for sample in samples.iter().filter(|sample| sample.t >= from) {
        let there: u32 = endpoints.iter().filter_map(|name| sample.open.get(name)).sum();
        let is_level = sample.imbalance(endpoints) <= LEVEL && f64::from(there) >= f64::from(clients) * 0.99;
        since = if is_level { since.or(Some(sample.t - from)) } else { None };
    }
    since
}

/// Seconds after `from` until no client was away any more. `None`: it never came to that.
pub fn all_back_after(samples: &[Sample], from: f64, clients: u32) -> Option<f64> {
    // A client may not have seen yet that it has lost its session.
    let lost = samples.iter().find(|sample| sample.t >= from && sample.total() < clients)?;
    samples.iter().find(|sample| sample.t > lost.t && sample.total() >= clients).map(|sample| sample.t - from)
}

/// Moves after `from`: when, and whose session. Ascending by time.
pub fn moves(sessions: &[ClientSession], from: f64) -> Vec<(f64, u32)> {
    let is_move = |session: &&ClientSession| {
        session.closed_s >= from
            && matches!(&session.ending, Ending::Closed { code: 1012, reason } if reason == "rebalance")
    };
    let mut moves: Vec<(f64, u32)> =
        sessions.iter().filter(is_move).map(|session| (session.closed_s, session.client)).collect();
    moves.sort_by(|a, b| a.0.total_cmp(&b.0));
    moves
}

/// Most moves within any stretch of so many seconds.
pub fn most_within(moves: &[(f64, u32)], seconds: f64) -> usize {
    let within =
        |(place, from): (usize, &(f64, u32))| moves[place..].partition_point(|m| m.0 < from.0 + seconds);
    moves.iter().enumerate().map(within).max().unwrap_or(0)
}

/// Most moves of one client.
pub fn most_of_one(moves: &[(f64, u32)]) -> usize {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    moves.iter().for_each(|(_, client)| *counts.entry(*client).or_default() += 1);
    counts.into_values().max().unwrap_or(0)
}

/// Ends after `from` by kind, but for those of the clients themselves.
pub fn ends(sessions: &[ClientSession], from: f64) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for session in sessions.iter().filter(|session| session.closed_s >= from) {
        if !matches!(session.ending, Ending::Own | Ending::OwnUnanswered(_)) {
            *ends.entry(session.ending.label()).or_default() += 1;
        }
    }
    ends
}

/// `after 12.3 s`, or `never`.
pub fn after(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), |seconds| format!("after {seconds:.1} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(t: f64, open: &[u32], away: u32) -> Sample {
        let open = open.iter().enumerate().map(|(n, count)| (format!("e{n}"), *count)).collect();
        Sample { t, open, away }
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("e{n}")).collect()
    }

    #[test]
    fn level_counts_from_when_it_stays_and_only_with_all_clients() {
        let samples = [
            sample(1.0, &[50, 50, 0], 0),
            sample(2.0, &[34, 33, 33], 0),
            sample(3.0, &[50, 25, 25], 0),
            sample(4.0, &[30, 30, 30], 10),
            sample(5.0, &[34, 33, 33], 0),
        ];
        assert_eq!(level_after(&samples, 1.0, &names(3), 100), Some(4.0));
        assert_eq!(level_after(&samples[..4], 1.0, &names(3), 100), None);
        assert_eq!(all_back_after(&samples, 1.0, 100), Some(4.0));
        assert_eq!(all_back_after(&samples[..4], 1.0, 100), None);
    }

    #[test]
    fn moves_are_counted_by_client_and_in_the_fullest_stretch() {
        let moves = [(1.0, 7), (1.5, 8), (2.2, 7), (9.0, 9)];
        assert_eq!(most_within(&moves, 1.0), 2);
        assert_eq!(most_within(&moves, 10.0), 4);
        assert_eq!((most_of_one(&moves), most_of_one(&[])), (2, 0));
    }
}
