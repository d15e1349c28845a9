//! All objects of one kind in one place, kept up to date by list and watch.
//!
//! kube's own watcher is not used: it swallows bookmarks and does not say that a watch has been set up again, so
//! silence after a cut could not be told from an API server that is away. Here
//!
//! - a list replaces what is known only once its last page is there: no half list and no empty one in between;
//! - a watch that is cut goes on where it was, and 410 Gone leads to a list, with what is known in force meanwhile;
//! - a watch in which nothing was heard, not even a bookmark, is followed by a list: its version may be one that the
//!   server has never had, after its storage was restored, and such a watch is silent for ever.
//!
//! How long to wait and what to tell is decided in `contact`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::core::{NamespaceResourceScope, WatchEvent};
use model::Time;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::Cluster;
use crate::contact::Contact;
use crate::trouble::{Call, Trouble};

/// Objects in a page of a list.
const PAGE: u32 = 500;

/// Most pages of a list: more objects than any namespace has.
const PAGES_MAX: usize = 1000;

/// A kind of objects, and what of each is kept.
pub(crate) trait Kind: Send + 'static {
    type Object: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static;
    type Item: Clone + PartialEq + Send + Sync + 'static;

    /// `verb` on this kind, for messages.
    fn call(verb: &'static str, namespace: &str) -> Call;

    /// The object's name and what is kept of it. Nothing for an object without what every object has.
    fn item(object: Self::Object) -> Option<(String, Self::Item)>;
}

/// What is known of all objects of a kind.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    /// All of them by name; `None` until there was a complete list.
    pub(crate) objects: Option<Arc<BTreeMap<String, T>>>,
    /// Why that may be out of date.
    pub(crate) trouble: Option<Arc<Trouble>>,
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), trouble: self.trouble.clone() }
    }
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { objects: None, trouble: None }
    }
}

/// Which objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Scope {
    /// `None`: the one that the client's own configuration names.
    pub(crate) namespace: Option<String>,
    /// A label selector; `None`: all.
    pub(crate) labels: Option<String>,
}

/// A task that keeps [`Seen`] up to date for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    rx: watch::Receiver<Seen<T>>,
    task: AbortHandle,
}

impl<T> Watched<T> {
    /// A receiver that finds what is known already to be news.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Seen<T>> {
        let mut rx = self.rx.clone();
        rx.mark_changed();
        rx
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to watch.
pub(crate) fn spawn<K: Kind>(cluster: Cluster, scope: Scope) -> Watched<K::Item> {
    let (tx, rx) = watch::channel(Seen::default());
    let contact = Contact::new(cluster.times());
    let reflector =
        Reflector::<K> { cluster, scope, contact, known: BTreeMap::new(), changed: false, version: None, tx };
    Watched { rx, task: tokio::spawn(reflector.run()).abort_handle() }
}

struct Reflector<K: Kind> {
    cluster: Cluster,
    scope: Scope,
    contact: Contact,
    known: BTreeMap<String, K::Item>,
    /// Something in `known` differs from what was told.
    changed: bool,
    /// What `known` is up to date with; `None` when it has to be listed anew.
    version: Option<String>,
    tx: watch::Sender<Seen<K::Item>>,
}

/// A request that brought nothing.
struct Failed {
    /// When it was sent.
    began: Time,
    trouble: Box<Trouble>,
}

/// What becomes of a watch after an event.
enum Next {
    Listen,
    /// The connection broke: the next watch goes on from here.
    Watch,
    /// What is known can not be brought up to date by watching.
    List,
}

impl<K: Kind> Reflector<K> {
    async fn run(mut self) {
        loop {
            let wait = match self.turn().await {
                Ok(wait) => wait,
                Err(failed) => self.handle_failure(failed),
            };
            sleep(wait).await;
        }
    }

    /// Lists where that is needed, and watches until the watch ends. Says how long to wait before the next.
    async fn turn(&mut self) -> Result<Duration, Failed> {
        let began = self.cluster.now();
        let client =
            self.cluster.client().await.map_err(|trouble| Failed { began, trouble: Box::new(trouble) })?;
        let namespace = match &self.scope.namespace {
            Some(namespace) => namespace.clone(),
            None => client.default_namespace().to_owned(),
        };
        let api = Api::namespaced(client, &namespace);
        if self.version.is_none() {
            self.list(&api, &namespace).await?;
        }
        self.watch(&api, &namespace).await
    }

    async fn list(&mut self, api: &Api<K::Object>, namespace: &str) -> Result<(), Failed> {
        let call = || K::call("list", namespace);
        let within = self.cluster.times().list;
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector.clone_from(&self.scope.labels);
        let mut all = BTreeMap::new();
        for _ in 0..PAGES_MAX {
            let began = self.cluster.now();
            let failed = |trouble| Failed { began, trouble: Box::new(trouble) };
            let page = match timeout(within, api.list(&params)).await {
                Err(_) => return Err(failed(Trouble::TimedOut { call: call(), after: within })),
                Ok(Err(error)) => return Err(failed(Trouble::new(call(), &error))),
                Ok(Ok(page)) => page,
            };
            all.extend(page.items.into_iter().filter_map(K::item));
            if let Some(more) = page.metadata.continue_.filter(|token| !token.is_empty()) {
                params.continue_token = Some(more);
                continue;
            }
            let Some(version) = page.metadata.resource_version else {
                let cause = "a list without resourceVersion".to_owned();
                return Err(failed(Trouble::Malformed { call: call(), cause }));
            };
            tracing::debug!(%namespace, resource = call().resource, objects = all.len(), version, "listed");
            self.changed |= self.tx.borrow().objects.is_none() || all != self.known;
            (self.known, self.version) = (all, Some(version));
            self.publish();
            return Ok(());
        }
        let cause = format!("a list of more than {PAGES_MAX} pages");
        let trouble = Box::new(Trouble::Malformed { call: call(), cause });
        Err(Failed { began: self.cluster.now(), trouble })
    }

    async fn watch(&mut self, api: &Api<K::Object>, namespace: &str) -> Result<Duration, Failed> {
        let call = || K::call("watch", namespace);
        let times = self.cluster.times();
        let Some(version) = self.version.clone() else { return Ok(Duration::ZERO) };
        let seconds = u32::try_from(times.watch.as_secs()).unwrap_or(u32::MAX).max(1);
        let mut params = WatchParams::default().timeout(seconds);
        params.label_selector.clone_from(&self.scope.labels);
        let began = self.cluster.now();
        let events = match timeout(times.establish, api.watch(&params, &version)).await {
            Err(_) => {
                let trouble = Box::new(Trouble::TimedOut { call: call(), after: times.establish });
                return Err(Failed { began, trouble });
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => return Ok(self.gone(began)),
            Ok(Err(error)) => {
                let trouble = Box::new(Trouble::new(call(), &error));
                return Err(Failed { began, trouble });
            }
            Ok(Ok(events)) => events,
        };
        self.handle_success(namespace);
        let began = self.cluster.now();
        let deadline = Instant::now() + times.watch + times.watch_slack;
        let (mut events, mut heard) = (std::pin::pin!(events), false);
        // It ends with the stream, or by its own deadline when a connection was lost without a word.
        while let Ok(Some(event)) = timeout_at(deadline, events.next()).await {
            match self.handle_event(event, namespace)? {
                Next::Listen => heard = true,
                Next::Watch => break,
                Next::List => return Ok(self.gone(began)),
            }
        }
        let now = self.cluster.now();
        if !heard && now - began >= times.watch {
            self.version = None;
        }
        Ok(self.contact.handle_end(now, began, roll()))
    }

    fn gone(&mut self, began: Time) -> Duration {
        self.version = None;
        self.contact.handle_end(self.cluster.now(), began, roll())
    }

    fn handle_event(
        &mut self,
        event: kube::Result<WatchEvent<K::Object>>,
        namespace: &str,
    ) -> Result<Next, Failed> {
        let call = || K::call("watch", namespace);
        let failed = |began, trouble| Err(Failed { began, trouble: Box::new(trouble) });
        match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                let version = kube::Resource::meta(&object).resource_version.clone();
                if let Some((name, item)) = K::item(object) {
                    self.changed |= self.known.get(&name) != Some(&item);
                    self.known.insert(name, item);
                }
                Ok(self.advance(version))
            }
            Ok(WatchEvent::Deleted(object)) => {
                let version = kube::Resource::meta(&object).resource_version.clone();
                if let Some((name, _)) = K::item(object) {
                    self.changed |= self.known.remove(&name).is_some();
                }
                Ok(self.advance(version))
            }
            Ok(WatchEvent::Bookmark(mark)) => Ok(self.advance(Some(mark.metadata.resource_version))),
            Ok(WatchEvent::Error(status)) if status.code == 410 => Ok(Next::List),
            Err(kube::Error::Api(status)) if status.code == 410 => Ok(Next::List),
            Ok(WatchEvent::Error(status)) => failed(self.cluster.now(), Trouble::refused(call(), &status)),
            Err(error @ (kube::Error::SerdeError(_) | kube::Error::Api(_))) => {
                // It would be sent again to a watch that goes on from here.
                self.version = None;
                failed(self.cluster.now(), Trouble::new(call(), &error))
            }
            Err(error) => {
                tracing::debug!(%namespace, resource = call().resource, %error, "the watch was cut");
                Ok(Next::Watch)
            }
        }
    }

    /// Takes a version as the one to go on from. A lower one than before is another history: the server's storage
    /// was restored.
    fn advance(&mut self, version: Option<String>) -> Next {
        let Some(version) = version.filter(|version| !version.is_empty()) else { return Next::Listen };
        let number = |text: &str| text.parse::<u64>().ok();
        let before = self.version.as_deref().and_then(number);
        if let (Some(before), Some(now)) = (before, number(&version))
            && now < before
        {
            return Next::List;
        }
        self.version = Some(version);
        self.publish();
        Next::Listen
    }

    fn handle_success(&mut self, namespace: &str) {
        let away = self.contact.handle_success(self.cluster.now());
        if let Some(away) = away {
            let (resource, seconds) = (K::call("watch", namespace).resource, away.as_secs());
            tracing::info!(%namespace, resource, seconds, "the Kubernetes API answers again");
        }
        self.publish();
    }

    fn handle_failure(&mut self, failed: Failed) -> Duration {
        let Failed { began, trouble } = failed;
        if matches!(*trouble, Trouble::Unreachable { .. } | Trouble::Unknown { .. }) {
            // The next attempt looks at the configuration, certificates and credentials again.
            self.cluster.forget();
        }
        let words = trouble.to_string();
        let after = self.contact.handle_failure(self.cluster.now(), began, *trouble, roll());
        if after.tell {
            tracing::warn!(
                known = self.known.len(),
                "{words}; what was known stays in force, and it is tried again and again"
            );
        } else {
            tracing::debug!(wait = ?after.wait, "{words}");
        }
        self.publish();
        after.wait
    }

    /// Tells whoever listens, when something differs.
    fn publish(&mut self) {
        let trouble = self.contact.trouble();
        let fresh = std::mem::take(&mut self.changed).then(|| Arc::new(self.known.clone()));
        self.tx.send_if_modified(|seen| {
            let differs = fresh.is_some() || seen.trouble != trouble;
            seen.objects = fresh.or(seen.objects.take());
            seen.trouble = trouble;
            differs
        });
    }
}

/// A random number from 0 to 1, so that replicas do not come back all at once.
fn roll() -> f64 {
    // Without entropy all wait the same time, which is no harm.
    let bits = getrandom::u32().unwrap_or(u32::MAX / 2);
    f64::from(bits) / f64::from(u32::MAX)
}
