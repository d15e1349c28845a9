//! Kubernetes Events on the Service of a pool: who wants to know why sessions move need not read our log.
//!
//! Events cost the API a write each, and tell only what the log and the metrics tell as well: a Service gets ten a minute
//! at most, the next one says how many were left out, and one that can not be written is not written later.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::core::PartialObjectMeta;
use model::Time;
use tokio::time::timeout;

use crate::client::Cluster;
use crate::rules::EVENTS;
use crate::trouble::{Call, Trouble};

/// Events of one Service within [`WINDOW`].
const EVENTS_MAX: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Services that are remembered; the pools of a configuration are fewer.
const SERVICES_MAX: usize = 1_000;
/// The API takes no longer note.
const NOTE_BYTES_MAX: usize = 1_024;
/// Who reports, in the words of the API.
const CONTROLLER: &str = "evenkeel.dev/gateway";

/// A Service, by namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// In one word: `PlanStarted`.
    pub reason: &'static str,
    /// Somebody should do something about it.
    pub is_warning: bool,
    /// In a sentence or two.
    pub text: String,
}

/// How many Events each Service has had lately.
#[derive(Clone, Debug, Default)]
pub struct Budget(BTreeMap<ServiceName, Spent>);

#[derive(Clone, Debug, Default)]
struct Spent {
    written: VecDeque<Time>,
    left_out: u64,
}

impl Budget {
    /// Takes one Event out of the budget of `service`. `None`: there is no room. Otherwise how many were left out before.
    pub fn take(&mut self, now: Time, service: &ServiceName) -> Option<u64> {
        if !self.0.contains_key(service) && self.0.len() >= SERVICES_MAX {
            return None;
        }
        let spent = self.0.entry(service.clone()).or_default();
        while spent.written.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            spent.written.pop_front();
        }
        if spent.written.len() >= EVENTS_MAX {
            spent.left_out += 1;
            return None;
        }
        spent.written.push_back(now);
        Some(std::mem::take(&mut spent.left_out))
    }
}

/// Writes Events, one after the other.
#[derive(Debug)]
pub struct Events {
    cluster: Cluster,
    budget: Budget,
    /// Of Services that were found.
    uids: BTreeMap<ServiceName, String>,
    /// The last trouble that was told, so that each is told once.
    told: Option<String>,
    count: u64,
}

/// What became of an Event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The API has it.
    Written,
    /// There were too many.
    Dropped,
    /// The API did not take it; the log says why.
    Failed,
}

impl Events {
    /// Through `cluster`, of which nothing is asked before the first Event.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, budget: Budget::default(), uids: BTreeMap::new(), told: None, count: 0 }
    }

    /// Writes one Event about a Service. Waits for the API no longer than its deadlines.
    pub async fn write(&mut self, service: &ServiceName, told: &Told) -> Written {
        let now = self.cluster.now();
        let Some(left_out) = self.budget.take(now, service) else { return Written::Dropped };
        match self.create(service, told, left_out).await {
            Ok(()) => {
                self.told = None;
                Written::Written
            }
            Err(trouble) => {
                let text = trouble.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!(
                        service = service.name,
                        namespace = service.namespace,
                        "Event not written: {text} (or set kubernetes.events: false)"
                    );
                    self.told = Some(text);
                }
                Written::Failed
            }
        }
    }

    async fn create(&mut self, service: &ServiceName, told: &Told, left_out: u64) -> Result<(), Trouble> {
        let namespace = &service.namespace;
        let call = Call::new("create", &EVENTS, namespace);
        let client = self.cluster.client().await?;
        let uid = self.uid(&client, service).await;
        self.count += 1;
        let instance = self.cluster.identity().pod.clone().unwrap_or_else(|| "evenkeel".to_owned());
        let event = event(service, uid, told, left_out, &instance, (self.count, Timestamp::now()));
        let api: Api<Event> = Api::namespaced(client, namespace);
        let after = self.cluster.times().list;
        match timeout(after, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Trouble::new(call, &error)),
            Err(_) => Err(Trouble::TimedOut { call, after }),
        }
    }

    /// The UID of a Service, by which `kubectl describe` finds its Events. Its slices name it, so no right to read Services
    /// is needed; without it the Event is written all the same.
    async fn uid(&mut self, client: &kube::Client, service: &ServiceName) -> Option<String> {
        if let Some(uid) = self.uids.get(service) {
            return Some(uid.clone());
        }
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
        let labels = format!("kubernetes.io/service-name={}", service.name);
        let params = ListParams::default().labels(&labels).limit(1);
        let found = timeout(self.cluster.times().list, api.list_metadata(&params)).await.ok()?.ok()?;
        let uid = found.items.first().and_then(owner)?;
        if self.uids.len() < SERVICES_MAX {
            self.uids.insert(service.clone(), uid.clone());
        }
        Some(uid)
    }
}

fn owner(slice: &PartialObjectMeta<EndpointSlice>) -> Option<String> {
    let owners = slice.metadata.owner_references.as_ref()?;
    Some(owners.iter().find(|owner| owner.kind == "Service")?.uid.clone())
}

fn event(
    service: &ServiceName,
    uid: Option<String>,
    told: &Told,
    left_out: u64,
    instance: &str,
    (count, at): (u64, Timestamp),
) -> Event {
    let mut note = told.text.clone();
    if left_out > 0 {
        note += &format!(" ({left_out} earlier Events were left out.)");
    }
    let end = (0..=NOTE_BYTES_MAX.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    note.truncate(end.unwrap_or_default());
    // Unique among replicas and over restarts; the API wants a DNS name.
    let name = format!("{}.{:x}.{count}", service.name, at.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(service.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(at)),
        action: Some("Rebalance".to_owned()),
        reason: Some(told.reason.to_owned()),
        note: Some(note),
        type_: Some(if told.is_warning { "Warning" } else { "Normal" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.chars().take(128).collect()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName { namespace: "chat".into(), name: name.into() }
    }

    #[test]
    fn a_service_gets_ten_events_a_minute_and_the_next_says_what_was_left_out() {
        let (mut budget, chat) = (Budget::default(), service("chat"));
        let at = Time::from_millis;
        for n in 0..10 {
            assert_eq!(budget.take(at(n * 1_000), &chat), Some(0));
        }
        assert_eq!(budget.take(at(10_000), &chat), None);
        assert_eq!(budget.take(at(59_999), &chat), None);
        assert_eq!(budget.take(at(59_999), &service("other")), Some(0), "each has its own");
        assert_eq!(budget.take(at(60_000), &chat), Some(2));
        assert_eq!(budget.take(at(60_001), &chat), None);
    }

    #[test]
    fn an_event_is_what_the_api_documents() {
        let told = Told { reason: "PlanStopped", is_warning: true, text: "\u{e9}".repeat(600) };
        let at = Timestamp::UNIX_EPOCH;
        let event = event(&service("chat"), Some("uid-7".into()), &told, 3, "gw-0", (2, at));
        assert_eq!(event.metadata.name.as_deref(), Some("chat.0.2"));
        assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("PlanStopped")));
        assert_eq!(event.reporting_controller.as_deref(), Some("evenkeel.dev/gateway"));
        assert_eq!(event.reporting_instance.as_deref(), Some("gw-0"));
        let note = event.note.expect("it has a note");
        assert_eq!(note.len(), 1_024, "cut where a character ends");
        let regarding = event.regarding.expect("it is about something");
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("uid-7")));
    }
}
