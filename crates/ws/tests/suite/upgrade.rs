//! The opening handshake: what is an upgrade, what is none, what is refused, and which `101` is genuine.

use ws::{
    Extensions, RequestHead, ResponseHead, Switched, UpgradeError, UpgradeRequest, accept_key,
    check_switching, upgrade_request,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The lines of a good request, each of which a test may replace.
const LINES: [(&str, &str); 5] = [
    ("Host", "chat.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
];

const ANSWER: [(&str, &str); 3] =
    [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)];

/// A head of `good` lines without those named in `changed`, and then `changed`; an empty value only removes.
fn head(start: &str, good: &[(&str, &str)], changed: &[(&str, &str)]) -> String {
    let kept = good.iter().filter(|(name, _)| changed.iter().all(|(other, _)| name != other));
    let added = changed.iter().filter(|(_, value)| !value.is_empty());
    let lines: String = kept.chain(added).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{start}\r\n{lines}\r\n")
}

fn asked(start: &str, changed: &[(&str, &str)]) -> Result<bool, UpgradeError> {
    let text = head(start, &LINES, changed);
    let head = RequestHead::parse(text.as_bytes(), 16_384).expect("valid").expect("complete");
    upgrade_request(&head).map(|request| request.is_some())
}

fn answered(start: &str, changed: &[(&str, &str)]) -> Result<(Extensions, Option<String>), UpgradeError> {
    let text = head(start, &ANSWER, changed);
    let head = ResponseHead::parse(text.as_bytes(), 16_384).expect("valid").expect("complete");
    let Switched { extensions, protocol } = check_switching(&head, KEY.as_bytes())?;
    Ok((extensions, protocol.map(str::to_owned)))
}

#[test]
fn the_example_of_the_rfc_has_its_accept() {
    assert_eq!(accept_key(KEY.as_bytes()), ACCEPT.as_bytes());
}

#[test]
fn a_request_tells_its_key_host_and_offered_subprotocols() {
    let protocols =
        [("Sec-WebSocket-Protocol", "mqtt, v2.stomp"), ("sec-websocket-protocol", "wamp,,not ok")];
    let text = head("GET /x HTTP/1.1", &LINES, &protocols);
    let head = RequestHead::parse(text.as_bytes(), 16_384).expect("valid").expect("complete");
    let expected = UpgradeRequest {
        key: KEY.as_bytes(),
        host: b"chat.example.com",
        protocols: vec!["mqtt", "v2.stomp", "wamp"],
    };
    assert_eq!(upgrade_request(&head), Ok(Some(expected)));
}

#[test]
fn the_forms_which_real_clients_send_are_upgrades() {
    for changed in [
        &[("Upgrade", "WebSocket")][..],
        &[("Upgrade", "h2c, websocket")],
        &[("Connection", "keep-alive, upgrade")],
        &[("Connection", "keep-alive"), ("connection", "UPGRADE")],
        &[("Content-Length", "0")],
        // 16 bytes, whose last bits are not zero.
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR==")],
    ] {
        assert_eq!(asked("GET / HTTP/1.1", changed), Ok(true), "{changed:?}");
    }
}

#[test]
fn other_requests_are_ordinary_http() {
    for changed in [&[("Upgrade", "")][..], &[("Upgrade", "h2c")], &[("Upgrade", "websockets")]] {
        assert_eq!(asked("GET / HTTP/1.1", changed), Ok(false), "{changed:?}");
        assert_eq!(asked("POST / HTTP/1.0", changed), Ok(false), "{changed:?}");
    }
}

#[test]
fn each_incomplete_request_for_an_upgrade_is_refused() {
    use UpgradeError::{
        Body, Connection, Host, Key, KeyCount, Method, SeveralUpgrades, Version, WebSocketVersion,
    };
    assert_eq!(asked("POST / HTTP/1.1", &[]), Err(Method));
    assert_eq!(asked("GET / HTTP/1.0", &[]), Err(Version));
    for (changed, expected, status) in [
        (&[("Host", "")][..], Host(0), 400),
        (&[("Host", "a"), ("host", "b")], Host(2), 400),
        (&[("Upgrade", "websocket"), ("upgrade", "websocket")], SeveralUpgrades(2), 400),
        (&[("Upgrade", "h2c"), ("upgrade", "websocket")], SeveralUpgrades(2), 400),
        (&[("Connection", "")], Connection, 400),
        (&[("Connection", "close")], Connection, 400),
        (&[("Sec-WebSocket-Version", "")], WebSocketVersion, 426),
        (&[("Sec-WebSocket-Version", "8")], WebSocketVersion, 426),
        (&[("Sec-WebSocket-Version", "13, 8")], WebSocketVersion, 426),
        (&[("Sec-WebSocket-Version", "13"), ("sec-websocket-version", "8")], WebSocketVersion, 426),
        (&[("Sec-WebSocket-Key", "")], KeyCount(0), 400),
        (&[("Sec-WebSocket-Key", KEY), ("sec-websocket-key", KEY)], KeyCount(2), 400),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j")], Key, 400),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZXM=")], Key, 400),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")], Key, 400),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==AAAA")], Key, 400),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub2!jZQ==")], Key, 400),
        (&[("Content-Length", "5")], Body, 400),
        (&[("Content-Length", "0"), ("content-length", "5")], Body, 400),
        (&[("Transfer-Encoding", "chunked")], Body, 400),
    ] {
        assert_eq!(asked("GET / HTTP/1.1", changed), Err(expected), "{changed:?}");
        assert_eq!(expected.status(), status, "{expected}");
        assert!(expected.to_string().starts_with("upgrade request: expected "), "{expected}");
    }
}

#[test]
fn a_refusal_carries_the_headers_that_tell_what_to_do() {
    assert_eq!(UpgradeError::Method.status(), 405);
    assert_eq!(UpgradeError::Method.headers(), [("Allow", "GET")]);
    assert!(UpgradeError::WebSocketVersion.headers().contains(&("Sec-WebSocket-Version", "13")));
    assert!(UpgradeError::WebSocketVersion.headers().contains(&("Upgrade", "websocket")));
    assert!(UpgradeError::Key.headers().is_empty());
}

#[test]
fn a_genuine_101_tells_what_was_agreed_on() {
    let none = (Extensions::None, None);
    assert_eq!(answered("HTTP/1.1 101 Switching Protocols", &[]), Ok(none.clone()));
    let changed = [("Upgrade", "WebSocket"), ("Connection", "keep-alive, upgrade")];
    assert_eq!(answered("HTTP/1.1 101", &changed), Ok(none));
    let changed = [
        ("Sec-WebSocket-Protocol", "mqtt"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_no_context_takeover"),
    ];
    assert_eq!(answered("HTTP/1.1 101", &changed), Ok((Extensions::Deflate, Some("mqtt".into()))));
    let changed = [("Sec-WebSocket-Extensions", "permessage-deflate"), ("sec-websocket-extensions", "x-mux")];
    assert_eq!(answered("HTTP/1.1 101", &changed), Ok((Extensions::Unknown, None)));
}

#[test]
fn a_101_that_is_not_genuine_opens_no_tunnel() {
    use UpgradeError::{Accept, AcceptCount, Protocol, ResponseConnection, ResponseUpgrade, Status};
    for (start, status) in [("HTTP/1.1 200 OK", 200), ("HTTP/1.1 426 x", 426), ("HTTP/1.1 302 x", 302)] {
        assert_eq!(answered(start, &[]), Err(Status(status)));
    }
    for (changed, expected) in [
        (&[("Upgrade", "")][..], ResponseUpgrade),
        (&[("Upgrade", "h2c")], ResponseUpgrade),
        (&[("Upgrade", "websocket, h2c")], ResponseUpgrade),
        (&[("Upgrade", "websocket"), ("upgrade", "websocket")], ResponseUpgrade),
        (&[("Connection", "")], ResponseConnection),
        (&[("Connection", "close")], ResponseConnection),
        (&[("Sec-WebSocket-Accept", "")], AcceptCount(0)),
        (&[("Sec-WebSocket-Accept", ACCEPT), ("sec-websocket-accept", ACCEPT)], AcceptCount(2)),
        (&[("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")], Accept),
        (&[("Sec-WebSocket-Accept", KEY)], Accept),
        (&[("Sec-WebSocket-Protocol", "a, b")], Protocol),
        (&[("Sec-WebSocket-Protocol", "a"), ("sec-websocket-protocol", "b")], Protocol),
    ] {
        assert_eq!(answered("HTTP/1.1 101 x", changed), Err(expected), "{changed:?}");
        assert_eq!(expected.status(), 502);
        assert!(expected.to_string().starts_with("upgrade response: expected "), "{expected}");
    }
    let garbled = answered("HTTP/1.1 101 x", &[("Sec-WebSocket-Extensions", "a b")]);
    assert!(matches!(garbled, Err(UpgradeError::Extensions(_))));
}
