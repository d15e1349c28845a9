//! What the unit tests share: a pool of two endpoints, and sessions without a relay.

use std::sync::Arc;
use std::time::Duration;

use balance::victims::Preference;
use balance::{ClientKey, MoveReason, Planner, PoolStatus, Purpose};
use model::Endpoint;

use crate::admission::{Admission, Permit, RouteCount};
use crate::clock::Clock;
use crate::pool::{Caller, Pool, Ticket};
use crate::slot::{MoveBy, Slot, Standing, Terms, client_key};
use crate::stay::Stay;
use crate::worker::Worker;

const CALLER: Caller = Caller { client: ClientKey(1), hash: None, tenant: 0 };

pub fn pool(clock: Clock) -> Arc<Pool> {
    let text = "{listeners: [{address: '127.0.0.1:0', protocol: amqp, routes: [{pool: a}]}], \
                 pools: {a: {endpoints: []}}}";
    let config = config::parse(text, std::path::Path::new("/")).expect("it is valid").config;
    let pool = Pool::new("a".into(), &config, clock);
    let address = "127.0.0.1:5672".parse().expect("it is an address");
    let endpoint = |name: &str| Endpoint::new(name, address);
    pool.plan(|planner| planner.handle_endpoints(clock.now(), &[endpoint("e0"), endpoint("e1")]));
    pool
}

pub fn begin(pool: &Arc<Pool>, worker: &Arc<Worker>) -> Stay {
    let ticket = pool.pick(&CALLER, Purpose::Session, &[]).expect("one is ready");
    let client = std::net::IpAddr::from([127, 0, 0, 1]);
    let (endpoint, opened) = ticket.opened(client_key(client), Duration::from_millis(1));
    let terms = Terms {
        cooling_until: opened.cooling_until,
        expires_at: None,
        tenant: 0,
        moves: 0,
        preference: Preference::Normal,
        may_notify: false,
        by: MoveBy::Migrate,
    };
    let now = worker.clock.now();
    let slot = Slot::new(pool.clone(), endpoint, client, now, terms, worker.unread.clone());
    let admitted = Arc::<Admission>::default().admit(client, 9, None).expect("there is room");
    let route = Arc::<RouteCount>::default().enter(None).expect("there is room");
    let load = Arc::new(worker.enter());
    Stay::begin(worker.clone(), Arc::new(slot), Permit::new(Arc::new(admitted), route), load, "id".into())
}

/// As the rebalance loop does it.
pub fn begin_move(slot: &Slot) -> bool {
    slot.pool.plan(|planner| {
        let from = slot.movable_from(MoveReason::Draining, false);
        let began = slot.change(from, Standing::Moving).is_some();
        if began {
            planner.begin_moves_unasked(slot.pool.now(), &slot.endpoint, 1);
        }
        began
    })
}

pub fn next(stay: &Stay) -> Ticket {
    let tried = std::slice::from_ref(&stay.slot.endpoint);
    stay.slot.pool.pick(&CALLER, Purpose::Migration, tried).expect("another is ready")
}

pub fn status(pool: &Pool) -> PoolStatus {
    pool.plan(|planner: &mut Planner| planner.status(pool.now()))
}

/// Sessions, moving, pending of all endpoints.
pub fn sums(pool: &Pool) -> (u32, u32, u32) {
    let add = |(a, b, c): (u32, u32, u32), e: &balance::EndpointStatus| {
        (a + e.sessions, b + e.moving, c + e.pending)
    };
    status(pool).endpoints.iter().fold((0, 0, 0), add)
}
