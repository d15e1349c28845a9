//! What a test says to the server: objects, rights, refusals, outages, and what it wants to know.
//!
//! Nothing here goes through the socket, so it works while the server is away from its clients.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::patch::How;
use crate::resource::{RESOURCES, Resource};
use crate::script::{Expired, Refusal};
use crate::serve;
use crate::shared::{Cut, Shared};
use crate::store::Key;
use crate::world::Seen;

/// Longest wait for the listener to open or close.
const SWITCH_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at a condition of a test.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a server remembers when it comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum History {
    /// Everything: watches go on where they were.
    Kept,
    /// The objects alone: watches get 410.
    Compacted,
    /// Nothing: watches get 410, lists are empty until objects are applied again, and no deletion is ever told.
    Lost,
}

/// A running server, for whoever scripts it. Clones mean the same server.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>, address: SocketAddr) -> Self {
        Self { shared, address }
    }

    pub(crate) fn listens_within(&self, within: Duration) -> bool {
        self.shared.wait(within, || self.shared.is_listening())
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig that leads here, with the namespace `default`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, path: &Path) -> anyhow::Result<()> {
        let named = |key: &str, value: Value| json!([{"name": "scripted", key: value}]);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scripted",
            "clusters": named("cluster", json!({"server": self.url()})),
            "users": named("user", json!({})),
            "contexts": named("context", json!({"cluster": "scripted", "user": "scripted", "namespace": "default"})),
        });
        fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// # Objects
///
/// Resources are named by their plural: `pods`, `endpointslices`; of the two `events` `events` is the core one.
impl Handle {
    /// Creates an object or puts it in the place of the one of its kind and name. A `uid` that it names is its uid.
    ///
    /// # Errors
    /// When the object is of no kind that is served, or breaks a rule.
    pub fn apply(&self, object: Value) -> Result<Value, Failure> {
        let applied = self.shared.world(|world| world.apply(object, &serve::now()))?;
        self.shared.turn();
        Ok(Value::clone(&applied))
    }

    /// Changes an object by a merge patch, past all rights and refusals.
    ///
    /// # Errors
    /// When there is no such object, or it breaks a rule then.
    pub fn merge(&self, plural: &str, namespace: &str, name: &str, patch: &Value) -> Result<Value, Failure> {
        let Some(old) = self.get(plural, namespace, name) else {
            return Err(Failure::new(404, "NotFound", format!("{plural} {name:?} not found")));
        };
        self.apply(How::Merge.apply(&old, patch)?)
    }

    /// Deletes an object; answers whether it was there.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let Some(key) = key(plural, namespace, name) else { return false };
        let was_there = self.shared.world(|world| world.remove(&key));
        self.shared.turn();
        was_there
    }

    /// One object.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = key(plural, namespace, name)?;
        self.shared.world(|world| world.store.get(&key).map(|object| Value::clone(object)))
    }

    /// All objects of a namespace, by name.
    pub fn list(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(key) = key(plural, namespace, "") else { return Vec::new() };
        let namespace = Some(key.namespace.as_str());
        self.shared.world(|world| {
            world.store.list(key.kind, namespace, None).map(|(_, object)| Value::clone(object)).collect()
        })
    }

    /// The newest resourceVersion.
    pub fn revision(&self) -> u64 {
        self.shared.world(|world| world.store.revision())
    }
}

/// # Rights and refusals
impl Handle {
    /// Answers 403 to a verb (`*`: all) on a resource as Roles name it (`pods`, `deployments/scale`; `*`: all).
    pub fn deny(&self, verb: &str, resource: &str) {
        self.shared.world(|world| world.access.deny(verb, resource));
    }

    /// Takes back a [`deny`](Self::deny) of the same words.
    pub fn allow(&self, verb: &str, resource: &str) {
        self.shared.world(|world| world.access.allow(verb, resource));
    }

    /// From now on only what a Role or ClusterRole given here allows; a Role holds in its namespace.
    ///
    /// # Errors
    /// When it has no rules.
    pub fn grant(&self, role: &Value) -> anyhow::Result<()> {
        self.shared.world(|world| world.access.grant(role))
    }

    /// Everything is allowed again.
    pub fn allow_everything(&self) {
        self.shared.world(|world| world.access.allow_everything());
    }

    /// Refuses the next `times` requests of a verb on a resource; `*` is any.
    pub fn refuse_next(&self, times: u32, verb: &str, resource: &str, refusal: Refusal) {
        self.shared.world(|world| world.script.refuse_next(times, verb, resource, refusal));
    }

    /// Forgets the refusals that are left.
    pub fn refuse_no_more(&self) {
        self.shared.world(|world| world.script.refuse_no_more());
    }

    /// Whether `sendInitialEvents` is known (default), or refused as older servers do.
    pub fn set_streaming_lists(&self, known: bool) {
        self.shared.world(|world| world.script.streaming_lists = known);
    }

    /// How a watch from too long ago is refused. Default: within a 200.
    pub fn set_expired(&self, how: Expired) {
        self.shared.world(|world| world.script.expired = how);
    }
}

/// # Outages
impl Handle {
    /// Ends all running watches.
    pub fn cut_watches(&self, how: Cut) {
        self.shared.cut_watches.send_modify(|cuts| *cuts = (cuts.0 + 1, how));
    }

    /// Takes connections and requests, and says nothing any more, on watches neither.
    pub fn hang(&self) {
        self.shared.hang(true);
    }

    /// Ends a [`hang`](Self::hang): everything that waits is answered.
    pub fn answer_again(&self) {
        self.shared.hang(false);
    }

    /// Closes the listener and resets all connections: nobody gets in. Returns when it is so.
    pub fn refuse_connections(&self) {
        self.close(Cut::Reset);
    }

    /// Listens again, on the same port. Returns when it is so.
    pub fn accept_connections(&self) {
        self.shared.listen.send_replace(true);
        self.listens_within(SWITCH_WITHIN);
    }

    /// Ends all connections, and comes back on the same port with what it still knows.
    pub fn restart(&self, history: History) {
        self.close(Cut::End);
        match history {
            History::Kept => {}
            History::Compacted => self.compact(),
            History::Lost => {
                self.shared.world(|world| {
                    world.store.lose_everything();
                    world.pages.expire();
                });
            }
        }
        self.accept_connections();
    }

    /// Forgets the history, as etcd is compacted: lists in pages and watches from earlier get 410. Watches that have
    /// been told of everything go on, and are best cut to make them look.
    pub fn compact(&self) {
        self.shared.world(|world| {
            world.store.compact();
            world.pages.expire();
        });
    }

    /// Lists take so long from now on; zero: no longer than they need.
    pub fn slow_lists(&self, by: Duration) {
        self.shared.set_list_delay(by);
    }

    /// Sends a bookmark to every watch that wants them. The real server does so about once a minute.
    pub fn send_bookmarks(&self) {
        self.shared.bookmarks.send_modify(|count| *count += 1);
    }

    fn close(&self, how: Cut) {
        self.shared.listen.send_replace(false);
        self.shared.wait(SWITCH_WITHIN, || !self.shared.is_listening());
        self.shared.cut_all.send_modify(|cuts| *cuts = (cuts.0 + 1, how));
    }
}

/// # What happened
impl Handle {
    /// Requests for objects so far, answered or not, in order; the last 100,000.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.world(|world| world.seen.iter().cloned().collect())
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.world(|world| world.seen.clear());
    }

    /// Watches that run on a resource.
    pub fn watches(&self, plural: &str) -> usize {
        self.shared.watches(plural)
    }

    /// Blocks until a condition holds, or for as long; answers whether it does. For tests without an event loop.
    pub fn wait(&self, within: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        self.shared.wait(within, || condition(self))
    }

    /// Waits until a condition holds, or for as long; answers whether it does. For tests in an event loop.
    pub async fn until(&self, within: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + within;
        while !condition(self) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }
}

fn key(plural: &str, namespace: &str, name: &str) -> Option<Key> {
    let resource: &Resource = RESOURCES.iter().find(|r| r.plural == plural || r.qualified() == plural)?;
    let namespace = if resource.namespaced { namespace.to_owned() } else { String::new() };
    Some(Key { kind: resource.storage(), namespace, name: name.into() })
}
