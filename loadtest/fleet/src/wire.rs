//! The messages between demo clients and demo endpoints, and the small buffers both use.
//!
//! A client says `c 41 <padding>`; the endpoint answers `e 7 41 <padding>` and pushes `p 8 <padding>`, where 7 and
//! 8 number everything it sends in this session. The client's identity travels in the query of its request.

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Response header by which an endpoint names itself.
pub const ENDPOINT_HEADER: &str = "x-demo-endpoint";

/// Reason of the close by which a stopping endpoint ends the sessions that it still has.
pub const STOP_REASON: &str = "endpoint stops";

/// A message of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromEndpoint {
    /// The answer to the client's message `of`.
    Echo {
        /// Number in the session.
        number: u64,
        /// The client's own number.
        of: u64,
    },
    /// Sent by itself.
    Push {
        /// Number in the session.
        number: u64,
    },
}

/// A client's message of about `bytes` bytes.
pub fn client_message(number: u64, bytes: usize) -> String {
    padded(format!("c {number} "), bytes)
}

/// The number of a client's message; `None`: not one.
pub fn parse_client_message(text: &str) -> Option<u64> {
    text.strip_prefix("c ")?.split_once(' ')?.0.parse().ok()
}

/// The echo of `message`, which is a client's message.
pub fn echo_message(number: u64, message: &str) -> String {
    format!("e {number} {}", message.strip_prefix("c ").unwrap_or(message))
}

/// A push of about `bytes` bytes.
pub fn push_message(number: u64, bytes: usize) -> String {
    padded(format!("p {number} "), bytes)
}

/// What an endpoint sent; `None`: no demo endpoint sent this.
pub fn parse_endpoint_message(text: &str) -> Option<FromEndpoint> {
    let (kind, rest) = text.split_once(' ')?;
    let (number, rest) = rest.split_once(' ')?;
    let number = number.parse().ok()?;
    match kind {
        "p" => Some(FromEndpoint::Push { number }),
        "e" => Some(FromEndpoint::Echo { number, of: rest.split(' ').next()?.parse().ok()? }),
        _ => None,
    }
}

/// The query by which a client names itself.
pub fn query(client: u32, session: u32) -> String {
    format!("client={client}&session={session}")
}

/// Client and session of a query; `None`: it names none.
pub fn parse_query(query: &str) -> Option<(u32, u32)> {
    let value = |key: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key)?.1.parse().ok()
    };
    Some((value("client")?, value("session")?))
}

/// Small buffers: the library's default of 128 KiB a connection would be gigabytes for thousands of them.
pub fn small_buffers() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0)
}

fn padded(mut text: String, bytes: usize) -> String {
    let missing = bytes.saturating_sub(text.len());
    text.extend(std::iter::repeat_n('x', missing));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let message = client_message(41, 64);
        assert_eq!(message.len(), 64);
        assert_eq!(parse_client_message(&message), Some(41));
        let echo = echo_message(7, &message);
        assert_eq!(parse_endpoint_message(&echo), Some(FromEndpoint::Echo { number: 7, of: 41 }));
        assert_eq!(parse_endpoint_message(&push_message(8, 0)), Some(FromEndpoint::Push { number: 8 }));
        assert_eq!(parse_query(&query(17, 3)), Some((17, 3)));
    }

    #[test]
    fn anything_else_is_told_apart() {
        for text in ["", "c", "c x ", "e 1", "e 1 x", "p", "p x y", "{\"type\":\"reconnect\"}"] {
            assert_eq!(parse_client_message(text), None, "{text:?}");
            assert_eq!(parse_endpoint_message(text), None, "{text:?}");
        }
        assert_eq!(parse_query("client=1"), None);
    }
}
