//! One Service as somebody follows it: what is watched goes into a [`View`], what comes out is told when it differs.

use std::sync::Arc;
use std::time::Duration;

use config::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::Endpoint;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::client::Cluster;
use crate::notes::Notes;
use crate::reflect::{Seen, Watched};
use crate::view::View;

/// Which Service is followed, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name.
    pub service: String,
    /// Its namespace; `None`: the gateway's own.
    pub namespace: Option<String>,
    /// Which port; `None`: the only one.
    pub port: Option<ServicePort>,
    /// Whether its Pods' annotations count.
    pub notes: PodNotes,
    /// For how long a Service that has lost all its EndpointSlices keeps its endpoints.
    pub empty_grace: Duration,
}

/// Whether the Pods' annotations `evenkeel.dev/weight` and `evenkeel.dev/drain` count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodNotes {
    /// They do. Needs `list` and `watch` on `pods`; without that all weigh 1.
    Read,
    /// They do not.
    Ignore,
}

/// What is known of a Service.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Found {
    /// Its endpoints, ordered by id; `None` when nothing was ever known.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Why that may be out of date, in words; `None` when it can be relied on.
    pub stale: Option<String>,
}

/// A Service that is followed for as long as this value lives.
#[derive(Debug)]
pub struct Endpoints {
    cluster: Cluster,
    view: View,
    slices: Followed<Arc<EndpointSlice>>,
    notes: Option<Followed<Notes>>,
    told: Option<Found>,
    complaints: Vec<String>,
}

#[derive(Debug)]
struct Followed<T> {
    rx: watch::Receiver<Seen<T>>,
    /// It is watched for as long as this lives.
    _watched: Arc<Watched<T>>,
}

impl<T> Followed<T> {
    fn new(watched: Arc<Watched<T>>) -> Self {
        Self { rx: watched.subscribe(), _watched: watched }
    }

    async fn next(&mut self) -> Seen<T> {
        match self.rx.changed().await {
            Ok(()) => self.rx.borrow_and_update().clone(),
            // The watch ended with the runtime.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Endpoints {
    pub(crate) fn new(
        cluster: Cluster,
        target: Target,
        slices: Arc<Watched<Arc<EndpointSlice>>>,
        notes: Option<Arc<Watched<Notes>>>,
    ) -> Self {
        let view = View::new(target, cluster.times());
        let (slices, notes) = (Followed::new(slices), notes.map(Followed::new));
        Self { cluster, view, slices, notes, told: None, complaints: Vec::new() }
    }

    /// What is known, as soon as that differs from what was told last. The first answer may be that nothing is.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Found {
        loop {
            let found = self.view.found();
            if self.told.as_ref() != Some(&found) {
                self.told = Some(found.clone());
                return found;
            }
            self.wait().await;
            self.complain();
        }
    }

    /// Until something has gone into the view.
    async fn wait(&mut self) {
        let timeout = self.view.poll_timeout().map(|at| self.cluster.instant(at));
        let notes = async {
            match &mut self.notes {
                Some(notes) => notes.next().await,
                None => std::future::pending().await,
            }
        };
        let time = async {
            match timeout {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            seen = self.slices.next() => self.view.handle_slices(self.cluster.now(), seen),
            seen = notes => self.view.handle_notes(self.cluster.now(), seen),
            () = time => self.view.handle_timeout(self.cluster.now()),
        }
    }

    /// Tells the log what is wrong with the Service itself; what is wrong with the API is told where it is noticed.
    fn complain(&mut self) {
        let complaints = self.view.complaints();
        for text in complaints.iter().filter(|text| !self.complaints.contains(text)) {
            tracing::warn!("{text}");
        }
        if complaints.is_empty() && !self.complaints.is_empty() {
            tracing::info!("{} is in order again", self.view.name());
        }
        self.complaints = complaints;
    }
}
