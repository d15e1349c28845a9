//! The one clock: turns the system's monotonic time into [`model::Time`].

use std::time::Instant;

use model::Time;

/// Counts from the moment it was made. Copies share the origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now, plus one second: so no real moment is `Time::ZERO`.
    pub fn start() -> Self {
        Self { origin: Instant::now() - std::time::Duration::from_secs(1) }
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }
}
