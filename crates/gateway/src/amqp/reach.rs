//! The way to an AMQP endpoint: pick, dial, PROXY header, protocol header, the endpoint's `connection.start`.
//!
//! Up to there nothing has been said in a client's name, so another endpoint is tried when one fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use amqp::{MethodId, PROTOCOL_HEADER};
use balance::Purpose;
use model::{EndpointId, PoolName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frames::{Frame, Frames, NoFrame};
use crate::pool::{Caller, Policy, Pool, Ticket};
use crate::proxy_protocol;
use crate::telemetry;
use crate::upstream::{self, Failure};

/// An endpoint that has said hello.
pub struct Reached {
    /// The connection, right behind `start`.
    pub stream: TcpStream,
    /// What comes from it.
    pub frames: Frames,
    /// Its `connection.start`.
    pub start: Frame,
    /// The pick.
    pub ticket: Ticket,
    /// From the pick to the `start`.
    pub took: Duration,
}

/// Why no endpoint was reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// None may be picked, or none takes the connection.
    #[error(transparent)]
    Dial(#[from] Failure),
    /// The last one that was tried says something else than AMQP 0-9-1.
    #[error("endpoint {endpoint} of pool {pool} {error} where its connection.start was expected")]
    Start {
        /// The pool.
        pool: PoolName,
        /// Who.
        endpoint: EndpointId,
        /// What came instead.
        error: NoStart,
    },
}

/// What came instead of a `connection.start`.
#[derive(Debug, thiserror::Error)]
pub enum NoStart {
    /// Nothing useful.
    #[error(transparent)]
    NoFrame(#[from] NoFrame),
    /// Another method.
    #[error("sent method {0:?}")]
    Other(MethodId),
    /// A heartbeat.
    #[error("sent a heartbeat")]
    Heartbeat,
    /// Nothing in time.
    #[error("sent nothing within {0:?}")]
    Timeout(Duration),
}

impl From<std::io::Error> for NoStart {
    fn from(error: std::io::Error) -> Self {
        Self::NoFrame(error.into())
    }
}

/// A client's connection, as a PROXY header tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The client.
    pub client: SocketAddr,
    /// Our address that it connected to.
    pub local: SocketAddr,
}

/// Connects to an endpoint of `pool` and reads its `start`.
///
/// # Errors
/// When none may be picked, or `tries_max` were tried.
pub async fn reach(
    pool: &Arc<Pool>,
    policy: &Policy,
    caller: &Caller,
    origin: Option<Origin>,
) -> Result<Reached, Unreached> {
    let mut tried = Vec::new();
    loop {
        let picked = pool.pick(caller, Purpose::Session, &tried);
        let (mut stream, ticket) =
            upstream::dial(pool, policy, caller, Purpose::Session, &mut tried, picked).await?;
        let mut frames = Frames::new(&[]);
        let hello =
            timeout(policy.amqp_session.prepare_timeout, hello(&mut stream, &mut frames, policy, origin));
        let hello = hello.await.unwrap_or(Err(NoStart::Timeout(policy.amqp_session.prepare_timeout)));
        let error = match hello {
            Ok(start) => {
                pool.known.learn_start(&pool.name, &ticket.endpoint, start.payload());
                let took = ticket.age();
                return Ok(Reached { stream, frames, start, ticket, took });
            }
            Err(error) => error,
        };
        telemetry::upstream_failed(&pool.name);
        let endpoint = ticket.endpoint.clone();
        tracing::debug!(pool = %pool.name, %endpoint, %error, "endpoint does not begin a handshake");
        ticket.failed();
        if tried.len() >= usize::from(policy.tries_max) {
            return Err(Unreached::Start { pool: pool.name.clone(), endpoint, error });
        }
    }
}

/// Says hello on a fresh connection and waits for the answer.
///
/// # Errors
/// [`NoStart`].
pub async fn hello(
    stream: &mut TcpStream,
    frames: &mut Frames,
    policy: &Policy,
    origin: Option<Origin>,
) -> Result<Frame, NoStart> {
    let mut first = preamble(policy, origin);
    first.extend_from_slice(&PROTOCOL_HEADER);
    stream.write_all(&first).await?;
    let frame = frames.next(stream).await?;
    match frame.method() {
        Some(MethodId::CONNECTION_START) => Ok(frame),
        Some(other) => Err(NoStart::Other(other)),
        None => Err(NoStart::Heartbeat),
    }
}

/// What goes in front of everything else on a connection to an endpoint: the PROXY header, if it wants one.
pub fn preamble(policy: &Policy, origin: Option<Origin>) -> Vec<u8> {
    match origin {
        _ if !policy.proxy_protocol() => Vec::new(),
        Some(origin) => proxy_protocol::header(origin.client, origin.local),
        None => proxy_protocol::LOCAL.to_vec(),
    }
}
