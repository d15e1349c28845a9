//! What a decision costs: `cargo bench -p balance`.
//!
//! Bars: a pick among 10,000 endpoints takes at most 1 microsecond and allocates nothing; a plan over 10,000 endpoints,
//! and the explanation of one, take at most 5 milliseconds. Columns are times of one call; the lines below each tell its
//! allocations.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use balance::{Action, ClientKey, Limits, Movable, Move, Planner, Policy, Purpose, Request, Settings};
use divan::Bencher;
use model::{Endpoint, EndpointId, Time};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// The first has sessions beyond its share, the last none.
fn planner(policy: Policy, endpoints: usize, sessions_each: u32) -> Planner {
    // Enough pace that a plan is not cut short by it.
    let limits = Limits {
        moves_per_second_max: Some(100_000.0),
        concurrent_moves_max: 1_000_000,
        probe_moves: 1_000,
        settle: Duration::ZERO,
        ..Limits::default()
    };
    let mut planner = Planner::new(Settings { policy, limits, ..Settings::default() }, 1);
    let list: Vec<Endpoint> = (0..endpoints)
        .map(|n| {
            let id = EndpointId::new(format!("endpoint-{n:05}"));
            Endpoint::new(id, "127.0.0.1:80".parse().expect("it is an address"))
        })
        .collect();
    planner.handle_endpoints(Time::ZERO, &list);
    for (n, endpoint) in list.iter().enumerate() {
        let sessions = if n * 2 < endpoints { 2 * sessions_each } else { 0 };
        for _ in 0..sessions {
            planner.handle_opened(Time::ZERO, &endpoint.id, ClientKey(1), Duration::ZERO);
        }
    }
    planner
}

fn pick(bencher: Bencher<'_, '_>, policy: Policy, endpoints: usize) {
    let mut planner = planner(policy, endpoints, 0);
    let now = Time::from_millis(1);
    let mut client = 0;
    bencher.bench_local(|| {
        client += 1;
        let request =
            Request { client: ClientKey(client), purpose: Purpose::Session, hash: None, tried: &[] };
        black_box(planner.pick(now, &request)).is_ok()
    });
}

const ENDPOINTS: [usize; 3] = [10, 1_000, 10_000];

#[divan::bench(args = ENDPOINTS, sample_count = 50, sample_size = 2000)]
fn pick_least_connections(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, Policy::LeastConnections, endpoints);
}

#[divan::bench(args = ENDPOINTS, sample_count = 50, sample_size = 2000)]
fn pick_p2c(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, Policy::P2c, endpoints);
}

#[divan::bench(args = ENDPOINTS, sample_count = 50, sample_size = 2000)]
fn pick_random(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, Policy::Random, endpoints);
}

#[divan::bench(args = ENDPOINTS, sample_count = 50, sample_size = 2000)]
fn pick_round_robin(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, Policy::RoundRobin, endpoints);
}

#[divan::bench(args = ENDPOINTS, sample_count = 50, sample_size = 2000)]
fn pick_consistent_hash(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, Policy::ConsistentHash, endpoints);
}

/// All that a session costs the planner: pick, opened, closed.
#[divan::bench(args = ENDPOINTS, sample_count = 50, sample_size = 2000)]
fn session(bencher: Bencher<'_, '_>, endpoints: usize) {
    let mut planner = planner(Policy::LeastConnections, endpoints, 0);
    let now = Time::from_millis(1);
    bencher.bench_local(|| {
        let client = ClientKey(1);
        let request = Request { client, purpose: Purpose::Session, hash: None, tried: &[] };
        let Ok(pick) = planner.pick(now, &request) else { return };
        let opened = planner.handle_opened(now, &pick.endpoint, client, Duration::from_millis(1));
        let visitor = balance::Visitor { client, moves: opened.moves };
        planner.handle_closed(now, &pick.endpoint, balance::Ended::Left, visitor);
    });
}

/// Half of the endpoints hold everything; the plan is the next batch of moves.
#[divan::bench(args = ENDPOINTS, sample_count = 20)]
fn plan(bencher: Bencher<'_, '_>, endpoints: usize) {
    let full = planner(Policy::LeastConnections, endpoints, 20);
    bencher.with_inputs(|| full.clone()).bench_local_refs(|planner| {
        let now = Time::from_millis(30_000);
        let mut moves: Vec<Move> = Vec::new();
        while let Some(action) = planner.poll_action(now) {
            if let Action::Move(order) = action {
                moves.push(order);
            }
        }
        assert!(!moves.is_empty(), "the pool is not level");
        moves
    });
}

/// The same pool, explained in full: every move with its reason.
#[divan::bench(args = ENDPOINTS, sample_count = 20)]
fn explain(bencher: Bencher<'_, '_>, endpoints: usize) {
    let full = planner(Policy::LeastConnections, endpoints, 20);
    let now = Time::from_millis(30_000);
    let movable = || Movable { movable: 40, pinned: BTreeMap::new() };
    let sessions: BTreeMap<EndpointId, Movable> =
        full.status(now).endpoints.into_iter().map(|e| (e.id, movable())).collect();
    bencher.bench_local(|| {
        let plan = full.explain(now, &sessions);
        assert!(plan.moves_total > 0, "the pool is not level");
        plan
    });
}
