//! What became of the messages of a run: sums by direction. How they are found is the business of who played it.

use serde::{Deserialize, Serialize};

/// One direction's sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Direction {
    /// Messages that the sender wrote before it saw a Close frame.
    pub sent: u64,
    /// Messages that arrived, each once.
    pub received: u64,
    /// Sent and not received, where both accounts exist.
    pub lost: u64,
    /// Arrivals of a message that had arrived before.
    pub duplicated: u64,
    /// Sent to an endpoint that was killed and not echoed: lost, or received and not told.
    pub lost_to_killed: u64,
}

/// Both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Messages {
    /// What clients sent.
    pub to_endpoint: Direction,
    /// What endpoints sent.
    pub to_client: Direction,
    /// Messages that clients received and no endpoint sent.
    pub foreign: u64,
}
