//! Requests for a WebSocket, good and bad, up to the moment in which an endpoint is asked.

use std::net::Shutdown;

use crate::fixture::{Fixture, Setup, reset};
use crate::support::frames::{BINARY, TEXT, bare, masked};
use crate::support::http::{SWITCHING, UPGRADE, header, status, upgrade_with};
use crate::support::{Endpoint, wait_until};

/// Sends `request`, expects an answer with `status` and a proper end, and that no endpoint was asked.
fn expect_refused(fixture: &Fixture, endpoint: &Endpoint, request: &[u8], expected: u16) -> (String, String) {
    let mut client = fixture.connect();
    client.send(request);
    let (head, body) = client.message();
    assert_eq!(status(&head), expected, "{}: {head}{body}", request.escape_ascii());
    client.expect_fin();
    assert!(endpoint.try_accept().is_none(), "an endpoint was asked: {}", request.escape_ascii());
    (head, body)
}

#[test]
fn a_head_in_one_byte_segments_opens_a_session() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    UPGRADE.bytes().for_each(|byte| client.send([byte]));
    let mut upstream = endpoint.accept();
    let asked = upstream.head();
    assert!(asked.starts_with("GET /ws?room=1 HTTP/1.1\r\n"), "{asked}");
    SWITCHING.bytes().for_each(|byte| upstream.send([byte]));
    assert_eq!(status(&client.head()), 101);
    for byte in masked(TEXT, "hello") {
        client.send([byte]);
    }
    upstream.expect(masked(TEXT, "hello"));
    for byte in bare(TEXT, "hi") {
        upstream.send([byte]);
    }
    client.expect(bare(TEXT, "hi"));
}

#[test]
fn a_head_that_never_ends_is_answered_408() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("head_timeout: 150ms").start(&[&endpoint]);
    let unfinished = &UPGRADE.as_bytes()[..UPGRADE.len() - 2];
    let (_, body) = expect_refused(&fixture, &endpoint, unfinished, 408);
    assert!(body.contains("limits.head_timeout"), "{body}");
}

#[test]
fn a_silent_connection_is_closed_without_a_word() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("head_timeout: 150ms").start(&[&endpoint]);
    fixture.connect().expect_fin();
}

#[test]
fn frames_in_the_same_packet_as_the_request_reach_the_endpoint_behind_the_101() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    let early = masked(TEXT, "early");
    client.send([UPGRADE.as_bytes(), &early, &early[..3]].concat());
    let (mut upstream, asked) = endpoint.accept_websocket();
    assert!(!asked.contains("early"));
    upstream.expect(&early);
    assert_eq!(status(&client.head()), 101);
    client.send(&early[3..]);
    upstream.expect(&early);
}

#[test]
fn a_client_that_does_not_wait_for_the_answer_loses_nothing() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    let early = masked(BINARY, vec![7; 30_000]);
    client.send([UPGRADE.as_bytes(), &early].concat());
    let (mut upstream, _) = endpoint.accept_websocket();
    upstream.expect(&early);
    assert_eq!(status(&client.head()), 101);
}

#[test]
fn frames_in_the_same_packet_as_the_101_reach_the_client_behind_it() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let mut upstream = endpoint.accept();
    upstream.head();
    let frame = bare(TEXT, "welcome");
    upstream.send([SWITCHING.as_bytes(), &frame, &frame[..4]].concat());
    assert_eq!(status(&client.head()), 101);
    client.expect(&frame);
    upstream.send(&frame[4..]);
    client.expect(&frame);
}

#[test]
fn an_upgrade_request_against_the_rules_is_refused_and_no_endpoint_sees_it() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let without = |line: &str| UPGRADE.replace(line, "");
    let table = [
        (upgrade_with("Upgrade: websocket\r\n"), 400, "one Upgrade header"),
        (upgrade_with("Upgrade: h2c\r\n"), 400, "one Upgrade header"),
        (upgrade_with("Content-Length: 5\r\n") + "hello", 400, "no body"),
        (upgrade_with("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, "no body"),
        (UPGRADE.replace("GET", "POST"), 405, "GET"),
        (UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
        (without("Host: chat.example.com\r\n"), 400, "one Host header"),
        (upgrade_with("Host: other\r\n"), 400, "one Host header"),
        (without("Connection: Upgrade\r\n"), 400, "Connection"),
        (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "Sec-WebSocket-Key"),
        (UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, "16 bytes"),
        (upgrade_with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "found 2"),
        (without("Sec-WebSocket-Version: 13\r\n"), 426, "13"),
        (UPGRADE.replace("Version: 13", "Version: 8"), 426, "13"),
        (UPGRADE.replace("Version: 13", "Version: 777"), 426, "13"),
    ];
    for (request, expected, why) in table {
        let (head, body) = expect_refused(&fixture, &endpoint, request.as_bytes(), expected);
        assert!(body.contains(why), "{why}: {body}");
        if expected == 426 {
            assert_eq!(header(&head, "sec-websocket-version"), Some("13"), "{head}");
        }
        if expected == 405 {
            assert_eq!(header(&head, "allow"), Some("GET"), "{head}");
        }
    }
}

#[test]
fn other_protocols_on_a_plain_port_are_told_so() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let (_, body) = expect_refused(&fixture, &endpoint, preface, 505);
    assert!(body.contains("HTTP/2"), "{body}");
    let hello =
        [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03][..], &[0x5A; 300]].concat();
    let (_, body) = expect_refused(&fixture, &endpoint, &hello, 400);
    assert!(body.contains("TLS"), "{body}");
    expect_refused(&fixture, &endpoint, b"\0\0\0\0 what is this\r\n\r\n", 400);
    expect_refused(&fixture, &endpoint, b"GET / HTTP/9.9\r\n\r\n", 505);
}

#[test]
fn heads_beyond_a_limit_are_refused_with_its_status() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("head_bytes_max: 4096").start(&[&endpoint]);
    let large = upgrade_with(&format!("Cookie: {}\r\n", "c".repeat(5000)));
    expect_refused(&fixture, &endpoint, large.as_bytes(), 431);
    let many = upgrade_with(&"A: b\r\n".repeat(101));
    expect_refused(&fixture, &endpoint, many.as_bytes(), 431);
    let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}", "c".repeat(300_000));
    let mut client = fixture.connect();
    // The gateway does not wait for the end of it, and the answer comes through all the same.
    client.try_send(&endless).ok();
    assert_eq!(status(&client.head()), 431);
    drop(client);
    let fixture = Setup::new().start(&[&endpoint]);
    let long = UPGRADE.replace("room=1", &format!("room={}", "1".repeat(8200)));
    expect_refused(&fixture, &endpoint, long.as_bytes(), 414);
}

#[test]
fn a_refused_client_that_goes_on_sending_still_gets_its_answer() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    let body = vec![b'x'; 100_000];
    client.send([upgrade_with("Content-Length: 100000\r\n").as_bytes(), &body].concat());
    let (head, _) = client.message();
    assert_eq!(status(&head), 400);
    client.expect_fin();
}

#[test]
fn a_client_that_resets_or_ends_before_its_session_leaves_no_count() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    reset(fixture.connect());
    fixture.expect_zero();
    let mut client = fixture.connect();
    client.send(&UPGRADE[..40]);
    wait_until("it is counted", || fixture.status().connections == 1);
    reset(client);
    fixture.expect_zero();
    let mut client = fixture.connect();
    client.send(&UPGRADE[..40]);
    client.tcp().shutdown(Shutdown::Write).expect("it is open");
    client.expect_fin();
    drop(client);
    fixture.expect_zero();
    // The endpoint has the request and has not answered.
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let mut upstream = endpoint.accept();
    upstream.head();
    reset(client);
    upstream.send(SWITCHING);
    upstream.rest();
}
