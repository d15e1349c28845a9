//! Rows and tiles of a run with brokers, the same for the terminal and the page.

use std::collections::{BTreeMap, BTreeSet};

use crate::amqp::{Account, AmqpSummary};
use crate::report::Run;
use crate::report::rows::{Row, cost_rows, counts, dash, level, row};
use crate::summary::{Summary, Times};

/// All rows.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let line = |label, cell: &dyn Fn(&Summary) -> String| row(runs, label, cell);
    let mut rows = vec![
        line("clients connected at the end", &|run| run.connected.to_string()),
        line("connections by node at the end", &|run| counts(&run.sessions_end)),
        line("max/mean before the first step", &|run| format!("{:.2}", run.imbalance_before)),
        line("max/mean, worst after it", &|run| format!("{:.2}", run.imbalance_peak)),
        line("max/mean at the end", &|run| format!("{:.2}", run.imbalance_end)),
        line("level after the last step, s", &level),
    ];
    rows.extend(message_rows(runs));
    rows.extend(client_rows(runs));
    if runs.iter().any(|run| amqp(&run.summary).migrations.is_some()) {
        rows.extend(migration_rows(runs));
    }
    rows.extend(group_rows(runs));
    if runs.iter().any(|run| run.summary.gateway.is_some()) {
        rows.extend(cost_rows(runs));
    }
    rows.extend(counted(runs, "noticed by clients: ", |amqp| &amqp.errors));
    rows.extend(counted(runs, "migration given up: ", |amqp| &amqp.aborts));
    rows
}

/// The two tiles that say what it was about: label, value, and what stands beside it.
pub fn tiles(first: &Summary, other: Option<&Summary>) -> [Tile; 2] {
    let freeze = amqp(first)
        .freeze
        .map_or_else(|| "freeze not measured".to_owned(), |f| format!("p99 freeze {:.1} ms", f.p99_ms));
    let fates = |run: &Summary| {
        let total = amqp(run).total;
        let bad = total.lost + total.missing + total.duplicated + total.reordered;
        format!("{bad} of {}", total.sent)
    };
    let beside = other.map_or_else(String::new, |run| format!("{}: {}", run.label, fates(run)));
    [
        ("connections migrated", amqp(first).migrated().to_string(), freeze),
        ("messages lost, repeated or out of order", fates(first), beside),
    ]
}

/// Label, value, and what stands beside it.
pub type Tile = (&'static str, String, String);

fn message_rows(runs: &[Run]) -> Vec<Row> {
    let line = |label, cell: &dyn Fn(&Account) -> String| row(runs, label, |run| cell(&amqp(run).total));
    vec![
        line("messages published / consumed", &|t| format!("{} / {}", t.sent, t.consumed)),
        line("  confirmed / refused / returned", &|t| {
            format!("{} / {} / {}", t.confirmed, t.refused, t.returned)
        }),
        line("confirmed and never delivered (lost)", &|t| t.lost.to_string()),
        line("unconfirmed and never delivered", &|t| t.missing.to_string()),
        line("delivered again", &|t| t.duplicated.to_string()),
        line("deliveries flagged as redelivered", &|t| t.redelivered.to_string()),
        line("out of order", &|t| t.reordered.to_string()),
        line("damaged", &|t| t.damaged.to_string()),
    ]
}

fn client_rows(runs: &[Run]) -> Vec<Row> {
    let line = |label, cell: &dyn Fn(&AmqpSummary) -> String| row(runs, label, |run| cell(amqp(run)));
    vec![
        line("left in the queues", &|amqp| amqp.left_in_queues.map_or_else(dash, |n| n.to_string())),
        line("errors that clients noticed", &|amqp| amqp.errors.values().sum::<u64>().to_string()),
        line("connected again", &|amqp| amqp.reconnects.to_string()),
        line("  away p50 / max, ms", &|amqp| ends(amqp.reconnect.as_ref())),
        line("confirm p50 / p99 / max, ms", &|amqp| all(amqp.confirm.as_ref())),
        line("longest gap of a consumer p50 / max, ms", &|amqp| ends(amqp.gap.as_ref())),
    ]
}

fn migration_rows(runs: &[Run]) -> Vec<Row> {
    let line = |label, cell: &dyn Fn(&AmqpSummary) -> String| row(runs, label, |run| cell(amqp(run)));
    let of = |amqp: &AmqpSummary, outcome: &str| match &amqp.migrations {
        Some(by_outcome) => by_outcome.get(outcome).copied().unwrap_or(0).to_string(),
        None => dash(),
    };
    let outcomes: BTreeSet<&String> =
        runs.iter().filter_map(|run| amqp(&run.summary).migrations.as_ref()).flat_map(|m| m.keys()).collect();
    let mut rows = vec![line("rehearsals ordered", &|amqp| amqp.rehearsals.to_string())];
    rows.extend(
        outcomes
            .into_iter()
            .map(|outcome| row(runs, &format!("migrations {outcome}"), |run| of(amqp(run), outcome))),
    );
    rows.push(line("freeze p50 / p99, ms", &|amqp| {
        amqp.freeze.map_or_else(dash, |f| format!("{:.1} / {:.1}", f.p50_ms, f.p99_ms))
    }));
    rows
}

/// A line for each group: consumed, and what went wrong with it.
fn group_rows(runs: &[Run]) -> Vec<Row> {
    let labels: Vec<&str> =
        runs.iter().flat_map(|run| &amqp(&run.summary).groups).map(|group| group.label.as_str()).collect();
    let mut seen = BTreeSet::new();
    let labels = labels.into_iter().filter(|label| seen.insert(*label));
    let cell = |run: &Summary, label: &str| {
        let group = amqp(run).groups.iter().find(|group| group.label == label);
        group.map_or_else(dash, |group| {
            let Account { consumed, lost, missing, duplicated, reordered, .. } = group.account;
            format!("{consumed}, bad {}", lost + missing + duplicated + reordered)
        })
    };
    labels.map(|label| row(runs, label, |run| cell(run, label))).collect()
}

fn counted(runs: &[Run], what: &str, map: impl Fn(&AmqpSummary) -> &BTreeMap<String, u64>) -> Vec<Row> {
    let kinds: BTreeSet<&String> = runs.iter().flat_map(|run| map(amqp(&run.summary)).keys()).collect();
    let cell = |run: &Summary, kind: &str| map(amqp(run)).get(kind).copied().unwrap_or(0).to_string();
    kinds
        .into_iter()
        .map(|kind| {
            let short: String = kind.chars().take(60).collect();
            row(runs, &format!("{what}{short}"), |run| cell(run, kind))
        })
        .collect()
}

fn amqp(run: &Summary) -> &AmqpSummary {
    static NONE: std::sync::LazyLock<AmqpSummary> = std::sync::LazyLock::new(AmqpSummary::default);
    run.amqp.as_ref().unwrap_or(&NONE)
}

fn ends(times: Option<&Times>) -> String {
    times.map_or_else(dash, |t| format!("{:.1} / {:.1}", t.p50_ms, t.max_ms))
}

fn all(times: Option<&Times>) -> String {
    times.map_or_else(dash, |t| format!("{:.1} / {:.1} / {:.1}", t.p50_ms, t.p99_ms, t.max_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{Freeze, GroupSummary};
    use crate::series::Series;

    fn run(label: &str, amqp: AmqpSummary) -> Run {
        let summary = Summary { label: label.into(), amqp: Some(amqp), ..Summary::default() };
        Run { summary, series: Series::default() }
    }

    #[test]
    fn migrations_and_groups_stand_side_by_side_with_the_run_that_had_none() {
        let account = Account { sent: 9, consumed: 9, duplicated: 2, ..Account::default() };
        let ours = AmqpSummary {
            total: account,
            groups: vec![GroupSummary { label: "orders".into(), account }],
            migrations: Some([("switched".to_owned(), 7)].into()),
            freeze: Some(Freeze { count: 7, p50_ms: 3.0, p99_ms: 12.5 }),
            ..AmqpSummary::default()
        };
        let errors = [("320".to_owned(), 4)].into();
        let runs = [run("evenkeel", ours), run("direct", AmqpSummary { errors, ..AmqpSummary::default() })];
        let rows = rows(&runs);
        let cells = |label: &str| {
            rows.iter().find(|row| row.label == label).map(|row| row.cells.clone()).unwrap_or_default()
        };
        assert_eq!(cells("migrations switched"), ["7", "-"]);
        assert_eq!(cells("freeze p50 / p99, ms"), ["3.0 / 12.5", "-"]);
        assert_eq!(cells("orders"), ["9, bad 2", "-"]);
        assert_eq!(cells("errors that clients noticed"), ["0", "4"]);
        assert_eq!(cells("noticed by clients: 320"), ["0", "4"]);
    }
}
