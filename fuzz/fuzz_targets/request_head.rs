//! Heads on arbitrary bytes, as a request and as a response, and what is judged from them.
//!
//! Held: nothing panics; a complete head stays the same when more bytes follow; limits are kept; an accepted
//! upgrade has what RFC 6455 asks for; every error has a status and a message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws::{
    HEADERS_MAX, RequestHead, ResponseHead, TARGET_BYTES_MAX, accept_key, check_switching, upgrade_request,
};

/// Smaller than what the gateway allows, so that the limit is within reach of short inputs.
const HEAD_BYTES_MAX: usize = 1024;

const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

fuzz_target!(|input: &[u8]| {
    request(input);
    response(input);
});

fn request(input: &[u8]) {
    let head = match RequestHead::parse(input, HEAD_BYTES_MAX) {
        Ok(Some(head)) => head,
        Ok(None) => return assert!(input.len() < HEAD_BYTES_MAX),
        Err(error) => {
            assert!(matches!(error.status(), 400 | 414 | 431 | 505));
            return assert!(error.to_string().contains("expected"));
        }
    };
    assert!(head.len <= input.len().min(HEAD_BYTES_MAX));
    assert!(head.target.len() <= TARGET_BYTES_MAX && head.headers().count() <= HEADERS_MAX);
    let alone = RequestHead::parse(&input[..head.len], HEAD_BYTES_MAX);
    assert!(matches!(alone, Ok(Some(alone)) if alone.len == head.len));

    match upgrade_request(&head) {
        Ok(None) => {}
        Ok(Some(upgrade)) => {
            assert_eq!((head.method, head.version, upgrade.key.len()), ("GET", 1, 24));
            assert!(accept_key(upgrade.key).is_ascii());
        }
        Err(error) => {
            assert!(matches!(error.status(), 400 | 405 | 426));
            assert!(error.to_string().starts_with("upgrade request: expected"));
        }
    }
    let options = ws::connection_options(head.header_all("connection"));
    for name in options.chain(head.headers().map(|(name, _)| name)) {
        let _ = ws::is_hop_by_hop(name);
    }
}

fn response(input: &[u8]) {
    let head = match ResponseHead::parse(input, HEAD_BYTES_MAX) {
        Ok(Some(head)) => head,
        Ok(None) => return assert!(input.len() < HEAD_BYTES_MAX),
        Err(error) => return assert_eq!(error.status(), 502),
    };
    assert!(head.len <= input.len().min(HEAD_BYTES_MAX));
    let alone = ResponseHead::parse(&input[..head.len], HEAD_BYTES_MAX);
    assert!(matches!(alone, Ok(Some(alone)) if alone.len == head.len));

    match check_switching(&head, KEY) {
        Ok(_) => {
            assert_eq!(head.status, 101);
            assert!(head.header_all("sec-websocket-accept").eq([accept_key(KEY).as_slice()]));
        }
        Err(error) => assert_eq!(error.status(), 502),
    }
}
