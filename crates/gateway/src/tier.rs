//! The gateway's own replicas: what this one tells the others, what it knows of them, and the sessions it closes because
//! they have fewer.
//!
//! How many is decided by `balance::Tier`; who asks the others is not known here. AMQP pools take no part (decision 023).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use balance::{Count, Tier, TierLimits, TierStatus};
use model::{EndpointId, PoolName, ReplicaName, Time, Zone};
use serde::{Deserialize, Serialize};

use crate::pool::Pool;

/// What a replica tells the others of itself: `GET /api/v1/tier`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TierReport {
    /// Takes new clients.
    pub ready: bool,
    /// Open sessions of the pools that take part, those being moved not included.
    pub sessions: u64,
    /// Clients that it has closed and expects back, at whatever replica.
    pub away: u64,
    /// None of its pools moves or drains anything, and its clients come back.
    pub is_still: bool,
    /// Open sessions by pool and endpoint, of all pools.
    pub pools: BTreeMap<PoolName, BTreeMap<EndpointId, u32>>,
}

impl TierReport {
    /// As the decision takes it.
    pub fn count(&self) -> Count {
        Count { sessions: self.sessions, away: self.away, is_still: self.is_still && self.ready }
    }
}

/// What is known of the tier at this replica.
#[derive(Debug)]
pub struct Replicas {
    tier: Mutex<Tier>,
    /// Ready ones, this one included; 0: nobody has told, and the configuration counts.
    ready: AtomicU32,
    /// The own zone, as somebody has learned it.
    zone: Mutex<Option<Zone>>,
}

impl Replicas {
    /// Of a configuration.
    pub fn new(config: &config::Config) -> Self {
        Self { tier: Mutex::new(Tier::new(limits(config))), ready: AtomicU32::new(0), zone: Mutex::new(None) }
    }

    /// Takes another configuration.
    pub fn reconfigure(&self, config: &config::Config) {
        self.tier().reconfigure(limits(config));
        if config.tier.is_none() {
            self.ready.store(0, Relaxed);
        }
    }

    /// Ready replicas, this one included, that share the budgets.
    pub fn ready(&self, config: &config::Config) -> u32 {
        match self.ready.load(Relaxed) {
            0 => config.replicas,
            known => known,
        }
    }

    /// Where this replica runs: what the configuration says, or else what was learned.
    pub fn zone(&self, config: &config::Config) -> Option<Zone> {
        let learned = || self.zone.lock().unwrap_or_else(PoisonError::into_inner).clone();
        config.zone.clone().or_else(learned)
    }

    /// Where this replica runs, as somebody has learned it.
    pub fn set_zone(&self, zone: Option<Zone>) {
        *self.zone.lock().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// The other ready replicas. Returns how many are ready with this one.
    pub fn set_peers(&self, now: Time, peers: &[ReplicaName]) -> u32 {
        self.tier().handle_replicas(now, peers);
        let ready = u32::try_from(peers.len() + 1).unwrap_or(u32::MAX);
        self.ready.store(ready, Relaxed);
        ready
    }

    /// What another replica has; `None`: it does not say.
    pub fn set_count(&self, now: Time, peer: &ReplicaName, count: Option<Count>) {
        match count {
            Some(count) => self.tier().handle_count(now, peer, count),
            None => self.tier().handle_silence(peer),
        }
    }

    /// Puts the closes that are due into the queues of the planners. Returns when to look again.
    pub fn level(&self, now: Time, pools: &[Arc<Pool>], is_draining: bool) -> Option<Time> {
        let mut tier = self.tier();
        let (own, counts) = counts(now, pools, is_draining);
        let wanted = tier.poll_moves(now, own);
        let at = tier.poll_timeout(now, own);
        drop(tier);
        if wanted > 0 {
            let parts: Vec<u64> = counts.iter().map(|(_, count)| count.sessions).collect();
            for ((pool, _), part) in counts.iter().zip(balance::split(wanted, &parts)) {
                pool.plan(|planner| planner.shed_for_tier(now, part));
            }
        }
        at
    }

    /// Of `asked` sessions, `began` are being closed.
    pub fn began(&self, now: Time, asked: u32, began: u32) {
        self.tier().handle_began(now, asked, began);
    }

    /// The tier as it looks from here.
    pub fn status(&self, now: Time, pools: &[Arc<Pool>], is_draining: bool) -> TierStatus {
        let (own, _) = counts(now, pools, is_draining);
        self.tier().status(now, own)
    }

    fn tier(&self) -> MutexGuard<'_, Tier> {
        self.tier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this replica tells the others.
pub fn report(now: Time, pools: &[Arc<Pool>], is_draining: bool) -> TierReport {
    let (own, _) = counts(now, pools, is_draining);
    let sessions = |pool: &Arc<Pool>| {
        let status = pool.plan(|planner| planner.status(now));
        let by_endpoint = status.endpoints.into_iter().map(|endpoint| (endpoint.id, endpoint.sessions));
        (pool.name.clone(), by_endpoint.collect())
    };
    TierReport {
        ready: !is_draining,
        sessions: own.sessions,
        away: own.away,
        is_still: own.is_still,
        pools: pools.iter().map(sessions).collect(),
    }
}

/// Of the pools that take part, together and each.
fn counts(now: Time, pools: &[Arc<Pool>], is_draining: bool) -> (Count, Vec<(&Arc<Pool>, Count)>) {
    let taking_part = pools.iter().filter(|pool| pool.policy().amqp.is_none());
    let each: Vec<_> = taking_part.map(|pool| (pool, pool.plan(|planner| planner.tier_count(now)))).collect();
    let own = Count {
        sessions: each.iter().map(|(_, count)| count.sessions).sum(),
        away: each.iter().map(|(_, count)| count.away).sum(),
        is_still: !is_draining && each.iter().all(|(_, count)| count.is_still),
    };
    (own, each)
}

fn limits(config: &config::Config) -> TierLimits {
    config.tier.as_ref().map_or_else(TierLimits::default, config::Tier::limits)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use balance::{Action, ClientKey, Purpose, Request};
    use model::Endpoint;

    use super::*;
    use crate::clock::Clock;

    const TEXT: &str = "{listeners: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0', protocol: amqp, routes: [{pool: c}]}], \
                        routes: [{pool: a}, {path: /b, pool: b}], \
                        pools: {a: {endpoints: []}, b: {endpoints: []}, c: {endpoints: []}}, \
                        tier: {service: gateways, balance: on, min_ready: 0s}}";

    fn parsed() -> config::Config {
        config::parse(TEXT, std::path::Path::new("/")).expect("it is valid").config
    }

    /// Each with so many sessions that have been there for long.
    fn pools(config: &config::Config, now: Time, sessions: [u32; 3]) -> Vec<Arc<Pool>> {
        let open = |(name, count): (&PoolName, u32)| {
            let pool = Pool::new(name.clone(), config, Clock::start());
            let address = "127.0.0.1:80".parse().expect("it is an address");
            pool.plan(|planner| {
                planner.handle_endpoints(Time::ZERO, &[Endpoint::new("e0", address)]);
                for _ in 0..count {
                    let client = ClientKey(1);
                    let request = Request { client, purpose: Purpose::Session, hash: None, tried: &[] };
                    let pick = planner.pick(Time::ZERO, &request).expect("one is ready");
                    planner.handle_opened(Time::ZERO, &pick.endpoint, client, Duration::from_millis(1));
                }
                while planner.poll_action(now).is_some() {}
            });
            pool
        };
        config.pools.keys().zip(sessions).map(open).collect()
    }

    /// As the rebalance loop does it.
    fn begin(pool: &Pool, now: Time) {
        pool.plan(|planner| {
            while let Some(action) = planner.poll_action(now) {
                if let Action::Move(plan) = action {
                    planner.handle_moves_began(now, &plan.from, plan.count, plan.count);
                }
            }
        });
    }

    fn asked(pool: &Pool, now: Time) -> u64 {
        let open = pool.plan(|planner| planner.status(now)).sessions;
        open - pool.plan(|planner| planner.tier_count(now)).sessions
    }

    #[test]
    fn what_a_replica_has_too_much_leaves_from_its_pools_but_never_over_amqp() {
        let (config, now) = (parsed(), Time::from_millis(10_000));
        let pools = pools(&config, now, [30, 10, 500]);
        let replicas = Replicas::new(&config);
        assert_eq!(replicas.ready(&config), 1, "what is configured, until somebody knows");
        let peer = ReplicaName::from("gateway-2");
        assert_eq!(replicas.set_peers(now, std::slice::from_ref(&peer)), 2);
        assert_eq!(replicas.ready(&config), 2);
        replicas.level(now, &pools, false);
        assert_eq!(asked(&pools[0], now), 0, "the other one has not told");
        let other = TierReport { ready: true, is_still: true, ..TierReport::default() };
        replicas.set_count(now, &peer, Some(other.count()));
        let status = replicas.status(now, &pools, false);
        assert_eq!((status.sessions, status.mean), (40, Some(20.0)), "{status:?}");
        let mut at = now;
        for _ in 0..4 {
            let next = replicas.level(at, &pools, false).expect("it goes on");
            pools.iter().for_each(|pool| begin(pool, at));
            replicas.began(at, 1, 1);
            at = next.max(at + Duration::from_millis(1));
        }
        let asked: Vec<u64> = pools.iter().map(|pool| asked(pool, at)).collect();
        assert_eq!((asked[0] + asked[1], asked[2]), (4, 0));
        assert!(asked[0] >= asked[1], "{asked:?}");
    }

    #[test]
    fn a_replica_that_stops_is_not_levelled_and_says_so() {
        let (config, now) = (parsed(), Time::from_millis(10_000));
        let pools = pools(&config, now, [30, 10, 7]);
        let told = report(now, &pools, true);
        assert_eq!((told.ready, told.sessions, told.is_still), (false, 40, false));
        let told = report(now, &pools, false);
        assert!(told.ready && told.is_still && told.count().is_still);
        let e0 = EndpointId::from("e0");
        let by_pool: Vec<_> = told.pools.values().map(|endpoints| endpoints[&e0]).collect();
        assert_eq!(by_pool, [30, 10, 7], "AMQP as well: its Pods have a cost");
        let text = serde_json::to_string(&told).expect("it is plain");
        assert_eq!(serde_json::from_str::<TierReport>(&text).expect("it is the same"), told);
    }
}
