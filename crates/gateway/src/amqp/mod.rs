//! AMQP listeners: the handshake, the relay, the exchange of an endpoint's connection, probes of endpoints.
//!
//! Frames are the `amqp` crate's, decisions `session::AmqpSession`'s; here are the sockets and the books.

mod dial;
mod farewell;
mod frames;
mod front;
mod handshake;
mod known;
mod moving;
mod opaque;
pub mod probe;
mod reach;
mod relay;
mod relayed;
mod retire;
mod routed;
mod routes;
mod side;

pub use front::serve;
pub use known::Known;
