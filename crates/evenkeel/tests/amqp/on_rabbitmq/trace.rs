//! T20: a client sees the same frames, channel by channel, through a gateway that moves it as from a node itself.
//!
//! A forwarder between the client and its peer writes down every frame. What only time decides is left out: heartbeats, and
//! how many confirms one frame answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::gateway::Mover;
use crate::peer::{Client, Peer};

/// Channel and direction -> frames in their order, each as type and bytes in hexadecimal.
type Frames = BTreeMap<(u16, &'static str), Vec<String>>;

/// Accepts one connection, forwards it to `peer`, and writes down its frames.
struct Recorder {
    port: u16,
    frames: Arc<Mutex<Frames>>,
    thread: JoinHandle<()>,
}

impl Recorder {
    fn start(peer: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let frames = Arc::new(Mutex::new(Frames::new()));
        let written = Arc::clone(&frames);
        let thread = std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("a client");
            let peer = TcpStream::connect(peer).expect("the peer listens");
            let (from_client, from_peer) =
                (client.try_clone().expect("a socket"), peer.try_clone().expect("a socket"));
            let also_written = Arc::clone(&written);
            let back = std::thread::spawn(move || copy(from_peer, client, 0, "to client", &also_written));
            // The protocol header goes before the frames.
            copy(from_client, peer, 8, "to broker", &written);
            back.join().expect("it ends with its sockets");
        });
        Self { port, frames, thread }
    }

    fn finish(self) -> Frames {
        self.thread.join().expect("it ends with its sockets");
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn copy(
    mut from: TcpStream,
    mut to: TcpStream,
    skip: usize,
    direction: &'static str,
    frames: &Mutex<Frames>,
) {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 65536]);
    let mut at = skip;
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(head) = bytes.get(at..at + 7) {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let (kind, channel) = (head[0], u16::from_be_bytes([head[1], head[2]]));
            let Some(payload) = bytes.get(at + 7..at + 7 + size) else { break };
            assert_eq!(bytes.get(at + 7 + size).copied().unwrap_or(0xCE), 0xCE, "a frame does not end");
            if kind != 8 {
                let text: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
                let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                frames.entry((channel, direction)).or_default().push(format!("{kind}:{text}"));
            }
            at += 8 + size;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn call(peer: &mut Peer, method: &str, with: Value) -> Value {
    peer.must(json!({ "do": "call", "channel": "ch", "method": method, "with": with }))
}

/// The same conversation each time: every step waits for its end.
fn converse(bench: &Bench, client: &mut Peer, port: u16, moves: bool) {
    client.must(json!({ "do": "connect", "connection": "c", "port": port, "vhost": bench.vhost }));
    client.must(json!({ "do": "channel", "connection": "c", "channel": "ch", "number": 3 }));
    call(
        client,
        "queue_declare",
        json!({ "queue": "trace", "durable": true, "arguments": { "x-queue-type": "classic" } }),
    );
    call(client, "queue_bind", json!({ "queue": "trace", "exchange": "amq.topic", "routing_key": "a.#" }));
    call(client, "confirm_delivery", json!({}));
    call(client, "basic_qos", json!({ "prefetch_count": 5 }));
    call(client, "basic_consume", json!({ "queue": "trace", "consumer_tag": "tag" }));
    for step in 0..12 {
        for (size, body) in [(0, "small"), (200_000, "large")] {
            let publish =
                json!({ "exchange": "amq.topic", "routing_key": "a.b", "body": body, "size": size });
            call(client, "basic_publish", publish);
            let taken = client.must(json!({ "do": "take", "channel": "ch", "count": 1, "within": 20 }));
            assert_eq!(taken[0]["length"], size + body.len() as u64, "step {step}: {taken}");
            call(client, "basic_ack", json!({ "delivery_tag": taken[0]["tag"] }));
        }
        call(client, "basic_publish", json!({ "exchange": "", "routing_key": "nowhere", "body": "lost" }));
        call(client, "queue_declare", json!({ "queue": "trace", "passive": true }));
        if moves && step % 3 == 0 {
            let before = bench.gateway.moves().switched;
            let (pace, within) = (Duration::from_millis(100), Duration::from_secs(60));
            bench.gateway.move_until(pace, within, |moves| moves.switched > before);
        }
    }
    call(client, "basic_cancel", json!({ "consumer_tag": "tag" }));
    call(client, "queue_delete", json!({ "queue": "trace" }));
    call(client, "close", json!({}));
    client.must(json!({ "do": "disconnect", "connection": "c" }));
}

// T20.
#[test]
fn a_moved_client_sees_and_sends_the_same_frames_as_one_without_a_gateway() {
    let bench = Bench::start("trace", "");
    let record = |address: SocketAddr, moves: bool| {
        let recorder = Recorder::start(address);
        let mut client = bench.client(Client::Pika);
        converse(&bench, &mut client, recorder.port, moves);
        recorder.finish()
    };
    let direct = record(bench.endpoints()[0].1, false);
    let mover = Mover::start(&bench.gateway, Duration::from_millis(50));
    let moved = record(bench.gateway.address, true);
    let moves = mover.stop();
    for (name, frames) in [("direct", &direct), ("moved", &moved)] {
        let text = serde_json::to_string_pretty(&frames.iter().collect::<Vec<_>>()).expect("plain text");
        std::fs::write(bench.folder.join(name), text).expect("the test folder is writable");
    }
    assert_eq!(direct.keys().collect::<Vec<_>>(), moved.keys().collect::<Vec<_>>());
    for (place, frames) in &direct {
        let through = &moved[place];
        for (at, (expected, found)) in frames.iter().zip(through).enumerate() {
            // The node that is dialed names itself in the very first frame.
            if place.0 == 0 && at == 0 {
                continue;
            }
            assert_eq!(found.get(..200), expected.get(..200), "{place:?}, frame {at}");
            assert_eq!(found, expected, "{place:?}, frame {at}");
        }
        assert_eq!(frames.len(), through.len(), "{place:?}");
    }
    let count: usize = direct.values().map(Vec::len).sum();
    println!("T20 Pika: {count} frames the same; {moves}");
    assert!(moves.switched >= 4, "{moves}");
}
