//! The opening handshake of RFC 6455 4: is a request one for an upgrade, and is a `101` genuine?
//!
//! Both are strict on purpose. A proxy that opens a tunnel on less than a complete handshake lets requests be
//! smuggled past it to the endpoint. Offers of extensions and subprotocols pass untouched: client and endpoint
//! agree on them without us.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use crate::extensions::{Extensions, ExtensionsError};
use crate::head::{RequestHead, ResponseHead};
use crate::list::{items, lists, token};

/// A valid request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRequest<'a> {
    /// `Sec-WebSocket-Key`, as it was sent: 24 characters.
    pub key: &'a [u8],
    /// `Host`, as it was sent.
    pub host: &'a [u8],
    /// The subprotocols offered, the preferred first. They may carry bearer tokens: not for logs.
    pub protocols: Vec<&'a str>,
}

/// What an endpoint agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switched<'a> {
    /// The extensions it accepted.
    pub extensions: Extensions,
    /// The subprotocol it chose.
    pub protocol: Option<&'a str>,
}

/// Why an upgrade is refused. The first group is the client's fault, the second the endpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Another method than GET.
    #[error("upgrade request: expected the method GET, found another (RFC 6455 4.1)")]
    Method,
    /// HTTP/1.0.
    #[error("upgrade request: expected HTTP/1.1, found HTTP/1.0 (RFC 6455 4.1)")]
    Version,
    /// Not one `Host`.
    #[error("upgrade request: expected exactly one Host header, found {0} (RFC 9112 3.2)")]
    Host(usize),
    /// Several `Upgrade` headers, one of them for a WebSocket.
    #[error("upgrade request: expected exactly one Upgrade header, found {0}")]
    SeveralUpgrades(usize),
    /// `Upgrade` without `Connection: Upgrade`.
    #[error(
        "upgrade request: expected Connection to list upgrade, found it does not; does a proxy in front drop it? (RFC 6455 4.2.1)"
    )]
    Connection,
    /// Not version 13.
    #[error(
        "upgrade request: expected exactly one Sec-WebSocket-Version header with 13, found none, several or another version (RFC 6455 4.4)"
    )]
    WebSocketVersion,
    /// Not one key.
    #[error("upgrade request: expected exactly one Sec-WebSocket-Key header, found {0} (RFC 6455 4.2.1)")]
    KeyCount(usize),
    /// A key that is not 16 bytes in base64.
    #[error(
        "upgrade request: expected a Sec-WebSocket-Key of 16 bytes in base64, found something else (RFC 6455 4.2.1)"
    )]
    Key,
    /// A request with a body.
    #[error(
        "upgrade request: expected no body, found Content-Length other than 0 or Transfer-Encoding; frames may follow only after the 101"
    )]
    Body,

    /// Another status than 101.
    #[error("upgrade response: expected status 101, found {0}")]
    Status(u16),
    /// `Upgrade` is not just `websocket`.
    #[error(
        "upgrade response: expected exactly one Upgrade header with websocket, found none, several or another protocol (RFC 6455 4.1)"
    )]
    ResponseUpgrade,
    /// `Connection` does not list `upgrade`.
    #[error("upgrade response: expected Connection to list upgrade, found it does not (RFC 6455 4.1)")]
    ResponseConnection,
    /// No `Sec-WebSocket-Accept`, or several.
    #[error("upgrade response: expected exactly one Sec-WebSocket-Accept header, found {0} (RFC 6455 4.1)")]
    AcceptCount(usize),
    /// The endpoint did not see our key, or is no WebSocket server.
    #[error(
        "upgrade response: expected the Sec-WebSocket-Accept that belongs to the key, found another; is this a WebSocket server, and no cache? (RFC 6455 4.1)"
    )]
    Accept,
    /// Several subprotocols, or something that is none.
    #[error(
        "upgrade response: expected at most one subprotocol in Sec-WebSocket-Protocol, found several or no token (RFC 6455 4.1)"
    )]
    Protocol,
    /// A `Sec-WebSocket-Extensions` against the grammar.
    #[error("upgrade response: {0}")]
    Extensions(#[from] ExtensionsError),
}

impl UpgradeError {
    /// The status that the client is answered with: 400, 405 or 426 when its request is at fault, 502 when the
    /// endpoint's response is.
    pub fn status(&self) -> u16 {
        match self {
            Self::Method => 405,
            Self::WebSocketVersion => 426,
            Self::Version
            | Self::Host(_)
            | Self::SeveralUpgrades(_)
            | Self::Connection
            | Self::KeyCount(_)
            | Self::Key
            | Self::Body => 400,
            Self::Status(_)
            | Self::ResponseUpgrade
            | Self::ResponseConnection
            | Self::AcceptCount(_)
            | Self::Accept
            | Self::Protocol
            | Self::Extensions(_) => 502,
        }
    }

    /// The headers which an answer with [`status`](Self::status) must have (RFC 9110 15.5.6 and 15.5.22,
    /// RFC 6455 4.4).
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("Allow", "GET")],
            Self::WebSocketVersion => {
                &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
            }
            _ => &[],
        }
    }
}

/// What a request asks for; `Ok(None)` is ordinary HTTP, an upgrade to something else included.
///
/// # Errors
/// When it asks for a WebSocket, and not in the way of RFC 6455 4.2.1.
pub fn upgrade_request<'a>(head: &RequestHead<'a>) -> Result<Option<UpgradeRequest<'a>>, UpgradeError> {
    if !lists(head.header_all("upgrade"), "websocket") {
        return Ok(None);
    }
    if head.method != "GET" {
        return Err(UpgradeError::Method);
    }
    if head.version != 1 {
        return Err(UpgradeError::Version);
    }
    let host = only(head.header_all("host")).map_err(UpgradeError::Host)?;
    only(head.header_all("upgrade")).map_err(UpgradeError::SeveralUpgrades)?;
    if !lists(head.header_all("connection"), "upgrade") {
        return Err(UpgradeError::Connection);
    }
    if only(head.header_all("sec-websocket-version")) != Ok(b"13") {
        return Err(UpgradeError::WebSocketVersion);
    }
    let key = only(head.header_all("sec-websocket-key")).map_err(UpgradeError::KeyCount)?;
    if !is_key(key) {
        return Err(UpgradeError::Key);
    }
    if head.header_all("content-length").any(|value| value != b"0")
        || head.header_all("transfer-encoding").next().is_some()
    {
        return Err(UpgradeError::Body);
    }
    let protocols = items(head.header_all("sec-websocket-protocol")).filter_map(token).collect();
    Ok(Some(UpgradeRequest { key, host, protocols }))
}

/// The `Sec-WebSocket-Accept` that belongs to a key (RFC 6455 4.2.2, step 5.4).
pub fn accept_key(key: &[u8]) -> [u8; 28] {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    STANDARD.encode_slice(digest, &mut accept).expect("20 bytes of SHA-1 are 28 characters of base64");
    accept
}

/// Is this `101` genuine, for the key that the request had?
///
/// # Errors
/// When it is another status, or does not follow RFC 6455 4.1: then no tunnel may be opened.
pub fn check_switching<'a>(head: &ResponseHead<'a>, key: &[u8]) -> Result<Switched<'a>, UpgradeError> {
    if head.status != 101 {
        return Err(UpgradeError::Status(head.status));
    }
    if !only(head.header_all("upgrade")).is_ok_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(UpgradeError::ResponseUpgrade);
    }
    if !lists(head.header_all("connection"), "upgrade") {
        return Err(UpgradeError::ResponseConnection);
    }
    let accept = only(head.header_all("sec-websocket-accept")).map_err(UpgradeError::AcceptCount)?;
    if accept != accept_key(key) {
        return Err(UpgradeError::Accept);
    }
    let protocol = match only(head.header_all("sec-websocket-protocol")) {
        Err(0) => None,
        Ok(value) => Some(token(value).ok_or(UpgradeError::Protocol)?),
        Err(_) => return Err(UpgradeError::Protocol),
    };
    let extensions = Extensions::parse(head.header_all("sec-websocket-extensions"))?;
    Ok(Switched { extensions, protocol })
}

/// The value of a header that must be there once; else how often it is there.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<&'a [u8], usize> {
    match (values.next(), values.count()) {
        (None, _) => Err(0),
        (Some(value), 0) => Ok(value),
        (Some(_), more) => Err(1 + more),
    }
}

/// 16 bytes in base64. Bits behind the last byte are ignored: clients which make up 22 random characters work
/// with every server, and shall work through us.
fn is_key(key: &[u8]) -> bool {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let mut bytes = [0; 18];
    key.len() == 24 && LENIENT.decode_slice(key, &mut bytes) == Ok(16)
}
