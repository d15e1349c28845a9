//! What all threads of the gateway share: the running configuration, the pools, the counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use balance::victims::Preference;
use config::Config;
use model::PoolName;
use tokio::sync::Notify;

use crate::admission::{Admission, RouteCount};
use crate::clock::Clock;
use crate::pool::Pool;
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
    pools: Mutex<BTreeMap<PoolName, Arc<Pool>>>,
    draining: AtomicBool,
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

impl Shared {
    /// The state of a gateway that starts.
    pub fn new(
        clock: Clock,
        config: Arc<Config>,
        certificates: Vec<Option<Arc<Certificate>>>,
        connections_max: usize,
    ) -> Arc<Self> {
        let mut pools = BTreeMap::new();
        let runtime = compile(clock, &mut pools, None, config, connections_max);
        Arc::new(Self {
            clock,
            admission: Arc::default(),
            runtime: ArcSwap::from_pointee(runtime),
            certificates,
            pools: Mutex::new(pools),
            draining: AtomicBool::new(false),
            planner_waker: Notify::new(),
        })
    }

    /// Takes a new configuration. Sessions, counts and pools that are still named stay.
    pub fn reconfigure(&self, config: Arc<Config>, connections_max: usize) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.runtime.load_full();
        let runtime = compile(self.clock, &mut pools, Some(&old), config, connections_max);
        self.runtime.store(Arc::new(runtime));
        self.wake_planner();
    }

    /// The planners have something new to do: they are not to wait for their next look.
    pub fn wake_planner(&self) {
        self.planner_waker.notify_one();
    }

    /// Waits for [`Self::wake_planner`].
    pub async fn planner_woken(&self) {
        self.planner_waker.notified().await;
    }

    /// All pools: those of the configuration, and former ones that still have sessions.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// True once the process is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The process is on its way out.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }
}

/// Builds the run-time form; pools and counts that exist already are kept.
fn compile(
    clock: Clock,
    pools: &mut BTreeMap<PoolName, Arc<Pool>>,
    old: Option<&Runtime>,
    config: Arc<Config>,
    connections_max: usize,
) -> Runtime {
    let now = clock.now();
    pools.retain(|name, pool| config.pools.contains_key(name) || pool.gauges.sessions() > 0);
    for (name, pool) in &config.pools {
        match pools.get(name) {
            Some(running) => running.reconfigure(now, pool, &config.limits),
            None => {
                pools.insert(name.clone(), Pool::new(name.clone(), pool, &config.limits, clock));
            }
        }
    }
    // A watch of the tier's own replicas would feed the same call.
    for pool in pools.values() {
        pool.plan(|planner| planner.handle_replicas(now, config.replicas));
    }
    let routes = config.routes.iter().map(|route| RouteRuntime {
        pool: pools[&route.pool].clone(),
        count: old.and_then(|old| same_route(old, route)).unwrap_or_default(),
        connections_max: route.connections_max,
        preference: route.moves,
    });
    let routes = routes.collect();
    Runtime { router: config::Router::new(&config.routes), routes, config, connections_max }
}

/// The count of the route that had the same match before.
fn same_route(old: &Runtime, route: &config::Route) -> Option<Arc<RouteCount>> {
    let place = old.config.routes.iter().position(|r| r.host == route.host && r.path == route.path)?;
    Some(old.routes[place].count.clone())
}
