//! A client that does exactly what it is told to, and writes down every frame that it did not expect.
//!
//! Real libraries hide what a test of faults must see: whether a Close came before the end of the stream, and whether the
//! stream was reset. One connection, a consumer on channel 1, a publisher on channel 2, one thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use amqp::{
    HEADER_BYTES, Kind, Method, MethodId, PROTOCOL_HEADER, Piece, Scanner, StartOk, Table, Tune, write,
};

use crate::load::pause;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Messages that are sent at once, where there is no time between them.
const BURST: usize = 50;
/// How long consumers that are still known are waited for.
const REMEMBERED: Duration = Duration::from_secs(4);
const CONSUMER: u16 = 1;
const PUBLISHER: u16 = 2;

/// What the client does.
#[derive(Clone, Debug)]
pub struct Does {
    pub vhost: String,
    pub queue: String,
    /// Type of the queue.
    pub kind: &'static str,
    /// It consumes, with this prefetch; 0: it does not.
    pub prefetch: u16,
    /// It publishes with confirms.
    pub confirms: bool,
    /// Bytes of a message.
    pub size: usize,
    /// Between two messages.
    pub every: Duration,
    /// Messages that may be unconfirmed, or unconsumed where it consumes.
    pub ahead: u64,
    /// Messages that it sends at all.
    pub limit: u64,
    /// Seconds.
    pub heartbeat: u16,
}

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub sent: u64,
    pub confirmed: BTreeSet<u64>,
    /// Messages that the broker says it may have lost.
    pub nacked: u64,
    /// Number, and whether it was marked as redelivered.
    pub consumed: Vec<(u64, bool)>,
    /// Code and text of the Close that it got.
    pub close: Option<(u16, String)>,
    /// Everything that a client without a gateway between would not see.
    pub odd: Vec<String>,
    /// Blocked (true) and unblocked (false), in their order.
    pub blocked: Vec<bool>,
}

/// A running client.
pub struct Raw {
    thread: Option<JoinHandle<Seen>>,
    orders: Arc<Orders>,
}

#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    publishes: AtomicBool,
    deaf: AtomicBool,
    holds: AtomicBool,
    /// Milliseconds until a message is acknowledged.
    ack_after: AtomicU64,
    consumed: AtomicU64,
    confirmed: AtomicU64,
    sent: AtomicU64,
    blocked: AtomicU64,
}

impl Raw {
    /// Connects, declares the queue and begins.
    pub fn start(address: SocketAddr, does: Does) -> Self {
        let orders = Arc::new(Orders::default());
        orders.publishes.store(true, Ordering::Relaxed);
        let own = Arc::clone(&orders);
        let mut link = Link::open(address, &does.vhost, does.heartbeat);
        link.begin(&does);
        let thread = std::thread::spawn(move || link.run(&does, &own));
        Self { thread: Some(thread), orders }
    }

    /// How long it keeps a message before it acknowledges it.
    pub fn ack_after(&self, time: Duration) {
        self.orders.ack_after.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether it acknowledges nothing; then, all at once, what is due.
    pub fn holds(&self, yes: bool) {
        self.orders.holds.store(yes, Ordering::Relaxed);
    }

    /// Whether it publishes.
    pub fn publishes(&self, yes: bool) {
        self.orders.publishes.store(yes, Ordering::Relaxed);
    }

    /// Whether it reads nothing.
    pub fn is_deaf(&self, yes: bool) {
        self.orders.deaf.store(yes, Ordering::Relaxed);
    }

    /// Messages sent, confirmed and consumed so far.
    pub fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.orders.sent), of(&self.orders.confirmed), of(&self.orders.consumed))
    }

    /// How often it was told that it is blocked, or not any more.
    pub fn blocked(&self) -> u64 {
        self.orders.blocked.load(Ordering::Relaxed)
    }

    /// True when its connection has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has seen so many confirms and messages more than now, or has ended.
    pub fn await_traffic(&self, more: u64, consumes: bool) {
        let (_, confirmed, consumed) = self.counts();
        let end = Instant::now() + PATIENCE;
        loop {
            let (_, now, took) = self.counts();
            if self.has_ended() || now >= confirmed + more && (!consumes || took >= consumed + more) {
                return;
            }
            assert!(Instant::now() < end, "no traffic: {:?}", self.counts());
            pause(Duration::from_millis(1));
        }
    }

    /// Ends it: its publishes are confirmed, what it has is acknowledged, and its connection is closed.
    pub fn stop(mut self) -> Seen {
        self.orders.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is stopped once").join().expect("the client does not panic")
    }
}

/// Takes everything from a queue, by `basic.get` at this node, once nobody else consumes from it, or some seconds have passed: a
/// quorum queue remembers the consumers of a node that died. Number and redelivered.
pub fn drain(address: SocketAddr, vhost: &str, queue: &str) -> Vec<(u64, bool)> {
    let mut link = Link::open(address, vhost, 0);
    write::channel_open(&mut link.out, CONSUMER);
    link.expect(MethodId::CHANNEL_OPEN_OK);
    let (begun, end) = (Instant::now(), Instant::now() + PATIENCE);
    let mut found = Vec::new();
    loop {
        declare(&mut link.out, queue, &[], true);
        let said = link.expect(MethodId::QUEUE_DECLARE_OK);
        let mut reader = amqp::Reader::new(&said[4..]);
        let _ = reader.short_string();
        let (ready, consumers) = (reader.u32().unwrap_or(0), reader.u32().unwrap_or(0));
        if ready == 0 && (consumers == 0 || begun.elapsed() > REMEMBERED) {
            break;
        }
        assert!(Instant::now() < end, "{queue}: {ready} messages, {consumers} consumers are left");
        if ready == 0 {
            pause(Duration::from_millis(10));
        }
        for _ in 0..ready {
            get(&mut link.out, queue);
            let (id, payload, body) =
                link.next_method(Instant::now() + PATIENCE).expect("an answer to basic.get");
            if id == MethodId::BASIC_GET_OK {
                found.push((number(&body), payload[12] != 0));
            }
        }
    }
    link.close();
    found
}

/// Deletes a queue, at this node.
pub fn delete(address: SocketAddr, vhost: &str, queue: &str) {
    let mut link = Link::open(address, vhost, 0);
    write::channel_open(&mut link.out, CONSUMER);
    link.expect(MethodId::CHANNEL_OPEN_OK);
    write::method(&mut link.out, CONSUMER, MethodId::QUEUE_DELETE, |out| {
        out.extend_from_slice(&[0; 2]);
        write::short_string(out, queue.as_bytes());
        out.push(0);
    });
    link.expect(MethodId::QUEUE_DELETE_OK);
    link.close();
}

fn get(out: &mut Vec<u8>, queue: &str) {
    write::method(out, CONSUMER, MethodId::BASIC_GET, |out| {
        out.extend_from_slice(&[0; 2]);
        write::short_string(out, queue.as_bytes());
        out.push(1);
    });
}

fn declare(out: &mut Vec<u8>, queue: &str, arguments: &[u8], passive: bool) {
    write::method(out, CONSUMER, MethodId::QUEUE_DECLARE, |out| {
        out.extend_from_slice(&[0; 2]);
        write::short_string(out, queue.as_bytes());
        out.push(if passive { 1 } else { 2 });
        write::long_string(out, arguments);
    });
}

fn body_of(number: u64, size: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(size.max(8), b'x');
    body
}

fn number(body: &[u8]) -> u64 {
    body.first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number))
}

/// The connection.
struct Link {
    stream: TcpStream,
    scanner: Scanner,
    kept: Vec<u8>,
    out: Vec<u8>,
    heartbeat: Duration,
    heard: Instant,
    spoke: Instant,
    /// What ended it.
    over: Option<String>,
    /// Method and body of the content that is coming, and what is still to come.
    content: Option<(MethodId, Vec<u8>, Vec<u8>, u64)>,
}

type Got = (MethodId, Vec<u8>, Vec<u8>);

impl Link {
    fn open(address: SocketAddr, vhost: &str, heartbeat: u16) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_nodelay(true).expect("a TCP stream");
        stream.set_read_timeout(Some(Duration::from_millis(2))).expect("a TCP stream");
        let mut link = Self {
            stream,
            scanner: Scanner::new(0),
            kept: Vec::new(),
            out: PROTOCOL_HEADER.to_vec(),
            heartbeat: Duration::from_secs(heartbeat.into()),
            heard: Instant::now(),
            spoke: Instant::now(),
            over: None,
            content: None,
        };
        link.expect(MethodId::CONNECTION_START);
        let mut capabilities = Vec::new();
        for name in ["consumer_cancel_notify", "connection.blocked", "publisher_confirms", "basic.nack"] {
            write::short_string(&mut capabilities, name.as_bytes());
            capabilities.extend_from_slice(b"t\x01");
        }
        let mut properties = Vec::new();
        write::short_string(&mut properties, b"capabilities");
        properties.push(b'F');
        write::long_string(&mut properties, &capabilities);
        let start_ok = StartOk {
            client_properties: Table::new(&properties),
            mechanism: b"PLAIN",
            response: b"\0guest\0guest",
            locale: b"en_US",
        };
        start_ok.write(&mut link.out);
        let tune = link.expect(MethodId::CONNECTION_TUNE);
        let tune = Tune { heartbeat, ..Tune::parse(&tune).expect("a tune") };
        tune.write(&mut link.out, MethodId::CONNECTION_TUNE_OK);
        amqp::write_open(&mut link.out, vhost.as_bytes());
        link.expect(MethodId::CONNECTION_OPEN_OK);
        link
    }

    fn begin(&mut self, does: &Does) {
        write::channel_open(&mut self.out, CONSUMER);
        self.expect(MethodId::CHANNEL_OPEN_OK);
        let mut arguments = Vec::new();
        write::short_string(&mut arguments, b"x-queue-type");
        arguments.push(b'S');
        write::long_string(&mut arguments, does.kind.as_bytes());
        declare(&mut self.out, &does.queue, &arguments, false);
        self.expect(MethodId::QUEUE_DECLARE_OK);
        if does.prefetch > 0 {
            write::qos(&mut self.out, CONSUMER, does.prefetch, false);
            self.expect(MethodId::BASIC_QOS_OK);
        }
        write::channel_open(&mut self.out, PUBLISHER);
        self.expect(MethodId::CHANNEL_OPEN_OK);
        if does.confirms {
            write::confirm_select(&mut self.out, PUBLISHER, false);
            self.expect(MethodId::CONFIRM_SELECT_OK);
        }
        if does.prefetch > 0 {
            let queue = does.queue.as_bytes();
            write::consume(&mut self.out, CONSUMER, queue, b"raw", amqp::Bits::default(), &[]);
            self.expect(MethodId::BASIC_CONSUME_OK);
        }
    }

    fn close(&mut self) {
        write::connection_close(&mut self.out, 200, "done");
        self.expect(MethodId::CONNECTION_CLOSE_OK);
    }

    /// The payload of the next method, which must be this one.
    fn expect(&mut self, id: MethodId) -> Vec<u8> {
        match self.next_method(Instant::now() + PATIENCE) {
            Some((found, payload, _)) if found == id => payload,
            found => panic!("expected {id:?}, got {found:?} {:?}", self.over),
        }
    }

    /// The next method with its content, if one comes by then. What is to be written is written first.
    fn next_method(&mut self, until: Instant) -> Option<Got> {
        loop {
            self.flush();
            while let Some((kind, channel, payload)) = self.frame() {
                // Those of the connection may stand between the frames of a message.
                if channel == 0 && kind == Kind::Method {
                    return Some((MethodId::of(&payload), payload, Vec::new()));
                }
                if let Some(got) = self.take(kind, payload) {
                    return Some(got);
                }
            }
            if self.over.is_some() || Instant::now() >= until {
                return None;
            }
            self.read();
        }
    }

    fn flush(&mut self) {
        if !self.heartbeat.is_zero() && self.spoke.elapsed() > self.heartbeat / 2 {
            self.out.extend_from_slice(&write::HEARTBEAT);
        }
        if self.out.is_empty() || self.over.is_some() {
            return;
        }
        self.spoke = Instant::now();
        let out = std::mem::take(&mut self.out);
        if let Err(error) = self.stream.write_all(&out) {
            self.over = Some(format!("broken: {error}"));
            // A Close may have come before.
            while self.read() {}
        }
    }

    /// Takes what has come; false: nothing.
    fn read(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.over = Some("ended".into()),
            Ok(n) => {
                self.heard = Instant::now();
                self.kept.extend_from_slice(&chunk[..n]);
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => self.over = Some(format!("broken: {error}")),
        }
        false
    }

    fn frame(&mut self) -> Option<(Kind, u16, Vec<u8>)> {
        let Piece::Frame { kind, channel, size, .. } =
            self.scanner.peek(&self.kept).expect("frames come whole")
        else {
            return None;
        };
        let len = HEADER_BYTES + size as usize + 1;
        if self.kept.len() < len {
            return None;
        }
        let frame: Vec<u8> = self.kept.drain(..len).collect();
        Some((kind, channel, frame[HEADER_BYTES..len - 1].to_vec()))
    }

    fn take(&mut self, kind: Kind, payload: Vec<u8>) -> Option<Got> {
        match (kind, self.content.take()) {
            (Kind::Method, None) => {
                let id = MethodId::of(&payload);
                if !id.has_content() {
                    return Some((id, payload, Vec::new()));
                }
                self.content = Some((id, payload, Vec::new(), u64::MAX));
            }
            (Kind::Header, Some((id, method, body, _))) => {
                let size = amqp::Reader::new(&payload[4..]).u64().expect("a content header");
                self.content = Some((id, method, body, size));
            }
            (Kind::Body, Some((id, method, mut body, size))) => {
                body.extend_from_slice(&payload);
                self.content = Some((id, method, body, size));
            }
            (Kind::Heartbeat, content) => self.content = content,
            (kind, content) => panic!("{kind:?} amid {content:?}"),
        }
        let is_whole = |(_, _, body, size): &mut (_, _, Vec<u8>, u64)| body.len() as u64 == *size;
        self.content.take_if(is_whole).map(|(id, method, body, _)| (id, method, body))
    }

    fn run(mut self, does: &Does, orders: &Orders) -> Seen {
        let mut seen = Seen::default();
        let mut due: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut tags: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut next, mut stopping) = (Instant::now(), None);
        while self.over.is_none() && seen.close.is_none() {
            if orders.deaf.load(Ordering::Relaxed) {
                pause(Duration::from_millis(5));
                continue;
            }
            let now = Instant::now();
            for _ in 0..if does.every.is_zero() { BURST } else { 1 } {
                let open = if does.prefetch > 0 {
                    seen.sent - (seen.consumed.len() as u64).min(seen.sent)
                } else {
                    tags.len() as u64
                };
                let may = orders.publishes.load(Ordering::Relaxed) && stopping.is_none() && now >= next;
                if !may || open >= does.ahead || seen.sent >= does.limit {
                    break;
                }
                next = now + does.every;
                if does.confirms {
                    tags.insert(seen.sent + 1, seen.sent);
                }
                self.publish(does, seen.sent);
                seen.sent += 1;
                orders.sent.store(seen.sent, Ordering::Relaxed);
            }
            let holds = orders.holds.load(Ordering::Relaxed) && stopping.is_none();
            while !holds && due.front().is_some_and(|(at, _)| *at <= now || stopping.is_some()) {
                let (_, tag) = due.pop_front().expect("it was looked at");
                write::ack(&mut self.out, CONSUMER, tag, false);
            }
            if let Some((id, payload, body)) = self.next_method(now + Duration::from_millis(1)) {
                let ack_after = Duration::from_millis(orders.ack_after.load(Ordering::Relaxed));
                if let Some(tag) = seen.note(id, &payload, &body, &mut tags) {
                    due.push_back((Instant::now() + ack_after, tag));
                }
                orders.consumed.store(seen.consumed.len() as u64, Ordering::Relaxed);
                orders.blocked.store(seen.blocked.len() as u64, Ordering::Relaxed);
                orders.confirmed.store(seen.confirmed.len() as u64, Ordering::Relaxed);
                continue;
            }
            if !self.heartbeat.is_zero() && self.heard.elapsed() > self.heartbeat * 2 {
                seen.odd.push(format!("nothing heard for {:?}", self.heard.elapsed()));
                self.heard = Instant::now();
            }
            if orders.stop.load(Ordering::Relaxed) {
                let since = *stopping.get_or_insert(now);
                let missing = does.prefetch > 0 && (seen.consumed.len() as u64) < seen.sent;
                if (tags.is_empty() && !missing && due.is_empty()) || since.elapsed() > Duration::from_secs(6)
                {
                    break;
                }
            }
        }
        self.end(&mut seen);
        seen
    }

    fn publish(&mut self, does: &Does, number: u64) {
        write::method(&mut self.out, PUBLISHER, MethodId::BASIC_PUBLISH, |out| {
            out.extend_from_slice(&[0; 2]);
            write::short_string(out, b"");
            write::short_string(out, does.queue.as_bytes());
            out.push(0);
        });
        let body = body_of(number, does.size);
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        // Delivery mode: persistent.
        header.extend_from_slice(&[0x10, 0, 2]);
        raw_frame(&mut self.out, Kind::Header, PUBLISHER, &header);
        for part in body.chunks(120 * 1024) {
            raw_frame(&mut self.out, Kind::Body, PUBLISHER, part);
        }
    }

    /// Closes what is open, and sees the end of the stream.
    fn end(mut self, seen: &mut Seen) {
        if self.over.is_none() && seen.close.is_none() {
            write::connection_close(&mut self.out, 200, "done");
            let end = Instant::now() + PATIENCE;
            loop {
                match self.next_method(end) {
                    Some((MethodId::CONNECTION_CLOSE_OK, ..)) => return,
                    Some((MethodId::BASIC_DELIVER, ..)) => {}
                    Some((id, payload, body)) => {
                        seen.note(id, &payload, &body, &mut BTreeMap::new());
                        if seen.close.is_some() {
                            break;
                        }
                    }
                    None => {
                        seen.odd.push(format!("no close-ok: {:?}", self.over));
                        return;
                    }
                }
            }
        }
        if seen.close.is_none() {
            seen.odd.push(format!("the stream {} without a Close", self.over.as_deref().unwrap_or("?")));
            return;
        }
        write::connection_close_ok(&mut self.out);
        match self.next_method(Instant::now() + PATIENCE) {
            Some((id, ..)) => seen.odd.push(format!("{id:?} behind the Close")),
            None if self.over.as_deref() == Some("ended") => {}
            None => seen.odd.push(format!("the stream {:?} behind the Close", self.over)),
        }
    }
}

impl Does {
    /// Publishes with confirms and consumes, 250 messages a second at most, in a queue that is called as the client.
    pub fn both(vhost: &str, queue: &str, kind: &'static str, prefetch: u16) -> Self {
        Self {
            vhost: vhost.to_owned(),
            queue: queue.to_owned(),
            kind,
            prefetch,
            confirms: true,
            size: 200,
            every: Duration::from_millis(4),
            ahead: 40,
            limit: u64::MAX,
            heartbeat: 0,
        }
    }
}

impl Seen {
    /// That nothing that was confirmed is lost, `left` being what was found in the queue.
    ///
    /// # Errors
    /// What was lost.
    pub fn lost(&self, left: &[(u64, bool)]) -> Result<(), String> {
        let mut there: BTreeSet<u64> = self.consumed.iter().map(|(number, _)| *number).collect();
        there.extend(left.iter().map(|(number, _)| *number));
        let lost: Vec<&u64> = self.confirmed.difference(&there).collect();
        if lost.is_empty() { Ok(()) } else { Err(format!("confirmed and lost: {lost:?}")) }
    }

    /// That the client has noticed nothing: everything came once and in order.
    ///
    /// # Errors
    /// What it noticed.
    pub fn noticed(&self) -> Result<(), String> {
        if let Some(odd) = self.odd.first() {
            return Err(format!("the client saw {odd}; Close {:?}", self.close));
        }
        if let Some(close) = &self.close {
            return Err(format!("the client was closed: {close:?}"));
        }
        if self.confirmed.len() as u64 != self.sent {
            return Err(format!("{} sent, {} confirmed", self.sent, self.confirmed.len()));
        }
        if let Some((number, _)) = self.consumed.iter().find(|(_, redelivered)| *redelivered) {
            return Err(format!("{number} is marked as redelivered"));
        }
        match self.consumed.iter().zip(0..).find(|((number, _), place)| number != place) {
            Some(((number, _), place)) => Err(format!("{number} came where {place} should")),
            None if (self.consumed.len() as u64) < self.sent => {
                Err(format!("{} sent, {} came", self.sent, self.consumed.len()))
            }
            None => Ok(()),
        }
    }

    /// Writes down a method; the tag to acknowledge, for a message.
    fn note(
        &mut self,
        id: MethodId,
        payload: &[u8],
        body: &[u8],
        tags: &mut BTreeMap<u64, u64>,
    ) -> Option<u64> {
        match Method::parse(payload).expect("whole methods") {
            Method::Deliver { consumer, tag } => {
                self.consumed.push((number(body), payload[4 + 1 + consumer.len() + 8] != 0));
                return Some(tag);
            }
            Method::Ack { tag, multiple } | Method::Nack { tag, multiple } => {
                let first = if multiple { 0 } else { tag };
                let named: Vec<u64> = tags.range(first..=tag).map(|(tag, _)| *tag).collect();
                if named.is_empty() {
                    self.odd.push(format!("a confirm of {tag}, which is not open"));
                }
                let numbers = named.iter().filter_map(|tag| tags.remove(tag));
                if id == MethodId::BASIC_ACK {
                    self.confirmed.extend(numbers);
                } else {
                    self.nacked += numbers.count() as u64;
                }
            }
            Method::Close { code, text } => {
                self.close = Some((code, String::from_utf8_lossy(text).into_owned()));
            }
            Method::Blocked => self.blocked.push(true),
            Method::Unblocked => self.blocked.push(false),
            Method::Cancel { .. } => self.odd.push("the consumer was cancelled".into()),
            Method::ChannelClose { code, text } => {
                self.odd.push(format!("channel closed: {code} {}", String::from_utf8_lossy(text)));
            }
            _ => self.odd.push(format!("{id:?}")),
        }
        None
    }
}

fn raw_frame(out: &mut Vec<u8>, kind: Kind, channel: u16, payload: &[u8]) {
    out.push(kind.as_u8());
    out.extend_from_slice(&channel.to_be_bytes());
    write::long_string(out, payload);
    out.push(amqp::FRAME_END);
}
