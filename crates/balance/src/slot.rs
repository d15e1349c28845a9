//! What the planner keeps of one endpoint: what discovery said, and live counts that outlive every refresh.

use std::net::SocketAddr;

use model::{Endpoint, EndpointId, EndpointState, Time, Weight};

/// One endpoint. Invariant: `moving + asked <= sessions` as long as the shell reports what it did; everything
/// saturates, so a shell that errs gets odd numbers and no panic.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) id: EndpointId,
    pub(crate) address: SocketAddr,
    pub(crate) weight: Weight,
    /// `Terminating` as well when discovery no longer names it and sessions are left.
    pub(crate) state: EndpointState,
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
    /// Not asked before this moment, because it had too few sessions that may move.
    pub(crate) hold_until: Time,
    /// When it was first seen terminating.
    pub(crate) drain_since: Option<Time>,
    /// When the next of a drain's moves is due.
    pub(crate) drain_next: Time,
    /// Credit of smooth weighted round robin, see `pick`.
    pub(crate) turn: i64,
}

impl Slot {
    pub(crate) fn new(now: Time, endpoint: &Endpoint) -> Self {
        let mut slot = Self {
            id: endpoint.id.clone(),
            address: endpoint.address,
            weight: endpoint.weight,
            state: EndpointState::Ready,
            listed: true,
            sessions: 0,
            pending: 0,
            moving: 0,
            leaving: 0,
            asked: 0,
            hold_until: Time::ZERO,
            drain_since: None,
            drain_next: Time::ZERO,
            turn: 0,
        };
        slot.enter(now, endpoint.state);
        slot
    }

    /// Takes what discovery says now. True when anything differs from before.
    pub(crate) fn refresh(&mut self, now: Time, endpoint: &Endpoint) -> bool {
        let same = self.address == endpoint.address
            && self.weight == endpoint.weight
            && self.state == endpoint.state;
        self.address = endpoint.address;
        self.weight = endpoint.weight;
        self.enter(now, endpoint.state);
        !same
    }

    /// Changes the state; the drain's clock starts with the first sight of `Terminating` only.
    pub(crate) fn enter(&mut self, now: Time, state: EndpointState) {
        self.state = state;
        match state {
            EndpointState::Terminating => {
                if self.drain_since.is_none() {
                    self.drain_since = Some(now);
                    self.drain_next = now;
                    self.hold_until = now;
                }
            }
            EndpointState::Ready | EndpointState::Unready => self.drain_since = None,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state == EndpointState::Ready
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
}
