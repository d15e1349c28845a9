//! kube's watcher against the scripted server: whatever is cut, refused or forgotten, it ends with the objects as they are.

mod support;

use apiserver::{ApiServer, Cut, Expired, Handle, History, Refusal};
use futures_util::StreamExt;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use kube::runtime::watcher;
use serde_json::json;
use support::{Follower, WITHIN, client, pod, pods};

fn list_watch() -> watcher::Config {
    watcher::Config::default()
}

fn streaming() -> watcher::Config {
    watcher::Config::default().streaming_lists()
}

fn count(server: &Handle, verb: &str) -> usize {
    server.requests().iter().filter(|seen| seen.verb == verb).count()
}

#[tokio::test]
async fn a_watcher_sees_everything_that_happens_in_order() {
    for config in [list_watch(), streaming()] {
        let server = ApiServer::start().unwrap();
        server.apply(pod("a")).unwrap();
        let mut follower = Follower::start(pods(&server), config);
        follower.sees(&["a"]).await;
        server.apply(pod("b")).unwrap();
        server.merge("pods", "default", "a", &json!({"metadata": {"labels": {"new": "yes"}}})).unwrap();
        follower.sees(&["a+new", "b"]).await;
        assert!(server.delete("pods", "default", "a"));
        follower.sees(&["b"]).await;
        assert_eq!(follower.errors(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_cut_watch_goes_on_where_it_was_without_a_new_list() {
    for how in [Cut::End, Cut::Reset, Cut::HalfLine] {
        let server = ApiServer::start().unwrap();
        server.apply(pod("a")).unwrap();
        let mut follower = Follower::start(pods(&server), list_watch());
        follower.sees(&["a"]).await;
        for turn in 0..5 {
            assert!(server.until(WITHIN, |server| server.watches("pods") == 1).await);
            let before = count(&server, "watch");
            server.cut_watches(how);
            assert!(server.until(WITHIN, |server| count(server, "watch") > before).await, "{how:?}");
            let name = format!("b{turn}");
            server.apply(pod(&name)).unwrap();
            follower.sees(&["a", &name]).await;
            server.delete("pods", "default", &name);
            follower.sees(&["a"]).await;
        }
        assert_eq!(count(&server, "list"), 1, "{how:?}");
        assert!(follower.errors().len() <= 5, "{:?}", follower.errors());
    }
}

#[tokio::test]
async fn a_watch_from_before_a_compaction_starts_over() {
    let server = ApiServer::start().unwrap();
    server.apply(pod("a")).unwrap();
    let mut follower = Follower::start(pods(&server), list_watch());
    follower.sees(&["a"]).await;
    server.restart(History::Compacted);
    server.apply(pod("b")).unwrap();
    follower.sees(&["a", "b"]).await;
    assert_eq!(count(&server, "list"), 2, "{:?}", follower.errors());
    assert!(follower.errors().iter().any(|error| error.contains("too old resource version")));
}

#[tokio::test]
async fn a_watch_from_before_a_compaction_is_refused_within_a_200_or_with_410() {
    let server = ApiServer::start().unwrap();
    server.apply(pod("a")).unwrap();
    server.compact();
    let api = pods(&server);
    let mut events = api.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    match events.next().await {
        Some(Ok(WatchEvent::Error(status))) => assert_eq!((status.code, &*status.reason), (410, "Expired")),
        other => panic!("expected 410 within the watch, found {other:?}"),
    }
    assert!(events.next().await.is_none());
    server.set_expired(Expired::Response);
    match api.watch(&WatchParams::default(), "1").await.map(drop) {
        Err(kube::Error::Api(status)) => assert_eq!((status.code, &*status.reason), (410, "Expired")),
        other => panic!("expected the answer 410, found {other:?}"),
    }
}

#[tokio::test]
async fn a_streaming_list_is_refused_as_a_server_without_it_does() {
    let server = ApiServer::start().unwrap();
    server.set_streaming_lists(false);
    let mut follower = Follower::start(pods(&server), streaming());
    let error = follower.next_error().await;
    assert!(error.contains("sendInitialEvents is forbidden for watch"), "{error}");
    server.set_streaming_lists(true);
    server.apply(pod("a")).unwrap();
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn a_server_that_lost_everything_lists_nothing_until_objects_come_back() {
    let server = ApiServer::start().unwrap();
    server.apply(pod("a")).unwrap();
    let mut follower = Follower::start(pods(&server), list_watch());
    follower.sees(&["a"]).await;
    server.restart(History::Lost);
    follower.sees(&[]).await;
    server.apply(pod("a")).unwrap();
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_found_again_on_its_port() {
    let server = ApiServer::start().unwrap();
    let mut follower = Follower::start(pods(&server), list_watch());
    follower.sees(&[]).await;
    server.refuse_connections();
    assert!(std::net::TcpStream::connect(server.address()).is_err());
    server.apply(pod("a")).unwrap();
    assert!(!follower.next_error().await.is_empty());
    server.accept_connections();
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn a_server_that_hangs_says_nothing_and_then_everything() {
    let server = ApiServer::start().unwrap();
    let mut follower = Follower::start(pods(&server), list_watch());
    follower.sees(&[]).await;
    server.hang();
    server.apply(pod("a")).unwrap();
    // A request that is made now is seen and not answered.
    let api = pods(&server);
    let asked = tokio::spawn(async move { api.get("a").await });
    assert!(server.until(WITHIN, |server| server.requests().iter().any(|seen| seen.verb == "get")).await);
    assert!(!asked.is_finished() && follower.now() == Vec::<String>::new());
    server.answer_again();
    assert_eq!(asked.await.unwrap().unwrap().metadata.name.as_deref(), Some("a"));
    follower.sees(&["a"]).await;
}

#[tokio::test]
async fn a_refused_list_is_tried_again() {
    for refusal in [Refusal::TooManyRequests(1), Refusal::InternalError, Refusal::Unavailable] {
        let server = ApiServer::start().unwrap();
        server.apply(pod("a")).unwrap();
        server.refuse_next(1, "list", "pods", refusal);
        let mut follower = Follower::start(pods(&server), list_watch());
        follower.sees(&["a"]).await;
        assert_eq!(count(&server, "list"), 2);
    }
}

#[tokio::test]
async fn a_watch_ends_by_itself_after_the_time_that_the_client_wants() {
    let server = ApiServer::start().unwrap();
    let mut follower = Follower::start(pods(&server), list_watch().timeout(1));
    follower.sees(&[]).await;
    assert!(server.until(WITHIN, |server| count(server, "watch") >= 3).await);
    assert_eq!(follower.errors(), Vec::<String>::new());
    let timeout = ("timeoutSeconds".to_owned(), "1".to_owned());
    assert!(server.requests().iter().any(|seen| seen.verb == "watch" && seen.query.contains(&timeout)));
}

#[tokio::test]
async fn a_bookmark_keeps_a_quiet_watch_young_enough_to_go_on() {
    let server = ApiServer::start().unwrap();
    let mut follower = Follower::start(pods(&server), list_watch().labels("app=web"));
    follower.sees(&[]).await;
    assert!(server.until(WITHIN, |server| server.watches("pods") == 1).await);
    // Nothing that the watch tells.
    for n in 0..10 {
        server.apply(pod(&format!("other-{n}"))).unwrap();
    }
    let revision = server.revision().to_string();
    // What was to be sent before a cut is sent before it.
    server.send_bookmarks();
    server.cut_watches(Cut::End);
    let from = ("resourceVersion".to_owned(), revision);
    assert!(server.until(WITHIN, |server| server.requests().iter().any(|s| s.query.contains(&from))).await);
    assert_eq!(count(&server, "list"), 1);
}

#[tokio::test]
async fn a_watch_of_metadata_gets_metadata_alone() {
    let server = ApiServer::start().unwrap();
    server.apply(pod("a")).unwrap();
    for config in [list_watch(), streaming()] {
        let mut follower = Follower::start_metadata(Api::namespaced(client(&server), "default"), config);
        follower.sees(&["a"]).await;
        server.merge("pods", "default", "a", &json!({"metadata": {"labels": {"new": "yes"}}})).unwrap();
        follower.sees(&["a+new"]).await;
        server.merge("pods", "default", "a", &json!({"metadata": {"labels": {"new": null}}})).unwrap();
        follower.sees(&["a"]).await;
    }
}

#[tokio::test]
async fn an_object_that_no_longer_fits_a_selector_is_told_as_deleted() {
    let server = ApiServer::start().unwrap();
    let mut follower = Follower::start(pods(&server), list_watch().labels("app=web"));
    follower.sees(&[]).await;
    server.apply(pod("a")).unwrap();
    server.merge("pods", "default", "a", &json!({"metadata": {"labels": {"app": "web"}}})).unwrap();
    follower.sees(&["a"]).await;
    server.merge("pods", "default", "a", &json!({"metadata": {"labels": {"app": "db"}}})).unwrap();
    follower.sees(&[]).await;
    server.merge("pods", "default", "a", &json!({"metadata": {"labels": {"app": "web"}}})).unwrap();
    follower.sees(&["a"]).await;
    server.delete("pods", "default", "a");
    follower.sees(&[]).await;
}
