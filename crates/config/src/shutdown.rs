//! What happens on SIGTERM, and how the time until the process is killed is divided.
//!
//! One number is configured, the one that the Pod has anyway; what follows from it is computed here, so that the two can
//! not contradict each other.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{Check, DAY};
use crate::rules::duration_text;
use crate::tree::Path;
use crate::units;

/// Most of `grace` that is kept for the answers to the last Close frames.
const ANSWERS_MAX: Duration = Duration::from_secs(8);
/// Most of `grace` that is kept for the end of the process itself.
const EXIT_MAX: Duration = Duration::from_secs(1);

/// What happens on SIGTERM: not ready at once, sessions are closed at an even pace, the process ends within `grace`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// From SIGTERM to the end of the process: the Pod's `terminationGracePeriodSeconds`. The closes are spread over it, less
    /// 8 s for the last answers (less a third where that is shorter).
    #[serde(with = "units::duration")]
    pub grace: Duration,
    /// New clients are still taken for this long after SIGTERM, while the replica is not ready already: until everybody knows
    /// that it goes. At most the time over which sessions are closed.
    #[serde(with = "units::duration")]
    pub propagation: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(30), propagation: Duration::from_secs(5) }
    }
}

impl Shutdown {
    /// The closes are spread over this time: `grace` less 8 s, or less a third where that is shorter.
    pub fn drain_time(&self) -> Duration {
        self.grace - (self.grace / 3).min(ANSWERS_MAX)
    }

    /// What is left this long after SIGTERM is dropped: `grace` less 1 s, or less a twentieth where that is shorter.
    pub fn give_up_after(&self) -> Duration {
        self.grace - (self.grace / 20).min(EXIT_MAX)
    }

    pub(crate) fn check(&self, check: &mut Check<'_>, path: &Path) {
        let grace = Duration::from_secs(1)..=DAY;
        check.duration(&path.key("grace"), self.grace, grace);
        let most = self.drain_time();
        check.range(&path.key("propagation"), "0s", "grace less 8s".to_owned());
        if self.propagation > most {
            let (found, most) = (duration_text(self.propagation), duration_text(most));
            let message = format!(
                "found {found}, expected 0s to {most}, which is `grace` less the time for the last answers: raise \
                 `grace` (and terminationGracePeriodSeconds with it), or take new clients for a shorter time"
            );
            check.fail(&path.key("propagation"), message);
        }
    }

    pub(crate) fn explain(&self) -> String {
        let [grace, accept, close] = [self.grace, self.propagation, self.drain_time()].map(duration_text);
        format!("within {grace}: new clients for {accept}, closes spread over {close}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_answers_and_exit_have_their_parts_of_any_grace() {
        for (grace, drain, give_up) in
            [(30_000, 22_000, 29_000), (120_000, 112_000, 119_000), (3_000, 2_000, 2_850)]
        {
            let shutdown = Shutdown { grace: Duration::from_millis(grace), ..Shutdown::default() };
            assert_eq!(shutdown.drain_time(), Duration::from_millis(drain));
            assert_eq!(shutdown.give_up_after(), Duration::from_millis(give_up));
        }
    }
}
