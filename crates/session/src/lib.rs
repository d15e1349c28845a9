//! One client's stay, without IO: two legs, where it is safe to step in, and how it is closed.
//!
//! [`Session`] is fed with bytes and ends of legs, and tells what to forward, what to write of our own, which
//! leg to end, and when it wants to be woken. The gateway's relay and the simulator drive the same value.
//! Exchanging the upstream leg (migration) will be a further stage of the same machine; it is not here yet.

mod amqp_session;
mod ending;
mod leg;
mod migrate;
mod session;
mod shed;
mod shedding;

pub use amqp_session::{
    Abort, AmqpEnd, AmqpEvent, AmqpLeg, AmqpPin, AmqpSession, AmqpSettings, AmqpSpan, ForeignQueues,
    MessageOrder, Opened, Retiree,
};
pub use leg::Leg;
pub use migrate::{Fallback, MigrateSpec};
pub use session::{End, Initiator, Session, Settings, Span};
pub use shed::{Notice, Order, PinReason, ShedSpec};
