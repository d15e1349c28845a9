//! Pools with `kubernetes`: a change of the slices is in the snapshots at once, and an API that is away changes none.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apiserver::controller::{Backend, Service};
use apiserver::{ApiServer, Handle, History};
use cluster::{Cluster, Identity, Times};
use config::Config;
use model::Snapshot;
use tokio::sync::watch;

/// Longest wait for a snapshot.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(pools: &str) -> Arc<Config> {
    let text = format!("listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{pool: a}}]\npools:\n{pools}");
    Arc::new(config::parse(&text, Path::new("/")).expect("the configuration is valid").config)
}

fn cluster(server: &Handle) -> Cluster {
    let url = server.url().parse().expect("it is a URL");
    let identity = Identity { namespace: Some("games".into()), ..Identity::default() };
    let retry_max = Duration::from_millis(200);
    Cluster::at(cluster::kube::Config::new(url), identity, Times { retry_max, ..Times::default() })
}

fn apply(server: &Handle, service: &str, names: &[&str]) {
    let at = |name: &&str| Backend::new(name, Ipv4Addr::new(10, 0, 0, name.as_bytes()[0]), 8080);
    let list: Vec<Backend> = names.iter().map(at).collect();
    let service = Service::new("games", service);
    server.apply_pods(&service, &list).expect("the Pods are valid");
    server.apply_backends(&service, &list).expect("the slices are valid");
}

fn counts(snapshot: &Snapshot) -> Vec<(&str, usize)> {
    snapshot.pools.iter().map(|(name, list)| (name.as_str(), list.len())).collect()
}

async fn until(rx: &mut watch::Receiver<Arc<Snapshot>>, expected: &[(&str, usize)]) {
    let waited =
        tokio::time::timeout(PATIENCE, rx.wait_for(|snapshot| counts(snapshot) == expected)).await.map(drop);
    let arrived = waited.is_ok();
    assert!(arrived, "expected {expected:?}, found {:?}", counts(&rx.borrow()));
}

#[tokio::test]
async fn pools_follow_their_services_beside_pools_of_other_kinds() {
    let server = ApiServer::start().unwrap();
    apply(&server, "rooms", &["a", "b"]);
    let pools = "  a: {kubernetes: {service: rooms}}\n  b: {endpoints: [{address: '127.0.0.1:5'}]}\n  \
                 c: {kubernetes: {service: news, port: 8080}}\n";
    let (tx, config_rx) = watch::channel(config(pools));
    let mut rx = discovery::spawn(cluster(&server), config_rx);
    until(&mut rx, &[("a", 2), ("b", 1)]).await;
    apply(&server, "news", &["c"]);
    until(&mut rx, &[("a", 2), ("b", 1), ("c", 1)]).await;
    apply(&server, "rooms", &["a", "b", "d"]);
    until(&mut rx, &[("a", 3), ("b", 1), ("c", 1)]).await;
    tx.send(config("  a: {kubernetes: {service: news}}\n")).expect("it listens");
    until(&mut rx, &[("a", 1)]).await;
    let one_watch = |server: &Handle| server.watches("endpointslices") == 1;
    assert!(server.until(PATIENCE, one_watch).await, "what no pool names is not watched");
}

#[tokio::test]
async fn a_restarted_api_sends_no_snapshot() {
    let server = ApiServer::start().unwrap();
    apply(&server, "rooms", &["a", "b"]);
    let (_tx, config_rx) = watch::channel(config("  a: {kubernetes: {service: rooms}}\n"));
    let mut rx = discovery::spawn(cluster(&server), config_rx);
    until(&mut rx, &[("a", 2)]).await;
    let asked = |server: &Handle| server.requests().len();
    for history in [History::Kept, History::Compacted, History::Lost] {
        rx.mark_unchanged();
        let before = asked(&server);
        server.restart(history);
        assert!(server.until(PATIENCE, |server| asked(server) >= before + 2).await);
        apply(&server, "rooms", &["a", "b"]);
    }
    apply(&server, "rooms", &["a", "b", "c"]);
    tokio::time::timeout(PATIENCE, rx.changed()).await.expect("it changes").expect("it is followed");
    assert_eq!(counts(&rx.borrow_and_update()), [("a", 3)], "the first change is the real one");
}
