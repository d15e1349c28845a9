//! The rows of the summary table, the same for the terminal and the page.

use std::collections::{BTreeMap, BTreeSet};

use crate::messages::Messages;
use crate::report::{Run, amqp};
use crate::summary::{Cost, Summary};

/// One line: what it is, and a cell for each run.
pub struct Row {
    /// What it is, with its unit.
    pub label: String,
    /// A value for each run.
    pub cells: Vec<String>,
}

/// All rows. Messages and costs only where some run has measured them.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    if runs.iter().any(|run| run.summary.amqp.is_some()) {
        return amqp::rows(runs);
    }
    let row = |label, cell: &dyn Fn(&Summary) -> String| row(runs, label, cell);
    let mut rows = vec![
        row("clients connected at the end", &|run| run.connected.to_string()),
        row("sessions by endpoint at the end", &|run| counts(&run.sessions_end)),
        row("max/mean before the first step", &|run| format!("{:.2}", run.imbalance_before)),
        row("max/mean, worst after it", &|run| format!("{:.2}", run.imbalance_peak)),
        row("  without endpoints being filled", &|run| format!("{:.2}", run.imbalance_peak_filled)),
        row("max/mean at the end", &|run| format!("{:.2}", run.imbalance_end)),
        row("level after the last step, s", &level),
        row("moves", &|run| run.moves.to_string()),
        row("fewest moves possible", &|run| format!("{:.0}", run.moves_floor)),
        row("moves / fewest", &|run| format!("{:.2}", run.moves_over_floor)),
        row("clients moved more than once", &|run| run.moved_twice.to_string()),
        row("sessions cut by a drain deadline", &|run| run.cut_at_deadline.to_string()),
        row("ends that were not clean", &|run| run.unclean_ends.to_string()),
        row("failed connection attempts", &|run| run.connections_failed.values().sum::<u64>().to_string()),
        row("  refused by a 503", &|run| run.refused.to_string()),
        row("most sessions begun in a second, after the first step", &|run| {
            run.admitted_per_second.to_string()
        }),
        row("times the return guard stopped the moves", &|run| {
            run.guard_stops.map_or_else(dash, |stops| stops.to_string())
        }),
        row("reconnect p50 / p99, ms", &reconnect),
    ];
    let counted_messages = |run: &Run| run.summary.verified || run.summary.messages != Messages::default();
    if runs.iter().any(counted_messages) {
        rows.extend(message_rows(runs));
    }
    if runs.iter().any(|run| run.summary.gateway.is_some()) {
        rows.extend(cost_rows(runs));
    }
    rows.extend(counted(runs, "ends seen by clients: ", |run| &run.ends));
    rows.extend(counted(runs, "failed: ", |run| &run.connections_failed));
    rows
}

pub(super) fn row(runs: &[Run], label: &str, cell: impl Fn(&Summary) -> String) -> Row {
    Row { label: label.to_owned(), cells: runs.iter().map(|run| cell(&run.summary)).collect() }
}

fn message_rows(runs: &[Run]) -> Vec<Row> {
    let row = |label, cell: &dyn Fn(&Summary) -> String| row(runs, label, cell);
    vec![
        row("client to endpoint: sent / received", &|run| {
            format!("{} / {}", run.messages.to_endpoint.sent, run.messages.to_endpoint.received)
        }),
        row("client to endpoint: lost / duplicated", &|run| {
            fates(run, run.messages.to_endpoint.lost, run.messages.to_endpoint.duplicated)
        }),
        row("  in flight to killed endpoints", &|run| run.messages.to_endpoint.lost_to_killed.to_string()),
        row("endpoint to client: sent / received", &|run| {
            format!("{} / {}", run.messages.to_client.sent, run.messages.to_client.received)
        }),
        row("endpoint to client: lost / duplicated", &|run| {
            fates(run, run.messages.to_client.lost, run.messages.to_client.duplicated)
        }),
    ]
}

pub(super) fn cost_rows(runs: &[Run]) -> Vec<Row> {
    let cost = |label, cell: &dyn Fn(&Cost) -> String| {
        row(runs, label, |run| run.gateway.as_ref().map_or_else(dash, cell))
    };
    vec![
        cost("gateway CPU, s", &|cost| format!("{:.2}", cost.cpu_s)),
        cost("gateway RSS / PSS, MiB", &|cost| format!("{:.1} / {:.1}", cost.rss_mib, cost.pss_mib)),
        cost("gateway RSS idle / peak, MiB", &|cost| {
            format!("{:.1} / {:.1}", cost.rss_idle_mib, cost.rss_peak_mib)
        }),
        cost("gateway RSS by session, KiB", &|cost| format!("{:.2}", cost.rss_per_session_kib)),
        cost("gateway descriptors", &|cost| cost.descriptors.to_string()),
    ]
}

/// A row for each kind that occurred in any run.
fn counted(runs: &[Run], what: &str, map: impl Fn(&Summary) -> &BTreeMap<String, u64>) -> Vec<Row> {
    let kinds: BTreeSet<&String> = runs.iter().flat_map(|run| map(&run.summary).keys()).collect();
    let cell = |run: &Run, kind: &String| map(&run.summary).get(kind).copied().unwrap_or(0).to_string();
    kinds
        .into_iter()
        .map(|kind| Row {
            label: format!("{what}{kind}"),
            cells: runs.iter().map(|run| cell(run, kind)).collect(),
        })
        .collect()
}

pub(super) fn dash() -> String {
    "-".into()
}

pub(super) fn level(run: &Summary) -> String {
    match run.level_after_s {
        Some(seconds) => format!("{seconds:.1}"),
        None if run.steps.is_empty() => dash(),
        None => "never".into(),
    }
}

fn reconnect(run: &Summary) -> String {
    run.reconnect.as_ref().map_or_else(dash, |times| format!("{:.1} / {:.1}", times.p50_ms, times.p99_ms))
}

fn fates(run: &Summary, lost: u64, duplicated: u64) -> String {
    if run.verified { format!("{lost} / {duplicated}") } else { "not measured".into() }
}

pub(super) fn counts(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    numbers.join(" ")
}
