//! A running gateway: how it starts, is reconfigured, looked at and stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use balance::PoolStatus;
use config::Config;
use model::{PoolName, Snapshot};
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::descriptors::{self, TooFew};
use crate::listen::{Acceptor, Handle};
use crate::rebalance::Rebalance;
use crate::shared::Shared;
use crate::telemetry;
use crate::tls::{Certificate, TlsError};
use crate::worker::Worker;
use crate::{drain, listen};

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
    /// Sessions, targets, moves and their outcomes by pool.
    pub pools: BTreeMap<PoolName, PoolStatus>,
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
        let descriptors = descriptors::raise();
        let connections_max = descriptors::connections_max(config.limits.connections_max, descriptors)?;
        let mut sockets = Vec::new();
        let mut certificates = Vec::new();
        for listener in &config.listeners {
            let address = listener.address;
            let certificate = listener.tls.clone().map(Certificate::load).transpose();
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
            pools: pools
                .iter()
                .map(|pool| (pool.name.clone(), pool.plan(|planner| planner.status(now))))
                .collect(),
        }
    }

    /// True until it begins to stop.
    pub fn is_ready(&self) -> bool {
        !self.shared.is_draining()
    }

    /// Accepts nothing more and closes every session, spread over the configured drain time. Returns the
    /// connections that were left when time was up.
    pub async fn shutdown(&self) -> usize {
        self.shared.set_draining();
        self.acceptors.iter().for_each(Acceptor::stop);
        let drain_time = self.shared.runtime.load().config.shutdown.drain_time;
        drain::run(&self.shared, &self.workers, drain_time).await
    }
}
