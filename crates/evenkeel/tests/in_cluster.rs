//! Gateway processes in a cluster that is not there: two of them over one scripted API server, which count each other,
//! keep the deletion cost of a Pod, and tell Events.

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

#[path = "process/runner.rs"]
mod runner;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use apiserver::controller::{Backend, Service};
use serde_json::Value;

use runner::Process;
use support::{Endpoint, wait_until};

/// Replicas ask each other every 5 s, and a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn config(more: &str) -> String {
    format!(
        "listeners:\n- address: 127.0.0.1:0\nadmin:\n  address: 127.0.0.1:0\nroutes:\n- pool: rooms\npools:\n  rooms:\n    \
         kubernetes: {{service: rooms, deletion_cost: true}}\n    {more}\ntier:\n  service: gateways\nshutdown:\n  grace: 4s\n  \
         propagation: 0s\n"
    )
}

/// Looks until there is something.
fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A cluster, and the file that leads to it.
struct Cluster {
    server: ApiServer,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let (server, folder) =
            (ApiServer::start().expect("it starts"), tempfile::tempdir().expect("a folder"));
        server.kubeconfig(&folder.path().join("kubeconfig")).expect("the folder is ours");
        Self { server, folder }
    }
}

/// A gateway that knows who it is, as the downward API tells it.
fn gateway(cluster: &Cluster, name: &str, config: &str) -> Process {
    let file = cluster.folder.path().join("kubeconfig");
    let file = file.to_str().expect("it is text");
    let uid = format!("uid-{name}");
    let variables =
        [("KUBECONFIG", file), ("POD_NAME", name), ("POD_UID", &uid), ("POD_NAMESPACE", NAMESPACE)];
    Process::start_as(config, &variables)
}

fn backend(name: &str, address: SocketAddr) -> Backend {
    Backend::new(name, address.ip(), address.port())
}

fn apply_rooms(server: &ApiServer, endpoints: &[(&str, &Endpoint)]) {
    let backends: Vec<Backend> = endpoints.iter().map(|(name, one)| backend(name, one.address())).collect();
    let service = Service::new(NAMESPACE, "rooms");
    server.apply_pods(&service, &backends).expect("the Pods are valid");
    server.apply_backends(&service, &backends).expect("the slices are valid");
}

fn status(process: &Process) -> Value {
    serde_json::from_str(&process.get("/api/v1/status").1).expect("the status is JSON")
}

fn wait_for_endpoints(process: &Process, count: usize) {
    let there = || status(process)["pools"]["rooms"]["endpoints"].as_array().map_or(0, Vec::len);
    wait_until("the endpoints", || there() == count);
}

#[test]
fn the_replica_with_the_lowest_name_writes_what_both_have_at_a_pod() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    let endpoint = Endpoint::bind();
    apply_rooms(server, &[("room-0", &endpoint)]);
    let text = config("");
    let gateways = [gateway(&cluster, "gw-b", &text), gateway(&cluster, "gw-a", &text)];
    gateways.iter().for_each(|process| wait_for_endpoints(process, 1));
    let _sessions = [gateways[0].open(&endpoint), gateways[0].open(&endpoint), gateways[1].open(&endpoint)];
    let admin = Service { port_name: "admin".into(), ..Service::new(NAMESPACE, "gateways") };
    let backends = [backend("gw-b", gateways[0].admin), backend("gw-a", gateways[1].admin)];
    server.apply_backends(&admin, &backends).expect("the slices are valid");
    for process in &gateways {
        wait_until("both count both", || {
            let tier = status(process)["tier"].clone();
            tier["replicas"] == 2
                && tier["counted"] == 2
                && status(process)["pools"]["rooms"]["pace"]["replicas"] == 2
        });
    }
    let cost = soon("the cost", || {
        let pod = server.get("pods", NAMESPACE, "room-0")?;
        Some(pod["metadata"]["annotations"][COST].as_str()?.to_owned())
    });
    assert_eq!(cost, "3");
    let written =
        |process: &Process| process.get("/metrics").1.contains("deletion_cost_patches_total{outcome");
    assert!(written(&gateways[1]) && !written(&gateways[0]), "one writes");
}

#[test]
fn a_plan_is_told_as_an_event_of_the_service() {
    let cluster = Cluster::start();
    let server = &cluster.server;
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    apply_rooms(server, &[("room-0", &first)]);
    let process = gateway(&cluster, "gw-a", &config("rebalance: {settle: 0s, min_ready: 0s, min_age: 0s}"));
    wait_for_endpoints(&process, 1);
    let _sessions: Vec<_> = (0..6).map(|_| process.open(&first)).collect();
    apply_rooms(server, &[("room-0", &first), ("room-1", &second)]);
    let event = soon("an Event", || server.list("events", NAMESPACE).into_iter().next());
    assert_eq!(event["reason"], "PlanStarted", "{event}");
    let text = event.to_string();
    assert!(text.contains("Pool rooms: Moving sessions") && text.contains("gw-a"), "{text}");
    process.wait_for_metric("evenkeel_events_total{outcome=\"written\"}", 1);
}
