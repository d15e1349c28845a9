//! The program as a whole: a tiny scenario through the real gateway, and its exit codes.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn replay(folder: &Path, scenario: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fleet"))
        .current_dir(folder)
        .arg("replay")
        .arg(scenario)
        .arg("--quiet")
        .args(more)
        .output()
        .expect("the program was built for this test")
}

/// Replays a scenario of this crate, which has to meet all of its expectations; answers the JSON report.
fn passes(scenario: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join(scenario);
    let output = replay(folder.path(), &scenario, &["--json", "result.json"]);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let json = std::fs::read_to_string(folder.path().join("result.json")).expect("the report was asked for");
    serde_json::from_str(&json).expect("the report is JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_tiny_scale_out_is_levelled_without_a_loss_and_compared_with_a_random_pick() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny.yaml");
    let output = replay(folder.path(), &scenario, &["--html", "page.html", "--json", "result.json"]);
    let (table, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{table}\n{errors}");
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("demo-3") && page.contains("random"));
    let json = std::fs::read_to_string(folder.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&json).unwrap();
    let (run, baseline) = (&result["runs"][0]["summary"], &result["runs"][1]["summary"]);
    assert_eq!(run["connected"], 30, "{table}");
    assert!(run["gateway"]["descriptors"].as_u64().unwrap() >= 60, "{table}");
    assert_eq!(baseline["moves"], 0, "{table}");
    assert!(baseline["imbalance_end"].as_f64().unwrap() > 1.3, "{table}");
}

#[test]
fn a_missed_expectation_is_exit_code_1_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("greedy.yaml");
    let greedy =
        "name: greedy\nclients: {count: 3}\nendpoints: {count: 1}\nrun_for: 1s\nexpect: {connected_min: 4}\n";
    std::fs::write(&scenario, greedy).unwrap();
    let output = replay(folder.path(), &scenario, &["--no-baseline"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}\n{}", text(&output.stderr));
    assert!(table.contains("MISSED  connected_min: expected at least 4, found 3"), "{table}");
}

#[test]
fn an_invalid_scenario_is_exit_code_2_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("wrong.yaml");
    std::fs::write(&scenario, "name: wrong\nclients: {cuont: 3}\nendpoints: {count: 1}\nrun_for: 1s\n")
        .unwrap();
    let output = replay(folder.path(), &scenario, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cuont"), "{}", text(&output.stderr));
}

#[test]
fn a_pool_that_the_gateway_refuses_is_told_in_the_gateways_words() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("refused.yaml");
    let refused =
        "name: refused\nclients: {count: 3}\nendpoints: {count: 1}\nrun_for: 1s\ngateway: {rebalence: {}}\n";
    std::fs::write(&scenario, refused).unwrap();
    let output = replay(folder.path(), &scenario, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("rebalence"), "{}", text(&output.stderr));
}

#[test]
fn several_scenarios_are_read_before_the_first_one_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (good, wrong) = (folder.path().join("good.yaml"), folder.path().join("wrong.yaml"));
    std::fs::write(&good, "name: good\nclients: {count: 3}\nendpoints: {count: 1}\nrun_for: 1s\n").unwrap();
    std::fs::write(&wrong, "name: wrong\n").unwrap();
    let output = replay(folder.path(), &good, &[wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("wrong.yaml"));
    let output = replay(folder.path(), &good, &[good.to_str().unwrap(), "--json", "one.json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there are 2 scenarios"), "{}", text(&output.stderr));
}

#[test]
fn an_endpoint_that_flaps_and_one_that_dies_and_returns_are_seen_as_that() {
    let result = passes("tests/unsteady.yaml");
    let changes = result["runs"][0]["series"]["changes"].as_array().unwrap();
    let states = |name: &str| -> Vec<&str> {
        changes.iter().filter(|c| c["endpoint"] == name).map(|c| c["state"].as_str().unwrap()).collect()
    };
    assert_eq!(states("demo-1"), ["ready", "gone", "ready"], "{changes:?}");
    let flapping = states("demo-3");
    // A machine that stands still may miss a turn; the first and the last are certain.
    assert_eq!(flapping[..3], ["ready", "unready", "ready"], "{changes:?}");
    assert_eq!(flapping.last(), Some(&"ready"), "{changes:?}");
}

#[test]
fn clients_that_never_come_back_stop_the_moves_after_a_handful() {
    passes("tests/tiny-never.yaml");
}

#[test]
fn a_rush_is_let_in_at_the_configured_rate_and_everybody_gets_in() {
    passes("tests/tiny-rush.yaml");
}

#[test]
fn nothing_is_moved_between_an_operators_pause_and_resume() {
    let result = passes("tests/tiny-pause.yaml");
    let run = &result["runs"][0];
    let steps = run["summary"]["steps"].as_array().unwrap();
    assert_eq!(steps[2]["what"], "resume");
    let resumed = steps[2]["t"].as_f64().unwrap();
    let samples = run["series"]["samples"].as_array().unwrap();
    let before = samples.iter().filter(|sample| sample["t"].as_f64().unwrap() < resumed);
    let moved: u64 = before.map(|sample| sample["open"]["demo-3"].as_u64().unwrap_or(0)).sum();
    assert_eq!(moved, 0, "{samples:?}");
}
