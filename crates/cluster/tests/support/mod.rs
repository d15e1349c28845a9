//! A Service on the scripted API server, and somebody who follows it and forgets nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use apiserver::Handle;
use apiserver::controller::{Backend, Service};
use cluster::{Cluster, Endpoints, Found, Identity, PodNotes, Target, Times};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Everything is faster than in production.
fn times() -> Times {
    Times {
        connect: Duration::from_secs(5),
        list: Duration::from_secs(5),
        establish: Duration::from_millis(500),
        watch: Duration::from_secs(1),
        watch_slack: Duration::from_millis(300),
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(100),
        cut_max: Duration::from_millis(20),
        good_watch: Duration::from_millis(50),
        stale_after: Duration::from_millis(400),
        tell_every: Duration::from_secs(60),
        quiet: Duration::from_secs(1),
        notes: Duration::from_secs(30),
    }
}

pub fn cluster(server: &Handle) -> Cluster {
    let url = server.url().parse().expect("it is a URL");
    let identity = Identity { namespace: Some("games".into()), ..Identity::default() };
    Cluster::at(cluster::kube::Config::new(url), identity, times())
}

pub fn target() -> Target {
    Target {
        service: "rooms".into(),
        namespace: None,
        port: None,
        notes: PodNotes::Read,
        empty_grace: Duration::from_secs(600),
    }
}

pub fn service() -> Service {
    Service { slice_max: 2, ..Service::new("games", "rooms") }
}

pub fn backends(names: &[&str]) -> Vec<Backend> {
    names.iter().map(|name| Backend::new(name, Ipv4Addr::new(10, 0, 0, name.as_bytes()[0]), 8080)).collect()
}

/// Brings slices and Pods to these.
pub fn apply(server: &Handle, names: &[&str]) {
    let list = backends(names);
    server.apply_pods(&service(), &list).expect("the Pods are valid");
    server.apply_backends(&service(), &list).expect("the slices are valid");
}

/// A Service that is followed; everything that was ever told of it is kept.
pub struct Follower {
    rx: watch::Receiver<Vec<Found>>,
    task: JoinHandle<()>,
}

impl Follower {
    pub fn start(mut endpoints: Endpoints) -> Self {
        let (tx, rx) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            loop {
                let found = endpoints.next().await;
                tx.send_modify(|all: &mut Vec<Found>| all.push(found));
            }
        });
        Self { rx, task }
    }

    /// Waits until what is known is good, and gives it.
    pub async fn until(&mut self, what: &str, good: impl Fn(&Found) -> bool) -> Found {
        let last = |all: &Vec<Found>| all.last().is_some_and(&good);
        let arrived = tokio::time::timeout(PATIENCE, self.rx.wait_for(last)).await.is_ok();
        let now = self.rx.borrow().last().cloned().unwrap_or_default();
        assert!(arrived, "expected {what}, found {now:?}");
        now
    }

    /// Waits until the endpoints are these, and nothing says that they may be out of date.
    pub async fn sees(&mut self, names: &[&str]) -> Found {
        let good = |found: &Found| ids(found).as_deref() == Some(names) && found.stale.is_none();
        self.until(&format!("{names:?}"), good).await
    }

    /// Waits until what is known is stale for a reason that has these words.
    pub async fn is_stale(&mut self, words: &str) {
        let good = |found: &Found| found.stale.as_ref().is_some_and(|text| text.contains(words));
        self.until(words, good).await;
    }

    /// The different lists that were told so far, in order.
    pub fn lists(&self) -> Vec<Vec<String>> {
        let all = self.rx.borrow();
        let mut lists: Vec<Vec<String>> = all.iter().filter_map(ids).map(|names| owned(&names)).collect();
        lists.dedup();
        lists
    }

    pub fn was_ever_stale(&self) -> bool {
        self.rx.borrow().iter().any(|found| found.stale.is_some())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ids without the `uid-` that the controller gives them.
pub fn ids(found: &Found) -> Option<Vec<&str>> {
    let list = found.endpoints.as_ref()?;
    Some(list.iter().map(|endpoint| endpoint.id.as_str().trim_start_matches("uid-")).collect())
}

pub fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn requests(server: &Handle, verb: &str, resource: &str) -> usize {
    server.requests().iter().filter(|seen| seen.verb == verb && seen.resource == resource).count()
}

/// Waits until the slices are watched.
pub async fn watched(server: &Handle) {
    assert!(server.until(PATIENCE, |server| server.watches("endpointslices") == 1).await);
}
