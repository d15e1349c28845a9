//! What can go wrong from outside, and when: one fault in a schedule, at a phase of the machine.

/// Something that happens to one of the connections of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The node that serves the client dies: its connection is cut anywhere, within a frame too.
    OldDies,
    /// It ends its stream without a Close.
    OldEnds,
    /// It closes the connection with 320, as for maintenance.
    OldCloses,
    /// It stands still for some time.
    OldStops,
    /// The node that is being prepared dies; after the switch it serves the client.
    NextDies,
    NextEnds,
    NextCloses,
    NextStops,
    /// The node that was left dies while its connection lingers.
    FormerDies,
    FormerStops,
    /// The client is gone without a word.
    ClientDies,
    /// It ends its stream without a Close.
    ClientEnds,
    /// It closes the connection.
    ClientCloses,
    /// It neither reads nor writes for some time.
    ClientStops,
    /// The operator sheds the session; it may stay after the deadline.
    Shed,
    /// The same, and it is closed at the deadline.
    ShedOrClose,
    /// The operator cuts the session.
    Cut,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::OldDies,
        Self::OldEnds,
        Self::OldCloses,
        Self::OldStops,
        Self::NextDies,
        Self::NextEnds,
        Self::NextCloses,
        Self::NextStops,
        Self::FormerDies,
        Self::FormerStops,
        Self::ClientDies,
        Self::ClientEnds,
        Self::ClientCloses,
        Self::ClientStops,
        Self::Shed,
        Self::ShedOrClose,
        Self::Cut,
    ];

    /// What it happens to is there in this phase.
    pub fn fits(self, phase: &str) -> bool {
        match self {
            // After the switch the node that is being prepared is the one that serves.
            Self::NextDies | Self::NextEnds | Self::NextCloses | Self::NextStops => {
                !matches!(phase, "active" | "dialing" | "rolling_back" | "replaying" | "lingering")
            }
            Self::FormerDies | Self::FormerStops => matches!(phase, "replaying" | "lingering"),
            Self::OldDies | Self::OldEnds | Self::OldCloses | Self::OldStops => phase != "lingering",
            _ => true,
        }
    }
}

/// The phases in which faults are injected. `lingering`: a former connection is still open.
pub const PHASES: [&str; 12] = [
    "active",
    "dialing",
    "preparing",
    "saturating",
    "cancelling",
    "settling",
    "freezing",
    "flushing",
    "resting",
    "replaying",
    "rolling_back",
    "lingering",
];

/// What the next endpoint does when it is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Welcome {
    Good,
    /// Nobody answers the dial, or there is nobody to dial.
    Refused,
    LoginRefused,
    OpenRefused,
    ChannelRefused,
    ConsumersRefused,
}
