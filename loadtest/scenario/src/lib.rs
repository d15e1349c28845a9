//! Load scenarios without IO: what a scenario file says, what a run came to, whether that is what was demanded, and
//! the report of it.
//!
//! It is a crate of its own because two programs play the same files: `fleet` with real sockets and real time, and a
//! simulator with neither. Both hand in a [`Timeline`], add what only they know to its [`Summary`], and get the same
//! arithmetic, verdicts and pages. Not here: anything that connects, waits, or reads a file or a clock.

pub mod amqp;
pub mod expect;
mod file;
pub mod messages;
pub mod reconnect;
pub mod report;
pub mod rng;
pub mod series;
mod step;
pub mod summary;

pub use expect::{Expect, Verdict};
pub use file::{Baseline, Bounds, Clients, Endpoints, ReconnectText, Scenario};
pub use report::{Report, Run};
pub use step::{Action, DeploymentScale, Flap, How, Scale, Step};
pub use summary::{Mark, Summary, Timeline};
