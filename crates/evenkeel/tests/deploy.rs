//! What stands in `deploy/` fits the gateway that it deploys: the configurations, the rights, the metrics.
//!
//! `cargo xtask manifests` renders the folders and holds them against Kubernetes and each other. Not here: a cluster.

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

#[path = "process/runner.rs"]
mod runner;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cluster::rules::{DELETION_COST, RULES, Rule};
use runner::Process;
use support::{Endpoint, wait_until};

const FOLDERS: [&str; 3] = ["base", "overlays/rabbitmq", "overlays/websocket-demo"];
/// What asks for metrics.
const QUERIES: [&str; 2] = ["monitoring/alerts.yaml", "monitoring/dashboard.json"];

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap_or_else(|e| panic!("deploy/{file}: {e}"))
}

#[test]
fn every_configuration_is_accepted_and_the_only_warning_is_the_open_admin_port() {
    for folder in FOLDERS {
        let checked = config::parse(&read(&format!("{folder}/evenkeel.yaml")), &deploy(folder));
        let checked = checked.unwrap_or_else(|errors| panic!("{folder}: {errors}"));
        let warnings = checked.warnings;
        assert!(warnings.iter().all(|warning| warning.path == "admin.address"), "{folder}: {warnings:?}");
    }
    let policy = read("base/network-policy.yaml");
    assert!(
        policy.contains("port: admin") && read("base/kustomization.yaml").contains("- network-policy.yaml")
    );
}

/// What the Role of a file grants, one entry a verb: `verb group/resource`.
fn granted(file: &str) -> BTreeSet<String> {
    let text = read(file);
    let first = text.split("\n---\n").next().unwrap_or_default();
    let role: serde_json::Value = serde_saphyr::from_str(first).expect("a manifest is YAML");
    assert_eq!(role["kind"], "Role", "{file}");
    let words = |list: &serde_json::Value| -> Vec<String> {
        let words = list.as_array().into_iter().flatten();
        words.map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().expect("a Role has rules") {
        let [groups, resources, verbs] = ["apiGroups", "resources", "verbs"].map(|part| words(&rule[part]));
        for (group, resource) in groups.iter().flat_map(|g| resources.iter().map(move |r| (g, r))) {
            granted.extend(verbs.iter().map(|verb| format!("{verb} {group}/{resource}")));
        }
    }
    granted
}

fn needed(rules: &[Rule]) -> BTreeSet<String> {
    let one = |rule: &Rule| {
        let (group, resource) = (rule.group, rule.resource);
        rule.verbs.iter().map(move |verb| format!("{verb} {group}/{resource}"))
    };
    rules.iter().flat_map(one).collect()
}

#[test]
fn the_role_grants_what_the_gateway_asks_for_and_nothing_else() {
    assert_eq!(granted("base/role.yaml"), needed(&RULES));
    assert_eq!(granted("components/deletion-cost/role.yaml"), needed(&[DELETION_COST]));
}

/// A pool of each protocol, with nobody at either.
fn config(chat: &Endpoint, rabbit: &Endpoint) -> String {
    format!(
        "listeners:\n- address: 127.0.0.1:0\n- address: 127.0.0.1:0\n  protocol: amqp\n  routes: [{{pool: rabbit}}]\n\
         routes:\n- pool: chat\npools:\n  chat:\n    endpoints:\n    - address: {}\n  rabbit:\n    endpoints:\n    \
         - address: {}\n    amqp: {{probe: {{interval: 0s}}}}\nadmin:\n  address: 127.0.0.1:0\n",
        chat.address(),
        rabbit.address()
    )
}

/// Every word of ours that could be a metric.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("evenkeel_")).collect()
}

#[test]
fn every_metric_of_dashboard_and_alerts_is_there_before_the_first_session() {
    let (chat, rabbit) = (Endpoint::bind(), Endpoint::bind());
    let process = Process::start(&config(&chat, &rabbit));
    let texts = QUERIES.map(read);
    let wanted: BTreeSet<&str> = texts.iter().flat_map(|text| metrics(text)).collect();
    assert!(wanted.len() > 20, "{wanted:?}");
    // Some are told at each look of the planner and each sweep of a worker.
    wait_until("the first look", || {
        let answer = process.get("/metrics").1;
        let there: BTreeSet<&str> = answer
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        wanted.is_subset(&there)
    });
}

#[test]
fn a_count_that_an_alert_watches_begins_at_zero_with_every_label() {
    let (chat, rabbit) = (Endpoint::bind(), Endpoint::bind());
    let process = Process::start(&config(&chat, &rabbit));
    for line in [
        "evenkeel_reloads_total{what=\"config\",outcome=\"failed\"} 0",
        "evenkeel_ejections_total{pool=\"chat\"} 0",
        "evenkeel_undeliverable_messages_total{pool=\"chat\",direction=\"to_upstream\"} 0",
        "evenkeel_migrations_total{pool=\"rabbit\",outcome=\"forced\"} 0",
        "evenkeel_migration_aborts_total{pool=\"rabbit\",reason=\"unacked\"} 0",
        "evenkeel_refused_sessions_total{pool=\"chat\",reason=\"no_endpoint\"} 0",
    ] {
        wait_until(line, || process.get("/metrics").1.lines().any(|found| found == line));
    }
}
