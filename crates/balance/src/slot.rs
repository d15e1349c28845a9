//! What the planner keeps of one endpoint: what discovery said, and live counts that outlive every refresh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Endpoint, EndpointId, EndpointState, Pod, Time, Weight, Zone};

use crate::pace::Bucket;
use crate::zone::PULL;
use crate::{Limits, Placement};

/// An endpoint that comes back this soon after it was lost is flapping; one that was steady for this long is not.
pub(crate) const FLAP_MEMORY: Duration = Duration::from_secs(300);
/// Doublings of a flapping endpoint's probation, and of an ejection: at most 16 times the first.
const DOUBLINGS_MAX: u32 = 4;
/// Arrivals at an endpoint in its slow start that may come at once, as time at its rate.
const SLOW_START_BURST: Duration = Duration::from_millis(100);

/// One endpoint. Invariant: `moving + asked <= sessions` as long as the shell reports what it did; everything
/// saturates, so a shell that errs gets odd numbers and no panic.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) id: EndpointId,
    pub(crate) address: SocketAddr,
    pub(crate) weight: Weight,
    /// Where it runs, when that is known.
    pub(crate) zone: Option<Zone>,
    /// Whose name may stand for the id.
    pub(crate) pod: Option<Arc<Pod>>,
    /// It is in the own zone, and that is preferred.
    pub(crate) is_near: bool,
    /// What it counts for in placement, in thousandths of a weight: its weight, and more when it is near. `Slots::rebuild` keeps
    /// it in step.
    pub(crate) pull: u64,
    /// What counts: discovery's word, or `Terminating` by command.
    pub(crate) state: EndpointState,
    /// Discovery's word; `Unready` for one that has vanished and not been given up yet.
    reported: EndpointState,
    /// False: discovery no longer names it.
    pub(crate) listed: bool,
    /// Open sessions, those being moved included.
    pub(crate) sessions: u32,
    /// Handshakes and plain requests in flight.
    pub(crate) pending: u32,
    /// Sessions whose move began and has not ended.
    pub(crate) moving: u32,
    /// Those of them whose client is on its way back already, while the connection is still ending.
    pub(crate) leaving: u32,
    /// Moves the shell was asked for and has not answered.
    pub(crate) asked: u32,
    /// Those of them that were asked for `max_age`. Never together with others.
    pub(crate) asked_for_age: u32,
    /// Those of them that were asked for the tier's sake. Never together with others.
    pub(crate) asked_for_tier: u32,
    /// Not asked before this moment, because it had too few sessions that may move.
    pub(crate) hold_until: Time,
    /// Times in a row that it had none at all.
    pub(crate) misses: u32,
    /// The same for `max_age`.
    pub(crate) age_hold_until: Time,
    /// When it was first seen terminating, or gone.
    pub(crate) drain_since: Option<Time>,
    /// When the next of a drain's moves is due.
    pub(crate) drain_next: Time,
    /// Somebody ordered it to be drained, within this time.
    pub(crate) ordered: Option<Duration>,
    /// It takes part in the shares: it was there at the start, or has been ready for long enough.
    pub(crate) is_capacity: bool,
    /// When it becomes capacity, while it is ready and is not.
    pub(crate) capacity_at: Time,
    /// Since when it is ready; `None` while it is not.
    ready_since: Option<Time>,
    /// Arrivals are paced until then.
    slow_until: Time,
    arrivals: Bucket,
    /// When discovery ceased to name it, until it is given up.
    pub(crate) vanished_at: Option<Time>,
    /// When it was last ready.
    lost_at: Option<Time>,
    /// Times that it came back soon after it was lost.
    flaps: u32,
    /// Flapping: nothing new is placed on it before.
    probation_until: Time,
    /// Dials or handshakes that failed in a row.
    failures: u32,
    ejections: u32,
    pub(crate) ejected_until: Time,
    /// It was ejected, and nobody has got through to it since.
    is_down: bool,
    /// The moment under which `Slots` will look at it again.
    pub(crate) wake: Option<Time>,
}

/// Why nothing new is placed on an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Withheld {
    Terminating,
    Unready,
    Full,
    Ejected,
    Probation,
    SlowStart,
}

impl Withheld {
    /// For the status. A state that is shown beside it needs no word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Terminating | Self::Unready => "",
            Self::Full => "full",
            Self::Ejected => "ejected",
            Self::Probation => "probation",
            Self::SlowStart => "slow_start",
        }
    }
}

/// What decides about placement beside the endpoint itself.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Rules {
    pub(crate) panic: bool,
    pub(crate) sessions_max: u32,
    pub(crate) slow_start_window: Duration,
    /// At this replica.
    pub(crate) slow_start_per_second: f64,
}

impl Rules {
    pub(crate) fn new(placement: &Placement, replicas: u32, panic: bool) -> Self {
        Self {
            panic,
            sessions_max: placement.sessions_per_endpoint_max.unwrap_or(u32::MAX),
            slow_start_window: placement.slow_start_window,
            slow_start_per_second: placement.slow_start_per_second / f64::from(replicas),
        }
    }
}

impl Slot {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id.clone(),
            address: endpoint.address,
            weight: endpoint.weight,
            zone: endpoint.zone.clone(),
            pod: endpoint.pod.clone(),
            is_near: false,
            pull: u64::from(endpoint.weight.value()) * PULL,
            state: EndpointState::Unready,
            reported: endpoint.state,
            listed: true,
            sessions: 0,
            pending: 0,
            moving: 0,
            leaving: 0,
            asked: 0,
            asked_for_age: 0,
            asked_for_tier: 0,
            hold_until: Time::ZERO,
            misses: 0,
            age_hold_until: Time::ZERO,
            drain_since: None,
            drain_next: Time::ZERO,
            ordered: None,
            is_capacity: false,
            capacity_at: Time::ZERO,
            ready_since: None,
            slow_until: Time::ZERO,
            arrivals: Bucket::default(),
            vanished_at: None,
            lost_at: None,
            flaps: 0,
            probation_until: Time::ZERO,
            failures: 0,
            ejections: 0,
            ejected_until: Time::ZERO,
            is_down: false,
            wake: None,
        }
    }

    // ---- what discovery and commands say

    /// Takes what discovery says now. True when anything differs from before.
    pub(crate) fn refresh(&mut self, endpoint: &Endpoint) -> bool {
        if !self.listed {
            // The order was for the one that went.
            self.ordered = None;
        }
        if self.address != endpoint.address {
            self.succeed();
            self.ejected_until = Time::ZERO;
        }
        let same = self.address == endpoint.address
            && self.weight == endpoint.weight
            && self.zone == endpoint.zone
            && self.reported == endpoint.state
            && self.listed;
        self.address = endpoint.address;
        self.weight = endpoint.weight;
        self.zone.clone_from(&endpoint.zone);
        self.pod.clone_from(&endpoint.pod);
        self.reported = endpoint.state;
        self.listed = true;
        self.vanished_at = None;
        !same
    }

    /// Discovery no longer names it. For a while it is only unready; then it is given up like a terminating one. One that is
    /// being drained goes on with that.
    pub(crate) fn vanish(&mut self, now: Time) {
        self.listed = false;
        if self.ordered.is_some() {
            self.reported = EndpointState::Terminating;
        }
        if self.reported != EndpointState::Terminating {
            self.reported = EndpointState::Unready;
            self.vanished_at = Some(now);
        }
    }

    /// Makes the state what it should be at `now`. `at_start`: the pool's first endpoints are no new capacity, they
    /// are the capacity.
    pub(crate) fn settle_state(&mut self, now: Time, limits: &Limits, rules: &Rules, at_start: bool) {
        if self.vanished_at.is_some_and(|at| at + vanish_time(limits) <= now) {
            self.reported = EndpointState::Terminating;
        }
        let state = if self.ordered.is_some() { EndpointState::Terminating } else { self.reported };
        let since = self.vanished_at.unwrap_or(now);
        match state {
            EndpointState::Ready if self.ready_since.is_none() => {
                self.become_ready(now, limits, rules, at_start);
            }
            EndpointState::Ready if self.capacity_at <= now => self.is_capacity = true,
            EndpointState::Ready => {}
            EndpointState::Unready | EndpointState::Terminating => self.become_lost(now),
        }
        if state == EndpointState::Terminating {
            if self.drain_since.is_none() {
                self.drain_since = Some(since);
                self.drain_next = now;
                self.hold_until = now;
            }
        } else {
            self.drain_since = None;
        }
        self.state = state;
    }

    fn become_ready(&mut self, now: Time, limits: &Limits, rules: &Rules, at_start: bool) {
        self.ready_since = Some(now);
        if self.lost_at.is_some_and(|at| now.since(at) < FLAP_MEMORY) {
            let times = 1 << self.flaps.min(DOUBLINGS_MAX);
            self.flaps += 1;
            self.probation_until = now + limits.min_ready * times;
        } else {
            self.flaps = 0;
        }
        self.is_capacity = at_start || limits.min_ready.is_zero();
        self.capacity_at = if at_start { now } else { (now + limits.min_ready).max(self.probation_until) };
        self.slow_until = if at_start { now } else { now + rules.slow_start_window };
        self.failures = 0;
        self.ejected_until = Time::ZERO;
        self.is_down = false;
    }

    fn become_lost(&mut self, now: Time) {
        self.is_capacity = false;
        let Some(since) = self.ready_since.take() else { return };
        self.lost_at = Some(now);
        if now.since(since) >= FLAP_MEMORY {
            self.flaps = 0;
        }
    }

    /// What it went through was ordered: coming back from it is no flapping.
    pub(crate) fn forgive(&mut self) {
        self.lost_at = None;
    }

    /// It is capacity from now on, however short it has been ready.
    pub(crate) fn count_at_once(&mut self, now: Time) {
        if self.is_ready() {
            self.capacity_at = now;
            self.is_capacity = true;
        }
    }

    // ---- placement

    /// Why nothing new is placed on it at `now`, if anything keeps it.
    pub(crate) fn withheld(&self, now: Time, rules: &Rules) -> Option<Withheld> {
        match self.state {
            EndpointState::Terminating => Some(Withheld::Terminating),
            EndpointState::Unready if !rules.panic || !self.listed => Some(Withheld::Unready),
            EndpointState::Unready | EndpointState::Ready if self.is_full(rules) => Some(Withheld::Full),
            _ if self.ejected_until > now => Some(Withheld::Ejected),
            _ if self.probation_until > now => Some(Withheld::Probation),
            _ if self.slow_next(now, rules).is_some() => Some(Withheld::SlowStart),
            _ => None,
        }
    }

    pub(crate) fn is_full(&self, rules: &Rules) -> bool {
        self.sessions.saturating_add(self.pending) >= rules.sessions_max
    }

    /// In its slow start: when the next may arrive, if not yet.
    fn slow_next(&self, now: Time, rules: &Rules) -> Option<Time> {
        if self.slow_until <= now {
            return None;
        }
        let at = self.arrivals.ready_at(rules.slow_start_per_second, SLOW_START_BURST);
        (at > now).then_some(at)
    }

    /// Arrivals a second that it takes at `now`; infinite outside of its slow start.
    pub(crate) fn arrivals_per_second(&self, now: Time, rules: &Rules) -> f64 {
        if self.slow_until > now { rules.slow_start_per_second } else { f64::INFINITY }
    }

    /// Somebody is on the way to it.
    pub(crate) fn arrive(&mut self, now: Time, rules: &Rules) {
        self.pending = self.pending.saturating_add(1);
        if self.slow_until > now {
            self.arrivals.take(now, rules.slow_start_per_second, 1);
        }
    }

    /// A dial or handshake failed. Present: how many failed in a row, and for how long it is left alone now.
    pub(crate) fn fail(&mut self, now: Time, placement: &Placement) -> Option<(u32, Duration)> {
        self.failures = self.failures.saturating_add(1);
        if placement.ejection_failures == 0 || self.failures < placement.ejection_failures {
            return None;
        }
        if self.ejected_until > now {
            return None;
        }
        if now.since(self.ejected_until) >= FLAP_MEMORY {
            self.ejections = 0;
        }
        let pause = placement.ejection_time * (1 << self.ejections.min(DOUBLINGS_MAX));
        self.ejections += 1;
        self.ejected_until = now + pause;
        self.is_down = true;
        let failures = self.failures;
        // The first to try it again decides.
        self.failures = placement.ejection_failures - 1;
        Some((failures, pause))
    }

    /// It has answered.
    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
        self.is_down = false;
    }

    /// When something about it changes by itself next.
    pub(crate) fn next_change(&self, now: Time, limits: &Limits, rules: &Rules) -> Option<Time> {
        let capacity = (self.is_ready() && !self.is_capacity).then_some(self.capacity_at);
        let given_up = self
            .vanished_at
            .filter(|_| self.state == EndpointState::Unready)
            .map(|at| at + vanish_time(limits));
        let open = [self.ejected_until, self.probation_until].into_iter().filter(|at| *at > now);
        let slow = self.slow_next(now, rules);
        open.chain(capacity).chain(given_up).chain(slow).min()
    }

    // ---- counts

    pub(crate) fn is_ready(&self) -> bool {
        self.state == EndpointState::Ready
    }

    /// It is ready, and answers.
    pub(crate) fn is_up(&self) -> bool {
        self.is_ready() && !self.is_down
    }

    /// It has a share of the sessions: up, and ready for long enough.
    pub(crate) fn takes_part(&self) -> bool {
        self.is_up() && self.is_capacity
    }

    /// Sessions that fit beside those it holds.
    pub(crate) fn room(&self, rules: &Rules) -> u64 {
        u64::from(rules.sessions_max.saturating_sub(self.sessions).saturating_sub(self.pending))
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.state == EndpointState::Terminating
    }

    /// Sessions that are here to stay as far as the plan knows.
    pub(crate) fn held(&self) -> u32 {
        self.sessions.saturating_sub(self.moving).saturating_sub(self.asked)
    }

    /// Sessions whose client is to be shared out: one that is leaving is in the ledger already.
    pub(crate) fn staying(&self) -> u32 {
        self.sessions.saturating_sub(self.leaving)
    }

    /// Moves that are under way or asked for, and whose client is not in the ledger yet.
    pub(crate) fn outbound(&self) -> u32 {
        self.moving.saturating_sub(self.leaving).saturating_add(self.asked)
    }

    /// Nothing of it is left to wait for.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions == 0 && self.pending == 0 && self.asked == 0
    }

    /// Gone, empty, and too long ago to be remembered as flapping.
    pub(crate) fn is_forgotten(&self, now: Time) -> bool {
        let is_remembered = self.lost_at.is_some_and(|at| now.since(at) < FLAP_MEMORY);
        !self.listed && self.is_empty() && !is_remembered
    }

    /// Kept for its history only; nobody needs to see it.
    pub(crate) fn is_ghost(&self) -> bool {
        !self.listed && self.is_empty()
    }
}

/// How long an endpoint that discovery no longer names may come back before its sessions are moved: `settle`, but
/// never so long that little of the drain's time is left.
fn vanish_time(limits: &Limits) -> Duration {
    limits.settle.min(limits.drain_deadline / 4)
}
