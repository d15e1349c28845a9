//! What a scenario demands of its result: each expectation that is missed is one line with both numbers.

use std::time::Duration;

use model::units;
use serde::{Deserialize, Serialize};

use crate::summary::Summary;

/// `expect:` of a scenario. Absent: not demanded.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Max/mean at the end of the run.
    pub imbalance_max: Option<f64>,
    /// Largest max/mean at any time after the first step. One that became ready later is no yardstick until it is filled.
    pub imbalance_peak_max: Option<f64>,
    /// Time from the last step until everything is level and stays so.
    #[serde(with = "units::optional_duration")]
    pub level_within: Option<Duration>,
    /// Moves divided by the floor.
    pub moves_over_floor_max: Option<f64>,
    /// Moves; a run without any proves little.
    pub moves_min: Option<u64>,
    /// Closes with the move's code and reason.
    pub closes_max: Option<u64>,
    /// Whether the gateway's return guard has stopped the moves.
    pub guard_stopped: Option<bool>,
    /// Clients moved more than once.
    pub moved_twice_max: Option<u64>,
    /// Moves of any one client.
    pub moves_of_a_client_max: Option<u64>,
    /// Sessions that a drained endpoint still had at its deadline.
    pub cut_at_deadline_max: Option<u64>,
    /// Messages of clients that no endpoint received.
    pub lost_to_endpoint_max: Option<u64>,
    /// Messages of endpoints that their client did not receive.
    pub lost_to_client_max: Option<u64>,
    /// Messages received twice, both directions.
    pub duplicated_max: Option<u64>,
    /// Failed connection attempts.
    pub connections_failed_max: Option<u64>,
    /// Failed connection attempts other than those that a 503 refused.
    pub connections_broken_max: Option<u64>,
    /// Connection attempts that a 503 refused: an admission that refused nobody was not tested.
    pub refused_min: Option<u64>,
    /// Sessions that began within any one second after the first step.
    pub admitted_per_second_max: Option<u64>,
    /// Sessions that ended without a Close frame, or badly after one.
    pub unclean_ends_max: Option<u64>,
    /// Messages that clients sent: a run in which nobody spoke proves nothing about messages.
    pub messages_sent_min: Option<u64>,
    /// Clients with a session at the end.
    pub connected_min: Option<u32>,
    /// Sessions of the ready endpoints at the end, largest first.
    pub each_endpoint_sessions: Option<Vec<u32>>,
    /// 99th percentile of the time from the close to the next 101.
    #[serde(with = "units::optional_duration")]
    pub reconnect_p99_max: Option<Duration>,
    /// The gateway's resident memory at the end, MiB.
    pub gateway_rss_max_mib: Option<f64>,
    /// Growth of the gateway's resident memory by session, KiB.
    pub gateway_rss_per_session_max_kib: Option<f64>,
}

/// One expectation and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// Key in the scenario.
    pub key: String,
    /// Bound, with its relation.
    pub expected: String,
    /// Result.
    pub found: String,
    /// Whether it holds.
    pub met: bool,
}

impl Expect {
    /// Judges a run: what may not be more, then what may not be less.
    pub fn judge(&self, run: &Summary) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        self.judge_level(run, &mut verdicts);
        self.judge_clients(run, &mut verdicts);
        self.judge_gateway(run, &mut verdicts);
        self.judge_least(run, &mut verdicts);
        verdicts
    }

    fn judge_level(&self, run: &Summary, verdicts: &mut Vec<Verdict>) {
        let mut most = |key, bound, found, unit| verdicts.extend(at_most(key, bound, found, unit));
        let count = |n: u64| Some(n as f64);
        most("imbalance_max", self.imbalance_max, Some(run.imbalance_end), "");
        most("imbalance_peak_max", self.imbalance_peak_max, Some(run.imbalance_peak_filled), "");
        most("level_within", seconds(self.level_within), run.level_after_s, " s");
        most("moves_over_floor_max", self.moves_over_floor_max, Some(run.moves_over_floor), "");
        most("closes_max", whole(self.closes_max), count(run.moves), "");
        most("moved_twice_max", whole(self.moved_twice_max), count(run.moved_twice), "");
        most("moves_of_a_client_max", whole(self.moves_of_a_client_max), count(run.moves_of_a_client), "");
        most("cut_at_deadline_max", whole(self.cut_at_deadline_max), count(run.cut_at_deadline), "");
        let admitted = count(run.admitted_per_second);
        most("admitted_per_second_max", whole(self.admitted_per_second_max), admitted, "");
    }

    fn judge_clients(&self, run: &Summary, verdicts: &mut Vec<Verdict>) {
        let mut most = |key, bound, found, unit| verdicts.extend(at_most(key, bound, found, unit));
        let (to_endpoint, to_client) = (&run.messages.to_endpoint, &run.messages.to_client);
        let verified = |n: u64| run.verified.then_some(n as f64);
        most("lost_to_endpoint_max", whole(self.lost_to_endpoint_max), verified(to_endpoint.lost), "");
        most("lost_to_client_max", whole(self.lost_to_client_max), verified(to_client.lost), "");
        let duplicated = verified(to_endpoint.duplicated + to_client.duplicated);
        most("duplicated_max", whole(self.duplicated_max), duplicated, "");
        let failed = run.connections_failed.values().sum::<u64>();
        most("connections_failed_max", whole(self.connections_failed_max), Some(failed as f64), "");
        let broken = Some(failed.saturating_sub(run.refused) as f64);
        most("connections_broken_max", whole(self.connections_broken_max), broken, "");
        most("unclean_ends_max", whole(self.unclean_ends_max), Some(run.unclean_ends as f64), "");
        let p99 = run.reconnect.as_ref().map(|r| r.p99_ms / 1000.0);
        most("reconnect_p99_max", seconds(self.reconnect_p99_max), p99, " s");
    }

    fn judge_gateway(&self, run: &Summary, verdicts: &mut Vec<Verdict>) {
        let mut most = |key, bound, found, unit| verdicts.extend(at_most(key, bound, found, unit));
        let gateway = run.gateway.as_ref();
        most("gateway_rss_max_mib", self.gateway_rss_max_mib, gateway.map(|g| g.rss_mib), " MiB");
        let each = gateway.map(|g| g.rss_per_session_kib);
        most("gateway_rss_per_session_max_kib", self.gateway_rss_per_session_max_kib, each, " KiB");
        verdicts.extend(self.guard_stopped.map(|expected| {
            let found = run.guard_stops.map(|stops| stops > 0);
            Verdict {
                key: "guard_stopped".into(),
                expected: expected.to_string(),
                found: found.map_or("not known".into(), |found| found.to_string()),
                met: found == Some(expected),
            }
        }));
    }

    fn judge_least(&self, run: &Summary, verdicts: &mut Vec<Verdict>) {
        let mut least = |key: &str, bound: Option<u64>, found: u64| {
            verdicts.extend(bound.map(|bound| at_least(key, bound, found)));
        };
        least("moves_min", self.moves_min, run.moves);
        least("messages_sent_min", self.messages_sent_min, run.messages.to_endpoint.sent);
        least("refused_min", self.refused_min, run.refused);
        least("connected_min", self.connected_min.map(u64::from), run.connected.into());
        verdicts.extend(self.each_endpoint_sessions.as_ref().map(|expected| Verdict {
            key: "each_endpoint_sessions".into(),
            expected: format!("{expected:?}"),
            found: format!("{:?}", run.sessions_end),
            met: *expected == run.sessions_end,
        }));
    }
}

pub(crate) fn whole(n: Option<u64>) -> Option<f64> {
    n.map(|n| n as f64)
}

pub(crate) fn seconds(d: Option<Duration>) -> Option<f64> {
    d.map(|d| d.as_secs_f64())
}

pub(crate) fn at_most(key: &str, bound: Option<f64>, found: Option<f64>, unit: &str) -> Option<Verdict> {
    let bound = bound?;
    Some(Verdict {
        key: key.into(),
        expected: format!("at most {}{unit}", short(bound)),
        found: found.map_or("never, or not measured".into(), |found| format!("{}{unit}", short(found))),
        met: found.is_some_and(|found| found <= bound),
    })
}

pub(crate) fn at_least(key: &str, bound: u64, found: u64) -> Verdict {
    Verdict {
        key: key.into(),
        expected: format!("at least {bound}"),
        found: found.to_string(),
        met: found >= bound,
    }
}

fn short(number: f64) -> String {
    if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bound_tells_both_numbers() {
        let expect = Expect { imbalance_max: Some(1.1), moves_min: Some(3), ..Expect::default() };
        let run = Summary { imbalance_end: 1.4, moves: 3, ..Summary::default() };
        let verdicts = expect.judge(&run);
        assert_eq!(verdicts.len(), 2);
        assert_eq!((verdicts[0].expected.as_str(), verdicts[0].found.as_str()), ("at most 1.100", "1.400"));
        assert_eq!((verdicts[0].met, verdicts[1].met), (false, true));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let expect = Expect {
            level_within: Some(Duration::from_secs(30)),
            lost_to_endpoint_max: Some(0),
            gateway_rss_max_mib: Some(100.0),
            ..Expect::default()
        };
        assert!(expect.judge(&Summary::default()).iter().all(|verdict| !verdict.met));
        let run = Summary { level_after_s: Some(12.0), verified: true, ..Summary::default() };
        let met: Vec<bool> = expect.judge(&run).iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [true, true, false]);
    }

    #[test]
    fn the_counts_of_the_endpoints_must_be_exactly_those() {
        let expect = Expect { each_endpoint_sessions: Some(vec![3, 2]), ..Expect::default() };
        let with = |sessions_end| expect.judge(&Summary { sessions_end, ..Summary::default() })[0].met;
        assert!(with(vec![3, 2]));
        assert!(!with(vec![4, 1]));
        assert!(!with(vec![3, 2, 0]));
    }

    #[test]
    fn a_guard_that_nobody_asked_about_is_neither_stopped_nor_running() {
        let with = |expected, stops| {
            let expect = Expect { guard_stopped: Some(expected), ..Expect::default() };
            expect.judge(&Summary { guard_stops: stops, ..Summary::default() })[0].met
        };
        assert!(with(true, Some(2)) && with(false, Some(0)));
        assert!(!with(true, Some(0)) && !with(false, Some(1)));
        assert!(!with(true, None) && !with(false, None));
    }

    #[test]
    fn a_refused_attempt_is_a_failed_one_but_not_a_broken_one() {
        let expect = Expect {
            connections_failed_max: Some(0),
            connections_broken_max: Some(0),
            refused_min: Some(7),
            ..Expect::default()
        };
        let failed = [("HTTP 503".to_owned(), 7)].into();
        let run = Summary { connections_failed: failed, refused: 7, ..Summary::default() };
        let met: Vec<(String, bool)> = expect.judge(&run).into_iter().map(|v| (v.key, v.met)).collect();
        let expected =
            [("connections_failed_max", false), ("connections_broken_max", true), ("refused_min", true)];
        assert_eq!(met, expected.map(|(key, met)| (key.to_owned(), met)));
    }

    #[test]
    fn closes_the_rush_and_the_peak_are_judged_by_their_own_numbers() {
        let expect = Expect {
            closes_max: Some(20),
            admitted_per_second_max: Some(350),
            imbalance_peak_max: Some(1.2),
            ..Expect::default()
        };
        let run = Summary {
            moves: 20,
            admitted_per_second: 351,
            imbalance_peak: 1.7,
            imbalance_peak_filled: 1.1,
            ..Summary::default()
        };
        let met: Vec<bool> = expect.judge(&run).iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [true, true, false], "the peak, the closes, the rush");
    }
}
