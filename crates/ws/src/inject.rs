//! Where a frame of our own may stand between the frames of others (RFC 6455 5.4, 5.5).
//!
//! One table, so that the session has no rule of its own. The place is the *output* position of a direction:
//! the scanner must have seen just the bytes that were handed to that socket, and no more.

use crate::extensions::Extensions;
use crate::scan::Scanner;

/// What is to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// Ping, Pong or Close.
    Control,
    /// A message in one uncompressed frame.
    Data,
}

/// Whether `what` may be written now, in the direction that `scanner` follows.
///
/// `closed`: a Close was already forwarded or injected in this direction. The caller tells, because a Close
/// which the scanner saw may have been swallowed. `extensions` are those of the accepted response: an unknown
/// one may give uncompressed messages another meaning, so that only control frames remain.
pub fn may_inject(what: Injection, scanner: &Scanner, closed: bool, extensions: Extensions) -> bool {
    match what {
        _ if closed => false,
        Injection::Control => scanner.at_frame_boundary(),
        Injection::Data => scanner.at_message_boundary() && extensions != Extensions::Unknown,
    }
}
