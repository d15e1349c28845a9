//! A pool at run time: its planner behind a lock, its compiled policy, and a guard for every pick.
//!
//! A pool outlives configuration reloads and endpoint refreshes, so its counts do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use balance::{ClientKey, Limits, MoveReason, Opened, Planner, Purpose, Refusal, Request, Visitor};
use config::{Amqp, Config, Key, Protocol, WhenPinned};
use model::{EndpointId, PoolName, Time};
use session::{
    AmqpSettings, Fallback, ForeignQueues, MessageOrder, MigrateSpec, Notice, Order, Settings, ShedSpec,
};

use crate::amqp::Known;
use crate::clock::Clock;
use crate::telemetry::PoolMetrics;
use crate::zeroes;

/// A pool at run time.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Counts for metrics.
    pub gauges: Gauges,
    /// Metrics of its sessions.
    pub metrics: PoolMetrics,
    /// What its endpoints have told of themselves over AMQP.
    pub known: Known,
    clock: Clock,
    planner: Mutex<Planner>,
    policy: ArcSwap<Policy>,
}

/// Live counts of a pool.
#[derive(Debug, Default)]
pub struct Gauges {
    sessions: AtomicUsize,
    /// By reason; a reason that was there once stays, with 0.
    pinned: Mutex<BTreeMap<&'static str, usize>>,
    /// Connections to endpoints that sessions have left, and that are not closed yet.
    retired: Mutex<BTreeMap<EndpointId, usize>>,
}

/// A connection that its session has left, until it is dropped: its endpoint still has a client.
#[derive(Debug)]
pub struct RetiredCount {
    pool: Arc<Pool>,
    endpoint: EndpointId,
}

impl RetiredCount {
    /// Counts a connection to `endpoint` of `pool`.
    pub fn new(pool: &Arc<Pool>, endpoint: EndpointId) -> Self {
        *pool.gauges.retirees().entry(endpoint.clone()).or_default() += 1;
        Self { pool: pool.clone(), endpoint }
    }
}

impl Drop for RetiredCount {
    fn drop(&mut self) {
        let mut retired = self.pool.gauges.retirees();
        if let Some(count) = retired.get_mut(&self.endpoint) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                retired.remove(&self.endpoint);
            }
        }
    }
}

/// One pinned session in the counts of its pool, until it is dropped.
#[derive(Debug)]
pub struct PinCount {
    pool: Arc<Pool>,
    /// Why it is pinned.
    pub reason: &'static str,
}

impl PinCount {
    /// Counts a session of `pool`.
    pub fn new(pool: &Arc<Pool>, reason: &'static str) -> Self {
        *pool.gauges.pins().entry(reason).or_default() += 1;
        Self { pool: pool.clone(), reason }
    }
}

impl Drop for PinCount {
    fn drop(&mut self) {
        if let Some(count) = self.pool.gauges.pins().get_mut(self.reason) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Gauges {
    /// A session began.
    pub fn opened(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    /// A session ended.
    pub fn closed(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Pinned sessions by reason.
    pub fn pinned(&self) -> BTreeMap<&'static str, usize> {
        self.pins().clone()
    }

    /// Connections that their sessions have left, and that are not closed yet.
    pub fn retired_in_all(&self) -> usize {
        self.retirees().values().sum()
    }

    /// Those of them to `endpoint`.
    pub fn retired(&self, endpoint: &EndpointId) -> usize {
        self.retirees().get(endpoint).copied().unwrap_or(0)
    }

    fn retirees(&self) -> MutexGuard<'_, BTreeMap<EndpointId, usize>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Running sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Relaxed)
    }
}

/// What the configuration says of a pool, in the form that the data path uses.
#[derive(Debug)]
pub struct Policy {
    /// For the sessions' state machines.
    pub session: Arc<Settings>,
    /// Longest wait for a TCP connection to an endpoint.
    pub dial_timeout: Duration,
    /// Longest wait for a response head.
    pub response_timeout: Duration,
    /// Endpoints tried for one request.
    pub tries_max: u8,
    /// Another endpoint is tried when one dies before the first byte of its answer.
    pub retry_upgrade: bool,
    /// When and how fast sessions are moved.
    pub limits: Limits,
    /// What `consistent_hash` goes by; `None`: the client's address, or another policy is in force.
    hash: Option<Key>,
    /// Whose a session is.
    tenant: Option<Key>,
    notice: Option<config::Notice>,
    close: config::Close,
    /// Present: the endpoints speak AMQP.
    pub amqp: Option<Amqp>,
    /// For the state machines of AMQP sessions.
    pub amqp_session: Arc<AmqpSettings>,
}

/// `CONNECTION_FORCED`: an operator closed the connection. Clients that recover do so after it.
const AMQP_FORCED: u16 = 320;

/// Who asks for an endpoint, as far as placement and moves go by it.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address.
    pub client: ClientKey,
    /// What `consistent_hash` goes by; `None`: the client.
    pub hash: Option<u64>,
    /// Whose session it would be; 0: nobody's.
    pub tenant: u64,
}

impl Policy {
    /// Compiles `pool`'s part of the configuration.
    pub fn new(pool: &config::Pool, protocol: Protocol, limits: &config::Limits) -> Self {
        let session = Settings {
            strict: pool.websocket.on_bad_frame == config::OnBadFrame::Strict,
            on_upstream_abort: pool.websocket.on_upstream_abort,
            reply_timeout: pool.moves.close.reply_timeout,
            half_close_timeout: limits.half_close_timeout,
            close_linger: limits.close_linger,
        };
        let by_hash = pool.balance == balance::Policy::ConsistentHash;
        Self {
            session: Arc::new(session),
            dial_timeout: pool.dial_timeout,
            response_timeout: pool.response_timeout,
            tries_max: pool.tries_max,
            retry_upgrade: pool.websocket.retry_upgrade,
            limits: pool.rebalance.clone(),
            hash: pool.hash.as_ref().filter(|_| by_hash).and_then(config::HashKey::key),
            tenant: pool.tenant.as_ref().and_then(config::TenantKey::key),
            notice: pool.moves.notice.clone(),
            close: pool.moves.close.clone(),
            amqp: match protocol {
                Protocol::Http => None,
                Protocol::Amqp => Some(pool.amqp.clone().unwrap_or_default()),
            },
            amqp_session: Arc::new(amqp_settings(&pool.amqp.clone().unwrap_or_default())),
        }
    }

    /// Endpoints are told the client's address.
    pub fn proxy_protocol(&self) -> bool {
        self.amqp.as_ref().is_some_and(|amqp| amqp.proxy_protocol)
    }

    /// A rebalance closes sessions that can not migrate.
    pub fn close_pinned(&self) -> bool {
        self.amqp.as_ref().is_some_and(|amqp| amqp.when_pinned == WhenPinned::Close)
    }

    /// How sessions are migrated for `reason`.
    pub fn migrate_spec(&self, reason: MoveReason, deadline: Option<Time>) -> MigrateSpec {
        let fallback = match reason {
            MoveReason::Draining => Fallback::Close,
            MoveReason::Surplus | MoveReason::MaxAge if self.close_pinned() => Fallback::Close,
            MoveReason::Surplus | MoveReason::MaxAge => Fallback::Stay,
            // Another replica is no endpoint: nothing migrates there.
            MoveReason::Rehearsal | MoveReason::Tier => Fallback::Stay,
        };
        MigrateSpec { reason: reason.as_str(), deadline, fallback }
    }

    /// Who asks with a request of this target and these headers. The keys are hashed where they stand.
    pub fn caller<'a, I>(&self, client: ClientKey, target: &'a str, headers: impl Fn() -> I) -> Caller
    where
        I: Iterator<Item = (&'a str, &'a [u8])>,
    {
        let hash = |key: &Option<Key>| key.as_ref()?.find(target, headers()).map(balance::hash_key);
        Caller { client, hash: hash(&self.hash), tenant: hash(&self.tenant).unwrap_or(0) }
    }

    /// How one session is shed for `reason`. Over AMQP: once it has settled, or after `wait`. Over WebSocket: with the notice if it may get one, whose grace is spread by `spread`
    /// (-1.0 to 1.0), and nothing reaches beyond `left`.
    pub fn shed_spec(&self, reason: &str, left: Option<Duration>, may_notify: bool, spread: f64) -> ShedSpec {
        let left = left.unwrap_or(Duration::MAX);
        if let Some(amqp) = &self.amqp {
            return ShedSpec {
                notice: None,
                code: AMQP_FORCED,
                reason: reason.to_owned(),
                order: Order::ClientFirst,
                quiet: Duration::ZERO,
                wait: amqp.settle_timeout.min(left / 2),
                reply_timeout: amqp.close_timeout,
            };
        }
        let wait = self.close.wait.min(left / 2);
        let notice = self.notice.as_ref().filter(|_| may_notify).map(|notice| {
            let grace = notice.grace.mul_f64(1.0 + notice.jitter * spread);
            compile_notice(notice, grace.min(left.saturating_sub(wait)), reason)
        });
        let order = match self.close.order {
            config::CloseOrder::ClientFirst => Order::ClientFirst,
            config::CloseOrder::BackendFirst => Order::BackendFirst,
        };
        ShedSpec {
            notice,
            code: self.close.code,
            reason: self.close.reason.clone(),
            order,
            quiet: self.close.quiet,
            wait,
            reply_timeout: self.close.reply_timeout,
        }
    }

    /// How long a session may take from the order to its Close when all of them have to be closed within `time`. The orders
    /// are spread over what is left of it: where clients are told first, or have to settle, that is half of it at least.
    pub fn patience(&self, time: Duration) -> Duration {
        let (wanted, parts) = match (&self.amqp, &self.notice) {
            (Some(amqp), _) => (amqp.settle_timeout * 2, 2),
            (None, Some(notice)) => (notice.grace.mul_f64(1.0 + notice.jitter) + self.close.wait * 2, 2),
            (None, None) => (self.close.wait * 2, 8),
        };
        wanted.min(time / parts)
    }

    /// True when `protocol`, the session's subprotocol, may get the notice.
    pub fn may_notify(&self, protocol: Option<&str>) -> bool {
        let Some(notice) = &self.notice else { return false };
        notice.when_subprotocol.is_empty()
            || protocol.is_some_and(|p| notice.when_subprotocol.iter().any(|wanted| wanted == p))
    }
}

/// What the sessions of a pool go by.
fn amqp_settings(amqp: &Amqp) -> AmqpSettings {
    AmqpSettings {
        seamless: amqp.seamless,
        order: match amqp.order {
            config::MessageOrder::Strict => MessageOrder::Strict,
            config::MessageOrder::Relaxed => MessageOrder::Relaxed,
        },
        foreign_queues: match amqp.foreign_queues {
            config::ForeignQueues::Pin => ForeignQueues::Pin,
            config::ForeignQueues::AssumePersistent => ForeignQueues::AssumePersistent,
        },
        prepare_timeout: amqp.prepare_timeout,
        saturate_timeout: amqp.saturate_timeout,
        settle_timeout: amqp.settle_timeout,
        flush_timeout: amqp.flush_timeout,
        replay_timeout: amqp.replay_timeout,
        linger: amqp.linger,
        linger_max: amqp.linger_max,
        close_timeout: amqp.close_timeout,
    }
}

/// The notice's frame with its variables filled in.
fn compile_notice(notice: &config::Notice, grace: Duration, reason: &str) -> Notice {
    let frame = match (&notice.text, &notice.binary) {
        (Some(text), _) => {
            let text =
                text.replace("{{grace_ms}}", &grace.as_millis().to_string()).replace("{{reason}}", reason);
            ws::message_frame(ws::Opcode::Text, text.as_bytes(), None)
        }
        (None, binary) => {
            let payload = binary.as_ref().map_or(&[][..], |bytes| &bytes.0);
            ws::message_frame(ws::Opcode::Binary, payload, None)
        }
    };
    Notice { frame, grace }
}

/// What the planner is told of a pool's configuration.
fn settings(config: &config::Pool, protocol: Protocol) -> balance::Settings {
    balance::Settings {
        policy: config.balance,
        placement: config.placement.clone(),
        admission: config.admission.clone(),
        limits: config.rebalance.clone(),
        migrates: protocol == Protocol::Amqp && config.amqp.as_ref().is_none_or(|amqp| amqp.seamless),
    }
}

impl Pool {
    /// A pool without endpoints.
    ///
    /// # Panics
    /// When `config` has no pool of that name.
    pub fn new(name: PoolName, config: &Config, clock: Clock) -> Arc<Self> {
        let seed = u64::from_ne_bytes(crate::entropy::bytes());
        let protocol = config.protocol(&name);
        let planner = Planner::new(settings(&config.pools[&name], protocol), seed);
        let policy = Policy::new(&config.pools[&name], protocol, &config.limits);
        zeroes::pool(&name, protocol);
        Arc::new(Self {
            metrics: PoolMetrics::new(&name),
            name,
            gauges: Gauges::default(),
            known: Known::default(),
            clock,
            planner: Mutex::new(planner),
            policy: ArcSwap::from_pointee(policy),
        })
    }

    /// Takes a new configuration; sessions and counts stay.
    pub fn reconfigure(&self, now: Time, config: &Config) {
        let Some(pool) = config.pools.get(&self.name) else { return };
        self.policy.store(Arc::new(Policy::new(pool, config.protocol(&self.name), &config.limits)));
        self.plan(|planner| planner.reconfigure(now, settings(pool, config.protocol(&self.name))));
    }

    /// The gateway's time.
    #[cfg(test)]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The present policy.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// What is still at `endpoint`: sessions, handshakes and requests in flight, and connections that a session has left and
    /// that are not closed yet. 0 for one that is not there.
    pub fn left(&self, now: Time, endpoint: &EndpointId) -> u64 {
        let (status, id) = self.plan(|planner| (planner.status(now), planner.endpoint_id(endpoint)));
        let known = status.endpoints.iter().find(|known| known.id == id);
        let held = known.map_or(0, |known| u64::from(known.sessions) + u64::from(known.pending));
        held + self.gauges.retired(&id) as u64
    }

    /// Runs `f` on the planner.
    pub fn plan<R>(&self, f: impl FnOnce(&mut Planner) -> R) -> R {
        let mut planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut planner)
    }

    /// An endpoint for a new session or request; counted as in flight until the ticket is used or dropped.
    ///
    /// # Errors
    /// [`Refusal`]: what to answer instead.
    pub fn pick(
        self: &Arc<Self>,
        caller: &Caller,
        purpose: Purpose,
        tried: &[EndpointId],
    ) -> Result<Ticket, Refusal> {
        let picked_at = self.clock.now();
        let request = Request { client: caller.client, purpose, hash: caller.hash, tried };
        let pick = self.plan(|planner| planner.pick(picked_at, &request))?;
        let pool = self.clone();
        Ok(Ticket { pool, endpoint: pick.endpoint, address: pick.address, picked_at, open: true })
    }
}

/// An endpoint that was picked and is counted for.
///
/// Dropping it gives the count back and blames nobody: a plain request is done, the client has left, or the endpoint
/// had an ordinary answer. An endpoint that failed is told of with [`Ticket::failed`].
#[derive(Debug)]
pub struct Ticket {
    pool: Arc<Pool>,
    picked_at: Time,
    /// Who.
    pub endpoint: EndpointId,
    /// Where.
    pub address: SocketAddr,
    open: bool,
}

impl Ticket {
    /// The pool it was picked in.
    pub fn pool_name(&self) -> &PoolName {
        &self.pool.name
    }

    /// Time since it was picked.
    pub fn age(&self) -> Duration {
        self.pool.clock.now().since(self.picked_at)
    }

    /// The endpoint could not be reached, or died or blundered amid the handshake.
    pub fn failed(mut self) {
        self.open = false;
        let now = self.pool.clock.now();
        self.pool.plan(|planner| planner.handle_pick_failed(now, &self.endpoint));
    }

    /// The handshake has succeeded after `took`: from now on it is a session, which ends with
    /// `Planner::handle_closed`.
    pub fn opened(mut self, client: ClientKey, took: Duration) -> (EndpointId, Opened) {
        self.open = false;
        let now = self.pool.clock.now();
        let opened = self.pool.plan(|planner| planner.handle_opened(now, &self.endpoint, client, took));
        (self.endpoint.clone(), opened)
    }

    /// A session of `from`, of the same pool, goes on here. `was_moving` is asked under the planner's lock: whether a move
    /// of it was under way.
    pub fn took_over(
        mut self,
        from: &EndpointId,
        visitor: Visitor,
        was_moving: impl FnOnce() -> bool,
    ) -> (EndpointId, Opened) {
        self.open = false;
        let now = self.pool.clock.now();
        let opened = self.pool.plan(|planner| match was_moving() {
            true => planner.handle_migrated(now, from, &self.endpoint, visitor),
            false => planner.handle_replaced(now, from, &self.endpoint, visitor),
        });
        (self.endpoint.clone(), opened)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            let now = self.pool.clock.now();
            self.pool.plan(|planner| planner.handle_released(now, &self.endpoint));
        }
    }
}
