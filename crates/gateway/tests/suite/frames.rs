//! Frames after the 101: passed as they are, bad ones included, or refused with 1002 where that is asked for.

use crate::fixture::{Setup, reset, wait_for_sessions};
use crate::support::frames::{BINARY, CLOSE, MORE, PING, PONG, TEXT, TEXT_BEGIN, bare, closing, masked};
use crate::support::http::{status, switching_with, upgrade_with};
use crate::support::wire::End;
use crate::support::{Endpoint, Wire};

/// What one peer must not send, as the payload-carrying function `frame` of its side makes it, with a name.
fn bad_frames(frame: fn(u8, Vec<u8>) -> Vec<u8>, wrong_mask: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    let mask_bit = frame(TEXT, Vec::new())[1] & 0x80;
    let key: &[u8] = if mask_bit == 0 { &[] } else { &[0; 4] };
    let long_form = |first: u8, length: &[u8], payload: &[u8]| {
        [&[first, length[0] | mask_bit], &length[1..], key, payload].concat()
    };
    let all_ones = 0xFFFF_FFFF_FFFF_FFFF_u64.to_be_bytes();
    vec![
        ("the mask of the other side", wrong_mask),
        ("a reserved data opcode", frame(0x83, b"x".to_vec())),
        ("a reserved control opcode", frame(0x8B, b"x".to_vec())),
        ("RSV1 without an extension", frame(0xC1, b"x".to_vec())),
        ("RSV2 on a Ping", frame(0xA9, b"x".to_vec())),
        ("a length of 2^63", long_form(BINARY, &[127, 0x80, 0, 0, 0, 0, 0, 0, 0], b"x")),
        ("a length of 2^64 - 1", long_form(BINARY, &[&[127], &all_ones[..]].concat(), b"x")),
        ("16 bits of length for 5 bytes", long_form(TEXT, &[126, 0, 5], b"hello")),
        ("64 bits of length for 5 bytes", long_form(TEXT, &[127, 0, 0, 0, 0, 0, 0, 0, 5], b"hello")),
        ("a Ping of 126 bytes", frame(PING, vec![b'p'; 126])),
        ("a fragmented Ping", frame(0x09, b"p".to_vec())),
        ("a fragmented Close", frame(0x08, closing(1000, ""))),
        ("a Close with half a code", frame(CLOSE, vec![3])),
        ("a Close with 1005", frame(CLOSE, closing(1005, ""))),
        ("a Close with 1006", frame(CLOSE, closing(1006, ""))),
        ("a Close with 999", frame(CLOSE, closing(999, ""))),
        ("a Close with 5000", frame(CLOSE, closing(5000, ""))),
        ("a Close whose reason is no UTF-8", frame(CLOSE, vec![3, 232, 0xC3, 0x28])),
        ("a continuation of nothing", frame(0x80, b"x".to_vec())),
        (
            "a message within a message",
            [frame(TEXT_BEGIN, b"a".to_vec()), frame(TEXT, b"b".to_vec())].concat(),
        ),
    ]
}

fn bad_client_frames() -> Vec<(&'static str, Vec<u8>)> {
    bad_frames(masked, bare(TEXT, "x"))
}

fn bad_server_frames() -> Vec<(&'static str, Vec<u8>)> {
    bad_frames(bare, masked(TEXT, "x"))
}

/// After a malformed frame from `from`, everything passes both ways as it is.
#[track_caller]
fn expect_opaque(from: &mut Wire, to: &mut Wire, bad: &[u8]) {
    let good = if bad[1] & 0x80 == 0 { bare(TEXT, "before") } else { masked(TEXT, "before") };
    from.send([&good, bad, b"\xFF\xFF not a frame"].concat());
    to.expect(&good);
    to.expect([bad, b"\xFF\xFF not a frame"].concat());
    to.send(b"\xFE\xFE neither");
    from.expect(b"\xFE\xFE neither");
    from.send(b"still there");
    to.expect(b"still there");
}

#[test]
fn a_malformed_client_frame_makes_the_session_opaque_and_alters_no_byte() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    for (name, bad) in bad_client_frames() {
        eprintln!("{name}");
        let (mut client, mut upstream) = fixture.open(&endpoint);
        // A first frame with the right mask, so that the wrong one is no accident of the beginning.
        client.send(masked(TEXT, "first"));
        upstream.expect(masked(TEXT, "first"));
        expect_opaque(&mut client, &mut upstream, &bad);
        client.finish();
        upstream.expect_fin();
        drop(upstream);
        client.expect_fin();
    }
}

#[test]
fn a_malformed_endpoint_frame_makes_the_session_opaque_and_alters_no_byte() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    for (name, bad) in bad_server_frames() {
        eprintln!("{name}");
        let (mut client, mut upstream) = fixture.open(&endpoint);
        upstream.send(bare(TEXT, "first"));
        client.expect(bare(TEXT, "first"));
        expect_opaque(&mut upstream, &mut client, &bad);
        drop(upstream);
        client.expect_fin();
    }
}

#[test]
fn strict_answers_a_malformed_client_frame_with_1002_on_both_sides() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("websocket:\n  on_bad_frame: strict").start(&[&endpoint]);
    for (name, bad) in bad_client_frames() {
        eprintln!("{name}");
        let (mut client, mut upstream) = fixture.open(&endpoint);
        client.send([&masked(TEXT, "good"), &bad[..]].concat());
        upstream.expect(masked(TEXT, "good"));
        if name == "a message within a message" {
            upstream.expect(masked(TEXT_BEGIN, "a"));
        }
        expect_1002(&mut client, &mut upstream);
    }
}

#[test]
fn strict_answers_a_malformed_endpoint_frame_with_1002_on_both_sides() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("websocket:\n  on_bad_frame: strict").start(&[&endpoint]);
    for (name, bad) in bad_server_frames() {
        eprintln!("{name}");
        let (mut client, mut upstream) = fixture.open(&endpoint);
        upstream.send([&bare(TEXT, "good"), &bad[..]].concat());
        client.expect(bare(TEXT, "good"));
        if name == "a message within a message" {
            client.expect(bare(TEXT_BEGIN, "a"));
        }
        expect_1002(&mut client, &mut upstream);
    }
}

#[track_caller]
fn expect_1002(client: &mut Wire, upstream: &mut Wire) {
    let close = client.frame();
    assert!(close.close().0 == 1002 && !close.masked, "{close:?}");
    client.expect_fin();
    let close = upstream.frame();
    assert!(close.close().0 == 1002 && close.masked, "{close:?}");
    upstream.expect_fin();
}

#[test]
fn compressed_frames_pass_once_the_endpoint_has_agreed_to_compression() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("websocket:\n  on_bad_frame: strict").start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(upgrade_with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"));
    let mut upstream = endpoint.accept();
    assert!(upstream.head().contains("permessage-deflate; client_max_window_bits"));
    upstream.send(switching_with("Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    let head = client.head();
    assert!(status(&head) == 101 && head.contains("permessage-deflate"), "{head}");
    let compressed = [masked(0x41, b"\xF2\x48"), masked(PING, "p"), masked(0x80, b"\xCD\xC9")].concat();
    client.send(&compressed);
    upstream.expect(&compressed);
    upstream.send(bare(0xC2, b"\xF2\x48\xCD\xC9"));
    client.expect(bare(0xC2, b"\xF2\x48\xCD\xC9"));
    // Bits that no extension defines are still wrong.
    client.send(masked(0xA1, "x"));
    expect_1002(&mut client, &mut upstream);
}

#[test]
fn nothing_follows_a_close_frame() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = fixture.open(&endpoint);
    let close = masked(CLOSE, closing(1000, "bye"));
    client.send([&close[..], &masked(TEXT, "too late"), &masked(PING, "")].concat());
    upstream.expect(&close);
    // The other direction is open until its own Close.
    upstream.send(bare(TEXT, "last words"));
    client.expect(bare(TEXT, "last words"));
    upstream.send([bare(CLOSE, closing(1000, "bye")), bare(TEXT, "too late")].concat());
    assert_eq!(client.frame().close(), (1000, "bye"));
    client.expect_fin();
    drop(client);
    upstream.expect_fin();
}

#[test]
fn an_endless_fragmented_message_and_floods_of_tiny_frames_pass_unaltered() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("websocket:\n  on_bad_frame: strict").start(&[&endpoint]);
    let (client, mut upstream) = fixture.open(&endpoint);
    let empty_fragments = masked(MORE, "").repeat(20_000);
    let pings = masked(PING, "").repeat(20_000);
    let fragments = masked(MORE, vec![b'f'; 1000]).repeat(500);
    let all = [&masked(TEXT_BEGIN, "never ends")[..], &empty_fragments, &pings, &fragments].concat();
    let sent = all.clone();
    let sender = std::thread::spawn(move || {
        let mut client = client;
        client.send(&sent);
        client
    });
    upstream.expect(&all);
    let mut client = sender.join().expect("it sends");
    let pongs = bare(PONG, "").repeat(10_000);
    upstream.send(&pongs);
    client.expect(&pongs);
}

#[test]
fn frames_of_every_size_pass_unaltered_in_both_directions() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = fixture.open(&endpoint);
    for size in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
        let payload: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        for (from, to, frame) in
            [(true, false, masked(BINARY, &payload)), (false, true, bare(BINARY, &payload))]
        {
            assert_ne!(from, to);
            let (sender, receiver) =
                if from { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
            std::thread::scope(|scope| {
                scope.spawn(|| sender.send(&frame));
                receiver.expect(&frame);
            });
        }
    }
}

#[test]
fn an_endpoint_that_vanishes_between_frames_is_told_by_1012_and_amid_a_frame_by_the_end() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = fixture.open(&endpoint);
    upstream.send([bare(TEXT, "whole"), bare(TEXT_BEGIN, "half a message")].concat());
    reset(upstream);
    client.expect([bare(TEXT, "whole"), bare(TEXT_BEGIN, "half a message")].concat());
    assert_eq!(client.frame().close().0, 1012);
    client.send(masked(CLOSE, closing(1012, "")));
    client.expect_fin();
    drop(client);
    let (mut client, mut upstream) = fixture.open(&endpoint);
    let half = &bare(TEXT, "half a frame")[..7];
    upstream.send(half);
    client.expect(half);
    reset(upstream);
    client.expect_fin();
}

#[test]
fn a_client_that_vanishes_in_any_state_ends_its_endpoint_connection() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let states = [
        Vec::new(),
        masked(TEXT, "a"),
        masked(TEXT, "half")[..8].to_vec(),
        masked(TEXT_BEGIN, "open"),
        vec![0x81],
    ];
    for sent in states {
        for resets in [true, false] {
            let (mut client, mut upstream) = fixture.open(&endpoint);
            client.send(&sent);
            // An incomplete header is held back: nothing of it may pass.
            let passed = if sent.len() == 1 { 0 } else { sent.len() };
            upstream.expect(&sent[..passed]);
            if resets {
                reset(client)
            } else {
                drop(client)
            }
            upstream.expect_fin();
        }
    }
    wait_for_sessions(&fixture, 0);
}

#[test]
fn a_half_closed_client_still_gets_what_the_endpoint_has_to_say() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("half_close_timeout: 20s").start(&[&endpoint]);
    let (mut client, mut upstream) = fixture.open(&endpoint);
    client.finish();
    assert_eq!(upstream.end(), End::Fin);
    upstream.send(bare(TEXT, "last words"));
    client.expect(bare(TEXT, "last words"));
    drop(upstream);
    let (rest, end) = client.rest();
    assert_eq!(end, End::Fin, "{rest:?}");
}
