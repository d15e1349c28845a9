//! Listening sockets, and the threads that accept and hand each socket to the worker with the fewest connections.
//!
//! One acceptor places exactly; hashing over `SO_REUSEPORT` sockets would pile long-lived connections up.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::sync::mpsc;

use crate::admission::Refusal;
use crate::forwarded::canonical;
use crate::front::refused;
use crate::shared::Shared;
use crate::telemetry;
use crate::worker::{Accepted, ListenerId, Worker};

/// Connections that the kernel completes before we take them.
const BACKLOG: i32 = 4096;
/// Pause when the process has no descriptor left; sooner would only spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);
/// A peer that vanished without a word is noticed after idle + probes x interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// A worker and the way to it.
pub type Handle = (Arc<Worker>, mpsc::Sender<Accepted>);

/// The kernel gives up on a peer that takes nothing after this many times `write_stall_timeout`. Sessions are ended by
/// their sweep before; this is for plain HTTP, and for what a sweep can not see.
const STALL_TIMES: u32 = 2;

/// Binds a listener. What is set here once, accepted sockets inherit.
///
/// # Errors
/// When the address can not be bound.
pub fn bind(listener: &config::Listener, stall: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listener.address), Type::STREAM, Some(Protocol::TCP))?;
    if listener.address.is_ipv6() {
        socket.set_only_v6(listener.ipv6_only)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_user_timeout(Some(stall * STALL_TIMES))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(listener.address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How a peer that vanished without a word is noticed.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES)
}

/// A listener whose thread accepts. Blocking: an accept that waits costs nothing, and needs no reactor to register
/// every socket with twice.
#[derive(Debug)]
pub struct Acceptor {
    listener: Arc<TcpListener>,
}

impl Acceptor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(
        shared: Arc<Shared>,
        index: usize,
        listener: TcpListener,
        workers: Arc<Vec<Handle>>,
    ) -> io::Result<Self> {
        let id = ListenerId { index, port: listener.local_addr()?.port() };
        let listener = Arc::new(listener);
        let accepting = listener.clone();
        std::thread::Builder::new()
            .name(format!("acceptor-{index}"))
            .spawn(move || accept(&shared, id, &accepting, &workers))?;
        Ok(Self { listener })
    }

    /// Refuses every further client and ends the thread. Clients that wait in the backlog are reset by the kernel.
    pub fn stop(&self) {
        // On Linux this wakes a blocked accept with EINVAL.
        if let Err(error) = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            tracing::warn!(%error, "listener does not close");
        }
    }
}

fn accept(shared: &Arc<Shared>, id: ListenerId, listener: &TcpListener, workers: &[Handle]) {
    loop {
        match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((stream, Some(address))) => {
                if let Ok(peer) = SocketAddr::try_from(address) {
                    place(shared, id, stream.into(), peer, workers);
                }
            }
            Ok((_, None)) => {}
            Err(_) if shared.is_closed() => return,
            Err(error) => match io::Error::from(error) {
                // The client left before we came; the next one waits behind it.
                e if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                error => {
                    telemetry::rejected("descriptors");
                    tracing::warn!(%error, "no socket for a client that waits; raise the limit of open files (ulimit -n) or lower limits.connections_max");
                    std::thread::sleep(EXHAUSTED_PAUSE);
                }
            },
        }
    }
}

/// Admits a socket and hands it on.
fn place(
    shared: &Arc<Shared>,
    listener: ListenerId,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    workers: &[Handle],
) {
    telemetry::accepted();
    let (max, per_client) = {
        let runtime = shared.runtime.load();
        (runtime.connections_max, runtime.config.limits.connections_per_client_max)
    };
    let admitted = match shared.admission.admit(canonical(peer.ip()), max, per_client) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            // Neither over TLS nor before an AMQP handshake is there a way to say why.
            let is_mute = shared.certificates[listener.index].is_some() || shared.speaks_amqp[listener.index];
            return turn_away(stream, is_mute, refusal);
        }
    };
    let Some((_, tx)) = workers.iter().min_by_key(|(worker, tx)| worker.load() + queued(tx)) else { return };
    if tx.blocking_send(Accepted { stream, peer, listener, admitted }).is_err() {
        tracing::error!("a worker is gone; its client is closed");
    }
}

fn queued(tx: &mpsc::Sender<Accepted>) -> usize {
    tx.max_capacity() - tx.capacity()
}

/// Tells a client that it can not be taken. What does not fit in its empty socket buffer is not worth waiting for.
fn turn_away(stream: std::net::TcpStream, is_mute: bool, refusal: Refusal) {
    let reply = refused(refusal);
    if !is_mute {
        use std::io::Write;
        let mut stream = &stream;
        stream.write_all(&reply.to_bytes()).ok();
    }
    stream.shutdown(std::net::Shutdown::Write).ok();
}
