//! Stands between gateway and nodes, and between client and gateway, and breaks a connection at a chosen frame.
//!
//! One [`Wires`] belongs to one session under test: [`Wires::listen`] opens a port that leads to a node (or to the gateway), and
//! [`Wires::arm`] sets a [`Trap`]. From then on the connections to nodes that were there are [`Link::Old`], later ones [`Link::Next`].
//! Frames pass whole, so that a cut is in the middle of one on purpose only. Not here: what should follow (`on_rabbitmq::faults`).

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use amqp::{HEADER_BYTES, Kind, MethodId, PROTOCOL_HEADER, Piece, Scanner};
use rustix::net;

use crate::load::pause;

/// Longest that a frame waits for another one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a `basic.deliver` that ends in its middle.
const HALF_FRAME: [u8; 12] = [1, 0, 1, 0, 0, 0, 40, 0, 60, 0, 60, 3];

/// Which connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// The client's, to the gateway.
    Client,
    /// The gateway's to the node that serves the session when the trap is set.
    Old,
    /// The gateway's to the node that it goes to.
    Next,
}

/// Which way a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From who has dialed.
    Out,
    /// Back to who has dialed.
    Back,
}

/// Which frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A method.
    Method(MethodId),
    /// A part of a message's body.
    Body,
}

/// A frame on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    pub link: Link,
    pub way: Way,
    pub mark: Mark,
}

/// What happens to a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Broken without a word, towards both ends, as when a node is killed.
    Reset,
    /// Who has dialed gets half a frame and then the end of the stream; the other end is reset.
    Cut,
    /// Nothing passes for so long, and then all of it: a stopped process.
    Stall(Duration),
    /// Who has dialed gets these bytes instead of the frame, and nothing more.
    Answer(Vec<u8>),
}

/// What to do, and when.
#[derive(Clone, Debug)]
pub struct Trap {
    /// It waits, where it is given, until `at` has come by, and only then `at` counts.
    pub after: Option<Spot>,
    /// The frame that springs it.
    pub at: Spot,
    /// The frame goes on before anything happens.
    pub passes: bool,
    /// Between the frame and the act.
    pub wait: Duration,
    /// To which connections.
    pub victim: Link,
    /// What.
    pub act: Act,
    /// How long the frame, if it does not pass, is held behind the act.
    pub hold: Duration,
}

#[derive(Default)]
struct Armed {
    trap: Option<Trap>,
    /// `after` has come by.
    ready: bool,
    sprung: bool,
}

/// All connections of one session under test.
#[derive(Clone, Default)]
pub struct Wires(Arc<Shared>);

#[derive(Default)]
struct Shared {
    armed: Mutex<Armed>,
    changed: Condvar,
    epoch: AtomicU64,
    pipes: Mutex<Vec<Arc<Pipe>>>,
}

struct Pipe {
    is_client: bool,
    epoch: u64,
    dialer: TcpStream,
    target: TcpStream,
    stalled: Mutex<Option<Instant>>,
    /// Directions that still run.
    running: AtomicUsize,
    broken: AtomicBool,
    /// Nothing more goes back.
    mute: AtomicBool,
}

impl Wires {
    /// Opens a port that leads to a node, or with `is_client` to the gateway.
    pub fn listen(&self, target: SocketAddr, is_client: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let address = listener.local_addr().expect("it is bound");
        let wires = self.clone();
        std::thread::spawn(move || {
            for dialer in listener.incoming().map_while(Result::ok) {
                // A node that does not run: the dialer sees its connection end.
                if let Ok(target) = TcpStream::connect(target) {
                    wires.join(dialer, target, is_client);
                }
            }
        });
        address
    }

    /// Sets a trap; an earlier one is gone.
    pub fn arm(&self, trap: Option<Trap>) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        *lock(&self.0.armed) = Armed { trap, ..Armed::default() };
    }

    /// Waits until the trap has sprung and its act is done; false: it has not within that time.
    pub fn await_sprung(&self, within: Duration) -> bool {
        self.await_armed(within, |armed| armed.sprung)
    }

    /// Connections to nodes on which something may still come.
    pub fn live(&self) -> usize {
        let pipes = lock(&self.0.pipes);
        pipes.iter().filter(|pipe| !pipe.is_client && pipe.running.load(Ordering::SeqCst) > 0).count()
    }

    /// Does something to connections, whatever the trap.
    pub fn act(&self, victim: Link, act: &Act) {
        let pipes: Vec<Arc<Pipe>> = lock(&self.0.pipes).clone();
        let victims = pipes.iter().filter(|pipe| self.link(pipe) == victim);
        victims.for_each(|pipe| pipe.suffer(act));
    }

    fn await_armed(&self, within: Duration, mut done: impl FnMut(&mut Armed) -> bool) -> bool {
        let armed = lock(&self.0.armed);
        let waited = self.0.changed.wait_timeout_while(armed, within, |armed| !done(armed));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn link(&self, pipe: &Pipe) -> Link {
        match pipe {
            Pipe { is_client: true, .. } => Link::Client,
            pipe if pipe.epoch == self.0.epoch.load(Ordering::SeqCst) => Link::Next,
            _ => Link::Old,
        }
    }

    fn join(&self, dialer: TcpStream, target: TcpStream, is_client: bool) {
        for stream in [&dialer, &target] {
            stream.set_nodelay(true).expect("a TCP stream");
        }
        let pipe = Arc::new(Pipe {
            is_client,
            epoch: self.0.epoch.load(Ordering::SeqCst),
            dialer,
            target,
            stalled: Mutex::default(),
            running: AtomicUsize::new(2),
            broken: AtomicBool::new(false),
            mute: AtomicBool::new(false),
        });
        lock(&self.0.pipes).push(Arc::clone(&pipe));
        for way in [Way::Out, Way::Back] {
            let (wires, pipe) = (self.clone(), Arc::clone(&pipe));
            std::thread::spawn(move || {
                // An end of one direction is passed on, a failure ends both.
                if wires.pump(&pipe, way).is_err() {
                    pipe.suffer(&Act::Reset);
                }
                if pipe.running.fetch_sub(1, Ordering::SeqCst) == 1 {
                    // The last one lets the streams go, and with them what is left of the connection.
                    lock(&wires.0.pipes).retain(|other| !Arc::ptr_eq(other, &pipe));
                }
            });
        }
    }

    fn pump(&self, pipe: &Arc<Pipe>, way: Way) -> io::Result<()> {
        let (mut from, mut to) = match way {
            Way::Out => (&pipe.dialer, &pipe.target),
            Way::Back => (&pipe.target, &pipe.dialer),
        };
        let mut scanner = Scanner::new(0);
        let (mut kept, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        let mut greeted = way == Way::Back;
        loop {
            let n = from.read(&mut chunk)?;
            if n == 0 {
                to.write_all(&kept)?;
                return if pipe.broken.load(Ordering::SeqCst) {
                    Ok(())
                } else {
                    to.shutdown(Shutdown::Write)
                };
            }
            kept.extend_from_slice(&chunk[..n]);
            if !greeted {
                if kept.len() < PROTOCOL_HEADER.len() {
                    continue;
                }
                greeted = true;
                to.write_all(&kept[..PROTOCOL_HEADER.len()])?;
                kept.drain(..PROTOCOL_HEADER.len());
            }
            while let Some(len) = whole(&mut scanner, &kept)? {
                let frame: Vec<u8> = kept.drain(..len).collect();
                if let Some(frame) = self.judge(pipe, way, frame, to)? {
                    to.write_all(&frame)?;
                }
            }
        }
    }

    /// What becomes of a frame; it waits here as long as it must.
    fn judge(&self, pipe: &Pipe, way: Way, frame: Vec<u8>, to: &TcpStream) -> io::Result<Option<Vec<u8>>> {
        pipe.wait_out();
        if way == Way::Back && pipe.mute.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let spot = Spot { link: self.link(pipe), way, mark: mark(&frame) };
        let trap = {
            let mut armed = lock(&self.0.armed);
            let Some(trap) = armed.trap.clone() else { return Ok(Some(frame)) };
            if trap.after == Some(spot) && !armed.ready {
                armed.ready = true;
                drop(armed);
                self.await_armed(PATIENCE, |armed| armed.trap.is_none());
                return Ok(Some(frame));
            }
            if trap.at != spot || trap.after.is_some() && !armed.ready {
                return Ok(Some(frame));
            }
            armed.trap = None;
            trap
        };
        self.0.changed.notify_all();
        if trap.passes {
            let mut to = to;
            to.write_all(&frame)?;
        }
        pause(trap.wait);
        let is_own = trap.victim == spot.link;
        match &trap.act {
            Act::Cut if is_own && !trap.passes && way == Way::Back => {
                let _ = (&pipe.dialer).write_all(&frame[..frame.len() / 2]);
                pipe.end();
            }
            Act::Answer(bytes) => {
                (&pipe.dialer).write_all(bytes)?;
                pipe.mute.store(true, Ordering::SeqCst);
            }
            act => self.act(trap.victim, act),
        }
        lock(&self.0.armed).sprung = true;
        self.0.changed.notify_all();
        if trap.passes || matches!(trap.act, Act::Answer(_)) {
            return Ok(None);
        }
        if !pipe.broken.load(Ordering::SeqCst) {
            pause(trap.hold);
            pipe.wait_out();
        }
        Ok((!pipe.broken.load(Ordering::SeqCst)).then_some(frame))
    }
}

impl Pipe {
    fn suffer(&self, act: &Act) {
        match act {
            Act::Answer(_) => {}
            Act::Stall(time) => *lock(&self.stalled) = Some(Instant::now() + *time),
            Act::Cut => {
                let _ = (&self.dialer).write_all(&HALF_FRAME);
                self.end();
            }
            Act::Reset => {
                let _ = net::sockopt::set_socket_linger(&self.dialer, Some(Duration::ZERO));
                self.end();
            }
        }
    }

    /// Ends it towards the dialer as its socket is set, and breaks it towards the target.
    fn end(&self) {
        self.broken.store(true, Ordering::SeqCst);
        let _ = net::sockopt::set_socket_linger(&self.target, Some(Duration::ZERO));
        let lingers = net::sockopt::socket_linger(&self.dialer).ok().flatten().is_some();
        // The reads end, the threads end, and the last of them closes the streams.
        let _ = self.dialer.shutdown(if lingers { Shutdown::Read } else { Shutdown::Both });
        let _ = self.target.shutdown(Shutdown::Read);
    }

    fn wait_out(&self) {
        loop {
            let until = *lock(&self.stalled);
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if !left.is_zero() && !self.broken.load(Ordering::SeqCst) => {
                    pause(left.min(Duration::from_millis(20)));
                }
                _ => return,
            }
        }
    }
}

/// Length of the whole frame at the beginning of `bytes`.
fn whole(scanner: &mut Scanner, bytes: &[u8]) -> io::Result<Option<usize>> {
    match scanner.peek(bytes) {
        Ok(Piece::Frame { size, .. }) => {
            let len = size as usize + HEADER_BYTES + 1;
            Ok((bytes.len() >= len).then_some(len))
        }
        Ok(_) => Ok(None),
        Err(error) => Err(io::Error::other(format!("no frame: {error}"))),
    }
}

fn mark(frame: &[u8]) -> Mark {
    match Kind::from_u8(frame[0]) {
        Some(Kind::Body) => Mark::Body,
        Some(Kind::Method) => Mark::Method(MethodId::of(&frame[HEADER_BYTES..])),
        _ => Mark::Method(MethodId(0)),
    }
}

/// An address where nobody takes a connection: refused at once, or, with `hangs`, not answered. It lasts as long as the socket.
pub fn dead_end(hangs: bool) -> (SocketAddr, Vec<OwnedFd>) {
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    net::bind(&socket, &any).expect("a port of loopback");
    let name = net::getsockname(&socket).expect("it is bound");
    let address = SocketAddr::try_from(name).expect("an address of the internet");
    let mut held = Vec::new();
    if hangs {
        net::listen(&socket, 0).expect("it is bound");
        // Once its queue is full, what comes is dropped.
        let within = Duration::from_millis(100);
        held.extend((0..4).map_while(|_| Some(TcpStream::connect_timeout(&address, within).ok()?.into())));
    }
    held.push(socket);
    (address, held)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
