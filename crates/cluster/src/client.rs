//! The connection to the API, made when it is first needed and made anew when it fails.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, Config};
use model::Time;
use tokio::time::Instant;

use crate::identity::Identity;
use crate::notes::Notes;
use crate::reflect::{self, Kind, Scope, Watched};
use crate::resources::{PodKind, SliceKind};
use crate::service::{Endpoints, PodNotes, Target};
use crate::times::Times;
use crate::trouble::Trouble;

/// The cluster around this gateway. Copies share the connection and all that is watched.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    origin: Origin,
    identity: Identity,
    times: Times,
    started: Instant,
    client: Mutex<Option<Client>>,
    slices: Mutex<Shared<Arc<EndpointSlice>>>,
    notes: Mutex<Shared<Notes>>,
}

/// Where the API is.
enum Origin {
    /// KUBECONFIG (or `~/.kube/config`), else the Pod's service account: what kubectl and every client do.
    Environment,
    /// As it is given.
    Given(Box<Config>),
}

/// Watches that somebody uses, so that two pools of one Service need one.
type Shared<T> = BTreeMap<Scope, Weak<Watched<T>>>;

/// No credential is in it.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster that the environment names. Nothing is asked and nothing is read before it is needed.
    pub fn from_environment() -> Self {
        Self::new(Origin::Environment, Identity::from_environment(), Times::default())
    }

    /// The cluster at `config`, with waits of one's own: for tests.
    pub fn at(config: Config, identity: Identity, times: Times) -> Self {
        Self::new(Origin::Given(Box::new(config)), identity, times)
    }

    fn new(origin: Origin, identity: Identity, times: Times) -> Self {
        Self(Arc::new(Inner {
            origin,
            identity,
            times,
            started: Instant::now(),
            client: Mutex::default(),
            slices: Mutex::default(),
            notes: Mutex::default(),
        }))
    }

    /// Who this replica is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// How long the API is waited for.
    pub fn times(&self) -> Times {
        self.0.times
    }

    /// A client that speaks with the API. It exists as soon as the API's address is known, whether that answers or not.
    ///
    /// # Errors
    /// [`Trouble::NotConfigured`] when nothing names the API, or what names it can not be read.
    pub async fn client(&self) -> Result<Client, Trouble> {
        if let Some(client) = lock(&self.0.client).clone() {
            return Ok(client);
        }
        let mut config = match &self.0.origin {
            Origin::Given(config) => (**config).clone(),
            Origin::Environment => Config::infer().await.map_err(|error| not_configured(&error))?,
        };
        config.connect_timeout = Some(self.0.times.connect);
        // Who asks knows better when to ask again.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| not_configured(&error))?;
        *lock(&self.0.client) = Some(client.clone());
        Ok(client)
    }

    /// Follows the endpoints of a Service. What several follow is watched once, for as long as somebody follows it.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and IO enabled.
    pub fn endpoints(&self, target: Target) -> Endpoints {
        let namespace = target.namespace.clone().or_else(|| self.0.identity.namespace.clone());
        let labels = Some(format!("kubernetes.io/service-name={}", target.service));
        let slices =
            self.watched::<SliceKind>(&self.0.slices, Scope { namespace: namespace.clone(), labels });
        let notes = match target.notes {
            PodNotes::Read => Some(self.watched::<PodKind>(&self.0.notes, Scope { namespace, labels: None })),
            PodNotes::Ignore => None,
        };
        Endpoints::new(self.clone(), target, slices, notes)
    }

    /// Makes the next [`Self::client`] a new one.
    pub(crate) fn forget(&self) {
        *lock(&self.0.client) = None;
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.0.started.elapsed()
    }

    /// The moment of the clock that [`Self::now`] calls `time`.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.0.started + (time - Time::ZERO)
    }

    fn watched<K: Kind>(&self, shared: &Mutex<Shared<K::Item>>, scope: Scope) -> Arc<Watched<K::Item>> {
        let mut shared = lock(shared);
        shared.retain(|_, watched| watched.strong_count() > 0);
        if let Some(watched) = shared.get(&scope).and_then(Weak::upgrade) {
            return watched;
        }
        let watched = Arc::new(reflect::spawn::<K>(self.clone(), scope.clone()));
        shared.insert(scope, Arc::downgrade(&watched));
        watched
    }
}

fn not_configured(error: &dyn std::error::Error) -> Trouble {
    // The text of a credential plugin's failure could hold what it printed; it has no part in finding the API.
    let mut cause: String = error.to_string().chars().filter(|c| !c.is_control()).collect();
    cause.truncate(cause.char_indices().nth(300).map_or(cause.len(), |(at, _)| at));
    Trouble::NotConfigured { cause }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind it is replaced whole: no panic leaves it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
