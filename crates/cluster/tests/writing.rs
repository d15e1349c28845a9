//! What the gateway writes through the API: Events about a Service, the deletion cost of a Pod, and nothing else.

#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use apiserver::ApiServer;
use cluster::Trouble;
use cluster::deletion_cost::Write;
use cluster::events::{Events, ServiceName, Told, Written};
use model::Pod;
use serde_json::{Value, json};
use support::{apply, cluster};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn rooms() -> ServiceName {
    ServiceName { namespace: "games".into(), name: "rooms".into() }
}

fn told(reason: &'static str) -> Told {
    Told { reason, is_warning: reason == "PlanStopped", text: format!("Pool rooms: {reason}.") }
}

fn cost(pod: &str, cost: i32) -> Write {
    let pod = Pod { namespace: "games".into(), name: pod.into(), node: None };
    Write { uid: format!("uid-{}", pod.name), pod, cost }
}

/// Verb and resource of everything that would change something.
fn writes(server: &ApiServer) -> Vec<(String, String)> {
    let reads = ["get", "list", "watch"];
    let all = server.requests().into_iter().filter(|seen| !reads.contains(&seen.verb));
    all.map(|seen| (seen.verb.to_owned(), seen.resource)).collect()
}

/// Names the Service as the owner of its slices, as the real controller does. Answers its UID.
fn own_slices(server: &ApiServer) -> Value {
    let uid = server.get("services", "games", "rooms").expect("it is there")["metadata"]["uid"].clone();
    let owner =
        json!({"apiVersion": "v1", "kind": "Service", "name": "rooms", "uid": uid, "controller": true});
    for slice in server.list("endpointslices", "games") {
        let name = slice["metadata"]["name"].as_str().expect("it has a name");
        let patch = json!({"metadata": {"ownerReferences": [owner]}});
        server.merge("endpointslices", "games", name, &patch).expect("it is there");
    }
    uid
}

#[tokio::test]
async fn an_event_is_about_the_service_and_says_who_reports() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b"]);
    let uid = own_slices(&server);
    let mut events = Events::new(cluster(&server));
    assert_eq!(events.write(&rooms(), &told("PlanStarted")).await, Written::Written);
    assert_eq!(events.write(&rooms(), &told("PlanStopped")).await, Written::Written);
    let written: Vec<Value> = server.list("events", "games");
    let of =
        |key: &str| written.iter().map(|event| event[key].as_str().unwrap_or_default()).collect::<Vec<_>>();
    let mut reasons = of("reason");
    reasons.sort_unstable();
    assert_eq!(reasons, ["PlanStarted", "PlanStopped"], "{written:?}");
    for event in &written {
        let about = if event["regarding"].is_null() { &event["involvedObject"] } else { &event["regarding"] };
        assert_eq!(
            (&about["kind"], &about["name"], &about["uid"]),
            (&json!("Service"), &json!("rooms"), &uid)
        );
    }
    assert!(writes(&server).iter().all(|(verb, resource)| verb == "create" && resource == "events"));
}

#[tokio::test]
async fn an_event_that_is_refused_is_not_written_later_and_the_next_one_is() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a"]);
    let mut events = Events::new(cluster(&server));
    server.deny("create", "events");
    assert_eq!(events.write(&rooms(), &told("PlanStarted")).await, Written::Failed);
    assert_eq!(events.write(&rooms(), &told("PlanFinished")).await, Written::Failed);
    server.allow("create", "events");
    assert_eq!(events.write(&rooms(), &told("PlanStopped")).await, Written::Written);
    assert_eq!(server.list("events", "games").len(), 1);
}

#[tokio::test]
async fn only_the_annotation_of_a_pod_is_written_and_one_that_is_gone_is_no_trouble() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b"]);
    let pod = |name: &str| server.get("pods", "games", name).expect("it is there");
    let before = pod("a");
    let cluster = cluster(&server);
    cluster.write_deletion_cost(&cost("a", 17)).await.expect("it is written");
    let mut after = pod("a");
    assert_eq!(after["metadata"]["annotations"][COST], "17");
    cluster.write_deletion_cost(&cost("a", 0)).await.expect("it is written");
    assert_eq!(pod("a")["metadata"]["annotations"][COST], "0");
    cluster.write_deletion_cost(&cost("gone", 1)).await.expect("it is no trouble");
    let metadata = after["metadata"].as_object_mut().expect("it is an object");
    metadata.remove("annotations");
    metadata.insert("resourceVersion".into(), before["metadata"]["resourceVersion"].clone());
    assert_eq!(after, before, "nothing else of it");
    assert!(writes(&server).iter().all(|(verb, resource)| verb == "patch" && resource == "pods"));
}

#[tokio::test]
async fn a_cost_that_may_not_be_written_names_the_rule_to_add() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a"]);
    server.deny("patch", "pods");
    let trouble = cluster(&server).write_deletion_cost(&cost("a", 3)).await.expect_err("it is forbidden");
    assert!(matches!(trouble, Trouble::Forbidden { .. }), "{trouble:?}");
    let text = trouble.to_string();
    assert!(text.contains("patch pods in namespace games") && text.contains("verbs: [patch]"), "{text}");
}
