//! Plays a scenario file, the same that `fleet replay` plays with real clients, and compares the two.
//!
//! The file and its judgement are `scenario`'s. What does not apply here is left out of the judgement, and said: no
//! message is followed to its end, and there is no process whose memory could be measured.

use std::time::Duration;

use scenario::amqp::AmqpScenario;
use scenario::reconnect::Reconnect;
use scenario::summary::Times;
use scenario::{Bounds, Expect, Mark, Report, Run, Scenario, Summary, Timeline};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::engine::{Outcome, Sim};
use crate::pool::Pool;
use crate::spec::{Counts, Mover, Net, Op, Spec, Start, Step, Talk};

/// What fits in memory with room to spare.
const BOUNDS: Bounds = Bounds { clients_max: 5_000_000, endpoints_max: 1_000 };
/// A simulated time to level, or number of moves, is this near the real one.
const AGREES_WITHIN: f64 = 0.15;

/// A scenario that was played.
#[derive(Debug)]
pub struct Played {
    /// As `fleet replay` writes it.
    pub report: Report,
    /// What was left out.
    pub notes: Vec<String>,
    /// What the planners told in the first run, a line each.
    pub told: String,
}

/// `sim:` of a scenario: what only a simulator can do.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Own {
    /// Gateway replicas, 1 to 1000.
    replicas: u16,
    /// Shortest and longest round trip between a client and the gateway, milliseconds.
    client_rtt_ms: (f64, f64),
    /// Share of the clients that never answer a Close, 0.0 to 1.0.
    mute_share: f64,
}

impl Default for Own {
    /// One machine: everything is near.
    fn default() -> Self {
        Self { replicas: 1, client_rtt_ms: (0.2, 1.0), mute_share: 0.0 }
    }
}

/// Plays the scenario of `text`, with another seed if one is given.
///
/// # Errors
/// What is wrong with the file.
pub fn play(text: &str, seed: Option<u64>) -> Result<Played, String> {
    if AmqpScenario::is_meant(text) {
        return Err(
            "the scenario is for AMQP, and brokers are not simulated; play it with `fleet replay`".into()
        );
    }
    let mut scenario = Scenario::parse(text, BOUNDS)?;
    scenario.seed = seed.unwrap_or(scenario.seed);
    let own: Own = serde_json::from_value(Value::Object(scenario.sim.clone()))
        .map_err(|e| format!("sim: {e}; expected replicas, client_rtt_ms, mute_share"))?;
    own.check()?;
    let (first, told) = run(&scenario, &own, "evenkeel", &scenario.gateway, scenario.run_for)?;
    let mut runs = vec![first];
    if scenario.baseline.enabled {
        let policy = &scenario.baseline.policy;
        let length = scenario.baseline.run_for.unwrap_or(scenario.run_for);
        let pool = without_rebalance(&scenario.gateway, policy);
        runs.push(run(&scenario, &own, policy, &pool, length)?.0);
    }
    let (expect, notes) = applicable(&scenario.expect);
    let report = Report {
        name: scenario.name.clone(),
        description: scenario.description.clone(),
        program: "sim, in virtual time".into(),
        clients: scenario.clients.count,
        seed: scenario.seed,
        machine: format!("{} gateway replicas", own.replicas),
        verdicts: runs.first().map_or_else(Vec::new, |run| expect.judge(&run.summary)),
        runs,
    };
    Ok(Played { report, notes, told })
}

/// Compares the first run with that of a real report: text, and whether they agree.
///
/// # Errors
/// When `real` is no report.
pub fn against(report: &Report, real: &str) -> Result<(String, bool), String> {
    let real: Value = serde_json::from_str(real).map_err(|e| format!("--against: not JSON: {e}"))?;
    let summary = real
        .pointer("/runs/0/summary")
        .ok_or("--against: the file has no runs[0].summary; expected the JSON of fleet replay")?;
    if real["name"] != json!(report.name) {
        return Err(format!("--against: that is the report of {}, expected {:?}", real["name"], report.name));
    }
    let own = report.runs.first().map(|run| &run.summary).ok_or("nothing was played")?;
    let pairs = [
        ("seconds until level", own.level_after_s, summary["level_after_s"].as_f64()),
        ("moves", Some(own.moves as f64), summary["moves"].as_f64()),
    ];
    let mut text = String::from("\n  simulated beside real\n");
    let mut agrees = true;
    for (what, simulated, real) in pairs {
        let ratio = simulated.zip(real).map(|(simulated, real)| match real == 0.0 {
            true => {
                if simulated == 0.0 {
                    1.0
                } else {
                    f64::INFINITY
                }
            }
            false => simulated / real,
        });
        let near = match (simulated, real, ratio) {
            (None, None, _) => true,
            (.., Some(ratio)) => (ratio - 1.0).abs() <= AGREES_WITHIN,
            (.., None) => false,
        };
        agrees &= near;
        let show = crate::table::number;
        text.push_str(&format!(
            "  {}  {what}: simulated {}, real {}, ratio {}, at most {:.0} % apart\n",
            if near { "ok    " } else { "MISSED" },
            show(simulated),
            show(real),
            show(ratio),
            AGREES_WITHIN * 100.0
        ));
    }
    Ok((text, agrees))
}

impl Own {
    fn check(&self) -> Result<(), String> {
        let (least, most) = self.client_rtt_ms;
        if !(1..=1_000).contains(&self.replicas) {
            return Err(format!("sim.replicas is {}, expected 1 to 1000", self.replicas));
        }
        if !(0.0 <= least && least <= most && most <= 60_000.0) {
            return Err(format!(
                "sim.client_rtt_ms is [{least}, {most}], expected two numbers in order, 0 to 60000"
            ));
        }
        if !(0.0..=1.0).contains(&self.mute_share) {
            return Err(format!("sim.mute_share is {}, expected 0.0 to 1.0", self.mute_share));
        }
        Ok(())
    }
}

fn run(
    scenario: &Scenario,
    own: &Own,
    label: &str,
    pool: &Map<String, Value>,
    length: Duration,
) -> Result<(Run, String), String> {
    let spec = spec(scenario, own, pool, length)?;
    let outcome = Sim::new(spec, scenario.seed).run();
    let series = outcome.series();
    let steps = scenario.steps.iter().filter(|step| step.at < length);
    let marks = steps.map(|step| Ok(Mark { t: step.at.as_secs_f64(), action: step.action()? }));
    let timeline = Timeline {
        label: label.to_owned(),
        length_s: length.as_secs_f64(),
        series: series.clone(),
        steps: marks.collect::<Result<_, String>>()?,
        moved: outcome.moved.clone(),
        admitted: outcome.opened.iter().map(|at| at.as_nanos() as f64 / 1e9).collect(),
        clients: None,
    };
    Ok((Run { summary: complete(Summary::of(&timeline), &outcome), series }, outcome.told_lines()))
}

/// Adds what only the simulator knows.
fn complete(mut summary: Summary, outcome: &Outcome) -> Summary {
    summary.cut_at_deadline = outcome.cut_at_deadline;
    summary.reconnect = Times::of(outcome.back_after_ms.clone());
    summary.refused = outcome.deferred + outcome.no_endpoint;
    let failed = [("HTTP 503", summary.refused), ("HTTP 502 or 504", outcome.failed)];
    summary.connections_failed =
        failed.into_iter().filter(|(_, n)| *n > 0).map(|(why, n)| (why.to_owned(), n)).collect();
    let stopped = |report: &balance::Report| matches!(report, balance::Report::GuardStopped { .. });
    summary.guard_stops = Some(outcome.told(stopped));
    summary
}

fn spec(scenario: &Scenario, own: &Own, pool: &Map<String, Value>, length: Duration) -> Result<Spec, String> {
    // JSON is YAML, and every value stays what it is.
    let text = Value::Object(pool.clone()).to_string();
    let keys = &text[1..text.len() - 1];
    let rule: Reconnect = scenario.clients.reconnect()?;
    let steps = scenario.steps.iter().filter(|step| step.at < length);
    let steps = steps.map(|step| {
        Ok(Step { at: step.at, op: Op::Act { action: step.action()?, deadline: step.deadline } })
    });
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
    Ok(Spec {
        replicas: own.replicas,
        start: Start::Ramp(scenario.clients.connect_per_second),
        reconnect: vec![(1.0, rule)],
        talk: Talk {
            message_every: scenario.clients.message_every,
            push_every: scenario.clients.push_every,
            mute_share: own.mute_share,
        },
        net: Net {
            client_rtt: (ms(own.client_rtt_ms.0), ms(own.client_rtt_ms.1)),
            endpoint_rtt: Duration::from_micros(300),
            // A watched file is looked at every 500 ms.
            discovery: (Duration::from_millis(20), Duration::from_millis(520)),
            ..Net::default()
        },
        counts: Counts::After(Duration::from_secs(1)),
        steps: steps.collect::<Result<_, String>>()?,
        length,
        sample_every: Duration::from_millis(200),
        mover: Mover::Planner,
        ..Spec::new(
            scenario.clients.count,
            scenario.endpoints.count as u16,
            Pool::parse(keys).map_err(|e| format!("gateway: {e}"))?,
        )
    })
}

/// The pool's keys of the baseline, as `fleet replay` makes them.
fn without_rebalance(pool: &Map<String, Value>, policy: &str) -> Map<String, Value> {
    let mut pool = pool.clone();
    pool.insert("balance".into(), policy.into());
    let rebalance = pool.entry("rebalance").or_insert_with(|| json!({}));
    if let Some(keys) = rebalance.as_object_mut() {
        keys.insert("enabled".into(), false.into());
    }
    pool
}

/// The expectations that can be judged here, and a line about those that can not.
fn applicable(expect: &Expect) -> (Expect, Vec<String>) {
    let mut kept = expect.clone();
    let left_out: Vec<&str> = [
        ("lost_to_endpoint_max", kept.lost_to_endpoint_max.take().is_some()),
        ("lost_to_client_max", kept.lost_to_client_max.take().is_some()),
        ("duplicated_max", kept.duplicated_max.take().is_some()),
        ("messages_sent_min", kept.messages_sent_min.take().is_some()),
        ("unclean_ends_max", kept.unclean_ends_max.take().is_some()),
        ("gateway_rss_max_mib", kept.gateway_rss_max_mib.take().is_some()),
        ("gateway_rss_per_session_max_kib", kept.gateway_rss_per_session_max_kib.take().is_some()),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    let note = format!(
        "not judged: {}; messages are not followed to their end here, and there is no process to measure",
        left_out.join(", ")
    );
    (kept, if left_out.is_empty() { Vec::new() } else { vec![note] })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
name: small
clients: {count: 60, connect_per_second: 100, message_every: 1s, reconnect: {kind: phoenix}}
endpoints: {count: 2}
gateway: {rebalance: {min_age: 1s, settle: 500ms, min_ready: 500ms}}
steps: [{at: 5s, scale: 3}]
run_for: 40s
expect: {imbalance_max: 1.1, moves_min: 10, lost_to_client_max: 0}
";

    #[test]
    fn a_scenario_is_played_and_judged_as_with_real_clients() {
        let played = play(SMALL, None).unwrap();
        assert_eq!(played.report.runs.len(), 2, "and the baseline");
        assert_eq!(played.report.runs[0].summary.moves_floor, 20.0);
        assert_eq!(played.report.verdicts.len(), 2);
        assert!(played.report.passed(), "{}", played.report.text());
        assert!(played.notes[0].contains("lost_to_client_max"));
        assert_eq!(play(SMALL, None).unwrap().report.json(), played.report.json(), "the same seed again");
    }

    #[test]
    fn unknown_keys_under_sim_are_errors() {
        assert!(play(&format!("{SMALL}sim: {{replica: 3}}\n"), None).unwrap_err().contains("replica"));
        let error = play(&format!("{SMALL}sim: {{replicas: 0}}\n"), None).unwrap_err();
        assert!(error.contains("1 to 1000"), "{error}");
        assert!(play(&format!("{SMALL}sim: {{replicas: 3}}\n"), None).is_ok());
    }

    #[test]
    fn every_scenario_of_the_repository_can_be_played() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            // Brokers and their messages are not simulated.
            if AmqpScenario::is_meant(&text) {
                assert!(play(&text, None).unwrap_err().contains("fleet replay"));
                continue;
            }
            let scenario = Scenario::parse(&text, BOUNDS).unwrap();
            spec(&scenario, &Own::default(), &scenario.gateway, scenario.run_for)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    #[test]
    fn a_real_run_is_compared_within_15_percent() {
        let played = play(SMALL, None).unwrap();
        let own = &played.report.runs[0].summary;
        let real = |level: f64, moves: f64| {
            let summary = json!({"level_after_s": level, "moves": moves});
            json!({"name": "small", "runs": [{"summary": summary}]}).to_string()
        };
        let (level, moves) = (own.level_after_s.unwrap(), own.moves as f64);
        assert!(against(&played.report, &real(level * 1.1, moves)).unwrap().1);
        let (text, agrees) = against(&played.report, &real(level * 1.3, moves)).unwrap();
        assert!(!agrees && text.contains("MISSED  seconds until level"), "{text}");
        assert!(against(&played.report, "{}").is_err());
    }
}
