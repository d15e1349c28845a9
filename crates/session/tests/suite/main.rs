//! Holds the session to the rules of RFC 6455 and to what a shed promises.
//!
//! `frames` is a frame writer and a strict parser that share nothing with the crate `ws`; `rig` drives a session as the
//! gateway's relay does. On them stand the tables (`relaying`, `closing`, `shedding`, `timers`) and the property test
//! over random schedules (`schedules`).

mod amqp_rig;
mod closing;
mod frames;
mod migrating;
mod relaying;
mod rig;
mod schedules;
mod shedding;
mod timers;
