//! Gateway replicas that level themselves: how many sessions are closed, how fast, and when none are.

mod world;

use std::time::Duration;

use balance::{
    Action, ClientKey, Count, Ended, Move, MoveReason, Planner, Purpose, Request, Settings, Tier, TierLimits,
    TierState, Visitor,
};
use model::{EndpointId, ReplicaName, Time};
use proptest::prelude::*;

use crate::world::ready;

fn limits() -> TierLimits {
    TierLimits { enabled: true, min_surplus: 20, min_ready: Duration::from_secs(60), ..TierLimits::default() }
}

fn name(place: usize) -> ReplicaName {
    format!("evenkeel-{place}").as_str().into()
}

fn count(sessions: u64) -> Count {
    Count { sessions, away: 0, is_still: true }
}

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1_000)
}

/// The view of the first replica, when the others have had `others` for long.
fn seen(limits: TierLimits, others: &[u64]) -> Tier {
    let mut tier = Tier::new(limits);
    let names: Vec<_> = (1..=others.len()).map(name).collect();
    tier.handle_replicas(Time::ZERO, &names);
    tell(&mut tier, at(100), others);
    tier
}

fn tell(tier: &mut Tier, now: Time, others: &[u64]) {
    others.iter().enumerate().for_each(|(place, n)| tier.handle_count(now, &name(place + 1), count(*n)));
}

/// Replicas whose closed clients land by chance, or come back to where they were.
struct Replicas {
    tiers: Vec<Tier>,
    sessions: Vec<u64>,
    closed: Vec<u64>,
    seed: u64,
    is_sticky: bool,
}

impl Replicas {
    fn new(sessions: &[u64], limits: TierLimits, seed: u64) -> Self {
        let mut tiers: Vec<_> = sessions.iter().map(|_| Tier::new(limits)).collect();
        for (own, tier) in tiers.iter_mut().enumerate() {
            let others: Vec<_> = (0..sessions.len()).filter(|place| *place != own).map(name).collect();
            tier.handle_replicas(Time::ZERO, &others);
        }
        let seed = seed.wrapping_mul(2) + 1;
        Self { tiers, sessions: sessions.to_vec(), closed: Vec::new(), seed, is_sticky: false }
    }

    fn chance(&mut self, below: usize) -> usize {
        // Knuth's MMIX generator: its high bits are random enough for a place.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) as usize) % below
    }

    /// Counts travel every five seconds; closed clients are back in the next second.
    fn run(&mut self, seconds: std::ops::Range<u64>) {
        for second in seconds {
            let now = at(second);
            if second % 5 == 0 {
                let counts = self.sessions.clone();
                for (own, tier) in self.tiers.iter_mut().enumerate() {
                    let others = counts.iter().enumerate().filter(|(place, _)| *place != own);
                    others.for_each(|(place, n)| tier.handle_count(now, &name(place), count(*n)));
                }
            }
            let mut closed = vec![0u64; self.tiers.len()];
            for (place, closed) in closed.iter_mut().enumerate() {
                *closed = self.close(place, now, now + Duration::from_secs(1));
            }
            self.closed.push(closed.iter().sum());
            for (place, closed) in closed.into_iter().enumerate() {
                for _ in 0..closed {
                    let to = if self.is_sticky { place } else { self.chance(self.tiers.len()) };
                    self.sessions[to] += 1;
                }
            }
        }
    }

    /// What one replica closes within a second.
    fn close(&mut self, place: usize, mut now: Time, end: Time) -> u64 {
        let mut closed = 0;
        loop {
            let own = count(self.sessions[place]);
            let n = self.tiers[place].poll_moves(now, own);
            self.tiers[place].handle_began(now, n, n);
            self.sessions[place] -= u64::from(n);
            closed += u64::from(n);
            match self.tiers[place].poll_timeout(now, count(self.sessions[place])).filter(|at| *at < end) {
                Some(at) => now = at.max(now + Duration::from_millis(1)),
                None => return closed,
            }
        }
    }

    fn fullest_by_mean(&self) -> f64 {
        let sum: u64 = self.sessions.iter().sum();
        self.sessions.iter().copied().fold(0, u64::max) as f64 * self.sessions.len() as f64 / sum as f64
    }

    fn closed_in_all(&self) -> u64 {
        self.closed.iter().sum()
    }
}

#[test]
fn two_full_replicas_beside_two_new_ones_come_into_the_band_at_the_pace_of_the_tier() {
    for seed in 0..8 {
        let mut replicas = Replicas::new(&[2_000, 2_000, 0, 0], limits(), seed);
        replicas.run(0..1_200);
        assert!(replicas.fullest_by_mean() <= 1.13, "seed {seed}: {:?}", replicas.sessions);
        // (2 x (2,000 - 1,100)) / (2 / 4): every second client lands where it should.
        let closed = replicas.closed_in_all();
        assert!((3_300..=3_970).contains(&closed), "seed {seed}: {closed}");
        let settling: u64 = replicas.closed[..60].iter().sum();
        assert_eq!(settling, 0, "min_ready");
        for (second, ten) in replicas.closed.windows(10).enumerate() {
            let ten: u64 = ten.iter().sum();
            assert!(ten <= 54, "seed {seed}: {ten} closes within ten seconds from {second}");
        }
    }
}

#[test]
fn within_the_band_nothing_is_closed_and_outside_of_it_only_down_to_the_lower_one() {
    for (own, others, expected) in [
        (129, vec![71], TierState::Level),
        (131, vec![69], TierState::Levelling),
        (69, vec![131], TierState::Level),
        (28, vec![10, 10], TierState::Level),
        (0, vec![0, 0], TierState::Level),
    ] {
        let mut tier = seen(limits(), &others);
        let closes = tier.poll_moves(at(100), count(own)) > 0;
        assert_eq!(tier.status(at(100), count(own)).state, expected, "{own} beside {others:?}");
        assert_eq!(closes, expected == TierState::Levelling, "{own} beside {others:?}");
    }
    let mut tier = seen(limits(), &[69]);
    assert_eq!(tier.poll_moves(at(100), count(131)), 1);
    tier.handle_began(at(100), 1, 1);
    tell(&mut tier, at(110), &[89]);
    assert_eq!(tier.poll_moves(at(110), count(111)), 1, "it goes on within the band");
    tier.handle_began(at(110), 1, 1);
    tell(&mut tier, at(120), &[90]);
    assert_eq!(tier.poll_moves(at(120), count(110)), 0, "a tenth above the mean is enough");
    assert_eq!(tier.status(at(120), count(110)).state, TierState::Level);
}

#[test]
fn a_replica_that_does_not_answer_stops_every_close() {
    let (own, now) = (count(900), at(100));
    let mut tier = seen(limits(), &[100, 100]);
    assert_eq!(tier.poll_moves(now, own), 1);
    tier.handle_began(now, 1, 1);
    tier.handle_silence(&name(2));
    let later = now + Duration::from_secs(1);
    assert_eq!(tier.poll_moves(later, own), 0);
    let status = tier.status(later, own);
    assert_eq!((status.state, status.replicas, status.counted, status.mean), (TierState::Blind, 3, 2, None));
    assert!(status.why.contains("evenkeel-2"), "{}", status.why);
    tier.handle_count(later, &name(2), count(100));
    assert_eq!(tier.poll_moves(later, own), 1);
    let old = later + Duration::from_secs(16);
    assert_eq!(tier.poll_moves(old, own), 0, "old counts are no counts");
}

#[test]
fn while_sessions_are_moved_anywhere_the_tier_waits() {
    let mut tier = seen(limits(), &[100, 100]);
    let busy = Count { is_still: false, ..count(900) };
    assert_eq!(tier.poll_moves(at(100), busy), 0);
    assert_eq!(tier.status(at(100), busy).state, TierState::Waiting);
    tier.handle_count(at(100), &name(1), Count { is_still: false, ..count(100) });
    assert_eq!(tier.poll_moves(at(100), count(900)), 0);
    assert!(tier.status(at(100), count(900)).why.contains("evenkeel-1"));
}

#[test]
fn a_replica_that_came_or_went_puts_every_close_off_by_min_ready() {
    let mut tier = seen(limits(), &[100, 100]);
    assert_eq!(tier.poll_moves(at(100), count(900)), 1);
    tier.handle_began(at(100), 1, 1);
    tier.handle_replicas(at(101), [&name(1), &name(2)]);
    assert_eq!(tier.poll_moves(at(101), count(900)), 1, "the same ones");
    tier.handle_began(at(101), 1, 1);
    tier.handle_replicas(at(102), [&name(1), &name(2), &name(3)]);
    tell(&mut tier, at(161), &[100, 100, 0]);
    assert_eq!(tier.poll_moves(at(161), count(900)), 0);
    assert_eq!(tier.status(at(161), count(900)).state, TierState::Settling);
    assert_eq!(tier.poll_moves(at(162), count(900)), 1);
    tier.handle_replicas(at(163), []);
    tier.handle_replicas(at(163), [&name(1)]);
    assert_eq!(tier.poll_moves(at(224), count(900)), 0, "it is another one of the same name");
    assert_eq!(tier.status(at(224), count(900)).state, TierState::Blind);
}

#[test]
fn off_or_alone_nothing_is_closed() {
    let mut off = seen(TierLimits::default(), &[0]);
    assert_eq!(off.poll_moves(at(100), count(900)), 0);
    assert_eq!(off.status(at(100), count(900)).state, TierState::Off);
    let mut alone = seen(limits(), &[]);
    assert_eq!((alone.poll_moves(at(100), count(900)), alone.replicas()), (0, Some(1)));
    assert_eq!(alone.status(at(100), count(900)).state, TierState::Alone);
    assert_eq!(Tier::new(limits()).replicas(), None, "nobody has told");
}

#[test]
fn clients_that_come_back_to_where_they_were_are_found_out_and_left_alone() {
    let mut replicas = Replicas::new(&[3_000, 1_000], limits(), 1);
    replicas.is_sticky = true;
    replicas.run(0..1_800);
    let closed = replicas.closed_in_all();
    assert!((100..=250).contains(&closed), "{closed}");
    let status = replicas.tiers[0].status(at(1_795), count(3_000));
    assert_eq!(status.state, TierState::Resting, "{}", status.why);
}

#[test]
fn a_replica_with_too_few_sessions_that_may_be_closed_waits_a_little() {
    let mut tier = seen(limits(), &[100]);
    assert_eq!(tier.poll_moves(at(100), count(900)), 1);
    tier.handle_began(at(100), 1, 0);
    assert_eq!(tier.poll_moves(at(101), count(900)), 0);
    assert_eq!(tier.status(at(101), count(900)).state, TierState::Resting);
    assert_eq!(tier.poll_moves(at(110), count(900)), 1);
}

proptest! {
    #[test]
    fn nobody_closes_below_its_share_and_all_together_keep_the_pace(
        sessions in prop::collection::vec(0u64..5_000, 2..8),
        seed in any::<u64>(),
    ) {
        let mut replicas = Replicas::new(&sessions, limits(), seed);
        replicas.run(0..400);
        let mean = sessions.iter().sum::<u64>() as f64 / sessions.len() as f64;
        for (before, after) in sessions.iter().zip(&replicas.sessions) {
            // Whoever has no surplus only gets.
            prop_assert!(*after as f64 >= mean.floor().min(*before as f64), "{before} became {after}");
        }
        prop_assert!(replicas.closed_in_all() <= 5 * 340 + sessions.len() as u64 * 2);
    }
}

// ---- the planner's part

fn planner(sessions: &[u32]) -> (Planner, Vec<EndpointId>) {
    let mut planner = Planner::new(Settings::default(), 1);
    let endpoints = ready(sessions.len());
    planner.handle_endpoints(Time::ZERO, &endpoints);
    let ids: Vec<EndpointId> = endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
    for (place, n) in sessions.iter().enumerate() {
        let others: Vec<_> = ids.iter().filter(|id| **id != ids[place]).cloned().collect();
        for _ in 0..*n {
            let client = ClientKey(9);
            let request = Request { client, purpose: Purpose::Session, hash: None, tried: &others };
            planner.pick(Time::ZERO, &request).expect("one is left");
            planner.handle_opened(Time::ZERO, &ids[place], client, Duration::from_millis(1));
        }
    }
    // The endpoints have settled.
    while planner.poll_action(at(5)).is_some() {}
    (planner, ids)
}

fn moves(planner: &mut Planner, now: Time) -> Vec<Move> {
    let mut moves = Vec::new();
    while let Some(action) = planner.poll_action(now) {
        if let Action::Move(one) = action {
            moves.push(one);
        }
    }
    moves
}

#[test]
fn a_tier_move_takes_from_the_fullest_and_keeps_the_level() {
    let (mut planner, ids) = planner(&[103, 100, 100]);
    assert_eq!(planner.tier_count(at(6)), count(303));
    assert_eq!(planner.shed_for_tier(at(6), 4), 4, "as many as may be away at first");
    let asked = moves(&mut planner, at(6));
    let expected = [(&ids[0], 4, MoveReason::Tier)];
    let found: Vec<_> = asked.iter().map(|m| (&m.from, m.count, m.reason)).collect();
    assert_eq!(found, expected);
    planner.handle_moves_began(at(6), &ids[0], 4, 3);
    assert_eq!(planner.tier_count(at(6)).sessions, 300);
    let visitor = Visitor { client: ClientKey(9), moves: 0 };
    (0..3).for_each(|_| planner.handle_closed(at(7), &ids[0], Ended::Moved, visitor));
    let status = planner.status(at(7));
    assert_eq!((status.sessions, status.away, status.moves.began, status.moves.moved), (300, 3, 3, 3));
    assert_eq!(planner.tier_count(at(7)), Count { sessions: 300, away: 3, is_still: true });
    assert!(moves(&mut planner, at(60)).is_empty(), "no plan follows from it");
}

#[test]
fn nothing_leaves_for_the_tier_while_the_pool_itself_is_moved_drained_or_paused() {
    let (mut planner, ids) = planner(&[100, 100]);
    planner.pause(at(6));
    assert_eq!(planner.shed_for_tier(at(6), 4), 0);
    planner.resume(at(6));
    planner.drain(at(6), &ids[0], None).expect("it is there");
    assert_eq!((planner.shed_for_tier(at(6), 4), planner.tier_count(at(6)).is_still), (0, false));
    planner.cancel_drain(at(6), &ids[0]).expect("it is there");
    planner.handle_endpoints(at(6), &ready(3));
    assert_eq!(planner.shed_for_tier(at(6), 4), 0, "endpoints settle, one is new");
}

#[test]
fn a_count_is_split_as_the_pools_have_it() {
    assert_eq!(balance::split(5, &[10, 30, 60]), [1, 1, 3]);
    assert_eq!(balance::split(1, &[1, 3]), [0, 1]);
    assert_eq!(balance::split(7, &[0, 0]), [0, 0]);
    assert_eq!(balance::split(u32::MAX, &[u64::MAX / 2, 1]), [u32::MAX, 0]);
}
