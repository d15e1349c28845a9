//! What the gateway's own metrics say of migrations: Prometheus text in, sums by label and a distribution out.

use std::collections::BTreeMap;

use scenario::amqp::Freeze;

const MIGRATIONS: &str = "evenkeel_migrations_total";
const ABORTS: &str = "evenkeel_migration_aborts_total";
const FREEZE: &str = "evenkeel_migration_freeze_seconds";

/// Migrations, summed over pools.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Migrations {
    /// By outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Those given up, by reason.
    pub aborts: BTreeMap<String, u64>,
    /// How long they held clients up; `None`: there were none.
    pub freeze: Option<Freeze>,
}

/// Reads them. A metric that is not there counts as nothing.
pub fn migrations(text: &str) -> Migrations {
    Migrations {
        outcomes: sums(text, MIGRATIONS, "outcome"),
        aborts: sums(text, ABORTS, "reason"),
        freeze: freeze(text),
    }
}

fn sums(text: &str, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (labels, value) in samples(text, metric) {
        if let Some(of) = value_of(labels, label) {
            *sums.entry(of.to_owned()).or_insert(0) += value as u64;
        }
    }
    sums
}

fn freeze(text: &str) -> Option<Freeze> {
    let count: f64 = samples(text, &format!("{FREEZE}_count")).map(|(_, value)| value).sum();
    // Several pools: buckets of the same bound add up. Bounds in microseconds, so that they can be compared.
    let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
    for (labels, value) in samples(text, &format!("{FREEZE}_bucket")) {
        let bound = value_of(labels, "le")?.parse::<f64>().ok()?;
        let micros = if bound.is_finite() { (bound * 1e6).round() as u64 } else { u64::MAX };
        *buckets.entry(micros).or_default() += value;
    }
    let at = |share: f64| {
        let micros = buckets.iter().find(|(_, below)| **below >= count * share).map(|(micros, _)| *micros);
        micros.map(|micros| if micros == u64::MAX { f64::INFINITY } else { micros as f64 / 1000.0 })
    };
    (count > 0.0).then_some(())?;
    Some(Freeze { count: count as u64, p50_ms: at(0.5)?, p99_ms: at(0.99)? })
}

/// Labels and value of each sample of exactly this name.
fn samples<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
    let name = name.to_owned();
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name.as_str())?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None if rest.starts_with(' ') => ("", rest),
            None => return None,
        };
        Some((labels, value.trim().parse().ok()?))
    })
}

/// The value of `label` among `a="b",c="d"`. Values here are bounded words without quotes.
fn value_of<'a>(labels: &'a str, label: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name.trim() == label).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE evenkeel_migrations_total counter
evenkeel_migrations_total{pool="a",outcome="switched"} 7
evenkeel_migrations_total{pool="b",outcome="switched"} 2
evenkeel_migrations_total{pool="a",outcome="aborted"} 3
evenkeel_migration_aborts_total{pool="a",reason="unacked"} 3
evenkeel_migration_freeze_seconds_bucket{pool="a",le="0.005"} 5
evenkeel_migration_freeze_seconds_bucket{pool="a",le="0.025"} 7
evenkeel_migration_freeze_seconds_bucket{pool="a",le="+Inf"} 7
evenkeel_migration_freeze_seconds_bucket{pool="b",le="0.005"} 1
evenkeel_migration_freeze_seconds_bucket{pool="b",le="0.025"} 2
evenkeel_migration_freeze_seconds_bucket{pool="b",le="+Inf"} 2
evenkeel_migration_freeze_seconds_sum{pool="a"} 0.1
evenkeel_migration_freeze_seconds_count{pool="a"} 7
evenkeel_migration_freeze_seconds_count{pool="b"} 2
evenkeel_migrations_total_of_something_else 9
"#;

    #[test]
    fn outcomes_and_buckets_add_up_over_pools() {
        let found = migrations(TEXT);
        assert_eq!(found.outcomes, [("aborted".to_owned(), 3), ("switched".into(), 9)].into());
        assert_eq!(found.aborts, [("unacked".to_owned(), 3)].into());
        assert_eq!(found.freeze, Some(Freeze { count: 9, p50_ms: 5.0, p99_ms: 25.0 }));
    }

    #[test]
    fn a_gateway_that_migrated_nothing_has_no_freeze() {
        assert_eq!(migrations("evenkeel_sessions{pool=\"a\"} 3\n"), Migrations::default());
    }

    #[test]
    fn what_is_beyond_the_last_bound_is_not_called_short() {
        let text = "evenkeel_migration_freeze_seconds_bucket{le=\"0.1\"} 1\n\
                    evenkeel_migration_freeze_seconds_bucket{le=\"+Inf\"} 2\n\
                    evenkeel_migration_freeze_seconds_count 2\n";
        let freeze = migrations(text).freeze.unwrap();
        assert_eq!((freeze.p50_ms, freeze.p99_ms), (100.0, f64::INFINITY));
    }
}
