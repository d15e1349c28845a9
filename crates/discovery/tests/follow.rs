//! Discovery through its channel, as the gateway sees it: real files, conditions instead of pauses.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use config::Config;
use model::{PoolName, Snapshot};
use tokio::sync::watch;

/// Far above the polling interval, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(pools: &str) -> Arc<Config> {
    let text = format!("listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{pool: a}}]\npools:\n{pools}");
    Arc::new(config::parse(&text, Path::new("/")).expect("the configuration is valid").config)
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

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("the file can be written");
    fs::rename(&beside, path).expect("the file can be renamed");
}

#[tokio::test]
async fn the_first_snapshot_is_there_at_once_and_changes_follow() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("endpoints.json");
    fs::write(&path, r#"[{"address": "127.0.0.1:1"}]"#).expect("the file can be written");
    let pools = format!(
        "  a: {{endpoints: [{{address: '127.0.0.1:5'}}]}}\n  b: {{endpoints_file: '{}'}}\n",
        path.display()
    );
    let (_tx, config_rx) = watch::channel(config(&pools));
    let mut rx = discovery::spawn(Cluster::from_environment(), config_rx);
    assert_eq!(counts(&rx.borrow()), [("a", 1), ("b", 1)]);

    replace(&path, r#"[{"address": "127.0.0.1:1"}, {"address": "127.0.0.1:2", "state": "draining"}]"#);
    until(&mut rx, &[("a", 1), ("b", 2)]).await;
    fs::write(&path, "[]").expect("the file can be written");
    until(&mut rx, &[("a", 1), ("b", 0)]).await;
}

#[tokio::test]
async fn pools_come_and_go_with_the_configuration() {
    let (tx, config_rx) = watch::channel(config("  a: {endpoints: []}\n"));
    let mut rx = discovery::spawn(Cluster::from_environment(), config_rx);
    assert_eq!(counts(&rx.borrow()), [("a", 0)]);
    tx.send(config("  a: {endpoints: [{address: '127.0.0.1:1'}]}\n  c: {endpoints: []}\n"))
        .expect("it listens");
    until(&mut rx, &[("a", 1), ("c", 0)]).await;
    tx.send(config("  a: {endpoints: []}\n")).expect("it listens");
    until(&mut rx, &[("a", 0)]).await;
}

#[tokio::test]
async fn a_pool_keeps_its_list_when_its_new_file_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("later.yaml");
    let (tx, config_rx) = watch::channel(config("  a: {endpoints: [{address: '127.0.0.1:1'}]}\n"));
    let mut rx = discovery::spawn(Cluster::from_environment(), config_rx);
    let moved = format!("  a: {{endpoints_file: '{}'}}\n  b: {{endpoints: []}}\n", path.display());
    tx.send(config(&moved)).expect("it listens");
    until(&mut rx, &[("a", 1), ("b", 0)]).await;
    replace(&path, "- address: 127.0.0.1:1\n- address: 127.0.0.1:2\n");
    until(&mut rx, &[("a", 2), ("b", 0)]).await;
}

#[tokio::test]
async fn a_pool_whose_file_was_never_there_is_not_resolved() {
    let (tx, config_rx) = watch::channel(config("  a: {endpoints_file: /nonexistent/endpoints.yaml}\n"));
    let rx = discovery::spawn(Cluster::from_environment(), config_rx);
    drop(tx);
    assert!(!rx.borrow().pools.contains_key(&PoolName::from("a")));
    assert!(!rx.has_changed().expect("the files are followed on without a configuration sender"));
}

#[tokio::test]
async fn nothing_is_sent_when_nothing_differs() {
    let pools = "  a: {endpoints: [{address: '127.0.0.1:1'}]}\n";
    let (tx, config_rx) = watch::channel(config(pools));
    let mut rx = discovery::spawn(Cluster::from_environment(), config_rx);
    rx.mark_unchanged();
    // The same again, then something else: one notification, which already holds the last.
    tx.send(config(pools)).expect("it listens");
    tx.send(config("  a: {endpoints: []}\n")).expect("it listens");
    until(&mut rx, &[("a", 0)]).await;
    assert!(!rx.has_changed().expect("the sender lives"));
}

#[tokio::test]
async fn it_ends_with_its_last_reader() {
    let (tx, config_rx) = watch::channel(config("  a: {endpoints: []}\n"));
    drop(discovery::spawn(Cluster::from_environment(), config_rx));
    assert!(tokio::time::timeout(PATIENCE, tx.closed()).await.is_ok());
}
