//! Request and response heads: bad input, limits, and any split.

use proptest::collection::vec;
use proptest::prelude::*;
use ws::{HEADERS_MAX, HeadError, HeadFault, RequestHead, ResponseHead, Role, TARGET_BYTES_MAX};

use crate::cases;

const LIMIT: usize = 16 * 1024;

const UPGRADE: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: chat.example.com\r\nupgrade: websocket\r\n\
     Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn request(text: &str) -> Result<Option<RequestHead<'_>>, HeadError> {
    RequestHead::parse(text.as_bytes(), LIMIT)
}

fn request_fault(text: &str) -> Option<(HeadFault, u16)> {
    request(text).err().map(|error| (error.fault, error.status()))
}

fn response(text: &str) -> Result<Option<ResponseHead<'_>>, HeadError> {
    ResponseHead::parse(text.as_bytes(), LIMIT)
}

/// A request whose head has this many bytes.
fn request_of(head_bytes: usize) -> String {
    let mut text = String::from("GET / HTTP/1.1\r\nHost: a\r\nX-Pad: \r\n\r\n");
    text.insert_str(text.len() - 4, &"p".repeat(head_bytes - text.len()));
    text
}

#[test]
fn a_request_head_is_read_in_order_and_by_name_in_any_case() {
    let text = format!("{UPGRADE}\u{1}first frame");
    let head = request(&text).expect("it is valid").expect("it is complete");
    assert_eq!(head.len, UPGRADE.len());
    assert_eq!((head.method, head.target, head.version), ("GET", "/chat?room=1", 1));
    assert_eq!(head.headers().next(), Some(("Host", &b"chat.example.com"[..])));
    assert_eq!(head.headers().count(), 5);
    assert_eq!(head.header_all("UPGRADE").collect::<Vec<_>>(), [b"websocket"]);
    assert_eq!(head.header_all("cookie").count(), 0);
}

#[test]
fn a_response_head_is_read_with_and_without_a_reason() {
    for (text, status, reason, version) in [
        ("HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n", 101, "Switching Protocols", 1),
        ("HTTP/1.1 302 \r\nA: b\r\n\r\n", 302, "", 1),
        ("HTTP/1.0 429\r\nA: b\r\n\r\n", 429, "", 0),
    ] {
        let head = response(text).expect("it is valid").expect("it is complete");
        assert_eq!((head.status, head.reason, head.version), (status, reason, version));
        assert_eq!(head.len, text.len());
        assert_eq!(head.headers().collect::<Vec<_>>(), [("A", &b"b"[..])]);
        assert_eq!(head.header_all("a").count(), 1);
    }
}

#[test]
fn a_head_in_segments_of_one_byte_is_not_yet_until_its_last() {
    for end in 0..UPGRADE.len() {
        assert!(matches!(request(&UPGRADE[..end]), Ok(None)), "{end}");
    }
    assert!(matches!(request(UPGRADE), Ok(Some(_))));
    let text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    for end in 0..text.len() {
        assert!(matches!(response(&text[..end]), Ok(None)), "{end}");
    }
}

#[test]
fn the_head_may_fill_its_limit_and_no_byte_more() {
    let too_long = Some((HeadFault::TooLong { head_bytes_max: LIMIT }, 431));
    assert!(matches!(request(&request_of(LIMIT - 1)), Ok(Some(_))));
    assert!(matches!(request(&request_of(LIMIT)), Ok(Some(_))));
    assert_eq!(request_fault(&request_of(LIMIT + 1)), too_long);
    // One that never ends is refused once it is sure that it cannot fit.
    let endless = request_of(LIMIT + 1);
    assert!(matches!(request(&endless[..LIMIT - 1]), Ok(None)));
    assert_eq!(request_fault(&endless[..LIMIT]), too_long);
    // What follows the head does not count.
    assert!(matches!(request(&(request_of(LIMIT) + "body")), Ok(Some(head)) if head.len == LIMIT));
}

#[test]
fn there_may_be_100_headers_and_not_101() {
    assert_eq!(HEADERS_MAX, 100);
    let headers = |count: usize| "A: b\r\n".repeat(count);
    for count in [99, 100] {
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", headers(count));
        assert!(matches!(request(&text), Ok(Some(head)) if head.headers().count() == count));
    }
    let text = format!("GET / HTTP/1.1\r\n{}\r\n", headers(101));
    assert_eq!(request_fault(&text), Some((HeadFault::TooManyHeaders, 431)));
    let text = format!("HTTP/1.1 101 OK\r\n{}\r\n", headers(101));
    let error = response(&text).expect_err("101 headers");
    assert_eq!((error.sender, error.fault, error.status()), (Role::Server, HeadFault::TooManyHeaders, 502));
}

#[test]
fn a_target_may_have_8_kib_and_no_byte_more() {
    let text =
        |target_bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "t".repeat(target_bytes - 1));
    for target_bytes in [TARGET_BYTES_MAX - 1, TARGET_BYTES_MAX] {
        let text = text(target_bytes);
        assert!(matches!(request(&text), Ok(Some(head)) if head.target.len() == target_bytes));
    }
    let long = text(TARGET_BYTES_MAX + 1);
    assert_eq!(request_fault(&long), Some((HeadFault::TargetTooLong, 414)));
    // Without its end too, and before the limit of the head.
    let unfinished = &long[..5 + TARGET_BYTES_MAX];
    assert_eq!(request_fault(unfinished), Some((HeadFault::TargetTooLong, 414)));
    assert!(matches!(request(&long[..4 + TARGET_BYTES_MAX]), Ok(None)));
}

#[test]
fn another_protocol_on_the_port_is_told_by_name() {
    let tls = RequestHead::parse(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], LIMIT).expect_err("TLS");
    assert_eq!((tls.fault, tls.status()), (HeadFault::Tls, 400));
    assert_eq!(
        tls.to_string(),
        "request head: expected HTTP/1.1, found the begin of a TLS handshake; this port speaks plain HTTP: \
         use ws:// or http://, or the TLS port"
    );
    assert_eq!(request_fault("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some((HeadFault::Http2, 505)));
    assert_eq!(request_fault("GET / HTTP/2.0\r\n\r\n"), Some((HeadFault::Version, 505)));
    assert_eq!(request_fault("GET / HTTP/1.2\r\n\r\n"), Some((HeadFault::Version, 505)));
    let spoken = response("HTTP/2.0 101 OK\r\n\r\n").expect_err("HTTP/2");
    assert_eq!((spoken.fault, spoken.status()), (HeadFault::Version, 502));
}

#[test]
fn what_is_no_http_is_a_bad_request() {
    for text in [
        "\u{0}",
        "GET / \r\n\r\n",
        "GET /\r\n\r\n",
        "GET / FTP/1.1\r\n\r\n",
        "G\u{1}T / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHo st: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\u{0}b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n",
        "GET / HTTP/1.1\r\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\r\n\r\n",
    ] {
        assert!(matches!(request_fault(text), Some((HeadFault::Malformed(_), 400))), "{text:?}");
    }
    for text in ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 1x1 OK\r\n\r\n", "HTTP/1.1 101 OK\r\nA\r\n\r\n"] {
        let error = response(text).expect_err(text);
        assert_eq!((error.sender, error.status()), (Role::Server, 502));
    }
}

/// Bytes that come near a head: pieces of real ones, in any order, and noise.
fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec![
            "GET ", "POST ", "/path", "/a b", " HTTP/1.1\r\n", " HTTP/1.0\n", " HTTP/2.0\r\n", "HTTP/1.1 101 x\r\n",
            "Host: a\r\n", "Upgrade: websocket\r\n", "Connection: Upgrade, x\r\n", "Content-Length: 5\r\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Sec-WebSocket-Version: 13\r\n", " folded\r\n",
            "Sec-WebSocket-Extensions: permessage-deflate; a=\"b\"\r\n", "\r\n", "\n", ":", "PRI * HTTP/2.0\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_end_in_a_head_not_yet_or_an_error_and_more_bytes_never_take_it_back(bytes in head_like()) {
        let small = 200;
        let outcome = |bytes: &[u8]| {
            let request = RequestHead::parse(bytes, small).map(|head| head.map(|head| head.len));
            let response = ResponseHead::parse(bytes, small).map(|head| head.map(|head| head.len));
            (request, response)
        };
        let (mut request, mut response) = (Ok(None), Ok(None));
        for end in 0..=bytes.len() {
            let (now_request, now_response) = outcome(&bytes[..end]);
            if let Ok(Some(len)) = request {
                prop_assert_eq!(&now_request, &Ok(Some(len)));
            }
            if let Ok(Some(len)) = response {
                prop_assert_eq!(&now_response, &Ok(Some(len)));
            }
            prop_assert!(request.is_ok() || now_request.is_err(), "a refused request became acceptable");
            prop_assert!(response.is_ok() || now_response.is_err(), "a refused response became acceptable");
            prop_assert!(end < small || !matches!(now_request, Ok(None)), "beyond the limit and still not yet");
            (request, response) = (now_request, now_response);
        }
    }

    #[test]
    fn the_judgement_of_an_upgrade_never_panics(bytes in head_like()) {
        let text = [b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n".as_slice(), &bytes].concat();
        if let Ok(Some(head)) = RequestHead::parse(&text, LIMIT) {
            let _ = ws::upgrade_request(&head);
        }
        let text = [b"HTTP/1.1 101 x\r\n".as_slice(), &bytes].concat();
        if let Ok(Some(head)) = ResponseHead::parse(&text, LIMIT) {
            prop_assert!(ws::check_switching(&head, b"key").is_err(), "nobody made an Accept for this key");
        }
    }
}
