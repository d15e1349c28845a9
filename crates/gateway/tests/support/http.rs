//! HTTP heads by hand, with the sample key of RFC 6455 section 1.3.

/// A valid request for a WebSocket.
pub const UPGRADE: &str = "GET /ws?room=1 HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// The genuine answer to [`UPGRADE`].
pub const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// A plain request.
pub const GET: &str = "GET /health HTTP/1.1\r\nHost: chat.example.com\r\n\r\n";

/// [`UPGRADE`] with more headers (each with its line end).
pub fn upgrade_with(headers: &str) -> String {
    more(UPGRADE, headers)
}

/// [`SWITCHING`] with more headers (each with its line end).
pub fn switching_with(headers: &str) -> String {
    more(SWITCHING, headers)
}

/// `head` with more headers (each with its line end).
pub fn more(head: &str, headers: &str) -> String {
    let start = head.strip_suffix("\r\n").expect("a whole head");
    format!("{start}{headers}\r\n")
}

/// A response with a body.
pub fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The status of a response head.
pub fn status(head: &str) -> u16 {
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no response head: {head:?}"))
}

/// The value of a header that is there at most once.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let values = headers(head, name);
    assert!(values.len() <= 1, "{name} is there {} times: {head}", values.len());
    values.first().copied()
}

/// The values of all headers of that name.
pub fn headers<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}
