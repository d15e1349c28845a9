//! What tests on real sockets need: scripted endpoints, raw clients, frames by hand, waiting with a deadline.
//!
//! Everything blocks, so that a test reads as one conversation from top to bottom, both ends in one thread.
//! Standard library only and nothing of the gateway's: what judges a byte must not share code with what sent it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod amqp;
pub mod frames;
pub mod http;
pub mod wire;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

pub use wire::Wire;

/// Longest wait for anything. Only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at a condition that nobody announces.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until `look` gives something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Waits until `is_so`.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// An endpoint that a test plays itself.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// On a free port of 127.0.0.1.
    pub fn bind() -> Self {
        Self::bind_to("127.0.0.1:0")
    }

    /// On a free port of `address`.
    pub fn bind_to(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a listener can be polled");
        Self { listener }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// The next connection, if one is there.
    pub fn try_accept(&self) -> Option<Wire> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).expect("a socket can block");
        Some(Wire::new(stream))
    }

    /// The next connection.
    pub fn accept(&self) -> Wire {
        eventually("the gateway dials the endpoint", || self.try_accept())
    }

    /// Accepts a WebSocket; also gives the request head.
    pub fn accept_websocket(&self) -> (Wire, String) {
        let mut wire = self.accept();
        let head = wire.head();
        wire.send(http::SWITCHING);
        (wire, head)
    }
}

/// The next connection to one of `endpoints`, and to which.
pub fn accept_any(endpoints: &[&Endpoint]) -> (usize, Wire) {
    eventually("the gateway dials an endpoint", || {
        endpoints.iter().enumerate().find_map(|(at, endpoint)| Some((at, endpoint.try_accept()?)))
    })
}

/// An address of 127.0.0.1 on which nobody listens: connections are refused.
pub fn refusing_address() -> SocketAddr {
    // A bound socket that does not listen would keep the port; the kernel does not give it out again so soon.
    Endpoint::bind().address()
}
