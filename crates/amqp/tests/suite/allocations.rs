//! What is done for each frame allocates nothing.

use amqp::{Content, HEADER_BYTES, Kind, Method, MethodId, Piece, Scanner, patch};

use crate::streams::{content_header, frame};

/// A consumer's and a publisher's traffic: deliver, header, body, ack, publish, nack, reject, get-ok.
fn stream() -> Vec<u8> {
    let tag = 7_u64.to_be_bytes();
    let header = frame(2, 1, &content_header(60, 900));
    let body = frame(3, 1, &[b'x'; 900]);
    let deliver = [&[0, 60, 0, 60, 3][..], b"tag", &tag, &[0, 0, 0]].concat();
    let publish = [&[0, 60, 0, 40, 0, 0, 2][..], b"ex", &[1, b'k', 0]].concat();
    let get_ok = [&[0, 60, 0, 71][..], &tag, &[0, 0, 0, 0, 0, 0, 0]].concat();
    let mut out = Vec::new();
    for _ in 0..100 {
        for method in [&deliver, &publish, &get_ok] {
            out.extend(frame(1, 1, method));
            out.extend(&header);
            out.extend(&body);
        }
        for method in [80, 120, 90] {
            out.extend(frame(1, 1, &[&[0, 60, 0, method][..], &tag, &[0]].concat()));
        }
        out.extend(frame(8, 0, &[]));
    }
    out
}

#[test]
fn scanning_reading_and_patching_allocate_nothing() {
    let mut bytes = stream();
    let (mut frames, mut patched) = (0, 0);
    let mut scanner = Scanner::new(131_072);
    let mut content = Content::new(1);
    let allocations = allocation_counter::measure(|| {
        let mut at = 0;
        while at < bytes.len() {
            // 512 bytes at a time: bodies come in pieces.
            let end = (at + 512).min(bytes.len());
            let piece = scanner.peek(&bytes[at..end]).expect("legal");
            let len = scanner.take(piece);
            if let Piece::Frame { kind, size, .. } = piece {
                frames += 1;
                let payload = &bytes[at + HEADER_BYTES..at + len];
                match kind {
                    Kind::Method => {
                        assert!(Method::parse(payload).is_ok());
                        content.handle_method(MethodId::of(payload)).expect("in turn");
                        patched += u32::from(patch(&mut bytes[at..at + len], 8));
                    }
                    Kind::Header => content.handle_header(payload).expect("in turn"),
                    Kind::Body => content.handle_body(size).expect("in turn"),
                    Kind::Heartbeat => {}
                }
            }
            at += len;
        }
    });
    assert_eq!((frames, patched), (100 * 13, 100 * 5));
    assert_eq!(allocations.count_total, 0);
}
