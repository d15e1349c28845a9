//! kube's client against the scripted server: lists, writes, scales, events, and every refusal in its words.

mod support;

use std::sync::mpsc::channel;
use std::time::Duration;

use apiserver::{ApiServer, Refusal, Scaled};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, ResourceExt};
use serde_json::json;
use support::{WITHIN, client, pod, pods};

fn code(error: &kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("expected a Status, found {other:?}"),
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_of_one_revision() {
    let server = ApiServer::start().unwrap();
    for n in 0..7 {
        server.apply(pod(&format!("p{n}"))).unwrap();
    }
    let api = pods(&server);
    let first = api.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (3, Some(4)));
    server.apply(pod("p9")).unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = api.list(&ListParams::default().limit(9).continue_token(&token)).await.unwrap();
    assert_eq!((rest.items.len(), &rest.metadata.resource_version), (4, &first.metadata.resource_version));
    server.compact();
    let gone = api.list(&ListParams::default().limit(9).continue_token(&token)).await.unwrap_err();
    assert_eq!(code(&gone), (410, "Expired".into()));
}

#[tokio::test]
async fn a_list_can_be_selected_by_label_and_name_and_told_as_metadata() {
    let server = ApiServer::start().unwrap();
    for name in ["a", "b", "c"] {
        server.apply(pod(name)).unwrap();
    }
    server.merge("pods", "default", "b", &json!({"metadata": {"labels": {"app": "web"}}})).unwrap();
    let names = |pods: Vec<Pod>| pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    let api = pods(&server);
    assert_eq!(names(api.list(&ListParams::default().labels("app in (web)")).await.unwrap().items), ["b"]);
    assert_eq!(names(api.list(&ListParams::default().fields("metadata.name=c")).await.unwrap().items), ["c"]);
    let wrong = api.list(&ListParams::default().fields("spec.colour=red")).await.unwrap_err();
    assert_eq!(code(&wrong).0, 400);
    let metadata = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 3);
    assert_eq!(api.get_metadata("b").await.unwrap().labels()["app"], "web");
}

#[tokio::test]
async fn writes_follow_the_rules_of_optimistic_concurrency() {
    let server = ApiServer::start().unwrap();
    let api = pods(&server);
    let new: Pod = serde_json::from_value(pod("a")).unwrap();
    let made = api.create(&PostParams::default(), &new).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = api.create(&PostParams::default(), &new).await.unwrap_err();
    assert_eq!(code(&again), (409, "AlreadyExists".into()));
    let annotate = Patch::Merge(json!({"metadata": {"annotations": {"evenkeel.dev/weight": "3"}}}));
    let patched = api.patch("a", &PatchParams::default(), &annotate).await.unwrap();
    assert_eq!(patched.annotations()["evenkeel.dev/weight"], "3");
    let unchanged = api.patch("a", &PatchParams::default(), &annotate).await.unwrap();
    assert_eq!(unchanged.resource_version(), patched.resource_version());
    let late = api.replace("a", &PostParams::default(), &made).await.unwrap_err();
    assert_eq!(code(&late), (409, "Conflict".into()));
    let other = Patch::Merge(json!({"metadata": {"uid": "another", "labels": {"a": "b"}}}));
    assert_eq!(code(&api.patch("a", &PatchParams::default(), &other).await.unwrap_err()).0, 409);
    let preconditions = Preconditions { uid: Some("another".into()), resource_version: None };
    let demanding = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    assert_eq!(code(&api.delete("a", &demanding).await.unwrap_err()).0, 409);
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(&api.get("a").await.unwrap_err()), (404, "NotFound".into()));
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    server.apply(pod("b")).unwrap();
    assert!(api.patch("b", &PatchParams::default(), &status).await.unwrap().status.is_none());
    let running = api.patch_status("b", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(running.status.unwrap().phase.as_deref(), Some("Running"));
}

#[tokio::test]
async fn every_kind_of_patch_is_understood() {
    let server = ApiServer::start().unwrap();
    let api = pods(&server);
    let apply = PatchParams::apply("test").force();
    let applied = api.patch("a", &apply, &Patch::Apply(pod("a"))).await.unwrap();
    assert_eq!(applied.name_any(), "a");
    let strategic = Patch::Strategic(json!({"spec": {"containers": [{"name": "main", "image": "new"}]}}));
    let patched = api.patch("a", &PatchParams::default(), &strategic).await.unwrap();
    assert_eq!(patched.spec.unwrap().containers[0].image.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_change_of_scale_reaches_the_hook_however_it_is_made() {
    let server = ApiServer::start().unwrap();
    let (scaled, changes) = channel();
    server.on_scale(move |change| scaled.send(change).unwrap());
    server.apply_deployment("shop", "chat", 3).unwrap();
    let api: Api<Deployment> = Api::namespaced(client(&server), "shop");
    let scale = api.get_scale("chat").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    let five = Patch::Merge(json!({"spec": {"replicas": 5}}));
    api.patch_scale("chat", &PatchParams::default(), &five).await.unwrap();
    api.patch_scale("chat", &PatchParams::default(), &five).await.unwrap();
    let four = Patch::Merge(json!({"spec": {"replicas": 4}}));
    api.patch("chat", &PatchParams::default(), &four).await.unwrap();
    let change = |was, replicas| {
        let (namespace, name) = ("shop".to_owned(), "chat".to_owned());
        Scaled { kind: "Deployment", namespace, name, was, replicas }
    };
    assert_eq!(changes.recv_timeout(WITHIN), Ok(change(3, 5)));
    assert_eq!(changes.recv_timeout(WITHIN), Ok(change(5, 4)));
    let negative = Patch::Merge(json!({"spec": {"replicas": -1}}));
    let refused = api.patch_scale("chat", &PatchParams::default(), &negative).await.unwrap_err();
    assert_eq!(code(&refused), (422, "Invalid".into()));
    assert_eq!(code(&api.get_scale("other").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn an_event_of_kubes_recorder_is_taken_and_seen_as_a_core_event() {
    let server = ApiServer::start().unwrap();
    let reporter = Reporter { controller: "evenkeel".into(), instance: Some("evenkeel-0".into()) };
    let recorder = Recorder::new(client(&server), reporter);
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        name: Some("chat".into()),
        namespace: Some("shop".into()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Normal,
        reason: "PlanStarted".into(),
        note: Some("3 to 5 endpoints".into()),
        action: "Rebalance".into(),
        secondary: None,
    };
    // The second time it is a patch of the first.
    recorder.publish(&event, &about).await.unwrap();
    recorder.publish(&event, &about).await.unwrap();
    let core: Api<CoreEvent> = Api::namespaced(client(&server), "shop");
    let events = core.list(&ListParams::default().fields("involvedObject.name=chat")).await.unwrap().items;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].message.as_deref(), Some("3 to 5 endpoints"));
    assert_eq!(events[0].series.as_ref().and_then(|series| series.count), Some(2));
    let verbs: Vec<_> = server.requests().iter().map(|seen| (seen.verb, seen.group)).collect();
    assert!(verbs.contains(&("create", "events.k8s.io")) && verbs.contains(&("patch", "events.k8s.io")));
}

#[tokio::test]
async fn a_missing_right_is_told_and_remembered_with_what_was_asked() {
    let server = ApiServer::start().unwrap();
    let api: Api<EndpointSlice> = Api::namespaced(client(&server), "shop");
    server.deny("list", "endpointslices");
    let error = api.list(&ListParams::default()).await.unwrap_err();
    assert_eq!(code(&error), (403, "Forbidden".into()));
    assert!(error.to_string().contains("cannot list resource \"endpointslices\""), "{error}");
    let seen = server.requests().pop().unwrap();
    assert_eq!(
        (seen.verb, seen.resource.as_str(), seen.group),
        ("list", "endpointslices", "discovery.k8s.io")
    );
    assert_eq!(seen.namespace.as_deref(), Some("shop"));
    server.allow("list", "endpointslices");
    let role = json!({"kind": "Role", "metadata": {"namespace": "shop"}, "rules": [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]});
    server.grant(&role).unwrap();
    assert!(api.list(&ListParams::default()).await.is_ok());
    let services: Api<Service> = Api::namespaced(client(&server), "shop");
    assert_eq!(code(&services.list(&ListParams::default()).await.unwrap_err()).0, 403);
    server.allow_everything();
    assert!(services.list(&ListParams::default()).await.is_ok());
}

#[tokio::test]
async fn a_slow_list_holds_up_nobody_else() {
    let server = ApiServer::start().unwrap();
    server.apply(pod("a")).unwrap();
    server.slow_lists(Duration::from_secs(3600));
    let api = pods(&server);
    let list = tokio::spawn(async move { api.list(&ListParams::default()).await });
    assert!(server.until(WITHIN, |server| server.requests().iter().any(|seen| seen.verb == "list")).await);
    let api = pods(&server);
    assert!(api.get("a").await.is_ok());
    server.slow_lists(Duration::ZERO);
    assert!(api.list(&ListParams::default()).await.is_ok());
    assert!(!list.is_finished());
    list.abort();
}

#[tokio::test]
async fn a_scripted_refusal_is_a_status_with_its_code() {
    let server = ApiServer::start().unwrap();
    let api = pods(&server);
    for (refusal, expected) in [
        (Refusal::TooManyRequests(1), (429, "TooManyRequests")),
        (Refusal::InternalError, (500, "InternalError")),
        (Refusal::Expired, (410, "Expired")),
        (Refusal::Unauthorized, (401, "Unauthorized")),
    ] {
        server.refuse_next(1, "list", "pods", refusal);
        let error = api.list(&ListParams::default()).await.unwrap_err();
        assert_eq!(code(&error), (expected.0, expected.1.into()));
        assert!(api.list(&ListParams::default()).await.is_ok());
    }
}
