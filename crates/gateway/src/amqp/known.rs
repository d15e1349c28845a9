//! What has been learned of a pool's endpoints from their handshakes: bounds, the cluster's name, whether they answer.
//!
//! Bounds are told to clients, so that any endpoint of the pool can take a session over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amqp::{Start, Tune, may_be_one_cluster};
use model::{Endpoint, EndpointId, EndpointState, PoolName};

/// What a client is offered as long as nothing is known: RabbitMQ's own defaults.
pub const OFFER: Tune = Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
/// No bound at all.
pub const UNBOUNDED: Tune = Tune { channel_max: 0, frame_max: 0, heartbeat: 0 };

/// What is known of a pool's endpoints. Nothing, for a pool that speaks HTTP.
#[derive(Debug, Default)]
pub struct Known(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    endpoints: BTreeMap<EndpointId, Facts>,
    start: Option<Arc<[u8]>>,
    /// The warning about several clusters is out.
    warned: bool,
}

#[derive(Debug, Default)]
struct Facts {
    tune: Option<Tune>,
    cluster: Option<Box<[u8]>>,
    /// Probes in a row that were not answered.
    failures: u32,
    is_silent: bool,
}

impl Known {
    /// `endpoint` has begun a handshake with this payload of a `connection.start`.
    pub fn learn_start(&self, pool: &PoolName, endpoint: &EndpointId, payload: &[u8]) {
        let Ok(start) = Start::parse(payload) else { return };
        let mut inner = self.lock();
        if inner.start.as_deref() != Some(payload) {
            inner.start = Some(payload.into());
        }
        let cluster = start.cluster_name();
        let facts = inner.facts(endpoint);
        if facts.cluster.as_deref() != cluster {
            facts.cluster = cluster.map(Into::into);
        }
        let is_mixed = inner.is_mixed();
        if is_mixed && !inner.warned {
            tracing::warn!(%pool, %endpoint, "endpoints of this pool belong to different clusters (cluster_name), whose queues are not the same; \
                sessions migrate only within one");
        }
        inner.warned = is_mixed;
    }

    /// `endpoint` has offered these bounds. They depend on nobody but it.
    pub fn learn_tune(&self, endpoint: &EndpointId, offered: Tune) {
        self.lock().facts(endpoint).tune = Some(offered);
    }

    /// What all endpoints allow, as far as it is known; the heartbeat is one of theirs.
    pub fn bounds(&self) -> Option<Tune> {
        self.lock().endpoints.values().filter_map(|facts| facts.tune).reduce(Tune::within)
    }

    /// The payload of the last `connection.start`.
    pub fn start(&self) -> Option<Arc<[u8]>> {
        self.lock().start.clone()
    }

    /// `endpoint` has answered a probe. True: it was thought silent.
    pub fn answered(&self, endpoint: &EndpointId) -> bool {
        let mut inner = self.lock();
        let facts = inner.facts(endpoint);
        facts.failures = 0;
        std::mem::take(&mut facts.is_silent)
    }

    /// `endpoint` has not answered a probe. True: for the `failures_max`th time in a row, and not beyond.
    pub fn failed(&self, endpoint: &EndpointId, failures_max: u32) -> bool {
        let mut inner = self.lock();
        let facts = inner.facts(endpoint);
        facts.failures = facts.failures.saturating_add(1);
        let is_new = !facts.is_silent && facts.failures >= failures_max;
        facts.is_silent |= is_new;
        is_new
    }

    /// Nobody asks any more: all count as they are listed. True: one of them was thought silent.
    pub fn forget_probes(&self) -> bool {
        let mut inner = self.lock();
        let was_silent = inner.endpoints.values().any(|facts| facts.is_silent);
        for facts in inner.endpoints.values_mut() {
            (facts.failures, facts.is_silent) = (0, false);
        }
        was_silent
    }

    /// The endpoints as the planner is to see them: those that do not answer are unready. Forgets all others.
    pub fn judge(&self, listed: &[Endpoint]) -> Vec<Endpoint> {
        let mut inner = self.lock();
        inner.endpoints.retain(|id, _| listed.iter().any(|endpoint| endpoint.id == *id));
        let judged = |endpoint: &Endpoint| {
            let is_silent = inner.endpoints.get(&endpoint.id).is_some_and(|facts| facts.is_silent);
            let mut endpoint = endpoint.clone();
            if is_silent && endpoint.state == EndpointState::Ready {
                endpoint.state = EndpointState::Unready;
            }
            endpoint
        };
        listed.iter().map(judged).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn facts(&mut self, endpoint: &EndpointId) -> &mut Facts {
        self.endpoints.entry(endpoint.clone()).or_default()
    }

    fn is_mixed(&self) -> bool {
        let mut names = self.endpoints.values().filter_map(|facts| facts.cluster.as_deref());
        let Some(first) = names.next() else { return false };
        names.any(|name| !may_be_one_cluster(name, first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str) -> Endpoint {
        let address = "127.0.0.1:1".parse().expect("an address");
        Endpoint::new(id, address)
    }

    #[test]
    fn clients_are_promised_what_every_endpoint_allows() {
        let known = Known::default();
        assert_eq!(known.bounds(), None);
        known.learn_tune(&"a".into(), Tune { channel_max: 2047, frame_max: 0, heartbeat: 60 });
        known.learn_tune(&"b".into(), Tune { channel_max: 100, frame_max: 8192, heartbeat: 60 });
        let both = Tune { channel_max: 100, frame_max: 8192, heartbeat: 60 };
        assert_eq!(known.bounds(), Some(both));
        known.judge(&[listed("a")]);
        assert_eq!(known.bounds().map(|tune| tune.channel_max), Some(2047), "b is gone");
    }

    #[test]
    fn an_endpoint_is_unready_after_so_many_silent_probes_and_ready_after_one_answer() {
        let (known, id) = (Known::default(), EndpointId::from("a"));
        let state = || known.judge(&[listed("a")])[0].state;
        assert_eq!([(); 4].map(|()| known.failed(&id, 3)), [false, false, true, false]);
        assert_eq!(state(), EndpointState::Unready);
        assert!(known.answered(&id));
        assert!(!known.answered(&id));
        assert_eq!(state(), EndpointState::Ready);
        assert_eq!([(); 2].map(|()| known.failed(&id, 3)), [false, false], "counted anew");
    }

    #[test]
    fn a_silent_endpoint_that_drains_goes_on_draining() {
        let known = Known::default();
        known.failed(&"a".into(), 1);
        let draining = Endpoint { state: EndpointState::Terminating, ..listed("a") };
        assert_eq!(known.judge(&[draining])[0].state, EndpointState::Terminating);
    }
}
