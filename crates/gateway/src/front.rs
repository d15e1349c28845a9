//! The front door: one accepted socket until it is a tunnel, a plain HTTP connection, or refused.
//!
//! The first request head is read here, bare. An upgrade takes the short way: the endpoint is asked, both heads pass,
//! and nothing of this task remains beside the relay. Everything else goes to hyper, with the bytes put back.

use std::sync::Arc;
use std::time::Duration;

use balance::ClientKey;
use bytes::Bytes;
use session::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use ws::{RequestHead, ResponseHead};

use crate::admission::{Admitted, Permit, Refusal};
use crate::amqp;
use crate::forwarded::{Forwarded, Peer, canonical, path_of};
use crate::http;
use crate::io::{Io, Rewound};
use crate::relay::Relay;
use crate::reply::Reply;
use crate::shared::{RouteRuntime, Runtime, Shared};
use crate::slot::{MoveBy, Slot, Terms, client_key};
use crate::stay::Stay;
use crate::telemetry;
use crate::upstream::{self, Answer, HttpAnswer, Switched, UpgradeCall};
use crate::worker::{Accepted, LoadGuard, Worker};

/// Bytes that a client may send behind its upgrade request before it is answered.
const EARLY_BYTES_MAX: usize = 4096;
/// How often a connection that has sent no whole head looks whether the gateway is on its way out.
pub const DRAIN_LOOK: Duration = Duration::from_millis(250);

/// A downstream connection before it is anything in particular.
pub struct Guest {
    /// Shared state.
    pub shared: Arc<Shared>,
    /// The thread it lives on.
    pub worker: Arc<Worker>,
    /// Addresses.
    pub peer: Peer,
    /// Its place in the process's counts.
    pub admitted: Arc<Admitted>,
    /// Its place in the thread's load.
    pub load: Arc<LoadGuard>,
}

impl Guest {
    /// What the planner knows the client by.
    pub fn client_key(&self) -> ClientKey {
        client_key(canonical(self.peer.client.ip()))
    }
}

/// Serves an accepted socket to its end; a tunnel goes on in a task of its own.
pub async fn serve(shared: Arc<Shared>, worker: Arc<Worker>, accepted: Accepted) {
    let load = Arc::new(worker.enter());
    let Accepted { stream, peer: client, listener, admitted } = accepted;
    // A socket that can not be watched is closed: there is nobody to tell.
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let certificate = shared.certificates.get(listener.index).cloned().flatten();
    let peer = Peer { client, local_port: listener.port, tls: certificate.is_some() };
    let admitted = Arc::new(admitted);
    let guest = Guest { shared, worker, peer, admitted, load };
    let runtime = guest.shared.runtime.load_full();
    let io = match certificate {
        None => Io::Plain(stream),
        Some(certificate) => {
            let handshake = certificate.acceptor().accept(stream);
            match timeout(runtime.config.limits.tls_handshake_timeout, handshake).await {
                Ok(Ok(stream)) => Io::Tls(Box::new(stream)),
                Ok(Err(error)) => return tls_failed(&guest.peer, &error.to_string()),
                Err(_) => return tls_failed(&guest.peer, "timed out (limits.tls_handshake_timeout)"),
            }
        }
    };
    if !guest.shared.speaks_amqp[listener.index] {
        return first_request(guest, runtime, io).await;
    }
    match runtime.amqp.get(listener.index).cloned().flatten() {
        Some(routes) => amqp::serve(guest, runtime, routes, io).await,
        // The configuration no longer names this listener: there is nowhere to go, and no way to say so.
        None => telemetry::rejected("no_route"),
    }
}

fn tls_failed(peer: &Peer, error: &str) {
    telemetry::rejected("tls_handshake");
    tracing::debug!(client = %peer.client, error, "TLS handshake failed");
}

/// Reads the first head and decides what the connection is.
async fn first_request(guest: Guest, runtime: Arc<Runtime>, mut io: Io) {
    let limits = &runtime.config.limits;
    let mut read = Vec::with_capacity(1024);
    let deadline = Instant::now() + limits.head_timeout;
    let complete = loop {
        let slice = deadline.min(Instant::now() + DRAIN_LOOK);
        let complete = timeout_at(slice, read_head(&mut io, &mut read, limits.head_bytes_max)).await;
        // A silent connection must not keep a gateway waiting that stops.
        let is_over = slice == deadline || read.is_empty() && guest.shared.is_closed();
        if complete.is_ok() || is_over {
            break complete;
        }
    };
    let reply = match complete {
        Ok(Ok(Head::Complete)) => return dispatch(guest, runtime, io, read).await,
        Ok(Ok(Head::Gone)) => return,
        Ok(Err(reply)) => reply,
        // A connection on which nothing was ever sent (a probe, a preconnect) is closed without a word.
        Err(_) if read.is_empty() => return,
        Err(_) => Reply::new(
            408,
            format!(
                "the request head was not complete within {:?} (limits.head_timeout)",
                limits.head_timeout
            ),
        ),
    };
    telemetry::rejected("bad_request");
    reply.send(&mut io).await;
}

enum Head {
    Complete,
    Gone,
}

async fn read_head(io: &mut Io, read: &mut Vec<u8>, bytes_max: usize) -> Result<Head, Reply> {
    loop {
        match io.read_buf(read).await {
            Ok(0) | Err(_) => return Ok(Head::Gone),
            Ok(_) => {}
        }
        match RequestHead::parse(read, bytes_max) {
            Ok(Some(_)) => return Ok(Head::Complete),
            Ok(None) => {}
            Err(error) => return Err(Reply::new(error.status(), error.to_string())),
        }
    }
}

/// The head is complete: an upgrade, or plain HTTP.
async fn dispatch(guest: Guest, runtime: Arc<Runtime>, mut io: Io, read: Vec<u8>) {
    let head = match RequestHead::parse(&read, runtime.config.limits.head_bytes_max) {
        Ok(Some(head)) => head,
        // It was complete a moment ago.
        Ok(None) | Err(_) => return,
    };
    let upgrade = match ws::upgrade_request(&head) {
        Ok(None) => {
            return match http::check_framing(&head) {
                Ok(()) => http::serve(guest, io, Bytes::from(read), None).await,
                Err(reply) => {
                    telemetry::rejected("bad_request");
                    reply.send(&mut io).await;
                }
            };
        }
        Ok(Some(upgrade)) => upgrade,
        Err(error) => {
            telemetry::rejected("bad_upgrade");
            return Reply::new(error.status(), error.to_string()).with(error.headers()).send(&mut io).await;
        }
    };
    if read.len() - head.len > EARLY_BYTES_MAX {
        telemetry::rejected("bad_upgrade");
        let message =
            format!("more than {EARLY_BYTES_MAX} bytes behind an upgrade request that is not answered yet");
        return Reply::new(400, message).send(&mut io).await;
    }
    let host = std::str::from_utf8(upgrade.host).ok();
    let (route, permit) = match find_route(&guest, &runtime, host, head.target) {
        Ok(found) => found,
        Err(reply) => return reply.send(&mut io).await,
    };
    let forwarded =
        Forwarded::new(&guest.peer, &runtime.config.trusted_proxies, &head.headers().collect::<Vec<_>>());
    let policy = route.pool.policy();
    let call = UpgradeCall {
        head: upstream::request_head(head.target, head.headers(), &forwarded),
        key: upgrade.key,
        caller: policy.caller(guest.client_key(), head.target, || head.headers()),
    };
    let started = guest.shared.clock.now();
    match upstream::call(&route.pool, &policy, &runtime.config.limits, &call).await {
        Ok(Answer::Switched(switched)) => {
            route.pool.metrics.handshake(guest.shared.clock.now().since(started));
            let client = switching(&switched, &forwarded.request_id, runtime.config.limits.head_bytes_max);
            let early = read[head.len..].to_vec();
            if io.write_all(&client).await.is_ok() && io.flush().await.is_ok() {
                begin(&guest, &route, permit, io, switched, forwarded.request_id, &early);
            }
        }
        Ok(Answer::Http(answer)) => {
            drop(permit);
            http::serve(guest, io, Bytes::from(read), Some(answer)).await;
        }
        Err(failure) => {
            tracing::debug!(pool = %route.pool.name, %failure, "upgrade request not served");
            failure.reply().send(&mut io).await;
        }
    }
}

fn switching(switched: &Switched, request_id: &str, bytes_max: usize) -> Vec<u8> {
    match ResponseHead::parse(&switched.read, bytes_max) {
        Ok(Some(head)) => upstream::switching_head(&head, request_id),
        // It was parsed to get here.
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// Finds where a request goes and counts it there.
///
/// # Errors
/// What the client is told: no such route, draining, or too many connections.
pub fn find_route(
    guest: &Guest,
    runtime: &Runtime,
    host: Option<&str>,
    target: &str,
) -> Result<(RouteRuntime, Permit), Reply> {
    if guest.shared.is_closed() {
        telemetry::rejected("draining");
        return Err(Reply::new(503, "this gateway is shutting down; connect again"));
    }
    let path = path_of(target);
    let Some(route) = runtime.router.find(host, path) else {
        telemetry::rejected("no_route");
        let message = format!("no route for host {:?} and path {path:?}", host.unwrap_or_default());
        return Err(Reply::new(404, message));
    };
    let route = runtime.routes[route].clone();
    match route.count.enter(route.connections_max) {
        Ok(permit) => Ok((route, Permit::new(guest.admitted.clone(), permit))),
        Err(refusal) => Err(refused(refusal)),
    }
}

/// The answer to a connection beyond a bound.
pub fn refused(refusal: Refusal) -> Reply {
    telemetry::rejected(refusal.as_str());
    Reply::new(503, format!("too many connections ({}); come back later", refusal.as_str()))
}

/// Both heads are through: the session begins.
pub fn begin(
    guest: &Guest,
    route: &RouteRuntime,
    permit: Permit,
    down: Io,
    switched: Switched,
    request_id: String,
    early: &[u8],
) {
    let policy = route.pool.policy();
    let client = canonical(guest.peer.client.ip());
    let caller = switched.caller;
    let (endpoint, opened) = switched.ticket.opened(caller.client, switched.took);
    let terms = Terms {
        cooling_until: opened.cooling_until,
        expires_at: opened.expires_at,
        tenant: caller.tenant,
        moves: opened.moves,
        preference: route.preference,
        may_notify: policy.may_notify(switched.protocol.as_deref()),
        by: MoveBy::Shed,
    };
    let now = guest.shared.clock.now();
    let slot = Slot::new(route.pool.clone(), endpoint, client, now, terms, guest.worker.unread.clone());
    let stay = Stay::begin(guest.worker.clone(), Arc::new(slot), permit, guest.load.clone(), request_id);
    let relay = Relay::new(
        down,
        Io::Plain(switched.stream),
        Session::new(switched.extensions),
        policy.session.clone(),
        stay,
        early,
        &switched.read[switched.head_bytes..],
    );
    tokio::spawn(relay);
}

/// What hyper is given to read: the head again, then the stream.
pub type Downstream = Rewound<Io>;

/// An answer that hyper passes on for the first request.
pub type First = Option<HttpAnswer>;
