//! Which headers go on to the endpoint, and what is added: X-Forwarded-*, X-Request-Id, hop-by-hop rules.
//!
//! One set of rules for both ways in: raw upgrade heads and hyper's requests.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ws::{connection_options, is_hop_by_hop};

use crate::entropy;

/// Longest request id that is taken over from a trusted proxy, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Most names that one request's Connection headers may list.
const CONNECTION_OPTIONS_MAX: usize = 32;

/// A downstream connection, as far as headers tell of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The client.
    pub client: SocketAddr,
    /// Our port that it connected to.
    pub local_port: u16,
    /// It speaks TLS with us.
    pub tls: bool,
}

/// What is said of a request to the endpoint, and back to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forwarded {
    /// Kept from a trusted proxy, or fresh.
    pub request_id: String,
    /// Names listed in Connection: they end here.
    listed: Vec<String>,
    /// Added to the request.
    pub headers: [(&'static str, String); 5],
}

impl Forwarded {
    /// Reads what `headers` say already; it counts only when the peer is in `trusted`.
    pub fn new(peer: &Peer, trusted: &[IpNet], headers: &[(&str, &[u8])]) -> Self {
        let client = canonical(peer.client.ip());
        let is_trusted = trusted.iter().any(|net| net.contains(&client));
        let said = |name: &str| {
            let mut values = headers
                .iter()
                .filter(|(n, _)| is_trusted && n.eq_ignore_ascii_case(name))
                .filter_map(|(_, value)| std::str::from_utf8(value).ok());
            values.next().map(|first| values.fold(first.to_owned(), |all, next| format!("{all}, {next}")))
        };
        let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = host.and_then(|(_, value)| std::str::from_utf8(value).ok()).unwrap_or_default();
        let connection = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        let request_id = said("x-request-id").filter(|id| is_request_id(id));
        let request_id = request_id.unwrap_or_else(entropy::request_id);
        let scheme = if peer.tls { "https" } else { "http" };
        let hops = match said("x-forwarded-for") {
            Some(before) => format!("{before}, {client}"),
            None => client.to_string(),
        };
        Self {
            listed: connection_options(connection.map(|(_, value)| *value))
                .take(CONNECTION_OPTIONS_MAX)
                .map(str::to_owned)
                .collect(),
            headers: [
                ("x-forwarded-for", hops),
                ("x-forwarded-proto", said("x-forwarded-proto").unwrap_or_else(|| scheme.into())),
                ("x-forwarded-host", said("x-forwarded-host").unwrap_or_else(|| host.into())),
                ("x-forwarded-port", said("x-forwarded-port").unwrap_or_else(|| peer.local_port.to_string())),
                ("x-request-id", request_id.clone()),
            ],
            request_id,
        }
    }

    /// True for a request header that goes on to the endpoint as it is.
    pub fn keeps(&self, name: &str) -> bool {
        // WS-Handoff* is the gateway's own conversation with endpoints: a client must not be able to forge it.
        let is_handoff = name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("ws-handoff"));
        !is_hop_by_hop(name)
            && !is_handoff
            && !self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(name))
            && !self.headers.iter().any(|(ours, _)| ours.eq_ignore_ascii_case(name))
    }
}

/// An IPv4 client on an IPv6 socket, as IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn is_request_id(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Path of a request target, without its query. An absolute URI (RFC 9112 section 3.2.2) counts by its path.
pub fn path_of(target: &str) -> &str {
    let target = origin_form(target);
    target.split(['?', '#']).next().unwrap_or("/")
}

/// The target in the form that endpoints expect: path and query.
pub fn origin_form(target: &str) -> &str {
    let rest = ["http://", "https://", "ws://", "wss://"].iter().find_map(|scheme| {
        target
            .get(..scheme.len())
            .filter(|start| start.eq_ignore_ascii_case(scheme))
            .map(|_| &target[scheme.len()..])
    });
    match rest {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(client: &str) -> Peer {
        Peer { client: client.parse().unwrap(), local_port: 8080, tls: true }
    }

    fn forwarded(client: &str, headers: &[(&'static str, &'static str)]) -> Forwarded {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        Forwarded::new(&peer(client), &trusted, &headers)
    }

    const SAID: [(&str, &str); 5] = [
        ("Host", "chat.example.com"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "http"),
        ("X-Request-Id", "abc"),
        ("Connection", "Upgrade, X-Secret"),
    ];

    #[test]
    fn a_stranger_can_not_forge_forwarded_headers() {
        let forwarded = forwarded("192.0.2.1:5", &SAID);
        assert_eq!(forwarded.headers[0].1, "192.0.2.1");
        assert_eq!(forwarded.headers[1].1, "https");
        assert_eq!(forwarded.headers[2].1, "chat.example.com");
        assert_eq!(forwarded.headers[3].1, "8080");
        assert_ne!(forwarded.request_id, "abc");
    }

    #[test]
    fn a_trusted_proxy_is_appended_to() {
        let forwarded = forwarded("[::ffff:10.1.2.3]:5", &SAID);
        assert_eq!(forwarded.headers[0].1, "1.2.3.4, 10.1.2.3");
        assert_eq!(forwarded.headers[1].1, "http");
        assert_eq!(forwarded.request_id, "abc");
    }

    #[test]
    fn hop_by_hop_and_our_own_headers_end_here() {
        let forwarded = forwarded("192.0.2.1:5", &SAID);
        for name in ["connection", "UPGRADE", "x-secret", "X-Forwarded-For", "keep-alive", "WS-Handoff", "te"]
        {
            assert!(!forwarded.keeps(name), "{name}");
        }
        for name in ["host", "cookie", "Sec-WebSocket-Key", "sec-websocket-extensions", "origin"] {
            assert!(forwarded.keeps(name), "{name}");
        }
    }

    #[test]
    fn a_request_id_that_would_break_logs_is_replaced() {
        assert!(
            is_request_id("0af7-1")
                && !is_request_id("a b")
                && !is_request_id("")
                && !is_request_id(&"x".repeat(129))
        );
    }

    #[test]
    fn targets_are_matched_by_their_path() {
        assert_eq!(path_of("/ws/a?b=/c"), "/ws/a");
        assert_eq!(path_of("HTTP://host:1/ws?x"), "/ws");
        assert_eq!(origin_form("http://host"), "/");
        assert_eq!(origin_form("/a?b"), "/a?b");
    }
}
