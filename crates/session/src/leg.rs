//! The two legs of a session and what is known of each.

use ws::{Extensions, Role, Scanner};

/// One of the two connections of a session. Legs, never directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leg {
    /// The connection we accepted.
    Downstream,
    /// The connection we dialed.
    Upstream,
}

impl Leg {
    pub(crate) const BOTH: [Self; 2] = [Self::Downstream, Self::Upstream];

    /// The opposite leg.
    pub const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }

    /// Its place in pairs of counts.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Downstream => 0,
            Self::Upstream => 1,
        }
    }
}

/// What we still have to write to a leg on our own behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Authored {
    Nothing,
    Notice,
    Close(u16),
    /// Close with the reason of the shed.
    Shed,
}

/// A leg: the frames that come from it, and how far its ending has got.
#[derive(Debug)]
pub(crate) struct LegState {
    /// Follows the frames that this leg's peer sends.
    pub scanner: Scanner,
    /// What we want to write to it.
    pub authored: Authored,
    /// A Close frame was written, or is about to be: no frame may follow (RFC 6455 section 5.5.1).
    pub close_sent: bool,
    /// Its peer's Close frame was seen.
    pub close_received: bool,
    /// Nothing more comes from it.
    pub ended: bool,
    /// It had not ended when its time was up.
    pub given_up: bool,
    /// It takes nothing more.
    pub broken: bool,
    /// We ended our side of it, or are about to.
    pub fin: bool,
    /// What was cut short towards it has been counted.
    pub sealed: bool,
}

impl LegState {
    pub fn new(sender: Role, extensions: Extensions) -> Self {
        Self {
            scanner: Scanner::new(sender, extensions.rsv()),
            authored: Authored::Nothing,
            close_sent: false,
            close_received: false,
            ended: false,
            given_up: false,
            broken: false,
            fin: false,
            sealed: false,
        }
    }

    /// It takes no frame any more, neither one of the other leg nor one of ours.
    pub fn is_shut(&self) -> bool {
        self.close_sent || self.is_silent()
    }

    /// Its peer got a Close frame, has not answered, and still can.
    pub fn owes_close(&self) -> bool {
        self.close_sent && !self.close_received && !self.ended
    }

    /// Not a byte goes to it any more.
    pub fn is_silent(&self) -> bool {
        self.fin || self.broken
    }

    /// Neither direction of this leg can carry anything any more.
    pub fn is_over(&self) -> bool {
        self.is_silent() && self.ended
    }
}
