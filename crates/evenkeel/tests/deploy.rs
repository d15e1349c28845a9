//! The manifests in `deploy/` carry configurations that the gateway accepts, and numbers that fit each other.
//!
//! Not here: a cluster. The manifests are compared as text; a YAML reader of our own would be one more thing to
//! trust, and kustomize is not a dependency.

use std::path::{Path, PathBuf};
use std::time::Duration;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap_or_else(|e| panic!("deploy/{file}: {e}"))
}

/// The configuration of a folder, which must be accepted.
fn configuration(folder: &str) -> config::Checked {
    let checked = config::parse(&read(&format!("{folder}/evenkeel.yaml")), &deploy(folder));
    checked.unwrap_or_else(|errors| panic!("{folder}: {errors}"))
}

/// The number behind `key:` where it occurs first.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
    let value = line.unwrap_or_else(|| panic!("{key} is missing"));
    value.trim().parse().unwrap_or_else(|e| panic!("{key}: {value}: {e}"))
}

const FOLDERS: [&str; 2] = ["base", "overlays/demo"];

#[test]
fn the_only_warning_is_the_open_admin_port_which_a_network_policy_guards() {
    for folder in FOLDERS {
        let warnings = configuration(folder).warnings;
        assert!(warnings.iter().all(|warning| warning.path == "admin.address"), "{folder}: {warnings:?}");
    }
    assert!(read("base/kustomization.yaml").contains("- network-policy.yaml"));
    assert!(read("base/network-policy.yaml").contains("port: admin"));
}

#[test]
fn both_endpoint_lists_are_accepted_and_not_empty() {
    for folder in FOLDERS {
        let list = config::parse_endpoints(&read(&format!("{folder}/endpoints.yaml")));
        let list = list.unwrap_or_else(|errors| panic!("{folder}: {errors}"));
        assert!(!list.is_empty(), "{folder}");
    }
}

#[test]
fn the_gateway_knows_when_its_pod_is_killed() {
    let grace = Duration::from_secs(number(&read("base/deployment.yaml"), "terminationGracePeriodSeconds"));
    for folder in FOLDERS {
        let config = configuration(folder).config;
        assert_eq!(config.shutdown.grace, grace, "{folder}");
    }
}

#[test]
fn the_budgets_are_shared_by_as_many_replicas_as_there_are() {
    let deployed = number(&read("base/deployment.yaml"), "replicas");
    assert_eq!(u64::from(configuration("base").config.replicas), deployed);
    assert!(read("overlays/demo/kustomization.yaml").contains("path: /spec/replicas, value: 1}"));
    assert_eq!(configuration("overlays/demo").config.replicas, 1);
}

#[test]
fn the_ports_of_the_pod_are_those_the_gateway_listens_on() {
    let deployment = read("base/deployment.yaml");
    for folder in FOLDERS {
        let config = configuration(folder).config;
        let (clients, admin) = (config.listeners[0].address, config.admin.address);
        assert!(
            deployment.contains(&format!("name: clients, containerPort: {}", clients.port())),
            "{folder}"
        );
        assert!(deployment.contains(&format!("name: admin, containerPort: {}", admin.port())), "{folder}");
        let reachable = [clients, admin].iter().all(|address| !address.ip().is_loopback());
        assert!(reachable, "{folder}: the kubelet probes the Pod's address, not its loopback");
    }
}
