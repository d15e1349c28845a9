//! What the tests share: kube's real client, and a watcher whose view of the world can be waited for.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::Handle;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for anything: the watcher's own backoff is part of it.
pub const WITHIN: Duration = Duration::from_secs(60);

/// kube's client. It does not try again by itself: what is refused is seen at once.
pub fn client(server: &Handle) -> Client {
    let mut config = Config::new(server.url().parse().expect("the URL is one"));
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Pods of the namespace `default`.
pub fn pods(server: &Handle) -> Api<Pod> {
    Api::namespaced(client(server), "default")
}

/// The smallest Pod.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "demo"}]},
    })
}

/// What a watcher knows: names, with `+new` when they have the label `new`.
#[derive(Clone, Debug, Default)]
struct View {
    known: BTreeMap<String, bool>,
    /// Of a list that is not complete.
    coming: BTreeMap<String, bool>,
    settled: bool,
}

/// A watcher that runs.
pub struct Follower {
    view: watch::Receiver<View>,
    errors: Arc<Mutex<Vec<String>>>,
    errors_seen: usize,
    failed: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Of whole objects.
    pub fn start(api: Api<Pod>, config: watcher::Config) -> Self {
        Self::follow(watcher::watcher(api, config).default_backoff())
    }

    /// Of metadata.
    pub fn start_metadata(api: Api<PartialObjectMeta<Pod>>, config: watcher::Config) -> Self {
        Self::follow(watcher::watcher(api, config).default_backoff())
    }

    fn follow<K>(stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static) -> Self
    where
        K: ResourceExt + Send + 'static,
    {
        let (sender, view) = watch::channel(View::default());
        let (fails, failed) = watch::channel(0);
        let errors = Arc::<Mutex<Vec<String>>>::default();
        let said = Arc::clone(&errors);
        let task = tokio::spawn(async move {
            let mut stream = Box::pin(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => sender.send_modify(|view| view.take(&event)),
                    Err(error) => {
                        said.lock().expect("no panic").push(format!("{error} {error:?}"));
                        fails.send_modify(|count| *count += 1);
                    }
                }
            }
        });
        Self { view, errors, errors_seen: 0, failed, task }
    }

    /// Waits until it knows exactly these.
    pub async fn sees(&mut self, names: &[&str]) {
        let seen =
            timeout(WITHIN, self.view.wait_for(|view| view.settled && view.shown() == names)).await.is_ok();
        if !seen {
            panic!("expected {names:?}, found {:?}; errors: {:?}", self.now(), self.errors());
        }
    }

    /// What it knows.
    pub fn now(&self) -> Vec<String> {
        self.view.borrow().shown()
    }

    /// Errors so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().expect("no panic").clone()
    }

    /// Waits for one more error than the last time.
    pub async fn next_error(&mut self) -> String {
        let wanted = self.errors_seen + 1;
        let failed = timeout(WITHIN, self.failed.wait_for(|count| *count >= wanted)).await.is_ok();
        assert!(failed, "no error came");
        self.errors_seen = wanted;
        self.errors()[wanted - 1].clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl View {
    fn take<K: ResourceExt>(&mut self, event: &Event<K>) {
        let entry = |object: &K| (object.name_any(), object.labels().contains_key("new"));
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => self.coming.extend([entry(object)]),
            Event::InitDone => (self.known, self.settled) = (std::mem::take(&mut self.coming), true),
            Event::Apply(object) => self.known.extend([entry(object)]),
            Event::Delete(object) => drop(self.known.remove(&object.name_any())),
        }
    }

    fn shown(&self) -> Vec<String> {
        let shown = |(name, new): (&String, &bool)| format!("{name}{}", if *new { "+new" } else { "" });
        self.known.iter().map(shown).collect()
    }
}
