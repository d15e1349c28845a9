//! The real client against the scripted API server: whatever is cut, refused, forgotten or away, a Service's endpoints
//! are as they are in the end, and never anything else in between.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use apiserver::controller::{Backend, Service, slices};
use apiserver::{ApiServer, Cut, Expired, Handle, History, Refusal};
use cluster::{Found, PodNotes, Target};
use config::ServicePort;
use model::{EndpointState, Zone};
use serde_json::json;
use support::{Follower, PATIENCE, apply, backends, cluster, owned, requests, service, target, watched};

/// The first endpoint has the weight that the annotation says.
fn weighs_seven(found: &Found) -> bool {
    found.endpoints.as_ref().is_some_and(|list| list[0].weight.value() == 7)
}

fn annotate(server: &Handle, pod: &str, annotations: &serde_json::Value) {
    let patch = json!({"metadata": {"annotations": annotations}});
    server.merge("pods", "games", pod, &patch).expect("the Pod is there");
}

#[tokio::test]
async fn endpoints_follow_what_controllers_write() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b", "c"]);
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a", "b", "c"]).await;
    apply(&server, &["a", "b", "c", "d", "e"]);
    follower.sees(&["a", "b", "c", "d", "e"]).await;
    apply(&server, &["b", "d"]);
    follower.sees(&["b", "d"]).await;
    assert!(!follower.was_ever_stale());
}

#[tokio::test]
async fn conditions_zones_and_nodes_arrive() {
    let server = ApiServer::start().unwrap();
    let mut list = backends(&["a", "b", "c"]);
    list[0] = Backend { zone: Some("eu-1a".into()), node: Some("n1".into()), ..list[0].clone() };
    list[1] = list[1].clone().terminating();
    list[2] = list[2].clone().unready();
    server.apply_backends(&service(), &list).unwrap();
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    let found = follower.sees(&["a", "b", "c"]).await;
    let list = found.endpoints.unwrap_or_default();
    let states: Vec<_> = list.iter().map(|endpoint| endpoint.state).collect();
    assert_eq!(states, [EndpointState::Ready, EndpointState::Terminating, EndpointState::Unready]);
    assert_eq!(list[0].zone, Some(Zone::from("eu-1a")));
    let pod = list[0].pod.clone().expect("a Pod is behind it");
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.node.as_deref()), ("games", "a", Some("n1")));
}

#[tokio::test]
async fn hundreds_of_endpoints_in_many_slices_and_two_families_are_one_list() {
    let server = ApiServer::start().unwrap();
    let pods: Vec<String> = (0..250).map(|n| format!("p{n:03}")).collect();
    let at = |ip: fn(u8) -> IpAddr| {
        let backend = |(n, name): (usize, &String)| Backend::new(name, ip(u8::try_from(n).unwrap()), 8080);
        pods.iter().enumerate().map(backend).collect::<Vec<_>>()
    };
    let mut list = at(|n| Ipv4Addr::new(10, 0, 0, n).into());
    list.extend(at(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()));
    let service = Service { port_name: "ws".into(), slice_max: 20, ..service() };
    server.apply_backends(&service, &list).unwrap();
    let port = Some(ServicePort::Name("ws".into()));
    let mut follower = Follower::start(cluster(&server).endpoints(Target { port, ..target() }));
    let names: Vec<&str> = pods.iter().map(String::as_str).collect();
    let found = follower.sees(&names).await;
    assert!(found.endpoints.is_some_and(|list| list.iter().all(|e| e.address.is_ipv4())));
    assert_eq!(follower.lists().len(), 1);
}

#[tokio::test]
async fn a_watch_that_is_cut_a_hundred_times_changes_nothing() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b", "c"]);
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a", "b", "c"]).await;
    for turn in 0..100 {
        watched(&server).await;
        let before = requests(&server, "watch", "endpointslices");
        server.cut_watches([Cut::End, Cut::Reset, Cut::HalfLine][turn % 3]);
        let again = |server: &Handle| requests(server, "watch", "endpointslices") > before;
        assert!(server.until(PATIENCE, again).await);
    }
    apply(&server, &["a", "b", "c", "d"]);
    follower.sees(&["a", "b", "c", "d"]).await;
    assert_eq!(follower.lists().len(), 2, "{:?}", follower.lists());
    assert!(!follower.was_ever_stale());
}

#[tokio::test]
async fn a_compacted_history_is_listed_anew_without_an_empty_list_in_between() {
    for expired in [Expired::Event, Expired::Response] {
        let server = ApiServer::start().unwrap();
        server.set_expired(expired);
        apply(&server, &["a", "b", "c"]);
        let mut follower = Follower::start(cluster(&server).endpoints(target()));
        follower.sees(&["a", "b", "c"]).await;
        for names in [["a", "b", "d"], ["a", "e", "f"]] {
            watched(&server).await;
            server.refuse_connections();
            apply(&server, &names);
            server.compact();
            server.accept_connections();
            follower.sees(&names).await;
        }
        let expected = [["a", "b", "c"], ["a", "b", "d"], ["a", "e", "f"]].map(|names| owned(&names));
        assert_eq!(follower.lists(), expected, "{expired:?}");
    }
}

#[tokio::test]
async fn a_list_of_many_pages_is_believed_as_a_whole() {
    let server = ApiServer::start().unwrap();
    let names: Vec<String> = (0..501).map(|n| format!("p{n:04}")).collect();
    let at = |name: &String| Backend::new(name, Ipv4Addr::new(10, 0, 0, 1), 8080);
    let list: Vec<Backend> = names.iter().map(at).collect();
    for slice in slices(&Service { slice_max: 1, ..service() }, &[], &list) {
        server.apply(slice).unwrap();
    }
    let mut follower =
        Follower::start(cluster(&server).endpoints(Target { notes: PodNotes::Ignore, ..target() }));
    let known = |found: &Found| found.endpoints.as_ref().is_some_and(|list| list.len() == 501);
    follower.until("501 endpoints", known).await;
    assert_eq!(follower.lists().len(), 1);
    assert_eq!(requests(&server, "list", "endpointslices"), 2);
}

#[tokio::test]
async fn a_storage_that_lost_everything_costs_no_endpoint() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b", "c"]);
    annotate(&server, "a", &json!({"evenkeel.dev/weight": "7"}));
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a", "b", "c"]).await;
    follower.until("the weight", weighs_seven).await;
    watched(&server).await;
    server.restart(History::Lost);
    follower.is_stale("Service rooms in the own namespace has no EndpointSlice any more").await;
    apply(&server, &["a", "b", "c"]);
    follower.sees(&["a", "b", "c"]).await;
    assert_eq!(follower.lists().len(), 1, "{:?}", follower.lists());
}

#[tokio::test]
async fn a_service_without_slices_is_empty_when_its_grace_is_over() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b", "c"]);
    let target = Target { empty_grace: Duration::from_millis(300), ..target() };
    let mut follower = Follower::start(cluster(&server).endpoints(target));
    follower.sees(&["a", "b", "c"]).await;
    for slice in server.list("endpointslices", "games") {
        server.delete("endpointslices", "games", slice["metadata"]["name"].as_str().unwrap());
    }
    follower.sees(&[]).await;
    assert!(follower.was_ever_stale());
    apply(&server, &["d"]);
    follower.sees(&["d"]).await;
}

#[tokio::test]
async fn a_service_that_appears_later_is_found() {
    let server = ApiServer::start().unwrap();
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.is_stale("does the Service exist under this name").await;
    apply(&server, &["a"]);
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn an_api_that_is_away_from_the_start_is_waited_for() {
    let server = ApiServer::start().unwrap();
    server.refuse_connections();
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.is_stale("list endpointslices.discovery.k8s.io in namespace games").await;
    assert_eq!(follower.lists().len(), 0);
    apply(&server, &["a", "b"]);
    server.accept_connections();
    follower.sees(&["a", "b"]).await;
}

#[tokio::test]
async fn an_api_that_refuses_hangs_or_fails_leaves_everything_in_force() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b"]);
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a", "b"]).await;

    server.refuse_connections();
    follower.is_stale("the Kubernetes API can not be reached").await;
    server.accept_connections();
    follower.sees(&["a", "b"]).await;

    server.hang();
    follower.is_stale("no answer of the Kubernetes API within").await;
    server.answer_again();
    follower.sees(&["a", "b"]).await;

    server.refuse_next(10_000, "*", "*", Refusal::InternalError);
    server.cut_watches(Cut::End);
    follower.is_stale("the Kubernetes API answered 500").await;
    server.refuse_no_more();
    follower.sees(&["a", "b"]).await;

    server.refuse_next(10_000, "*", "*", Refusal::Unauthorized);
    server.cut_watches(Cut::End);
    follower.is_stale("does not know who we are (401)").await;
    server.refuse_no_more();
    follower.sees(&["a", "b"]).await;
    assert_eq!(follower.lists().len(), 1, "{:?}", follower.lists());
}

#[tokio::test]
async fn a_refusal_by_rbac_names_what_is_missing_and_ends_with_it() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a"]);
    server.deny("list", "endpointslices");
    server.deny("watch", "endpointslices");
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.is_stale("may not list endpointslices.discovery.k8s.io in namespace games; add to a Role").await;
    server.allow("list", "endpointslices");
    follower
        .is_stale("may not watch endpointslices.discovery.k8s.io in namespace games; add to a Role")
        .await;
    server.allow("watch", "endpointslices");
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn forbidden_pods_cost_the_annotations_alone() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a"]);
    annotate(&server, "a", &json!({"evenkeel.dev/weight": "7"}));
    server.deny("*", "pods");
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a"]).await;
    assert!(!follower.was_ever_stale());
    server.allow("*", "pods");
    follower.until("the weight", weighs_seven).await;
}

#[tokio::test]
async fn annotations_take_effect_when_they_are_written() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a", "b"]);
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a", "b"]).await;
    let second = |found: &Found| found.endpoints.as_ref().map(|list| (list[1].weight.value(), list[1].state));
    annotate(&server, "b", &json!({"evenkeel.dev/weight": "3"}));
    follower.until("the weight", |found| second(found) == Some((3, EndpointState::Ready))).await;
    annotate(&server, "b", &json!({"evenkeel.dev/drain": "true"}));
    follower.until("the drain", |found| second(found) == Some((3, EndpointState::Terminating))).await;
    annotate(&server, "b", &json!({"evenkeel.dev/drain": null, "evenkeel.dev/weight": "many"}));
    follower.until("neither", |found| second(found) == Some((1, EndpointState::Ready))).await;
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_as_good() {
    let server = ApiServer::start().unwrap();
    server.set_streaming_lists(false);
    server.slow_lists(Duration::from_millis(50));
    apply(&server, &["a"]);
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn a_port_that_no_slice_has_is_told_and_empties_nothing() {
    let server = ApiServer::start().unwrap();
    let ws = Service { port_name: "ws".into(), ..service() };
    server.apply_backends(&ws, &backends(&["a"])).unwrap();
    let cluster = cluster(&server);
    let port = |name: &str| Some(ServicePort::Name(name.into()));
    let mut wrong = Follower::start(cluster.endpoints(Target { port: port("http"), ..target() }));
    wrong.is_stale("no TCP port http; it has ws (8080)").await;
    assert_eq!(wrong.lists().len(), 0);
    let mut right = Follower::start(cluster.endpoints(Target { port: port("ws"), ..target() }));
    right.sees(&["a"]).await;
}

#[tokio::test]
async fn two_followers_of_one_service_are_one_watch_and_none_is_left_without_them() {
    let server = ApiServer::start().unwrap();
    apply(&server, &["a"]);
    let cluster = cluster(&server);
    let mut first = Follower::start(cluster.endpoints(target()));
    first.sees(&["a"]).await;
    let mut second = Follower::start(cluster.endpoints(target()));
    second.sees(&["a"]).await;
    let watches = |server: &Handle| server.watches("endpointslices") + server.watches("pods");
    assert!(server.until(PATIENCE, |server| watches(server) == 2).await);
    drop(first);
    apply(&server, &["a", "b"]);
    second.sees(&["a", "b"]).await;
    drop(second);
    assert!(server.until(PATIENCE, |server| watches(server) == 0).await);
}

#[tokio::test]
async fn nothing_is_asked_for_that_a_role_of_list_and_watch_does_not_allow() {
    let server = ApiServer::start().unwrap();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"namespace": "games", "name": "evenkeel"},
        "rules": [
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        ],
    });
    server.grant(&role).unwrap();
    apply(&server, &["a"]);
    let mut follower = Follower::start(cluster(&server).endpoints(target()));
    follower.sees(&["a"]).await;
    apply(&server, &["a", "b"]);
    follower.sees(&["a", "b"]).await;
    assert!(!follower.was_ever_stale());
    let selected = |(key, value): &(String, String)| {
        key == "labelSelector" && value == "kubernetes.io/service-name=rooms"
    };
    let mut asked = server.requests().into_iter().filter(|seen| seen.resource == "endpointslices");
    assert!(asked.all(|seen| seen.query.iter().any(selected)));
}
