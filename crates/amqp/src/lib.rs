//! AMQP 0-9-1 without IO: frame scanner, codec of the tracked methods, client side of the handshake, credentials.
//!
//! The gateway passes frames through byte for byte. This crate follows them: [`Scanner`] says where frames begin and
//! end, [`Content`] what may come next on a channel, [`Method`] gives the fields of the few methods that matter for
//! moving a connection, [`mod@write`] builds those that the gateway sends itself, [`patch()`] changes a delivery tag where it
//! stands. The body of a content is never looked at.
//!
//! Not here: sockets, deadlines, what a channel remembers and what a migration does (`session`).
//!
//! Sources: AMQP 0-9-1 specification and its XML definition, RabbitMQ's extensions (confirm, nack, blocked,
//! update-secret). Section numbers are those of the specification.

mod content;
mod credentials;
mod error;
mod forced;
mod frame;
mod login;
mod method;
mod reader;
mod scan;
mod start;
mod table;
pub mod write;

pub use content::{Content, Expect};
pub use credentials::{Credentials, SASL_BYTES_MAX};
pub use error::{FrameError, code};
pub use forced::{Frames10, forced_close};
pub use frame::{
    FRAME_BYTES_MIN, FRAME_END, FRAME_OVERHEAD, HEADER_BYTES, Kind, PROTOCOL_HEADER, Protocol, protocol_of,
};
pub use login::{Login, LoginError, Progress};
pub use method::{Bits, CLASS_BASIC, CLASS_CONNECTION, Consume, Declare, Method, MethodId, Secret, patch};
pub use reader::Reader;
pub use scan::{METHOD_BYTES_MAX, Piece, Scanner};
pub use start::{Start, StartOk, Tune, may_be_one_cluster, open_vhost, write_open, write_open_ok};
pub use table::{Table, Value};
