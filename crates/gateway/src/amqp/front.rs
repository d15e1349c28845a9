//! The front door of an AMQP listener: one accepted socket until it is a session, or refused.
//!
//! The eight bytes decide. AMQP has no refusal before a login, so whom we can not take before that is closed without a
//! word; behind `tune` it is closed with a reason.

use std::net::SocketAddr;
use std::sync::Arc;

use amqp::{PROTOCOL_HEADER, Protocol, protocol_of};
use session::{AmqpSession, Opened};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::reach::Origin;
use super::relay::{Begin, Relay};
use super::{farewell, opaque, relayed, routed};
use crate::admission::Permit;
use crate::forwarded::canonical;
use crate::front::{DRAIN_LOOK, Guest};
use crate::io::Io;
use crate::pool::{Caller, Policy, Ticket};
use crate::shared::AmqpRoutes;
use crate::shared::{RouteRuntime, Runtime};
use crate::slot::{MoveBy, Slot, Terms};
use crate::stay::Stay;
use crate::telemetry;

/// A client that is being let in.
pub struct Entry {
    /// Who.
    pub guest: Guest,
    /// The configuration it came in with.
    pub runtime: Arc<Runtime>,
    /// Its stream.
    pub io: Io,
    /// Its connection as endpoints are told.
    pub origin: Option<Origin>,
}

impl Entry {
    /// Who asks for an endpoint. There are no headers to go by.
    pub fn caller(&self, policy: &Policy) -> Caller {
        policy.caller(self.guest.client_key(), "", std::iter::empty)
    }

    /// Counts the connection at its route.
    ///
    /// # Errors
    /// The text for the client: draining, or beyond a bound. It is counted.
    pub fn permit(&self, route: &RouteRuntime) -> Result<Permit, String> {
        if self.guest.shared.is_closed() {
            telemetry::rejected("draining");
            return Err("this gateway is shutting down; connect again".into());
        }
        match route.count.enter(route.connections_max) {
            Ok(permit) => Ok(Permit::new(self.guest.admitted.clone(), permit)),
            Err(refusal) => {
                telemetry::rejected(refusal.as_str());
                Err(format!("too many connections ({}); come back later", refusal.as_str()))
            }
        }
    }

    /// Closes a client that is told nothing.
    pub fn turn_away(self, why: &str) {
        tracing::debug!(client = %self.guest.peer.client, why, "client is closed before it could be told why");
    }
}

/// Serves an accepted socket until its session goes on in a task of its own.
pub async fn serve(guest: Guest, runtime: Arc<Runtime>, listener: Arc<AmqpRoutes>, mut io: Io) {
    let deadline = Instant::now() + runtime.config.limits.head_timeout;
    let mut read = Vec::with_capacity(PROTOCOL_HEADER.len());
    loop {
        let slice = deadline.min(Instant::now() + DRAIN_LOOK);
        let header = timeout_at(slice, read_header(&mut io, &mut read)).await;
        match header {
            Ok(true) => break,
            Ok(false) => return,
            // A silent connection must not keep a gateway waiting that stops.
            Err(_) if read.is_empty() && guest.shared.is_closed() => return,
            Err(_) if slice < deadline => {}
            // A connection on which nothing was ever sent (a probe) is closed without a word.
            Err(_) if read.is_empty() => return,
            Err(_) => return telemetry::rejected("bad_handshake"),
        }
    }
    let local = local_address(&io);
    let origin = local.map(|local| Origin { client: guest.peer.client, local });
    let protocol = read.first_chunk().map_or(Protocol::Unknown, |header| protocol_of(*header));
    let entry = Entry { guest, runtime, io, origin };
    match (protocol, listener.only()) {
        (Protocol::Amqp091, Some(route)) => relayed::serve(entry, route.clone()).await,
        (Protocol::Amqp091, None) => routed::serve(entry, &listener).await,
        (Protocol::Amqp10(_), _) => opaque::serve(entry, &listener, &read).await,
        (Protocol::OtherVersion | Protocol::Unknown, _) => refuse_protocol(entry).await,
    }
}

/// Section 4.2.2: whoever asks for another protocol is told which one is spoken here.
async fn refuse_protocol(mut entry: Entry) {
    telemetry::rejected("amqp_version");
    tracing::debug!(client = %entry.guest.peer.client, "expected the protocol header of AMQP 0-9-1 or 1.0, found something else");
    let wait = entry.runtime.config.limits.close_linger;
    farewell::say(&mut entry.io, &PROTOCOL_HEADER, wait).await;
}

/// Reads the eight bytes, or as many as show that they are none. False: the client is gone.
async fn read_header(io: &mut Io, read: &mut Vec<u8>) -> bool {
    loop {
        let same = read.iter().zip(b"AMQP").all(|(a, b)| a == b);
        if read.len() == PROTOCOL_HEADER.len() || !same {
            return true;
        }
        let mut rest = io.take((PROTOCOL_HEADER.len() - read.len()) as u64);
        match rest.read_buf(read).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

fn local_address(io: &Io) -> Option<SocketAddr> {
    io.socket().local_addr().ok()
}

/// What the handshake has brought, once it has succeeded.
pub struct Entered {
    /// Where it goes.
    pub route: RouteRuntime,
    /// Its place in the counts.
    pub permit: Permit,
    /// The endpoint's connection.
    pub stream: TcpStream,
    /// The pick.
    pub ticket: Ticket,
    /// How long the endpoint took.
    pub took: std::time::Duration,
    /// What was agreed.
    pub opened: Opened,
}

/// The `open-ok` is out: the session begins. Bytes that were read behind the handshake come first.
pub fn begin(entry: Entry, entered: Entered, from_client: &[u8], from_endpoint: &[u8]) {
    let Entry { guest, io, origin, .. } = entry;
    let Entered { route, permit, stream, ticket, took, opened } = entered;
    let policy = route.pool.policy();
    route.pool.metrics.handshake(took);
    let caller = policy.caller(guest.client_key(), "", std::iter::empty);
    let stay = enter(&guest, &route, permit, ticket, took, caller, MoveBy::Migrate);
    let begin = Begin {
        down: io,
        up: Io::Plain(stream),
        session: AmqpSession::new(opened, &policy.amqp_session),
        policy,
        caller,
        origin,
        stay,
    };
    tokio::spawn(Relay::new(begin, from_client, from_endpoint));
}

/// Registers a session.
pub fn enter(
    guest: &Guest,
    route: &RouteRuntime,
    permit: Permit,
    ticket: Ticket,
    took: std::time::Duration,
    caller: Caller,
    by: MoveBy,
) -> Stay {
    let (endpoint, opened) = ticket.opened(caller.client, took);
    let terms = Terms {
        cooling_until: opened.cooling_until,
        expires_at: opened.expires_at,
        tenant: caller.tenant,
        moves: opened.moves,
        preference: route.preference,
        may_notify: false,
        by,
    };
    let client = canonical(guest.peer.client.ip());
    let now = guest.shared.clock.now();
    let slot = Slot::new(route.pool.clone(), endpoint, client, now, terms, guest.worker.unread.clone());
    Stay::begin(guest.worker.clone(), Arc::new(slot), permit, guest.load.clone(), request_id())
}

/// A name for a session in logs: AMQP has none of its own.
fn request_id() -> String {
    let bytes: [u8; 16] = crate::entropy::bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
