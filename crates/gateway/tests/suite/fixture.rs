//! A gateway for one test, with an endpoint list made by hand.
//!
//! When it is dropped, all sockets of the test are closed already (they are declared after it): every count must
//! come back to zero, whatever the test did.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use gateway::{Gateway, Status};
use model::{Endpoint as Known, EndpointId, EndpointState, PoolName, Snapshot};
use tokio::sync::{oneshot, watch};

use crate::support::amqp;
use crate::support::http::UPGRADE;
use crate::support::{Endpoint, Wire, eventually, wait_until};

/// The pool of tests that need one.
pub const POOL: &str = "chat";

/// A configuration, part by part. Waits of an ending session are short, so that no test waits for them.
#[derive(Clone, Debug)]
pub struct Setup {
    listeners: String,
    routes: String,
    pool: String,
    more_pools: String,
    limits: String,
    rest: String,
}

impl Setup {
    /// One plain listener, one route, one pool.
    pub fn new() -> Self {
        Self {
            listeners: "- address: 127.0.0.1:0\n".into(),
            routes: format!("- pool: {POOL}\n"),
            pool: String::new(),
            more_pools: String::new(),
            limits: String::new(),
            rest: String::new(),
        }
    }

    /// One AMQP listener with one route, and one pool with these keys in its `amqp` part. Unless they say otherwise, nobody
    /// probes, and a former connection is closed at once.
    pub fn amqp(keys: &str) -> Self {
        let setup =
            Self::new().listeners("- {address: 127.0.0.1:0, protocol: amqp, routes: [{pool: chat}]}\n");
        let defaults = ["probe: {interval: 0s}", "linger: 0s", "close_timeout: 500ms"];
        let defaults = defaults.iter().filter(|line| !keys.contains(line.split(':').next().expect("a key")));
        let keys: Vec<_> =
            defaults.copied().chain([keys].into_iter().filter(|keys| !keys.is_empty())).collect();
        setup.routes("").pool(&format!("amqp: {{{}}}", keys.join(", ")))
    }

    /// Other listeners, as YAML list items.
    pub fn listeners(mut self, yaml: &str) -> Self {
        self.listeners = yaml.to_owned();
        self
    }

    /// Other routes, as YAML list items.
    pub fn routes(mut self, yaml: &str) -> Self {
        self.routes = yaml.to_owned();
        self
    }

    /// Keys of the pool, one a line.
    pub fn pool(mut self, yaml: &str) -> Self {
        self.pool += &indented(yaml, "    ");
        self
    }

    /// One more pool without settings.
    pub fn more_pool(mut self, name: &str) -> Self {
        self.more_pools += &format!("  {name}:\n    endpoints: []\n");
        self
    }

    /// One more pool with these keys, one a line.
    pub fn more_pool_with(mut self, name: &str, yaml: &str) -> Self {
        self.more_pools += &format!("  {name}:\n    endpoints: []\n{}", indented(yaml, "    "));
        self
    }

    /// Keys of the limits, one a line; they win over the short defaults of these tests.
    pub fn limits(mut self, yaml: &str) -> Self {
        self.limits += &indented(yaml, "  ");
        self
    }

    /// Whole top-level parts.
    pub fn rest(mut self, yaml: &str) -> Self {
        self.rest += yaml;
        self
    }

    /// The checked configuration.
    pub fn config(&self) -> Arc<config::Config> {
        let Self { listeners, routes, pool, more_pools, limits, rest } = self;
        let short = ["half_close_timeout: 500ms", "close_linger: 500ms"];
        let short: String = short
            .iter()
            .filter(|line| !limits.contains(line.split(':').next().expect("a key")))
            .map(|line| format!("  {line}\n"))
            .collect();
        let stop = if rest.contains("shutdown:") { "" } else { "shutdown: {grace: 30s, propagation: 0s}\n" };
        let routes = if routes.is_empty() { String::new() } else { format!("routes:\n{routes}") };
        let text = format!(
            "listeners:\n{listeners}{routes}pools:\n  {POOL}:\n    endpoints: []\n{pool}{more_pools}\
             limits:\n{short}{limits}workers: 2\n{stop}{rest}"
        );
        let checked = config::parse(&text, std::path::Path::new("/"));
        Arc::new(checked.unwrap_or_else(|errors| panic!("{errors}\n{text}")).config)
    }

    /// A running gateway with these endpoints in the pool.
    pub fn start(self, endpoints: &[&Endpoint]) -> Fixture {
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address()).collect();
        self.start_at(&addresses)
    }

    /// A running gateway with endpoints at these addresses in the pool.
    pub fn start_at(self, addresses: &[SocketAddr]) -> Fixture {
        let listed = addresses.iter().map(|address| ready(*address)).collect();
        self.start_with([(POOL, listed)])
    }

    /// A running gateway with these endpoints.
    pub fn start_with<const N: usize>(self, pools: [(&str, Vec<Known>); N]) -> Fixture {
        Fixture::start(self, snapshot(pools))
    }
}

/// A running gateway.
pub struct Fixture {
    /// The gateway itself.
    pub gateway: Arc<Gateway>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fixture {
    fn start(setup: Setup, first: Snapshot) -> Self {
        let config = setup.config();
        let (snapshots, rx) = watch::channel(Arc::new(first));
        let (stop, stopped) = oneshot::channel();
        let (tx, started) = std::sync::mpsc::channel();
        // The rebalance loop runs on the runtime that starts the gateway.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("the system gives a runtime").block_on(async move {
                let gateway = Arc::new(Gateway::start(config, rx).expect("the gateway starts"));
                tx.send(gateway.clone()).expect("the test waits for it");
                stopped.await.ok();
                gateway.shutdown().await;
            });
        });
        let gateway = started.recv().expect("the gateway has started");
        Self { gateway, snapshots, stop: Some(stop), thread: Some(thread) }
    }

    /// Its first listener.
    pub fn address(&self) -> SocketAddr {
        self.gateway.addresses()[0]
    }

    /// A client's connection.
    pub fn connect(&self) -> Wire {
        Wire::connect(self.address())
    }

    /// An AMQP session of user `u` with password `p` at `/`: client, endpoint.
    pub fn open_amqp(&self, endpoint: &Endpoint) -> (Wire, Wire) {
        self.open_amqp_on(self.connect(), endpoint)
    }

    /// The same on a connection that is there.
    pub fn open_amqp_on(&self, mut client: Wire, endpoint: &Endpoint) -> (Wire, Wire) {
        client.send(amqp::HEADER);
        let mut broker = endpoint.accept();
        broker.expect(amqp::HEADER);
        broker.send(amqp::start("c1"));
        client.expect(amqp::start("c1"));
        client.send(amqp::start_ok("u", "p"));
        broker.expect(amqp::start_ok("u", "p"));
        broker.send(amqp::tune(2047, 131_072));
        client.expect(amqp::tune(2047, 131_072));
        client.send([amqp::tune_ok(2047, 131_072), amqp::open("/")].concat());
        broker.expect(amqp::tune_ok(2047, 131_072));
        broker.expect(amqp::open("/"));
        broker.send(amqp::open_ok());
        client.expect(amqp::open_ok());
        (client, broker)
    }

    /// A session: client, endpoint.
    pub fn open(&self, endpoint: &Endpoint) -> (Wire, Wire) {
        let mut client = self.connect();
        client.send(UPGRADE);
        let (upstream, _) = endpoint.accept_websocket();
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (client, upstream)
    }

    /// What it says of itself.
    pub fn status(&self) -> Status {
        self.gateway.status()
    }

    /// What it says of the pool.
    pub fn pool(&self) -> balance::PoolStatus {
        self.status().pools[&PoolName::from(POOL)].planner.clone()
    }

    /// Sessions of the pool that are pinned for `reason`. `None`: none ever was.
    pub fn pinned(&self, reason: &str) -> Option<usize> {
        self.status().pools[&PoolName::from(POOL)].pinned.get(reason).copied()
    }

    /// Sessions of the pool by endpoint, in the order of `addresses`.
    pub fn sessions(&self, addresses: &[SocketAddr]) -> Vec<u32> {
        let pool = self.pool();
        let held = |address: &SocketAddr| pool.endpoints.iter().find(|e| e.address == *address);
        addresses.iter().map(|address| held(address).map_or(0, |endpoint| endpoint.sessions)).collect()
    }

    /// Takes another endpoint list and waits until it is in force.
    pub fn follow(&self, endpoints: Vec<Known>) {
        let expected: Vec<_> = endpoints.iter().map(|e| (e.id.clone(), e.state)).collect();
        self.snapshots.send_replace(Arc::new(snapshot([(POOL, endpoints)])));
        wait_until("the endpoints are in force", || {
            let known: Vec<_> = self.pool().endpoints.into_iter().map(|e| (e.id, e.state)).collect();
            expected.iter().all(|endpoint| known.contains(endpoint))
        });
    }

    /// Takes another configuration.
    pub fn reconfigure(&self, setup: &Setup) {
        self.gateway.reconfigure(setup.config()).expect("descriptors suffice");
    }

    /// Begins to shut down, and goes on in the background.
    pub fn begin_shutdown(&mut self) {
        self.stop.take().expect("it was not stopped yet").send(()).expect("it runs");
    }

    /// Waits for the end of the shutdown.
    pub fn join(&mut self) {
        self.thread.take().expect("it runs").join().expect("the gateway does not panic");
    }

    /// Waits until nothing is counted any more.
    pub fn expect_zero(&self) {
        let is_zero = |status: &Status| {
            let pools_zero = status.pools.values().all(|pool| {
                pool.planner.sessions == 0
                    && pool.pinned.values().all(|count| *count == 0)
                    && pool.planner.endpoints.iter().all(|e| (e.sessions, e.pending, e.moving) == (0, 0, 0))
            });
            status.connections == 0 && pools_zero
        };
        let mut last = self.status();
        let mut look = || {
            last = self.status();
            is_zero(&last).then_some(())
        };
        let start = std::time::Instant::now();
        while look().is_none() {
            assert!(start.elapsed() < crate::support::PATIENCE, "counts do not return to zero: {last:?}");
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.expect_zero();
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        if self.thread.is_some() {
            self.join();
        }
    }
}

/// An endpoint that takes sessions.
pub fn ready(address: SocketAddr) -> Known {
    known(address, EndpointState::Ready)
}

/// An endpoint in `state`.
pub fn known(address: SocketAddr, state: EndpointState) -> Known {
    Known { state, ..Known::new(EndpointId::new(address.to_string()), address) }
}

fn snapshot<const N: usize>(pools: [(&str, Vec<Known>); N]) -> Snapshot {
    Snapshot { pools: pools.into_iter().map(|(name, list)| (PoolName::from(name), list)).collect() }
}

fn indented(yaml: &str, by: &str) -> String {
    yaml.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// Waits until the pool has `count` sessions.
pub fn wait_for_sessions(fixture: &Fixture, count: u64) {
    eventually("the sessions are counted", || (fixture.pool().sessions == count).then_some(()));
}

/// Ends a connection with a reset.
pub fn reset(wire: Wire) {
    let no_linger = Some(std::time::Duration::ZERO);
    socket2::SockRef::from(wire.tcp()).set_linger(no_linger).expect("a socket takes options");
}
