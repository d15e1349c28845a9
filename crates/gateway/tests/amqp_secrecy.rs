//! What AMQP clients log in with is in no log line, at whatever level, and in no metric.
//!
//! A binary of its own: the subscriber is the process's.

#[path = "suite/fixture.rs"]
mod fixture;
#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use fixture::{Fixture, POOL, Setup, ready, reset, wait_for_sessions};
use support::amqp::{
    HEADER, channel_open, close, long, method, open, open_ok, short, start, start_ok, tune, tune_ok,
};
use support::{Endpoint, wait_until};

/// In no other word that could be logged.
const PASSWORD: &str = "xyzzy-password";
const TOKEN: &str = "plugh-token";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics with it")).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A refused login, one whose refusal quotes the secret, and one that is not answered in AMQP.
fn refuse_logins(fixture: &Fixture, endpoint: &Endpoint, secret: &[u8]) {
    for answer in [close(403, "ACCESS_REFUSED"), close(403, PASSWORD), b"no frame at all".to_vec()] {
        let mut client = fixture.connect();
        client.send(HEADER);
        let mut broker = endpoint.accept();
        broker.expect(HEADER);
        broker.send(start("c1"));
        client.expect(start("c1"));
        client.send(secret);
        broker.expect(secret);
        broker.send(answer);
        drop(broker);
        client.rest();
    }
}

#[test]
fn no_line_of_any_level_shows_a_login() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    subscriber.init();
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let setup = Setup::amqp("prepare_timeout: 200ms").rest("log: {access: true}\n");
    let fixture = setup.start(&[&first]);
    let secret = start_ok("someone", PASSWORD);
    refuse_logins(&fixture, &first, &secret);
    let mut client = fixture.connect();
    client.send(HEADER);
    let mut broker = first.accept();
    broker.expect(HEADER);
    broker.send(start("c1"));
    client.expect(start("c1"));
    client.send(&secret);
    broker.expect(&secret);
    broker.send(tune(2047, 131_072));
    client.expect(tune(2047, 131_072));
    client.send([tune_ok(2047, 131_072), open("/")].concat());
    broker.expect([tune_ok(2047, 131_072), open("/")].concat());
    broker.send(open_ok());
    client.expect(open_ok());
    wait_for_sessions(&fixture, 1);
    // Another secret, which the endpoint takes.
    let update = method(0, (10, 70), &[&long(TOKEN.as_bytes()), &short(b"expires")]);
    client.send(&update);
    broker.expect(&update);
    broker.send(method(0, (10, 71), &[]));
    client.expect(method(0, (10, 71), &[]));
    // A move that is refused with the secret in the text, and one that succeeds with the new secret.
    fixture.follow(vec![ready(first.address()), ready(second.address())]);
    fixture.gateway.rehearse(&POOL.into()).expect("the pool is there");
    let mut next = second.accept();
    next.expect(HEADER);
    next.send(start("c1"));
    next.expect(start_ok("someone", TOKEN));
    next.send(close(403, TOKEN));
    next.rest();
    drop(next);
    wait_until("it is given up", || fixture.pool().moves.aborted == 1);
    fixture.gateway.rehearse(&POOL.into()).expect("the pool is there");
    let mut next = second.accept();
    next.serve_login("c1", &start_ok("someone", TOKEN), "/");
    broker.serve_close();
    client.send(channel_open(1));
    next.expect(channel_open(1));
    reset(next);
    client.rest();
    drop(client);
    wait_for_sessions(&fixture, 0);
    drop(fixture);
    let text = log.text();
    assert!(
        text.contains("session migrated") && text.contains("session ended"),
        "it is logged at all: {text}"
    );
    for secret in [PASSWORD, TOKEN] {
        assert!(!text.contains(secret), "{text}");
    }
}
