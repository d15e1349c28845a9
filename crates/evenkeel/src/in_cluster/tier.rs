//! Follows the gateway's own headless Service: how many replicas are ready, and what each has.
//!
//! A replica is asked at its admin port. What the numbers mean for sessions is decided by `balance::Tier`, in the gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, Endpoints, Found, Identity, PodNotes, Target};
use config::Config;
use futures_util::future::join_all;
use gateway::{Gateway, TierReport};
use hyper::Method;
use model::{Endpoint, EndpointId, EndpointState, PoolName, ReplicaName, Zone};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::client::{Address, Call, ask_at_most};

/// Between two polls.
const POLL: Duration = Duration::from_secs(5);
/// Longest wait for a replica's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer: some ten thousand endpoints.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A list of replicas counts once it has been the same for this long.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// More replicas are not asked; the bound of `replicas`.
const REPLICAS_MAX: usize = 1_000;

/// What all replicas have together.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Totals {
    /// Sessions by pool and endpoint; `None` while a replica's are missing.
    pub sessions: Option<BTreeMap<PoolName, BTreeMap<EndpointId, u64>>>,
    /// This replica writes for all.
    pub is_writer: bool,
}

/// Another replica that is ready.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Peer {
    name: ReplicaName,
    admin: SocketAddr,
}

/// The tier as its Service shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    /// This replica knows which entry is its own, or that it has none yet.
    Others(Vec<Peer>),
    /// It does not: only the number can be told, this one included.
    Number(usize),
}

/// The task.
pub struct Follower {
    gateway: Arc<Gateway>,
    cluster: Cluster,
    config: watch::Receiver<Arc<Config>>,
    totals: watch::Sender<Totals>,
    service: Option<(Target, Endpoints)>,
    /// In force.
    seen: Option<Seen>,
    /// To be in force then.
    next: Option<(Instant, Seen)>,
    /// Where this replica runs: a Pod never changes its node.
    zone: Option<Zone>,
}

impl Follower {
    /// Of the tier that `config` names, whenever it does.
    pub fn new(
        gateway: Arc<Gateway>,
        cluster: Cluster,
        config: watch::Receiver<Arc<Config>>,
        totals: watch::Sender<Totals>,
    ) -> Self {
        Self { gateway, cluster, config, totals, service: None, seen: None, next: None, zone: None }
    }

    /// One loop: the configuration, the Service, the polls.
    pub async fn run(mut self) {
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_configured = true;
        self.retarget();
        loop {
            let settles = self.next.as_ref().map(|(at, _)| *at);
            tokio::select! {
                changed = self.config.changed(), if is_configured => {
                    is_configured = changed.is_ok();
                    self.retarget();
                }
                found = next(&mut self.service) => self.take(&found),
                () = until(settles) => self.settle(),
                _ = polls.tick() => self.poll().await,
            }
        }
    }

    /// Follows the Service that the configuration names now.
    fn retarget(&mut self) {
        let config = self.config.borrow_and_update().clone();
        let target = config.tier.as_ref().map(|tier| Target {
            service: tier.service.clone(),
            namespace: tier.namespace.clone(),
            port: Some(tier.port.clone()),
            notes: PodNotes::Ignore,
            empty_grace: config.kubernetes.empty_grace,
        });
        if self.service.as_ref().map(|(target, _)| target) == target.as_ref() {
            return;
        }
        (self.seen, self.next) = (None, None);
        self.service = target.map(|target| (target.clone(), self.cluster.endpoints(target)));
    }

    /// Takes what the Service has now; a list without a ready replica says nothing, since this one runs.
    fn take(&mut self, found: &Found) {
        let list = found.endpoints.as_deref().unwrap_or_default();
        self.learn_zone(list);
        let seen = look(list, self.cluster.identity());
        let Some(seen) = seen else { return };
        self.next = (self.seen.as_ref() != Some(&seen)).then(|| {
            // The first list is better than none.
            let wait = if self.seen.is_none() { Duration::ZERO } else { DEBOUNCE };
            (Instant::now() + wait, seen)
        });
    }

    /// The own entry tells it, ready or not.
    fn learn_zone(&mut self, list: &[Endpoint]) {
        let Some(zone) = zone_of(list, self.cluster.identity()).filter(|_| self.zone.is_none()) else {
            return;
        };
        tracing::info!(%zone, "own zone, as the Service of the tier says");
        self.gateway.set_zone(Some(zone.clone()));
        self.zone = Some(zone);
    }

    fn settle(&mut self) {
        let Some((_, seen)) = self.next.take() else { return };
        let names: Vec<ReplicaName> = match &seen {
            Seen::Others(peers) => peers.iter().map(|peer| peer.name.clone()).collect(),
            Seen::Number(number) => {
                if !matches!(self.seen, Some(Seen::Number(_))) {
                    tracing::warn!(
                        "which of the gateway replicas this one is, is not known: set POD_UID, POD_NAME or POD_IP from the \
                        downward API; the replicas are counted, and nothing else"
                    );
                }
                (1..*number).map(|place| format!("replica-{place}").as_str().into()).collect()
            }
        };
        tracing::info!(replicas = names.len() + 1, "ready gateway replicas");
        self.gateway.set_peers(&names);
        self.seen = Some(seen);
    }

    /// Asks every other replica.
    async fn poll(&mut self) {
        let own = self.gateway.tier_report();
        let peers: &[Peer] = match &self.seen {
            Some(Seen::Others(peers)) => peers,
            Some(Seen::Number(1)) => &[],
            Some(Seen::Number(_)) => return self.tell(Totals::default()),
            // Nobody counts the replicas: the configuration says how many they are.
            None if self.service.is_none() && self.config.borrow().replicas == 1 => &[],
            None => return self.tell(Totals::default()),
        };
        let reports = join_all(peers.iter().map(ask)).await;
        for (peer, report) in peers.iter().zip(&reports) {
            self.gateway.set_peer_report(&peer.name, report.as_ref());
        }
        let names = peers.iter().map(|peer| peer.name.as_str());
        let is_writer = own_name(self.cluster.identity())
            .map_or(peers.is_empty(), |own| cluster::deletion_cost::is_writer(&own, names));
        self.tell(Totals { sessions: sum(own, reports), is_writer });
    }

    fn tell(&self, totals: Totals) {
        self.totals.send_if_modified(|known| {
            let differs = *known != totals;
            *known = totals;
            differs
        });
    }
}

async fn next(service: &mut Option<(Target, Endpoints)>) -> Found {
    match service {
        Some((_, endpoints)) => endpoints.next().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// `None`: it does not say.
async fn ask(peer: &Peer) -> Option<TierReport> {
    let address: Address = peer.admin.to_string().parse().ok()?;
    let call = Call { method: Method::GET, path: "/api/v1/tier".to_owned() };
    let answer = match ask_at_most(&address, &call, None, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(replica = %peer.name, %error, "a gateway replica does not tell its sessions");
            return None;
        }
    };
    match serde_json::from_value(answer) {
        Ok(report) => Some(report),
        Err(error) => {
            tracing::debug!(replica = %peer.name, %error, "a gateway replica tells its sessions in another form");
            None
        }
    }
}

/// The ready replicas but this one. `None`: none is ready, which can not be.
fn look(list: &[Endpoint], identity: &Identity) -> Option<Seen> {
    let ready: Vec<&Endpoint> =
        list.iter().filter(|endpoint| endpoint.state == EndpointState::Ready).take(REPLICAS_MAX).collect();
    if ready.is_empty() {
        return None;
    }
    if identity.uid.is_none() && identity.address.is_none() && identity.pod.is_none() {
        return Some(Seen::Number(ready.len()));
    }
    let others = ready.into_iter().filter(|endpoint| !is_own(endpoint, identity));
    let peer = |endpoint: &Endpoint| Peer { name: name_of(endpoint), admin: endpoint.address };
    Some(Seen::Others(others.map(peer).collect()))
}

/// Of the entry that is this replica's.
fn zone_of(list: &[Endpoint], identity: &Identity) -> Option<Zone> {
    list.iter().find(|endpoint| is_own(endpoint, identity))?.zone.clone()
}

fn is_own(endpoint: &Endpoint, identity: &Identity) -> bool {
    if let Some(uid) = &identity.uid {
        return endpoint.id.as_str() == uid;
    }
    let pod = endpoint.pod.as_ref().map(|pod| pod.name.as_str());
    match &identity.pod {
        Some(own) if pod.is_some() => pod == Some(own),
        _ => identity.address == Some(endpoint.address.ip()),
    }
}

fn name_of(endpoint: &Endpoint) -> ReplicaName {
    match &endpoint.pod {
        Some(pod) => pod.name.as_str().into(),
        None => endpoint.address.ip().to_string().as_str().into(),
    }
}

/// As the others call this one.
fn own_name(identity: &Identity) -> Option<String> {
    identity.pod.clone().or_else(|| identity.address.as_ref().map(IpAddr::to_string))
}

/// `None` when a report is missing.
fn sum(
    own: TierReport,
    others: Vec<Option<TierReport>>,
) -> Option<BTreeMap<PoolName, BTreeMap<EndpointId, u64>>> {
    let mut sums: BTreeMap<PoolName, BTreeMap<EndpointId, u64>> = BTreeMap::new();
    for report in others.into_iter().chain([Some(own)]) {
        for (pool, endpoints) in report?.pools {
            let sums = sums.entry(pool).or_default();
            for (endpoint, sessions) in endpoints {
                *sums.entry(endpoint).or_default() += u64::from(sessions);
            }
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use model::Pod;

    use super::*;

    fn replica(name: &str, ip: &str, state: EndpointState) -> Endpoint {
        let address: SocketAddr = format!("{ip}:9900").parse().expect("it is an address");
        let pod = Pod { namespace: "gw".into(), name: name.into(), node: None };
        let uid = format!("uid-{name}");
        Endpoint { state, pod: Some(Arc::new(pod)), ..Endpoint::new(uid.as_str(), address) }
    }

    fn names(seen: Option<Seen>) -> Vec<String> {
        match seen {
            Some(Seen::Others(peers)) => peers.iter().map(|peer| peer.name.to_string()).collect(),
            Some(Seen::Number(number)) => vec![format!("{number} in all")],
            None => vec!["nothing".to_owned()],
        }
    }

    #[test]
    fn the_others_are_the_ready_entries_that_are_not_our_own() {
        let list = [
            replica("a", "10.0.0.1", EndpointState::Ready),
            replica("b", "10.0.0.2", EndpointState::Ready),
            replica("c", "10.0.0.3", EndpointState::Unready),
            replica("d", "10.0.0.4", EndpointState::Terminating),
        ];
        let uid = |text: &str| Identity { uid: Some(text.into()), ..Identity::default() };
        let pod = |text: &str| Identity { pod: Some(text.into()), ..Identity::default() };
        let address = |text: &str| Identity { address: text.parse().ok(), ..Identity::default() };
        for (identity, expected) in [
            (uid("uid-a"), vec!["b"]),
            (pod("b"), vec!["a"]),
            (address("10.0.0.2"), vec!["a"]),
            (uid("uid-new"), vec!["a", "b"]),
            (Identity { pod: Some("a".into()), ..uid("uid-c") }, vec!["a", "b"]),
            (Identity::default(), vec!["2 in all"]),
        ] {
            assert_eq!(names(look(&list, &identity)), expected, "{identity:?}");
        }
        assert_eq!(names(look(&list[2..], &uid("uid-a"))), ["nothing"]);
        assert_eq!(names(look(&[], &uid("uid-a"))), ["nothing"]);
    }

    #[test]
    fn the_own_entry_tells_the_zone_whatever_its_state() {
        let placed = |name: &str, ip: &str, zone: &str| Endpoint {
            zone: Some(zone.into()),
            ..replica(name, ip, EndpointState::Unready)
        };
        let list = [placed("a", "10.0.0.1", "eu-1a"), placed("b", "10.0.0.2", "eu-1b")];
        let own = |name: &str| Identity { pod: Some(name.into()), ..Identity::default() };
        assert_eq!(zone_of(&list, &own("b")), Some("eu-1b".into()));
        assert_eq!(zone_of(&list, &own("c")), None);
        assert_eq!(zone_of(&list, &Identity::default()), None);
    }

    #[test]
    fn sessions_are_summed_by_endpoint_and_unknown_while_one_is_silent() {
        let report = |count: u32| TierReport {
            pools: [("chat".into(), [("e0".into(), count), ("e1".into(), 1)].into())].into(),
            ..TierReport::default()
        };
        let sums = sum(report(5), vec![Some(report(7)), Some(TierReport::default())]).expect("all have told");
        let chat: Vec<u64> = sums[&PoolName::from("chat")].values().copied().collect();
        assert_eq!(chat, [12, 2]);
        assert_eq!(sum(report(5), vec![Some(report(7)), None]), None);
    }
}
