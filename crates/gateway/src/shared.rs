//! What all threads of the gateway share: the running configuration, the pools, the counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use balance::victims::Preference;
use config::{AmqpRoute, AmqpRouter, Config, Listener, Protocol};
use model::{PoolName, ReplicaName, Zone};
use tokio::sync::Notify;

use crate::admission::{Admission, RouteCount};
use crate::clock::Clock;
use crate::pool::Pool;
use crate::reports::Notices;
use crate::tier::Replicas;
use crate::tls::Certificate;

/// Shared by all threads.
#[derive(Debug)]
pub struct Shared {
    /// The gateway's clock.
    pub clock: Clock,
    /// Connection counts.
    pub admission: Arc<Admission>,
    /// The configuration in force.
    pub runtime: ArcSwap<Runtime>,
    /// By place of the listener; `None` for plain ones.
    pub certificates: Vec<Option<Arc<Certificate>>>,
    /// By place of the listener: it speaks AMQP, whatever the configuration says by now.
    pub speaks_amqp: Vec<bool>,
    /// The gateway's own replicas.
    pub replicas: Replicas,
    /// Who wants notices; set once.
    pub notices: OnceLock<Notices>,
    pools: Mutex<BTreeMap<PoolName, Arc<Pool>>>,
    draining: AtomicBool,
    closed: AtomicBool,
    planner_waker: Notify,
}

/// A configuration in the form that the data path uses.
#[derive(Debug)]
pub struct Runtime {
    /// As it was written.
    pub config: Arc<Config>,
    /// Finds the route of a request.
    pub router: config::Router,
    /// By place of the route.
    pub routes: Vec<RouteRuntime>,
    /// By place of the listener, as it was when the gateway started: what an AMQP listener knows. `None` for the others, and
    /// for one that the configuration no longer names.
    pub amqp: Vec<Option<Arc<AmqpRoutes>>>,
    /// `limits.connections_max`, or what the descriptors allow.
    pub connections_max: usize,
}

/// A route at run time.
#[derive(Clone, Debug)]
pub struct RouteRuntime {
    /// Where it goes.
    pub pool: Arc<Pool>,
    /// Its connections.
    pub count: Arc<RouteCount>,
    /// Their bound.
    pub connections_max: Option<usize>,
    /// Whether its sessions are moved before or after others.
    pub preference: Preference,
}

/// The routes of an AMQP listener.
#[derive(Debug)]
pub struct AmqpRoutes {
    /// Finds the route of a connection.
    pub router: AmqpRouter,
    /// By place of the route.
    pub routes: Vec<RouteRuntime>,
    address: SocketAddr,
    /// As they are written.
    pub config: Vec<AmqpRoute>,
}

impl Shared {
    /// The state of a gateway that starts.
    pub fn new(
        clock: Clock,
        config: Arc<Config>,
        certificates: Vec<Option<Arc<Certificate>>>,
        connections_max: usize,
    ) -> Arc<Self> {
        let mut pools = BTreeMap::new();
        let speaks_amqp =
            config.listeners.iter().map(|listener| listener.protocol == Protocol::Amqp).collect();
        let replicas = Replicas::new(&config);
        let runtime = compile(clock, &mut pools, &replicas, None, config, connections_max);
        Arc::new(Self {
            replicas,
            notices: OnceLock::new(),
            speaks_amqp,
            clock,
            admission: Arc::default(),
            runtime: ArcSwap::from_pointee(runtime),
            certificates,
            pools: Mutex::new(pools),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            planner_waker: Notify::new(),
        })
    }

    /// Takes a new configuration. Sessions, counts and pools that are still named stay.
    pub fn reconfigure(&self, config: Arc<Config>, connections_max: usize) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.runtime.load_full();
        self.replicas.reconfigure(&config);
        let runtime = compile(self.clock, &mut pools, &self.replicas, Some(&old), config, connections_max);
        self.runtime.store(Arc::new(runtime));
        self.wake_planner();
    }

    /// The planners have something new to do: they are not to wait for their next look.
    pub fn wake_planner(&self) {
        self.planner_waker.notify_one();
    }

    /// The other ready replicas of the tier, as somebody sees them now.
    pub fn set_peers(&self, peers: &[ReplicaName]) {
        // Under the lock of the pools: a reload can not bring back what was counted before.
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let ready = self.replicas.set_peers(now, peers);
        pools.values().for_each(|pool| pool.plan(|planner| planner.handle_replicas(now, ready)));
    }

    /// Where this replica runs, as somebody has learned it; what the configuration says counts for more.
    pub fn set_zone(&self, zone: Option<Zone>) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        self.replicas.set_zone(zone);
        let (now, own) = (self.clock.now(), self.replicas.zone(&self.runtime.load().config));
        pools.values().for_each(|pool| pool.plan(|planner| planner.handle_zone(now, own.clone())));
    }

    /// Waits for [`Self::wake_planner`].
    pub async fn planner_woken(&self) {
        self.planner_waker.notified().await;
    }

    /// All pools: those of the configuration, and former ones that still have sessions.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// True once the process is on its way out. It may still take new clients: see [`Self::is_closed`].
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The process is on its way out.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// True once no new client is taken any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// No new client is taken from now on.
    pub fn set_closed(&self) {
        self.closed.store(true, Relaxed);
    }
}

/// Builds the run-time form; pools and counts that exist already are kept.
fn compile(
    clock: Clock,
    pools: &mut BTreeMap<PoolName, Arc<Pool>>,
    replicas: &Replicas,
    old: Option<&Runtime>,
    config: Arc<Config>,
    connections_max: usize,
) -> Runtime {
    let now = clock.now();
    pools.retain(|name, pool| config.pools.contains_key(name) || pool.gauges.sessions() > 0);
    for name in config.pools.keys() {
        match pools.get(name) {
            Some(running) => running.reconfigure(now, &config),
            None => {
                pools.insert(name.clone(), Pool::new(name.clone(), &config, clock));
            }
        }
    }
    let (ready, zone) = (replicas.ready(&config), replicas.zone(&config));
    for pool in pools.values() {
        pool.plan(|planner| {
            planner.handle_replicas(now, ready);
            planner.handle_zone(now, zone.clone());
        });
    }
    let routes = config.routes.iter().map(|route| RouteRuntime {
        pool: pools[&route.pool].clone(),
        count: old.and_then(|old| same_route(old, route)).unwrap_or_default(),
        connections_max: route.connections_max,
        preference: route.moves,
    });
    let routes = routes.collect();
    let amqp = compile_amqp(pools, old, &config);
    Runtime { router: config::Router::new(&config.routes), routes, amqp, config, connections_max }
}

/// Listeners stay as they were when the gateway started; what they know is found again by their address.
fn compile_amqp(
    pools: &BTreeMap<PoolName, Arc<Pool>>,
    old: Option<&Runtime>,
    config: &Config,
) -> Vec<Option<Arc<AmqpRoutes>>> {
    let speaks_amqp = |listener: &&Listener| listener.protocol == Protocol::Amqp;
    let Some(old) = old else {
        return config
            .listeners
            .iter()
            .map(|listener| Some(listener).filter(speaks_amqp).map(|l| Arc::new(amqp_routes(pools, None, l))))
            .collect();
    };
    let again = |(place, known): (usize, &Option<Arc<AmqpRoutes>>)| {
        let known = known.as_ref()?;
        let same = |listener: &&Listener| speaks_amqp(listener) && listener.address == known.address;
        // Several may have the same address with port 0: then the place tells.
        let listener =
            config.listeners.get(place).filter(same).or_else(|| config.listeners.iter().find(same));
        listener.map(|listener| Arc::new(amqp_routes(pools, Some(known), listener)))
    };
    old.amqp.iter().enumerate().map(again).collect()
}

fn amqp_routes(
    pools: &BTreeMap<PoolName, Arc<Pool>>,
    old: Option<&AmqpRoutes>,
    listener: &Listener,
) -> AmqpRoutes {
    let route = |route: &AmqpRoute| {
        let same = |r: &&AmqpRoute| r.user == route.user && r.vhost == route.vhost;
        let count = old.and_then(|old| {
            let place = old.config.iter().position(|r| same(&r))?;
            Some(old.routes[place].count.clone())
        });
        RouteRuntime {
            pool: pools[&route.pool].clone(),
            count: count.unwrap_or_default(),
            connections_max: route.connections_max,
            preference: route.moves,
        }
    };
    AmqpRoutes {
        router: AmqpRouter::new(&listener.routes),
        routes: listener.routes.iter().map(route).collect(),
        address: listener.address,
        config: listener.routes.clone(),
    }
}

/// The count of the route that had the same match before.
fn same_route(old: &Runtime, route: &config::Route) -> Option<Arc<RouteCount>> {
    let place = old.config.routes.iter().position(|r| r.host == route.host && r.path == route.path)?;
    Some(old.routes[place].count.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listeners: &str) -> Arc<Config> {
        let text = format!(
            "{{listeners: [{listeners}], routes: [{{pool: chat}}], \
             pools: {{chat: {{endpoints: []}}, a: {{endpoints: []}}, b: {{endpoints: []}}}}}}"
        );
        Arc::new(config::parse(&text, std::path::Path::new("/")).expect("it is valid").config)
    }

    /// The pools to which each listener's routes lead, for user `u` and vhost `/`.
    fn found(shared: &Shared) -> Vec<Option<String>> {
        let runtime = shared.runtime.load();
        let find = |amqp: &Arc<AmqpRoutes>| {
            let place = amqp.router.find(Some(b"u"), b"/")?;
            Some(amqp.routes[place].pool.name.to_string())
        };
        runtime.amqp.iter().map(|amqp| amqp.as_ref().and_then(find)).collect()
    }

    #[test]
    fn an_amqp_listener_keeps_its_place_and_its_counts_over_reloads() {
        let http = "{address: '127.0.0.1:1'}";
        let first = "{address: '127.0.0.1:2', protocol: amqp, routes: [{user: u, pool: a}, {pool: b}]}";
        let second = "{address: '127.0.0.1:3', protocol: amqp, routes: [{pool: b}]}";
        let start = config(&format!("{http}, {first}, {second}"));
        let shared = Shared::new(Clock::start(), start, vec![None; 3], 10);
        let named = |names: [&str; 3]| names.map(|n| (!n.is_empty()).then(|| n.to_owned())).to_vec();
        assert_eq!(found(&shared), named(["", "a", "b"]));
        let permit = {
            let runtime = shared.runtime.load();
            runtime.amqp[1].as_ref().expect("it speaks AMQP").routes[0].count.enter(Some(1))
        };
        assert!(permit.is_ok());
        let changed = "{address: '127.0.0.1:2', protocol: amqp, \
                        routes: [{vhost: /x, pool: a}, {user: u, pool: b}]}";
        shared.reconfigure(config(&format!("{changed}, {http}")), 10);
        assert_eq!(found(&shared), named(["", "b", ""]), "by address, whatever the order");
        let runtime = shared.runtime.load();
        let routes = &runtime.amqp[1].as_ref().expect("it speaks AMQP").routes;
        assert!(routes[1].count.enter(Some(1)).is_err(), "the connection of user u still counts");
        assert!(routes[0].count.enter(Some(1)).is_ok());
    }
}
