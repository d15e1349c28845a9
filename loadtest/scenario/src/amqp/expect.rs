//! What a scenario demands of its result where messages are in queues.

use std::time::Duration;

use model::units;
use serde::Deserialize;

use crate::amqp::AmqpSummary;
use crate::expect::{Verdict, at_least, at_most, seconds, whole};
use crate::summary::Summary;

/// `expect:` of such a scenario. Absent: not demanded.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AmqpExpect {
    /// Confirmed messages that were never delivered.
    pub lost_max: Option<u64>,
    /// Messages without a confirm that were never delivered.
    pub missing_max: Option<u64>,
    /// Messages delivered again.
    pub duplicated_max: Option<u64>,
    /// Deliveries with the redelivered flag.
    pub redelivered_max: Option<u64>,
    /// First deliveries behind a later message of the same publisher and queue.
    pub reordered_max: Option<u64>,
    /// Deliveries whose content is not what was published.
    pub damaged_max: Option<u64>,
    /// Errors, closes and cancelled consumers that clients noticed.
    pub client_errors_max: Option<u64>,
    /// Messages in the queues after all consumers have left.
    pub left_in_queues_max: Option<u64>,
    /// Messages consumed: a run without any proves little.
    pub messages_min: Option<u64>,
    /// Migrations after which the client went on at another node.
    pub migrations_min: Option<u64>,
    /// Migrations that ended with a Close 320 for the client.
    pub forced_max: Option<u64>,
    /// 99th percentile of the time that a migration held its client up.
    #[serde(with = "units::optional_duration")]
    pub freeze_p99_max: Option<Duration>,
    /// Max/mean at the end of the run.
    pub imbalance_max: Option<f64>,
    /// Time from the last step until everything is level and stays so.
    #[serde(with = "units::optional_duration")]
    pub level_within: Option<Duration>,
    /// Clients connected at the end.
    pub connected_min: Option<u32>,
}

impl AmqpExpect {
    /// Judges a run: what may not be more, then what may not be less.
    pub fn judge(&self, run: &Summary) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let none = AmqpSummary::default();
        let amqp = run.amqp.as_ref();
        let total = amqp.map(|amqp| amqp.total);
        let mut most = |key, bound: Option<u64>, found: Option<u64>| {
            verdicts.extend(at_most(key, whole(bound), whole(found), ""));
        };
        most("lost_max", self.lost_max, total.map(|t| t.lost));
        most("missing_max", self.missing_max, total.map(|t| t.missing));
        most("duplicated_max", self.duplicated_max, total.map(|t| t.duplicated));
        most("redelivered_max", self.redelivered_max, total.map(|t| t.redelivered));
        most("reordered_max", self.reordered_max, total.map(|t| t.reordered));
        most("damaged_max", self.damaged_max, total.map(|t| t.damaged));
        let errors = amqp.map(|amqp| amqp.errors.values().sum());
        most("client_errors_max", self.client_errors_max, errors);
        most("left_in_queues_max", self.left_in_queues_max, amqp.and_then(|amqp| amqp.left_in_queues));
        let migrations = amqp.and_then(|amqp| amqp.migrations.as_ref());
        let forced = migrations.map(|m| m.get("forced").copied().unwrap_or(0));
        most("forced_max", self.forced_max, forced);
        let freeze = amqp.and_then(|amqp| amqp.freeze).map(|freeze| freeze.p99_ms / 1000.0);
        verdicts.extend(at_most("freeze_p99_max", seconds(self.freeze_p99_max), freeze, " s"));
        verdicts.extend(at_most("imbalance_max", self.imbalance_max, Some(run.imbalance_end), ""));
        verdicts.extend(at_most("level_within", seconds(self.level_within), run.level_after_s, " s"));
        let amqp = amqp.unwrap_or(&none);
        let mut least = |key: &str, bound: Option<u64>, found: u64| {
            verdicts.extend(bound.map(|bound| at_least(key, bound, found)));
        };
        least("messages_min", self.messages_min, amqp.total.consumed);
        least("migrations_min", self.migrations_min, amqp.migrated());
        least("connected_min", self.connected_min.map(u64::from), run.connected.into());
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{Account, Freeze};

    fn run(amqp: AmqpSummary) -> Summary {
        Summary { amqp: Some(amqp), ..Summary::default() }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let expect = AmqpExpect {
            lost_max: Some(0),
            left_in_queues_max: Some(0),
            freeze_p99_max: Some(Duration::from_millis(50)),
            migrations_min: Some(1),
            forced_max: Some(0),
            ..AmqpExpect::default()
        };
        assert!(expect.judge(&Summary::default()).iter().all(|verdict| !verdict.met));
        let amqp = AmqpSummary {
            left_in_queues: Some(0),
            freeze: Some(Freeze { count: 2, p50_ms: 5.0, p99_ms: 25.0 }),
            migrations: Some([("switched".to_owned(), 2)].into()),
            ..AmqpSummary::default()
        };
        let missed: Vec<String> =
            expect.judge(&run(amqp)).into_iter().filter(|v| !v.met).map(|v| v.key).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn each_fate_of_a_message_is_judged_by_its_own_number() {
        let expect = AmqpExpect {
            lost_max: Some(0),
            missing_max: Some(1),
            duplicated_max: Some(2),
            redelivered_max: Some(3),
            reordered_max: Some(4),
            client_errors_max: Some(5),
            ..AmqpExpect::default()
        };
        let total = Account {
            lost: 1,
            missing: 1,
            duplicated: 3,
            redelivered: 3,
            reordered: 5,
            ..Account::default()
        };
        let errors = [("a".to_owned(), 2), ("b".to_owned(), 3)].into();
        let met: Vec<bool> = expect
            .judge(&run(AmqpSummary { total, errors, ..AmqpSummary::default() }))
            .iter()
            .map(|verdict| verdict.met)
            .collect();
        assert_eq!(met, [false, true, false, true, false, true]);
    }
}
