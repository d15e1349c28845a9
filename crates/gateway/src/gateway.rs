//! A running gateway: how it starts, is reconfigured, looked at and stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use balance::{Plan, Planner, PoolStatus, TierStatus, UnknownEndpoint};
use config::Config;
use model::{EndpointId, PoolName, ReplicaName, Snapshot, Time, Zone};
use serde::Serialize;
use tokio::sync::watch;

use crate::amqp::probe;
use crate::clock::Clock;
use crate::descriptors::{self, TooFew};
use crate::drain::Drain;
use crate::listen::{Acceptor, Handle};
use crate::pool::Pool;
use crate::rebalance::Rebalance;
use crate::reports::Notices;
use crate::shared::Shared;
use crate::telemetry;
use crate::tier::TierReport;
use crate::tls::{Certificate, TlsError};
use crate::worker::Worker;
use crate::{census, listen, rehearse, tier, zeroes};

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error(
        "listener {address}: {error}; is another process on that port, or is the address not of this machine?"
    )]
    Bind {
        /// The listener's address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// A certificate can not be used.
    #[error("listener {address}: {error}")]
    Tls {
        /// The listener's address.
        address: SocketAddr,
        /// What is wrong.
        error: TlsError,
    },
    /// The file descriptors do not suffice.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The system gives no thread or epoll descriptor.
    #[error("the system gives no thread or epoll descriptor: {0}")]
    System(#[from] std::io::Error),
}

/// A command names what is not there.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such pool.
    #[error("there is no pool {pool}; pools: {known}")]
    UnknownPool {
        /// What was named.
        pool: PoolName,
        /// What there is.
        known: String,
    },
    /// No such endpoint.
    #[error("pool {pool}: {error}")]
    UnknownEndpoint {
        /// The pool.
        pool: PoolName,
        /// What was named, and what there is.
        error: UnknownEndpoint,
    },
}

/// What the gateway looks like now.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Takes new clients.
    pub ready: bool,
    /// Where clients connect.
    pub listeners: Vec<SocketAddr>,
    /// Client connections now, tunnels and plain HTTP.
    pub connections: usize,
    /// Their bound.
    pub connections_max: usize,
    /// The gateway's own replicas.
    pub tier: TierStatus,
    /// Sessions, targets, moves and their outcomes by pool.
    pub pools: BTreeMap<PoolName, PoolView>,
}

/// What a pool looks like now.
#[derive(Clone, Debug, Serialize)]
pub struct PoolView {
    /// As its planner sees it.
    #[serde(flatten)]
    pub planner: PoolStatus,
    /// Sessions that can not be moved, by reason; a reason that was there once stays, with 0.
    pub pinned: BTreeMap<&'static str, usize>,
}

fn view(now: Time, pool: &Pool) -> PoolView {
    PoolView { planner: pool.plan(|planner| planner.status(now)), pinned: pool.gauges.pinned() }
}

/// A running gateway. Dropping it stops nothing: call [`Gateway::shutdown`].
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    addresses: Vec<SocketAddr>,
    acceptors: Vec<Acceptor>,
    /// The workers end with the last of these: they must outlive the acceptors by the whole drain.
    _handles: Arc<Vec<Handle>>,
    descriptors: u64,
}

impl Gateway {
    /// Binds, starts the workers and accepts clients. Call inside a tokio runtime: the rebalance loop runs on it.
    ///
    /// # Errors
    /// [`StartError`]: an address, a certificate, or the system's limits.
    pub fn start(config: Arc<Config>, snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<Self, StartError> {
        telemetry::describe();
        zeroes::process();
        let descriptors = descriptors::raise();
        let connections_max = descriptors::connections_max(config.limits.connections_max, descriptors)?;
        let mut sockets = Vec::new();
        let mut certificates = Vec::new();
        for listener in &config.listeners {
            let address = listener.address;
            let certificate =
                listener.tls.clone().map(|tls| Certificate::load(tls, listener.protocol)).transpose();
            certificates.push(certificate.map_err(|error| StartError::Tls { address, error })?.map(Arc::new));
            sockets.push(
                listen::bind(listener, config.limits.write_stall_timeout)
                    .map_err(|error| StartError::Bind { address, error })?,
            );
        }
        let addresses = sockets.iter().map(std::net::TcpListener::local_addr).collect::<Result<_, _>>()?;
        let count = match config.workers {
            Some(count) => count,
            None => std::thread::available_parallelism()?.get(),
        };
        let shared = Shared::new(Clock::start(), config, certificates, connections_max);
        let handles = (0..count).map(|index| Worker::start(index, shared.clone()));
        let handles = handles.collect::<Result<Vec<_>, _>>()?;
        let workers: Vec<_> = handles.iter().map(|(worker, _)| worker.clone()).collect();
        let mut rebalance = Rebalance::new(shared.clone(), workers.clone(), snapshots);
        rebalance.take_endpoints();
        tokio::spawn(rebalance.run());
        tokio::spawn(probe::run(shared.clone()));
        let handles = Arc::new(handles);
        let acceptors = sockets
            .into_iter()
            .enumerate()
            .map(|(index, socket)| Acceptor::start(shared.clone(), index, socket, handles.clone()));
        let acceptors = acceptors.collect::<Result<_, _>>()?;
        Ok(Self { shared, workers, addresses, acceptors, _handles: handles, descriptors })
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes a new configuration without touching a session. Listeners stay as they are.
    ///
    /// # Errors
    /// When the descriptors do not suffice for the new bound; the old configuration stays.
    pub fn reconfigure(&self, config: Arc<Config>) -> Result<(), TooFew> {
        let max = descriptors::connections_max(config.limits.connections_max, self.descriptors)?;
        self.shared.reconfigure(config, max);
        Ok(())
    }

    /// Reads the certificate files again. A bad one is logged; the old one stays in use.
    pub fn refresh_certificates(&self) {
        for (certificate, address) in self.shared.certificates.iter().zip(&self.addresses) {
            match certificate.as_ref().map(|certificate| certificate.refresh()) {
                None | Some(Ok(false)) => {}
                Some(Ok(true)) => {
                    telemetry::reloaded("certificate", true);
                    tracing::info!(listener = %address, "certificate changed: new connections get the new one");
                }
                Some(Err(error)) => {
                    telemetry::reloaded("certificate", false);
                    tracing::warn!(listener = %address, %error, "certificate can not be read; the old one stays in use");
                }
            }
        }
    }

    /// What it looks like now.
    pub fn status(&self) -> Status {
        let now = self.shared.clock.now();
        let pools = self.shared.pools();
        Status {
            ready: !self.shared.is_draining(),
            listeners: self.addresses.clone(),
            connections: self.shared.admission.total(),
            connections_max: self.shared.runtime.load().connections_max,
            tier: self.shared.replicas.status(now, &pools, self.shared.is_draining()),
            pools: pools.iter().map(|pool| (pool.name.clone(), view(now, pool))).collect(),
        }
    }

    /// What would be moved if the plans began now, and what keeps it: for one pool, or for all.
    ///
    /// # Errors
    /// [`CommandError::UnknownPool`].
    pub fn plan(&self, pool: Option<&PoolName>) -> Result<BTreeMap<PoolName, Plan>, CommandError> {
        let now = self.shared.clock.now();
        let pools = self.named(pool)?;
        let mut movable = census::movable(now, &self.workers, &pools);
        let plan = |pool: Arc<Pool>| {
            let sessions = movable.remove(&pool.name).unwrap_or_default();
            (pool.name.clone(), pool.plan(|planner| planner.explain(now, &sessions)))
        };
        Ok(pools.into_iter().map(plan).collect())
    }

    /// Levels a pool now, without waiting for a check.
    ///
    /// # Errors
    /// [`CommandError::UnknownPool`].
    pub fn rebalance(&self, pool: &PoolName) -> Result<(), CommandError> {
        self.order(Some(pool), Planner::rebalance).map(drop)
    }

    /// Migrates every session of a pool that can migrate to another endpoint, once. Returns how many were told to.
    ///
    /// # Errors
    /// [`CommandError::UnknownPool`].
    pub fn rehearse(&self, pool: &PoolName) -> Result<u64, CommandError> {
        let now = self.shared.clock.now();
        let pools = self.named(Some(pool))?;
        Ok(pools.iter().map(|pool| rehearse::run(now, &self.workers, pool)).sum())
    }

    /// Moves nothing for balance in one pool, or in all, until [`Gateway::resume`]. Returns which.
    ///
    /// # Errors
    /// [`CommandError::UnknownPool`].
    pub fn pause(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, CommandError> {
        self.order(pool, Planner::pause)
    }

    /// Ends a pause and the return guard's stop. Returns of which pools.
    ///
    /// # Errors
    /// [`CommandError::UnknownPool`].
    pub fn resume(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, CommandError> {
        self.order(pool, Planner::resume)
    }

    /// Empties an endpoint by `deadline` from now (default: the pool's `drain_deadline`). Returns the one that counts.
    ///
    /// # Errors
    /// [`CommandError`]: no such pool or endpoint.
    pub fn drain(
        &self,
        pool: &PoolName,
        endpoint: &EndpointId,
        deadline: Option<Duration>,
    ) -> Result<Duration, CommandError> {
        let now = self.shared.clock.now();
        self.on_endpoint(pool, |planner| planner.drain(now, endpoint, deadline))
    }

    /// Takes [`Gateway::drain`] back.
    ///
    /// # Errors
    /// [`CommandError`]: no such pool or endpoint.
    pub fn cancel_drain(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<(), CommandError> {
        let now = self.shared.clock.now();
        self.on_endpoint(pool, |planner| planner.cancel_drain(now, endpoint))
    }

    /// What is still at an endpoint: see [`Gateway::drain`]. 0 for one that is not there.
    ///
    /// # Errors
    /// [`CommandError::UnknownPool`].
    pub fn left(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<u64, CommandError> {
        let now = self.shared.clock.now();
        Ok(self.named(Some(pool))?.iter().map(|pool| pool.left(now, endpoint)).sum())
    }

    fn on_endpoint<T>(
        &self,
        pool: &PoolName,
        order: impl Fn(&mut Planner) -> Result<T, UnknownEndpoint>,
    ) -> Result<T, CommandError> {
        let [pool] = self.named(Some(pool))?.try_into().map_err(|_| self.unknown(pool))?;
        let done = pool
            .plan(order)
            .map_err(|error| CommandError::UnknownEndpoint { pool: pool.name.clone(), error })?;
        self.shared.wake_planner();
        Ok(done)
    }

    fn order(
        &self,
        pool: Option<&PoolName>,
        order: impl Fn(&mut Planner, Time),
    ) -> Result<Vec<PoolName>, CommandError> {
        let now = self.shared.clock.now();
        let pools = self.named(pool)?;
        pools.iter().for_each(|pool| pool.plan(|planner| order(planner, now)));
        self.shared.wake_planner();
        Ok(pools.iter().map(|pool| pool.name.clone()).collect())
    }

    /// The pool of that name, or all.
    fn named(&self, pool: Option<&PoolName>) -> Result<Vec<Arc<Pool>>, CommandError> {
        let mut pools = self.shared.pools();
        if let Some(name) = pool {
            pools.retain(|pool| pool.name == *name);
            if pools.is_empty() {
                return Err(self.unknown(name));
            }
        }
        Ok(pools)
    }

    fn unknown(&self, pool: &PoolName) -> CommandError {
        let known: Vec<_> = self.shared.pools().iter().map(|pool| pool.name.to_string()).collect();
        CommandError::UnknownPool { pool: pool.clone(), known: known.join(", ") }
    }

    /// What this replica tells the others of itself.
    pub fn tier_report(&self) -> TierReport {
        tier::report(self.shared.clock.now(), &self.shared.pools(), self.shared.is_draining())
    }

    /// Where this replica runs, as its own EndpointSlice entry says. A `zone` in the configuration counts for more.
    pub fn set_zone(&self, zone: Option<Zone>) {
        self.shared.set_zone(zone);
    }

    /// The other ready replicas of the tier: their number divides the budgets, their names are those of
    /// [`Gateway::set_peer_report`]. Without a call, the configuration's `replicas` counts.
    pub fn set_peers(&self, peers: &[ReplicaName]) {
        self.shared.set_peers(peers);
    }

    /// What another replica says of itself; `None`: it does not answer.
    pub fn set_peer_report(&self, peer: &ReplicaName, report: Option<&TierReport>) {
        let count = report.map(TierReport::count);
        self.shared.replicas.set_count(self.shared.clock.now(), peer, count);
    }

    /// Sends what is worth an Event to `notices`, from now on. Only the first call has an effect.
    pub fn listen(&self, notices: Notices) {
        let _ = self.shared.notices.set(notices);
    }

    /// True until it begins to stop.
    pub fn is_ready(&self) -> bool {
        !self.shared.is_draining()
    }

    /// Is not ready from now on, closes every session at an even pace, and takes new clients for as long as others may not know
    /// yet that it goes. Returns the connections that were left when time was up.
    pub async fn shutdown(&self) -> usize {
        self.shared.set_draining();
        let times = self.shared.runtime.load().config.shutdown.clone();
        let close = || {
            self.shared.set_closed();
            self.acceptors.iter().for_each(Acceptor::stop);
        };
        Drain::new(&self.shared, &self.workers, &times).run(close).await
    }
}
