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
    /// Time from the last step until everything is level and stays so.
    #[serde(with = "units::optional_duration")]
    pub level_within: Option<Duration>,
    /// Moves divided by the floor.
    pub moves_over_floor_max: Option<f64>,
    /// Moves; a run without any proves little.
    pub moves_min: Option<u64>,
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
    /// Judges a run, in the order of the keys.
    pub fn judge(&self, run: &Summary) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let mut most = |key: &str, bound: Option<f64>, found: Option<f64>, unit: &str| {
            verdicts.extend(bound.map(|bound| at_most(key, bound, found, unit)));
        };
        let whole = |n: Option<u64>| n.map(|n| n as f64);
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
        let (to_endpoint, to_client) = (&run.messages.to_endpoint, &run.messages.to_client);
        let verified = |n: u64| run.verified.then_some(n as f64);
        most("imbalance_max", self.imbalance_max, Some(run.imbalance_end), "");
        most("level_within", seconds(self.level_within), run.level_after_s, " s");
        most("moves_over_floor_max", self.moves_over_floor_max, Some(run.moves_over_floor), "");
        most("moved_twice_max", whole(self.moved_twice_max), Some(run.moved_twice as f64), "");
        let of_a_client = Some(run.moves_of_a_client as f64);
        most("moves_of_a_client_max", whole(self.moves_of_a_client_max), of_a_client, "");
        let cut = Some(run.cut_at_deadline as f64);
        most("cut_at_deadline_max", whole(self.cut_at_deadline_max), cut, "");
        most("lost_to_endpoint_max", whole(self.lost_to_endpoint_max), verified(to_endpoint.lost), "");
        most("lost_to_client_max", whole(self.lost_to_client_max), verified(to_client.lost), "");
        let duplicated = verified(to_endpoint.duplicated + to_client.duplicated);
        most("duplicated_max", whole(self.duplicated_max), duplicated, "");
        let failed = Some(run.connections_failed.values().sum::<u64>() as f64);
        most("connections_failed_max", whole(self.connections_failed_max), failed, "");
        most("unclean_ends_max", whole(self.unclean_ends_max), Some(run.unclean_ends as f64), "");
        let p99 = run.reconnect.as_ref().map(|r| r.p99_ms / 1000.0);
        most("reconnect_p99_max", seconds(self.reconnect_p99_max), p99, " s");
        let gateway = run.gateway.as_ref();
        most("gateway_rss_max_mib", self.gateway_rss_max_mib, gateway.map(|g| g.rss_mib), " MiB");
        let each = gateway.map(|g| g.rss_per_session_kib);
        most("gateway_rss_per_session_max_kib", self.gateway_rss_per_session_max_kib, each, " KiB");
        verdicts.extend(self.moves_min.map(|bound| at_least("moves_min", bound, run.moves)));
        verdicts.extend(
            self.messages_sent_min.map(|bound| at_least("messages_sent_min", bound, to_endpoint.sent)),
        );
        verdicts.extend(
            self.connected_min.map(|bound| at_least("connected_min", bound.into(), run.connected.into())),
        );
        verdicts.extend(self.each_endpoint_sessions.as_ref().map(|expected| Verdict {
            key: "each_endpoint_sessions".into(),
            expected: format!("{expected:?}"),
            found: format!("{:?}", run.sessions_end),
            met: *expected == run.sessions_end,
        }));
        verdicts
    }
}

fn at_most(key: &str, bound: f64, found: Option<f64>, unit: &str) -> Verdict {
    Verdict {
        key: key.into(),
        expected: format!("at most {}{unit}", short(bound)),
        found: found.map_or("never, or not measured".into(), |found| format!("{}{unit}", short(found))),
        met: found.is_some_and(|found| found <= bound),
    }
}

fn at_least(key: &str, bound: u64, found: u64) -> Verdict {
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
}
