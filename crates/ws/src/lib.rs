//! RFC 6455 without IO: upgrade head, frame scanner, injection rules, close codes.
//!
//! The gateway passes frames through byte for byte. This crate follows them without decoding a message, and
//! tells where a frame of our own may stand between them: [`Scanner`] says where frames and messages end,
//! [`may_inject`] says what is legal there, [`close_frame`] and [`message_frame`] write it. Before that,
//! [`RequestHead`] and [`upgrade_request`] judge what a client asks for, [`ResponseHead`] and
//! [`check_switching`] whether the endpoint's `101` is genuine.
//!
//! Not here: sockets, buffers, deadlines, and what to do about a malformed frame (the session decides).

mod close_code;
mod error;
mod extensions;
mod frame;
mod head;
mod header;
mod inject;
mod list;
mod scan;
mod upgrade;

pub use close_code::{Verdict, verdict};
pub use error::FrameError;
pub use extensions::{Extensions, ExtensionsError, Found};
pub use frame::{
    CLOSE_REASON_BYTES_MAX, CONTROL_FRAME_BYTES_MAX, CONTROL_PAYLOAD_BYTES_MAX, Opcode, Role, close_frame,
    message_frame,
};
pub use head::{HEADERS_MAX, HeadError, HeadFault, RequestHead, ResponseHead, TARGET_BYTES_MAX};
pub use inject::{Injection, may_inject};
pub use list::{connection_options, is_hop_by_hop};
pub use scan::{Close, Rsv, Run, Scanner, Stop};
pub use upgrade::{Switched, UpgradeError, UpgradeRequest, accept_key, check_switching, upgrade_request};
