//! The return guard: a fleet whose clients do not come back is found after a handful of closes.
//!
//! Like a sender that does not know the road, it lets few clients be away at once (`probe_moves`), and more with each
//! that returns. When too many are late it waits; when too many are given up it stops moving the pool and says so.
//! After a back-off it tries again with half as many, or when it is told to.
//!
//! Who has returned is told by the ledger, and by strangers: sessions beyond the usual number that are nobody's return,
//! while clients are away. With one replica these are clients whose address changes. With several they are most: clients
//! that other replicas have moved, while ours land there. So there what comes is held against what goes, as long as half
//! of the tier moves along; and when the others have no reason to move anything just now, only our own clients that
//! happen to land here tell anything.

use std::time::Duration;

use model::Time;

use crate::{Guard, Limits, Report};

/// Each return lets so many more be away at once.
const GROWTH: f64 = 2.0;
/// More are never away at once.
const AWAY_MAX: u64 = 1_000_000;
/// Late is who takes so many times the usual time to return,
const LATE_TIMES: f64 = 4.0;
/// and at least this long.
const LATE_MIN: Duration = Duration::from_secs(3);
/// How much the newest return counts in the usual time.
const DELAY_GAIN: f64 = 0.05;
/// Fewer that are missing are an accident.
const MISSING_MIN: u64 = 3;
/// How improbable it has to be that what is seen is chance: e to the minus this, one in 5,000. It is judged all the time.
const IMPROBABLE: f64 = 8.5;
/// With several replicas, the part of them that is taken to move sessions when one does because endpoints have changed.
const MOVING_ALONG: f64 = 0.5;
/// With several replicas, each begins with at least so many: fewer say nothing.
const PROBE_MIN: u32 = 4;
/// Beyond this many outcomes, old ones fade.
const JUDGED_MAX: u64 = 400;
/// Doublings of the back-off.
const BACKOFF_DOUBLINGS_MAX: u32 = 4;

/// What has become of the moved clients of one pool.
#[derive(Clone, Debug)]
pub(crate) struct ReturnGuard {
    /// Clients that may be away at once.
    away_max: u64,
    /// Of the last moved clients, those that came back (or have a stranger in their stead), and those that are late or were
    /// given up.
    returned: u64,
    missing: u64,
    /// Of those that returned, the strangers.
    by_strangers: u64,
    /// Given up since the guard was last open, or began anew.
    lost: u64,
    replicas: u32,
    /// The others are not moving sessions either: only own clients are expected back here.
    is_alone: bool,
    stage: Stage,
    /// Stops without a success in between.
    failures: u32,
    stops: u64,
    /// Usual time from a departure to the return, seconds.
    delay_s: Option<f64>,
    strangers: Strangers,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Open,
    /// Nothing is moved before.
    Stopped(Time),
    /// After a stop: so many returns clear it.
    Probing(u64),
}

/// What may be moved at one replica before anybody has returned.
fn probe(limits: &Limits, replicas: u32) -> u64 {
    let least = if replicas > 1 { PROBE_MIN } else { 1 };
    u64::from(limits.probe_moves.div_ceil(replicas).max(least.min(limits.probe_moves)).max(1))
}

impl ReturnGuard {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            away_max: probe(limits, 1),
            returned: 0,
            missing: 0,
            by_strangers: 0,
            lost: 0,
            replicas: 1,
            is_alone: false,
            stage: Stage::Open,
            failures: 0,
            stops: 0,
            delay_s: None,
            strangers: Strangers::default(),
        }
    }

    /// The settings or the number of replicas have changed: the window begins anew; what was judged stays.
    pub(crate) fn restart(&mut self, limits: &Limits, replicas: u32) {
        self.replicas = replicas;
        self.away_max = probe(limits, replicas);
    }

    /// Moves begin that other replicas have no reason to make, or that all make at the same time.
    pub(crate) fn set_alone(&mut self, is_alone: bool) {
        self.is_alone = is_alone;
    }

    /// Moves that may begin now. `away`: clients on their way back, moves under way included.
    pub(crate) fn allowance(&self, limits: &Limits, away: u64) -> u64 {
        if limits.min_return_ratio <= 0.0 {
            return u64::MAX;
        }
        if self.are_too_many_missing(limits) || self.is_stopped() {
            0
        } else {
            self.away_max.saturating_sub(away)
        }
    }

    /// A client left because it was moved.
    pub(crate) fn note_departure(&mut self, now: Time) {
        self.strangers.depart(now);
    }

    /// So many moved clients have become late.
    pub(crate) fn note_late(&mut self, count: u64) {
        self.missing += count;
        self.fade();
    }

    /// A moved client is back: after so long, or a stranger stands for it.
    pub(crate) fn note_return(&mut self, delay: Option<Duration>, was_late: bool) {
        self.returned += 1;
        self.missing -= u64::from(was_late).min(self.missing);
        self.by_strangers += u64::from(delay.is_none());
        // An own client that lands here stands for those that land elsewhere.
        let stands_for = if delay.is_some() && self.is_alone { f64::from(self.replicas) } else { 1.0 };
        let growth = GROWTH * stands_for;
        self.away_max = (self.away_max + growth as u64).min(AWAY_MAX);
        if let Some(delay) = delay {
            let delay = delay.as_secs_f64();
            self.delay_s = Some(self.delay_s.map_or(delay, |usual| usual + DELAY_GAIN * (delay - usual)));
        }
        self.fade();
    }

    /// One of the moved clients was not there when it was closed.
    pub(crate) fn note_withdrawn(&mut self, was_late: bool) {
        self.missing -= u64::from(was_late).min(self.missing);
    }

    /// So many late clients were given up.
    pub(crate) fn note_lost(&mut self, count: u64, limits: &Limits) {
        self.lost += count;
        self.away_max = self.away_max.saturating_sub(count).max(probe(limits, self.replicas));
    }

    fn fade(&mut self) {
        while self.returned + self.missing > JUDGED_MAX {
            self.returned /= 2;
            self.missing /= 2;
            self.by_strangers /= 2;
        }
    }

    /// A session opened that is nobody's return.
    pub(crate) fn note_stranger(&mut self, now: Time) {
        self.strangers.arrive(now);
    }

    /// True when there were more strangers than usual: one of them stands for a client that is away.
    pub(crate) fn take_stranger(&mut self, now: Time) -> bool {
        // With one replica strangers are strangers unless they are clearly too many; clients may change their address.
        if self.replicas > 1 {
            self.strangers.take(now, 1.0, 1.0)
        } else {
            self.strangers.take(now, 1.25, 3.0)
        }
    }

    /// How long somebody has to be away to be late: never longer than until it is given up.
    pub(crate) fn late_after(&self, limits: &Limits) -> Duration {
        let usual = self.delay_s.unwrap_or(0.0) * LATE_TIMES;
        LATE_MIN.max(Duration::from_secs_f64(usual.min(86_400.0))).min(limits.return_timeout)
    }

    /// Judges, and lets time pass.
    pub(crate) fn judge(&mut self, now: Time, limits: &Limits) -> Option<Report> {
        if limits.min_return_ratio <= 0.0 {
            return self.resume(limits);
        }
        if !self.are_too_many_missing(limits) {
            // Who was lost while all was well proves nothing later.
            self.lost = 0;
        }
        match self.stage {
            Stage::Stopped(until) if until <= now => {
                let moves = probe(limits, self.replicas).div_ceil(2);
                self.stage = Stage::Probing(moves);
                self.away_max = moves;
                self.forget();
                Some(Report::GuardProbes { moves: u32::try_from(moves).unwrap_or(u32::MAX) })
            }
            Stage::Stopped(_) => None,
            Stage::Open | Stage::Probing(_) if self.lost > 0 && self.are_too_many_missing(limits) => {
                let pause = limits.guard_backoff * (1 << self.failures.min(BACKOFF_DOUBLINGS_MAX));
                self.failures += 1;
                self.stops += 1;
                self.stage = Stage::Stopped(now + pause);
                let judged = self.returned + self.missing;
                Some(Report::GuardStopped { judged, returned: self.returned, retry_after: pause })
            }
            Stage::Probing(wanted) if self.returned >= wanted => {
                self.failures = 0;
                self.lost = 0;
                self.stage = Stage::Open;
                Some(Report::GuardCleared)
            }
            Stage::Open | Stage::Probing(_) => None,
        }
    }

    /// The least part of our moved clients that comes here, or has others come in its stead, if all come back.
    fn expected_here(&self) -> f64 {
        match (self.shares_clients(), self.is_alone) {
            (false, _) => 1.0,
            (true, true) => 1.0 / f64::from(self.replicas),
            (true, false) => MOVING_ALONG,
        }
    }

    /// There are other replicas: it was told so, or most that come are strangers.
    fn shares_clients(&self) -> bool {
        let own = self.returned - self.by_strangers.min(self.returned);
        self.replicas > 1 || own > 0 && self.by_strangers > own
    }

    /// More are missing beside those that returned than `min_return_ratio` allows and chance explains.
    fn are_too_many_missing(&self, limits: &Limits) -> bool {
        let (returned, missing) = (self.returned as f64, self.missing as f64);
        let all = returned + missing;
        let least = limits.min_return_ratio * self.expected_here() * all;
        let nobody = self.returned == 0 && self.missing >= u64::from(limits.probe_moves);
        if nobody && self.expected_here() >= MOVING_ALONG {
            return true;
        }
        if self.missing < MISSING_MIN || returned >= least {
            return false;
        }
        // Chernoff's bounds. With one replica each client comes back or not; with several, those that land here are many
        // that could, of which each seldom does.
        let times = |n: f64, expected: f64| if n > 0.0 { n * (n / expected).ln() } else { 0.0 };
        let improbability = if self.shares_clients() {
            least - returned + times(returned, least)
        } else {
            times(returned, least) + times(missing, all - least)
        };
        improbability > IMPROBABLE
    }

    fn forget(&mut self) {
        (self.returned, self.missing, self.by_strangers, self.lost) = (0, 0, 0, 0);
    }

    /// Somebody knows better: what was seen is forgotten.
    pub(crate) fn resume(&mut self, limits: &Limits) -> Option<Report> {
        let was_open = self.stage == Stage::Open;
        if !was_open {
            self.stage = Stage::Open;
            self.failures = 0;
            self.away_max = probe(limits, self.replicas);
            self.forget();
        }
        (!was_open).then_some(Report::GuardCleared)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Stopped(_))
    }

    /// When it tries again.
    pub(crate) fn retries_at(&self) -> Option<Time> {
        match self.stage {
            Stage::Stopped(until) => Some(until),
            Stage::Open | Stage::Probing(_) => None,
        }
    }

    pub(crate) fn status(&self, now: Time) -> Guard {
        Guard {
            stopped: self.is_stopped(),
            away_max: self.away_max,
            judged: self.returned + self.missing,
            returned: self.returned,
            retry_after_s: self.retries_at().map_or(0, |until| until.since(now).as_secs()),
            stops: self.stops,
        }
    }
}

/// Arrivals are counted over so long,
const BUCKET: Duration = Duration::from_secs(30);
/// and a low one of so many counts is the usual one, so that a storm long ago does not raise it.
const BUCKETS: usize = 20;
/// About a quarter of the counts are lower than the usual one.
const LOWER: usize = 4;
/// Clients are being moved until so long after the last one was.
const EPISODE_LINGER: Duration = Duration::from_secs(60);

/// New sessions that are nobody's return: the usual ones, and those beyond while clients are moved.
#[derive(Clone, Debug, Default)]
struct Strangers {
    /// Of times in which nobody was moved from here.
    counts: [u32; BUCKETS],
    /// Of them, how many have been filled.
    filled: usize,
    present: u32,
    present_began: Time,
    episode: Option<Episode>,
}

/// A time in which clients are moved.
#[derive(Clone, Copy, Debug)]
struct Episode {
    began: Time,
    last_departure: Time,
    /// Strangers since it began, and those of them that stand for a client.
    arrived: u64,
    taken: u64,
}

impl Strangers {
    /// A client has left because it was moved.
    fn depart(&mut self, now: Time) {
        self.turn(now);
        let new = Episode { began: now, last_departure: now, arrived: 0, taken: 0 };
        self.episode.get_or_insert(new).last_departure = now;
    }

    fn arrive(&mut self, now: Time) {
        self.turn(now);
        match &mut self.episode {
            Some(episode) => episode.arrived += 1,
            None => self.present = self.present.saturating_add(1),
        }
    }

    /// One of those beyond so many times the usual, if there is one. `sigmas`: standard deviations of that number that are
    /// taken for chance.
    fn take(&mut self, now: Time, times: f64, sigmas: f64) -> bool {
        if self.filled == 0 && times > 1.0 {
            // Nothing is usual yet.
            return false;
        }
        let usual = times * self.usual_per_second();
        let Some(episode) = &mut self.episode else { return false };
        let expected = usual * now.since(episode.began).as_secs_f64();
        let beyond = episode.arrived as f64 - expected - sigmas * expected.sqrt();
        let is_one = beyond >= (episode.taken + 1) as f64;
        episode.taken += u64::from(is_one);
        is_one
    }

    /// Puts away the counts whose time is over, and the episode.
    fn turn(&mut self, now: Time) {
        if let Some(episode) = self.episode {
            if now.since(episode.last_departure) < EPISODE_LINGER {
                return;
            }
            // What was counted meanwhile says nothing of the usual.
            self.episode = None;
            (self.present, self.present_began) = (0, now);
        }
        let mut turns = 0;
        while now.since(self.present_began) >= BUCKET && turns < BUCKETS {
            self.counts.rotate_right(1);
            self.counts[0] = std::mem::take(&mut self.present);
            self.filled = (self.filled + 1).min(BUCKETS);
            self.present_began += BUCKET;
            turns += 1;
        }
        if turns == BUCKETS {
            self.present_began = now;
        }
    }

    fn usual_per_second(&self) -> f64 {
        let mut counts = self.counts;
        let counts = &mut counts[..self.filled];
        counts.sort_unstable();
        f64::from(counts.get(self.filled.saturating_sub(LOWER) / LOWER).copied().unwrap_or(0))
            / BUCKET.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> Limits = Limits::default;

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_fleet_that_never_returns_is_let_go_only_as_far_as_the_probe() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        let mut away = 0;
        while guard.allowance(&limits, away) > 0 {
            away += 1;
        }
        assert_eq!(away, 16);
        assert_eq!(guard.judge(at(30), &limits), None);
        guard.note_late(away);
        guard.note_lost(away, &limits);
        let stopped = Report::GuardStopped { judged: 16, returned: 0, retry_after: Duration::from_secs(600) };
        assert_eq!(guard.judge(at(30), &limits), Some(stopped));
        assert_eq!(guard.allowance(&limits, 0), 0);
        // After the back-off it tries half as many; when those stay away too, it waits twice as long.
        assert_eq!(guard.judge(at(629), &limits), None);
        assert_eq!(guard.judge(at(630), &limits), Some(Report::GuardProbes { moves: 8 }));
        assert_eq!(guard.allowance(&limits, 0), 8);
        guard.note_late(8);
        guard.note_lost(8, &limits);
        let again = Report::GuardStopped { judged: 8, returned: 0, retry_after: Duration::from_secs(1_200) };
        assert_eq!(guard.judge(at(660), &limits), Some(again));
        assert_eq!(guard.resume(&limits), Some(Report::GuardCleared));
        assert_eq!(guard.allowance(&limits, 0), 16);
        assert_eq!(guard.status(at(660)).stops, 2);
    }

    #[test]
    fn a_probe_whose_clients_return_clears_the_stop() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        guard.note_late(16);
        guard.note_lost(16, &limits);
        guard.judge(at(0), &limits);
        guard.judge(at(600), &limits);
        (0..8).for_each(|_| guard.note_return(Some(Duration::from_secs(1)), false));
        assert_eq!(guard.judge(at(601), &limits), Some(Report::GuardCleared));
        assert!(!guard.is_stopped());
    }

    #[test]
    fn returns_widen_the_window_and_a_few_that_stay_away_do_not_stop_it() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        for _ in 0..100 {
            guard.note_return(Some(Duration::from_millis(200)), false);
        }
        guard.note_late(8);
        guard.note_lost(8, &limits);
        assert_eq!(guard.judge(at(40), &limits), None);
        assert_eq!(guard.allowance(&limits, 0), 16 + 200 - 8);
    }

    #[test]
    fn too_many_late_ones_make_it_wait_and_too_many_lost_ones_stop_it() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        (0..80).for_each(|_| guard.note_return(Some(Duration::from_secs(1)), false));
        guard.note_late(16);
        assert!(guard.allowance(&limits, 20) > 0);
        guard.note_late(14);
        assert_eq!(guard.allowance(&limits, 20), 0);
        assert_eq!(guard.judge(at(39), &limits), None, "late is not lost");
        guard.note_lost(1, &limits);
        assert!(matches!(
            guard.judge(at(40), &limits),
            Some(Report::GuardStopped { judged: 110, returned: 80, .. })
        ));
    }

    #[test]
    fn a_pool_of_few_clients_is_not_stopped_by_one_that_left_for_good() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        guard.note_return(Some(Duration::from_secs(1)), false);
        guard.note_late(1);
        guard.note_lost(1, &limits);
        assert_eq!(guard.judge(at(40), &limits), None);
    }

    #[test]
    fn a_client_lost_long_ago_does_not_make_lateness_a_loss() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        (0..10).for_each(|_| guard.note_return(Some(Duration::from_secs(1)), false));
        guard.note_late(1);
        guard.note_lost(1, &limits);
        assert_eq!(guard.judge(at(100), &limits), None);
        guard.note_late(16);
        assert_eq!(guard.judge(at(1_000), &limits), None, "they are late, and none is given up");
        assert_eq!(guard.allowance(&limits, 0), 0);
        (0..16).for_each(|_| guard.note_return(Some(Duration::from_secs(6)), true));
        assert_eq!(guard.judge(at(1_003), &limits), None);
        assert!(guard.allowance(&limits, 0) > 0);
    }

    #[test]
    fn a_ratio_of_zero_never_minds() {
        let limits = Limits { min_return_ratio: 0.0, ..LIMITS() };
        let mut guard = ReturnGuard::new(&limits);
        guard.note_late(5_000);
        guard.note_lost(5_000, &limits);
        assert_eq!(guard.judge(at(1), &limits), None);
        assert_eq!(guard.allowance(&limits, 1_000_000), u64::MAX);
    }

    #[test]
    fn with_replicas_each_stops_after_a_probe_of_which_nobody_came() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        guard.restart(&limits, 10);
        let mut all = 0;
        // Those that are late are most likely back elsewhere: at first.
        while guard.allowance(&limits, 0) > 0 {
            let count = guard.allowance(&limits, 0);
            guard.note_late(count);
            all += count;
        }
        assert_eq!(all, 16);
        guard.note_lost(1, &limits);
        assert!(matches!(guard.judge(at(30), &limits), Some(Report::GuardStopped { judged: 16, .. })));
    }

    #[test]
    fn with_replicas_chance_may_send_few_here_and_does_not_stop_it() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        guard.restart(&limits, 10);
        // 100 went; 50 came, most of them strangers, since only half of the replicas move anything.
        (0..5).for_each(|_| guard.note_return(Some(Duration::from_secs(1)), false));
        (0..45).for_each(|_| guard.note_return(None, false));
        guard.note_late(50);
        guard.note_lost(50, &limits);
        assert_eq!(guard.judge(at(30), &limits), None);
        guard.note_late(150);
        guard.note_lost(1, &limits);
        assert!(matches!(guard.judge(at(31), &limits), Some(Report::GuardStopped { .. })));
    }

    #[test]
    fn when_only_this_replica_moves_sessions_a_tenth_is_expected_here() {
        let (limits, mut guard) = (LIMITS(), ReturnGuard::new(&LIMITS()));
        guard.restart(&limits, 10);
        guard.set_alone(true);
        guard.note_return(Some(Duration::from_secs(1)), false);
        assert_eq!(guard.allowance(&limits, 0), 4 + 20, "one that is back stands for ten");
        guard.note_late(30);
        guard.note_lost(30, &limits);
        assert_eq!(guard.judge(at(30), &limits), None);
    }

    #[test]
    fn strangers_beyond_the_usual_stand_for_those_who_are_away() {
        let mut calm = Strangers::default();
        // Ten minutes at two a second.
        (0..1_200).for_each(|n| calm.arrive(Time::from_millis(n * 500)));
        assert!(!calm.take(at(600), 1.0, 0.0), "nobody was moved");
        calm.depart(at(600));
        let taken = |sigmas: f64, millis: u64| {
            let mut strangers = calm.clone();
            (1..=30_000 / millis).for_each(|n| strangers.arrive(Time::from_millis(600_000 + n * millis)));
            std::iter::repeat_with(|| strangers.take(at(630), 1.0, sigmas))
                .take_while(|is_one| *is_one)
                .count()
        };
        assert_eq!(taken(0.0, 500), 0, "as many as always");
        assert_eq!(taken(0.0, 250), 60, "those beyond the usual 60");
        assert!((30..50).contains(&taken(3.0, 250)), "with one replica one has to be sure");
    }

    #[test]
    fn a_burst_long_ago_is_not_the_usual_and_neither_is_what_comes_while_clients_are_moved() {
        let mut strangers = Strangers::default();
        (0..3_000).for_each(|n| strangers.arrive(Time::from_millis(n)));
        strangers.depart(at(120));
        for second in 120..400 {
            (0..5).for_each(|_| strangers.arrive(at(second)));
            strangers.depart(at(second));
        }
        assert_eq!(strangers.usual_per_second(), 0.0);
        let taken =
            std::iter::repeat_with(|| strangers.take(at(400), 1.0, 1.0)).take_while(|is_one| *is_one).count();
        assert_eq!(taken, 1_400, "they wait until somebody is away");
    }
}
