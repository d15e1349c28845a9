//! HTTP/1.1 heads (RFC 9112 2 to 5) on httparse: limits, "not yet", and errors that help the peer's developer.
//!
//! A head borrows from the bytes it was read from and copies none. Each attempt starts at the first byte: a head
//! of 16 KiB in segments of one byte costs about 40 ms in all, which the limit on a head and the deadline of the
//! caller bound. Not here: bodies, and what a request for an
//! upgrade must contain (see `upgrade`).

use crate::frame::Role;

/// Most headers in one head.
pub const HEADERS_MAX: usize = 100;

/// Longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8192;

/// A complete request head.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// Bytes of the head, the blank line included: the body or the first frame begins here.
    pub len: usize,
    /// Such as `GET`.
    pub method: &'a str,
    /// As it was sent: a path with its query, an absolute URI, an authority or `*`.
    pub target: &'a str,
    /// Minor HTTP version: 0 or 1.
    pub version: u8,
    headers: Vec<httparse::Header<'a>>,
}

/// A complete response head.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    /// Bytes of the head, the blank line included.
    pub len: usize,
    /// Such as 101.
    pub status: u16,
    /// The text behind the status; empty when there is none.
    pub reason: &'a str,
    /// Minor HTTP version: 0 or 1.
    pub version: u8,
    headers: Vec<httparse::Header<'a>>,
}

/// A head that cannot be accepted, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", match sender { Role::Client => "request head", Role::Server => "response head" })]
pub struct HeadError {
    /// Client for a request, Server for a response.
    pub sender: Role,
    /// What is wrong with it.
    pub fault: HeadFault,
}

/// What is wrong with a head. The messages are for the developer of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// A TLS record where plain HTTP was expected.
    #[error(
        "expected HTTP/1.1, found the begin of a TLS handshake; this port speaks plain HTTP: use ws:// or http://, or the TLS port"
    )]
    Tls,
    /// The preface of HTTP/2.
    #[error("expected HTTP/1.1, found HTTP/2 with prior knowledge; this port speaks HTTP/1.1 only")]
    Http2,
    /// Another version of HTTP.
    #[error("expected HTTP/1.1 or HTTP/1.0, found another version")]
    Version,
    /// More than the configured limit before the blank line.
    #[error(
        "expected a head of at most {head_bytes_max} bytes, found a longer one; send fewer or smaller headers (cookies?)"
    )]
    TooLong {
        /// The limit, in bytes.
        head_bytes_max: usize,
    },
    /// More than [`HEADERS_MAX`] headers.
    #[error("expected at most {HEADERS_MAX} headers, found more")]
    TooManyHeaders,
    /// A target of more than [`TARGET_BYTES_MAX`].
    #[error(
        "expected a request target of at most {TARGET_BYTES_MAX} bytes, found a longer one; shorten the query"
    )]
    TargetTooLong,
    /// Anything else that RFC 9112 does not allow.
    #[error("expected an HTTP/1.1 head, found an {0} (RFC 9112)")]
    Malformed(httparse::Error),
}

impl<'a> RequestHead<'a> {
    /// `None` when the blank line has not come yet.
    ///
    /// # Errors
    /// As soon as the bytes cannot become an acceptable head: wrong syntax, or more than `head_bytes_max`
    /// bytes, [`HEADERS_MAX`] headers or [`TARGET_BYTES_MAX`] of target.
    pub fn parse(bytes: &'a [u8], head_bytes_max: usize) -> Result<Option<Self>, HeadError> {
        let error = |fault| HeadError { sender: Role::Client, fault };
        other_protocol(bytes).map_or(Ok(()), Err).map_err(error)?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(bytes);
        if request_target(bytes).0.len() > TARGET_BYTES_MAX {
            return Err(error(HeadFault::TargetTooLong));
        }
        let status = status.map_err(|found| error(request_fault(bytes, found)))?;
        let Some(len) = complete(status, bytes.len(), head_bytes_max).map_err(error)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            len,
            method: request.method.unwrap_or_default(),
            target: request.path.unwrap_or_default(),
            version: request.version.unwrap_or_default(),
            headers: request.headers.to_vec(),
        }))
    }

    /// Names and values in the order they came; blanks around a value are left out.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    /// The values of all headers with this name, in upper or lower case.
    pub fn header_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl<'a> ResponseHead<'a> {
    /// `None` when the blank line has not come yet.
    ///
    /// # Errors
    /// As soon as the bytes cannot become an acceptable head: wrong syntax, or more than `head_bytes_max`
    /// bytes or [`HEADERS_MAX`] headers.
    pub fn parse(bytes: &'a [u8], head_bytes_max: usize) -> Result<Option<Self>, HeadError> {
        let error = |fault| HeadError { sender: Role::Server, fault };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let status = response.parse(bytes).map_err(|found| {
            error(match found {
                httparse::Error::Version if bytes.starts_with(b"HTTP/") => HeadFault::Version,
                httparse::Error::TooManyHeaders => HeadFault::TooManyHeaders,
                other => HeadFault::Malformed(other),
            })
        })?;
        let Some(len) = complete(status, bytes.len(), head_bytes_max).map_err(error)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            len,
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default(),
            version: response.version.unwrap_or_default(),
            headers: response.headers.to_vec(),
        }))
    }

    /// Names and values in the order they came; blanks around a value are left out.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    /// The values of all headers with this name, in upper or lower case.
    pub fn header_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl HeadError {
    /// The status that the client is answered with: 400, 414, 431 or 505 when its request is at fault, 502
    /// when the endpoint's response is.
    pub fn status(&self) -> u16 {
        match (self.sender, self.fault) {
            (Role::Server, _) => 502,
            (Role::Client, HeadFault::Tls | HeadFault::Malformed(_)) => 400,
            (Role::Client, HeadFault::TargetTooLong) => 414,
            (Role::Client, HeadFault::TooLong { .. } | HeadFault::TooManyHeaders) => 431,
            (Role::Client, HeadFault::Http2 | HeadFault::Version) => 505,
        }
    }
}

/// The length of a complete head within the limit; `None` while it may still become one.
fn complete(
    status: httparse::Status<usize>,
    available: usize,
    head_bytes_max: usize,
) -> Result<Option<usize>, HeadFault> {
    match status {
        httparse::Status::Complete(len) if len <= head_bytes_max => Ok(Some(len)),
        httparse::Status::Partial if available < head_bytes_max => Ok(None),
        _ => Err(HeadFault::TooLong { head_bytes_max }),
    }
}

/// What a client speaks that surely is not HTTP/1. Both begin in a way that no request can.
fn other_protocol(bytes: &[u8]) -> Option<HeadFault> {
    const HTTP2_PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";
    match bytes {
        [0x16, 0x03, ..] => Some(HeadFault::Tls),
        _ if bytes.starts_with(HTTP2_PREFACE_LINE) => Some(HeadFault::Http2),
        _ => None,
    }
}

fn request_fault(bytes: &[u8], found: httparse::Error) -> HeadFault {
    match found {
        httparse::Error::TooManyHeaders => HeadFault::TooManyHeaders,
        // httparse says "version" for anything that is not HTTP/1.x, a forgotten one included.
        httparse::Error::Version if request_target(bytes).1.starts_with(b" HTTP/") => HeadFault::Version,
        other => HeadFault::Malformed(other),
    }
}

/// The target in the request line, as far as it has come, and what is behind it.
fn request_target(bytes: &[u8]) -> (&[u8], &[u8]) {
    let method_bytes = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let behind_method = bytes.get(method_bytes + 1..).unwrap_or_default();
    let target_bytes = behind_method.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    behind_method.split_at(target_bytes.unwrap_or(behind_method.len()))
}
