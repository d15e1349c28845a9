//! What the admin port answers, as text for people: JSON in, text out.
//!
//! A field that is missing is written `-`, so that a newer or older gateway can be looked at.

use std::time::Duration;

use serde_json::Value;

use crate::tables::Flush::{Left, Right};
use crate::tables::{Flush, Table, pairs, printable};

/// A column: its head, the key that fills it, its side.
type Column = (&'static str, &'static str, Flush);

const STATUS_COLUMNS: [Column; 10] = [
    ("ENDPOINT", "id", Left),
    ("ADDRESS", "address", Left),
    ("STATE", "state", Left),
    ("WEIGHT", "weight", Right),
    ("SESSIONS", "sessions", Right),
    ("TARGET", "target", Right),
    ("SURPLUS", "surplus", Right),
    ("MOVING", "moving", Right),
    ("PENDING", "pending", Right),
    ("WITHHELD", "withheld", Left),
];
const PLAN_COLUMNS: [Column; 8] = [
    ("ENDPOINT", "id", Left),
    ("STATE", "state", Left),
    ("WEIGHT", "weight", Right),
    ("SESSIONS", "sessions", Right),
    ("TARGET", "target", Right),
    ("SURPLUS", "surplus", Right),
    ("MOVABLE", "movable", Right),
    ("PINNED", "pinned", Left),
];
const MOVE_COLUMNS: [Column; 4] =
    [("FROM", "from", Left), ("TO", "to", Left), ("COUNT", "count", Right), ("WHY", "why", Left)];

/// States of a pool in which nothing is moved for balance.
const BLOCKED: [&str; 4] = ["off", "paused", "panic", "guarded"];

/// `GET /api/v1/status`.
pub fn status(answer: &Value) -> String {
    let takes = match answer["ready"].as_bool() {
        Some(true) => "takes new clients",
        Some(false) => "takes no new clients: it is stopping",
        None => "-",
    };
    let mut text = pairs(&[
        ("gateway", takes.into()),
        ("listeners", cell(&answer["listeners"])),
        ("connections", format!("{} of {}", cell(&answer["connections"]), cell(&answer["connections_max"]))),
    ]);
    if answer["tier"]["replicas"].as_u64().is_some_and(|replicas| replicas > 1) {
        let (state, why) = (cell(&answer["tier"]["state"]), cell(&answer["tier"]["why"]));
        text += &pairs(&[("tier", format!("{state}; {why}"))]);
    }
    for (name, pool) in pools(answer) {
        text += &format!("\npool {}: {}\n", printable(name), cell(&pool["state"]));
        text += &pairs(&pool_facts(pool));
        text += &separated(&table(&status_columns(pool), &pool["endpoints"]));
    }
    text
}

/// Endpoints that are Pods are shown, and may be named, by their Pods.
fn status_columns(pool: &Value) -> [Column; 10] {
    let mut columns = STATUS_COLUMNS;
    let mut endpoints = pool["endpoints"].as_array().into_iter().flatten().peekable();
    if endpoints.peek().is_some() && endpoints.all(|endpoint| endpoint["pod"].is_string()) {
        columns[0].1 = "pod";
    }
    columns
}

fn pool_facts(pool: &Value) -> Vec<(&'static str, String)> {
    let of = |part: &str, key: &str| cell(&pool[part][key]);
    let outcome = |key: &str| cell(&pool["moves"]["outcomes"][key]);
    vec![
        ("why", cell(&pool["why"])),
        ("placement", cell(&pool["policy"])),
        (
            "sessions",
            format!("{}; {} moved clients expected back", cell(&pool["sessions"]), cell(&pool["away"])),
        ),
        ("pinned", pinned(&pool["pinned"])),
        ("imbalance", format!("{} (largest sessions / target)", cell(&pool["imbalance"]))),
        (
            "pace",
            format!(
                "{} moves/s at this replica (factor {}, replicas {})",
                of("pace", "moves_per_second"),
                of("pace", "factor"),
                of("pace", "replicas"),
            ),
        ),
        ("guard", guard(&pool["guard"])),
        (
            "admission",
            format!(
                "{} admitted, {} deferred, {} found no endpoint, {} found all full",
                of("admission", "admitted"),
                of("admission", "deferred"),
                of("admission", "no_endpoint"),
                of("admission", "full"),
            ),
        ),
        (
            "moves",
            format!(
                "{} begun: {} moved, {} migrated, {} aborted, {} left by themselves",
                of("moves", "began"),
                of("moves", "moved"),
                of("moves", "migrated"),
                of("moves", "aborted"),
                of("moves", "left"),
            ),
        ),
        (
            "moved",
            format!(
                "{} returned to target, {} elsewhere, {} to the donor; {} never returned",
                outcome("returned_to_target"),
                outcome("returned_elsewhere"),
                outcome("returned_to_donor"),
                outcome("never_returned"),
            ),
        ),
    ]
}

/// Who can not be moved, and why.
fn pinned(pins: &Value) -> String {
    let pins = pins.as_object().into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
    let pins: Vec<_> = pins.map(|(reason, count)| format!("{} {}", cell(count), printable(reason))).collect();
    if pins.is_empty() { "none".into() } else { pins.join(", ") }
}

fn guard(guard: &Value) -> String {
    let counts = format!(
        "{} of {} judged clients came back, at most {} away at once, stops {}",
        cell(&guard["returned"]),
        cell(&guard["judged"]),
        cell(&guard["away_max"]),
        cell(&guard["stops"]),
    );
    match guard["stopped"].as_bool() {
        Some(true) => format!("STOPPED, tries again in {} s; {counts}", cell(&guard["retry_after_s"])),
        _ => counts,
    }
}

/// `GET /api/v1/plan`.
pub fn plans(answer: &Value) -> String {
    let plans: Vec<String> = pools(answer).map(|(name, plan)| one_plan(name, plan)).collect();
    if plans.is_empty() { "there is no pool\n".into() } else { plans.join("\n") }
}

/// `POST .../rebalance`.
pub fn rebalanced(answer: &Value) -> String {
    let pool = cell(&answer["pool"]);
    let plan = one_plan(&pool, &answer["plan"]);
    let state = cell(&answer["plan"]["state"]);
    if answer["dry_run"] == true {
        format!("{plan}\ndry run: nothing was moved\n")
    } else if BLOCKED.contains(&state.as_str()) {
        format!("{plan}\npool {pool} was asked to level; while it is {state}, nothing is moved for balance\n")
    } else if answer["plan"]["moves_total"] == 0 {
        format!("{plan}\npool {pool} was asked to level; as things are, nothing has to move\n")
    } else {
        format!(
            "{plan}\npool {pool} is being levelled as far as this goes; `evenkeel status` shows the moves\n"
        )
    }
}

fn one_plan(name: &str, plan: &Value) -> String {
    let mut text = format!("pool {}: {}\n", printable(name), cell(&plan["state"]));
    text += &pairs(&[("why", cell(&plan["why"])), ("moves", how_long(plan))]);
    text += &separated(&table(&PLAN_COLUMNS, &plan["endpoints"]));
    text += &separated(&table(&MOVE_COLUMNS, &plan["moves"]));
    text
}

/// The total, and about how long it takes.
fn how_long(plan: &Value) -> String {
    let (Some(moves), Some(pace)) = (plan["moves_total"].as_u64(), plan["moves_per_second"].as_f64()) else {
        return cell(&plan["moves_total"]);
    };
    if moves == 0 {
        return "none".into();
    }
    // As a float, so that a pace of nearly nothing is no overflow.
    let seconds = (moves as f64 / pace).ceil();
    let drains = plan["moves"].as_array().into_iter().flatten().any(|line| line["why"] == "draining");
    let drains = if drains { "; those of draining endpoints by their deadline" } else { "" };
    if pace > 0.0 && seconds < 1e9 {
        let time = humantime::format_duration(Duration::from_secs(seconds as u64));
        format!("{moves}, about {time} at {pace:.2} moves/s{drains}")
    } else {
        format!("{moves}, and none at the present pace of {pace:.2} moves/s{drains}")
    }
}

/// `POST` and `DELETE .../drain`.
pub fn drained(answer: &Value) -> String {
    let (pool, endpoint) = (cell(&answer["pool"]), cell(&answer["endpoint"]));
    if answer["draining"] == true {
        let deadline = answer["deadline_s"].as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok());
        let deadline = deadline.map_or("-".into(), |time| humantime::format_duration(time).to_string());
        let waited = answer["waited_s"].as_f64().map_or(String::new(), |seconds| {
            format!("after {seconds:.1} s nothing of this replica is left there\n")
        });
        format!(
            "{pool}/{endpoint} drains: this replica places nothing there, its sessions leave within {deadline}\n\
             until `evenkeel drain {pool}/{endpoint} --cancel`\n{waited}"
        )
    } else {
        format!("{pool}/{endpoint} drains no longer by command: what discovery says of it counts\n")
    }
}

/// `POST .../rehearse`.
pub fn rehearsed(answer: &Value) -> String {
    let pool = cell(&answer["pool"]);
    match answer["told"].as_u64() {
        Some(0) => {
            format!("pool {pool} has no session here that can migrate; `evenkeel plan {pool}` says why\n")
        }
        _ => format!(
            "{} sessions of pool {pool} were told to migrate; `evenkeel status` shows what became of them\n",
            cell(&answer["told"])
        ),
    }
}

/// `POST .../pause`.
pub fn paused(answer: &Value) -> String {
    format!("paused: {}\nnothing is moved for balance until `evenkeel resume`\n", cell(&answer["paused"]))
}

/// `POST .../resume`.
pub fn resumed(answer: &Value) -> String {
    format!("resumed: {}\n", cell(&answer["resumed"]))
}

fn pools(answer: &Value) -> impl Iterator<Item = (&String, &Value)> {
    answer["pools"].as_object().into_iter().flatten()
}

fn table(columns: &[Column], rows: &Value) -> String {
    let heads: Vec<_> = columns.iter().map(|(head, _, flush)| (*head, *flush)).collect();
    let mut table = Table::new(&heads);
    for row in rows.as_array().into_iter().flatten() {
        table.row(columns.iter().map(|(_, key, _)| cell(&row[*key])));
    }
    table.text()
}

fn separated(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\n{text}") }
}

/// A value as it stands in a table.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.2}"),
            _ => number.to_string(),
        },
        Value::Bool(is) => is.to_string(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map
            .iter()
            .map(|(key, of)| format!("{} {}", printable(key), cell(of)))
            .collect::<Vec<_>>()
            .join(", "),
    };
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_shows_each_pool_and_every_endpoint() {
        let endpoint = |id: &str, sessions: u32, surplus: u32, withheld: &str| {
            json!({
                "id": id, "address": "10.0.0.7:8080", "weight": 1, "state": "ready", "sessions": sessions,
                "pending": 0, "moving": 0, "target": 6.5, "surplus": surplus, "withheld": withheld,
            })
        };
        let answer = json!({
            "ready": true, "listeners": ["127.0.0.1:8080", "[::]:8443"], "connections": 13, "connections_max": 9900,
            "pools": {"chat": {
                "policy": "least_connections", "state": "guarded", "why": "2 of 16 came back", "sessions": 13,
                "away": 3, "imbalance": 1.5384615, "pinned": {"opaque": 0, "stream": 2, "transaction": 1},
                "endpoints": [endpoint("a", 10, 3, ""), endpoint("b-long", 3, 0, "slow_start")],
                "moves": {"began": 22, "moved": 16, "migrated": 2, "aborted": 1, "left": 3, "outcomes": {
                    "returned_to_target": 2, "returned_elsewhere": 0, "returned_to_donor": 0, "never_returned": 11,
                }},
                "pace": {"moves_per_second": 10.0, "factor": 1.0, "replicas": 2},
                "guard": {"stopped": true, "away_max": 16, "judged": 16, "returned": 2, "retry_after_s": 540, "stops": 1},
                "admission": {"admitted": 29, "deferred": 4, "no_endpoint": 0, "full": 0},
            }},
        });
        let expected = "  gateway      takes new clients
  listeners    127.0.0.1:8080, [::]:8443
  connections  13 of 9900

pool chat: guarded
  why        2 of 16 came back
  placement  least_connections
  sessions   13; 3 moved clients expected back
  pinned     2 stream, 1 transaction
  imbalance  1.54 (largest sessions / target)
  pace       10.00 moves/s at this replica (factor 1.00, replicas 2)
  guard      STOPPED, tries again in 540 s; 2 of 16 judged clients came back, at most 16 away at once, stops 1
  admission  29 admitted, 4 deferred, 0 found no endpoint, 0 found all full
  moves      22 begun: 16 moved, 2 migrated, 1 aborted, 3 left by themselves
  moved      2 returned to target, 0 elsewhere, 0 to the donor; 11 never returned

  ENDPOINT  ADDRESS        STATE  WEIGHT  SESSIONS  TARGET  SURPLUS  MOVING  PENDING  WITHHELD
  a         10.0.0.7:8080  ready       1        10    6.50        3       0        0  -
  b-long    10.0.0.7:8080  ready       1         3    6.50        0       0        0  slow_start
";
        assert_eq!(status(&answer), expected);
    }

    #[test]
    fn endpoints_that_are_pods_are_shown_by_their_names() {
        let shown = |endpoints: Value| status(&json!({"pools": {"app": {"endpoints": endpoints}}}));
        let pods = shown(json!([{"id": "uid-1", "pod": "chat-0"}, {"id": "uid-2", "pod": "chat-1"}]));
        assert!(pods.contains("chat-1") && !pods.contains("uid-2"), "{pods}");
        let mixed = shown(json!([{"id": "uid-1", "pod": "chat-0"}, {"id": "10.0.0.7:80"}]));
        assert!(mixed.contains("uid-1") && mixed.contains("10.0.0.7:80"), "{mixed}");
    }

    fn a_plan(moves: u64, pace: f64) -> Value {
        let lines = if moves == 0 {
            json!([])
        } else {
            json!([{"from": "a", "to": "b", "count": moves, "why": "surplus"}])
        };
        json!({
            "state": "levelling", "why": "a is above its share", "moves_per_second": pace, "moves_total": moves,
            "endpoints": [{
                "id": "a", "state": "ready", "weight": 2, "sessions": 12, "target": 6.0, "surplus": 6, "movable": 4,
                "pinned": {"cooling": 7, "young": 1},
            }],
            "moves": lines,
        })
    }

    #[test]
    fn a_plan_shows_what_moves_and_what_keeps_the_rest() {
        let expected = "pool chat: levelling
  why    a is above its share
  moves  6, about 3s at 2.50 moves/s

  ENDPOINT  STATE  WEIGHT  SESSIONS  TARGET  SURPLUS  MOVABLE  PINNED
  a         ready       2        12    6.00        6        4  cooling 7, young 1

  FROM  TO  COUNT  WHY
  a     b       6  surplus
";
        assert_eq!(plans(&json!({"pools": {"chat": a_plan(6, 2.5)}})), expected);
        let two = plans(&json!({"pools": {"a": a_plan(0, 1.0), "b": a_plan(0, 1.0)}}));
        assert!(two.contains("\n\npool b: levelling\n") && two.contains("moves  none"), "{two}");
        assert_eq!(plans(&json!({"pools": {}})), "there is no pool\n");
    }

    #[test]
    fn the_time_that_a_plan_takes_is_no_surprise_at_any_pace() {
        for (moves, pace, expected) in [
            (0, 0.0, "none"),
            (1, 10.0, "1, about 1s at 10.00 moves/s"),
            (7500, 100.0, "7500, about 1m 15s at 100.00 moves/s"),
            (7, 0.0, "7, and none at the present pace of 0.00 moves/s"),
            (7, 1e-12, "7, and none at the present pace of 0.00 moves/s"),
            (7, -1.0, "7, and none at the present pace of -1.00 moves/s"),
        ] {
            assert_eq!(how_long(&a_plan(moves, pace)), expected);
        }
        let mut plan = a_plan(6, 2.5);
        plan["moves"][0]["why"] = "draining".into();
        assert_eq!(
            how_long(&plan),
            "6, about 3s at 2.50 moves/s; those of draining endpoints by their deadline"
        );
    }

    #[test]
    fn each_call_says_what_was_done_and_how_to_take_it_back() {
        let of = |answer: Value, render: fn(&Value) -> String| render(&answer);
        let dry = of(json!({"pool": "chat", "dry_run": true, "plan": a_plan(6, 2.5)}), rebalanced);
        assert!(dry.starts_with("pool chat: levelling\n") && dry.ends_with("\ndry run: nothing was moved\n"));
        let real = of(json!({"pool": "chat", "dry_run": false, "plan": a_plan(6, 2.5)}), rebalanced);
        assert!(real.contains("pool chat is being levelled") && !real.contains("dry run"));
        let nothing = of(json!({"pool": "chat", "dry_run": false, "plan": a_plan(0, 2.5)}), rebalanced);
        assert!(nothing.ends_with("as things are, nothing has to move\n"), "{nothing}");
        let mut plan = a_plan(6, 2.5);
        plan["state"] = "paused".into();
        let blocked = of(json!({"pool": "chat", "dry_run": false, "plan": plan}), rebalanced);
        assert!(blocked.ends_with("while it is paused, nothing is moved for balance\n"), "{blocked}");
        let drain = json!({"pool": "chat", "endpoint": "a:1", "draining": true, "deadline_s": 90.0});
        let drain = of(drain, drained);
        assert!(drain.contains("within 1m 30s") && drain.contains("drain chat/a:1 --cancel"), "{drain}");
        let cancelled = of(json!({"pool": "chat", "endpoint": "a:1", "draining": false}), drained);
        assert!(cancelled.contains("chat/a:1 drains no longer"), "{cancelled}");
        assert!(of(json!({"paused": ["chat", "echo"]}), paused).starts_with("paused: chat, echo\n"));
        assert_eq!(of(json!({"resumed": ["chat"]}), resumed), "resumed: chat\n");
    }

    #[test]
    fn an_answer_of_another_version_is_shown_as_far_as_it_goes() {
        for render in [status, plans, rebalanced, drained, paused, resumed] {
            for answer in [json!(null), json!([]), json!({"pools": {"a": null}, "plan": 1}), json!("text")] {
                assert!(render(&answer).ends_with('\n'), "{answer}");
            }
        }
        assert_eq!(cell(&json!("a\u{1b}[2Jb")), "a\\u{1b}[2Jb");
    }
}
