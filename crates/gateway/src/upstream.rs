//! The way to an endpoint: pick, dial, send the upgrade request, judge the answer; the next endpoint if that fails.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use balance::{Purpose, Refusal};
use config::Limits;
use model::EndpointId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use ws::{Extensions, ResponseHead, UpgradeError};

use crate::forwarded::Forwarded;
use crate::listen;
use crate::pool::{Caller, Policy, Pool, Ticket};
use crate::reply::{Reply, whole_seconds};
use crate::telemetry;

/// Interim responses (1xx) before the real one.
const INTERIM_MAX: usize = 8;

/// An upgrade request, ready to be sent to whichever endpoint is picked.
#[derive(Debug)]
pub struct UpgradeCall<'a> {
    /// The head as the endpoint gets it.
    pub head: Vec<u8>,
    /// Its Sec-WebSocket-Key.
    pub key: &'a [u8],
    /// Who asks.
    pub caller: Caller,
}

/// What an endpoint answered.
#[derive(Debug)]
pub enum Answer {
    /// A genuine 101.
    Switched(Switched),
    /// Anything else: ordinary HTTP.
    Http(HttpAnswer),
}

/// A tunnel that the endpoint agreed to.
#[derive(Debug)]
pub struct Switched {
    /// Behind the head, but see `read`.
    pub stream: TcpStream,
    /// What was read: the head, then bytes of the tunnel.
    pub read: Vec<u8>,
    /// Length of the head in `read`.
    pub head_bytes: usize,
    /// The picked endpoint.
    pub ticket: Ticket,
    /// From the pick to the 101: dial and handshake with this endpoint alone.
    pub took: Duration,
    /// Who asked.
    pub caller: Caller,
    /// Accepted extensions.
    pub extensions: Extensions,
    /// The chosen subprotocol.
    pub protocol: Option<String>,
}

/// An answer that is no tunnel, unread but for its beginning.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The stream.
    pub stream: TcpStream,
    /// What was read of the answer already.
    pub read: Vec<u8>,
    /// The picked endpoint.
    pub ticket: Ticket,
}

/// Why no endpoint answered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// None may be picked.
    #[error("{}", refused(.pool, .refusal, *.tried))]
    Refused {
        /// The pool.
        pool: model::PoolName,
        /// Why.
        refusal: Refusal,
        /// Endpoints that were tried for this request.
        tried: usize,
    },
    /// It can not be reached.
    #[error("endpoint {endpoint} of pool {pool} can not be reached: {error}; {tried} tried")]
    Dial {
        /// The pool.
        pool: model::PoolName,
        /// The last endpoint tried.
        endpoint: EndpointId,
        /// What the system said.
        error: std::io::Error,
        /// Endpoints tried.
        tried: usize,
    },
    /// It did not answer in time.
    #[error("endpoint {endpoint} did not answer within {waited:?} (response_timeout)")]
    Timeout {
        /// Who.
        endpoint: EndpointId,
        /// How long we waited.
        waited: std::time::Duration,
    },
    /// It closed the connection without an answer.
    #[error("endpoint {endpoint} closed the connection before its response head was complete")]
    Closed {
        /// Who.
        endpoint: EndpointId,
        /// Some of an answer had come.
        answered: bool,
    },
    /// It sends one interim response after the other.
    #[error("endpoint {endpoint} sent more than {INTERIM_MAX} interim responses (1xx) and no final one")]
    Interim {
        /// Who.
        endpoint: EndpointId,
    },
    /// Its answer is not HTTP.
    #[error("endpoint {endpoint} answered with what is not HTTP/1.1: {error}")]
    Head {
        /// Who.
        endpoint: EndpointId,
        /// What is wrong.
        error: ws::HeadError,
    },
    /// Its 101 is not genuine.
    #[error("endpoint {endpoint} answered 101 without a valid WebSocket handshake: {error}")]
    Handshake {
        /// Who.
        endpoint: EndpointId,
        /// What is wrong.
        error: UpgradeError,
    },
}

impl Failure {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        let status = match self {
            Self::Refused { .. } => 503,
            Self::Timeout { .. } => 504,
            Self::Dial { .. }
            | Self::Closed { .. }
            | Self::Interim { .. }
            | Self::Head { .. }
            | Self::Handshake { .. } => 502,
        };
        let reply = Reply::new(status, self.to_string());
        if let Self::Refused { refusal: Refusal::Admission { retry_after }, .. } = self {
            return reply.retry_after(*retry_after);
        }
        reply
    }

    /// True when the endpoint may not have seen the request, or saw it and said nothing.
    fn is_retriable(&self, retry_upgrade: bool) -> bool {
        match self {
            Self::Dial { .. } => true,
            Self::Closed { answered, .. } => retry_upgrade && !answered,
            Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Interim { .. }
            | Self::Head { .. }
            | Self::Handshake { .. } => false,
        }
    }
}

/// What a client reads when it gets no endpoint.
fn refused(pool: &model::PoolName, refusal: &Refusal, tried: usize) -> String {
    match refusal {
        Refusal::NoEndpoint => {
            let tried = if tried > 0 { format!(" ({tried} failed just now)") } else { String::new() };
            format!(
                "no endpoint of pool {pool} is ready{tried}; the endpoints' states are in /api/v1/status of the admin port"
            )
        }
        Refusal::Full => format!(
            "every endpoint of pool {pool} has as many sessions as it may have (placement.sessions_per_endpoint_max); \
             come back later, or add endpoints"
        ),
        Refusal::Admission { retry_after } => format!(
            "more clients come to pool {pool} than are let in (admission.sessions_per_second); come back in {} s",
            whole_seconds(*retry_after)
        ),
    }
}

/// Connects to an endpoint of `pool`: the one that was `picked`, or another when it can not be reached.
///
/// # Errors
/// When none may be picked, or `tries_max` were tried.
pub async fn dial(
    pool: &Arc<Pool>,
    policy: &Policy,
    caller: &Caller,
    purpose: Purpose,
    tried: &mut Vec<EndpointId>,
    mut picked: Result<Ticket, Refusal>,
) -> Result<(TcpStream, Ticket), Failure> {
    loop {
        let ticket = picked.map_err(|refusal| Failure::Refused {
            pool: pool.name.clone(),
            refusal,
            tried: tried.len(),
        })?;
        tried.push(ticket.endpoint.clone());
        let error = match timeout(policy.dial_timeout, TcpStream::connect(ticket.address)).await {
            Ok(Ok(stream)) => {
                // A frame is written at once or not at all: waiting to coalesce only adds delay.
                stream.set_nodelay(true).ok();
                socket2::SockRef::from(&stream).set_tcp_keepalive(&listen::keepalive()).ok();
                return Ok((stream, ticket));
            }
            Ok(Err(error)) => error,
            Err(_) => ErrorKind::TimedOut.into(),
        };
        telemetry::dial_failed(&pool.name);
        tracing::debug!(pool = %pool.name, endpoint = %ticket.endpoint, %error, "endpoint can not be reached");
        let endpoint = ticket.endpoint.clone();
        ticket.failed();
        if tried.len() >= usize::from(policy.tries_max) {
            return Err(Failure::Dial { pool: pool.name.clone(), endpoint, error, tried: tried.len() });
        }
        picked = pool.pick(caller, purpose, tried);
    }
}

/// Sends the upgrade request to a picked endpoint and judges its answer.
///
/// # Errors
/// When no endpoint gave an answer that can be passed on.
pub async fn call(
    pool: &Arc<Pool>,
    policy: &Policy,
    limits: &Limits,
    call: &UpgradeCall<'_>,
) -> Result<Answer, Failure> {
    let (caller, purpose) = (call.caller, Purpose::Session);
    let mut tried = Vec::new();
    loop {
        let picked = pool.pick(&caller, purpose, &tried);
        let (stream, ticket) = dial(pool, policy, &caller, purpose, &mut tried, picked).await?;
        let answer = timeout(policy.response_timeout, exchange(stream, &ticket.endpoint, limits, call)).await;
        let failure = match answer {
            Ok(Ok(Exchanged { stream, read, switched: None })) => {
                return Ok(Answer::Http(HttpAnswer { stream, read, ticket }));
            }
            Ok(Ok(Exchanged { stream, read, switched: Some(to) })) => {
                let (head_bytes, took) = (to.head_bytes, ticket.age());
                let (extensions, protocol) = (to.extensions, to.protocol);
                let switched =
                    Switched { stream, read, head_bytes, ticket, took, caller, extensions, protocol };
                return Ok(Answer::Switched(switched));
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Timeout { endpoint: ticket.endpoint.clone(), waited: policy.response_timeout },
        };
        telemetry::upstream_failed(&pool.name);
        ticket.failed();
        if tried.len() >= usize::from(policy.tries_max) || !failure.is_retriable(policy.retry_upgrade) {
            return Err(failure);
        }
    }
}

/// An endpoint's answer, as far as it was read.
struct Exchanged {
    stream: TcpStream,
    read: Vec<u8>,
    /// `None`: ordinary HTTP.
    switched: Option<SwitchedTo>,
}

/// What a genuine 101 says.
struct SwitchedTo {
    head_bytes: usize,
    extensions: Extensions,
    protocol: Option<String>,
}

async fn exchange(
    mut stream: TcpStream,
    endpoint: &EndpointId,
    limits: &Limits,
    call: &UpgradeCall<'_>,
) -> Result<Exchanged, Failure> {
    let closed = |answered| Failure::Closed { endpoint: endpoint.clone(), answered };
    stream.write_all(&call.head).await.map_err(|_| closed(false))?;
    let mut read = Vec::with_capacity(512);
    let mut interim = 0;
    loop {
        let answered = interim > 0 || !read.is_empty();
        if stream.read_buf(&mut read).await.map_err(|_| closed(answered))? == 0 {
            return Err(closed(answered));
        }
        loop {
            let parsed = ResponseHead::parse(&read, limits.head_bytes_max);
            let head = parsed.map_err(|error| Failure::Head { endpoint: endpoint.clone(), error })?;
            let Some(head) = head else { break };
            let head_bytes = head.len;
            if head.status == 101 {
                let switched = ws::check_switching(&head, call.key)
                    .map_err(|error| Failure::Handshake { endpoint: endpoint.clone(), error })?;
                let (extensions, protocol) = (switched.extensions, switched.protocol.map(str::to_owned));
                let switched = Some(SwitchedTo { head_bytes, extensions, protocol });
                return Ok(Exchanged { stream, read, switched });
            }
            if head.status >= 200 {
                return Ok(Exchanged { stream, read, switched: None });
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(Failure::Interim { endpoint: endpoint.clone() });
            }
            read.drain(..head_bytes);
        }
    }
}

/// The request head for the endpoint: the client's, less what ends here, plus what we add.
pub fn request_head<'a>(
    target: &str,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    forwarded: &Forwarded,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    head.extend_from_slice(b"GET ");
    head.extend_from_slice(crate::forwarded::origin_form(target).as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers.filter(|(name, _)| forwarded.keeps(name)) {
        push_header(&mut head, name, value);
    }
    push_header(&mut head, "connection", b"Upgrade");
    push_header(&mut head, "upgrade", b"websocket");
    for (name, value) in &forwarded.headers {
        push_header(&mut head, name, value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The 101 for the client: the endpoint's, less what ends here, plus the request id.
pub fn switching_head(head: &ResponseHead<'_>, request_id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len + 80);
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    for (name, value) in switching_headers(head) {
        push_header(&mut out, name, value);
    }
    push_header(&mut out, "connection", b"Upgrade");
    push_header(&mut out, "upgrade", b"websocket");
    push_header(&mut out, "x-request-id", request_id.as_bytes());
    out.extend_from_slice(b"\r\n");
    out
}

/// The headers of a 101 that the client gets as they are.
pub fn switching_headers<'a>(head: &ResponseHead<'a>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    head.headers().filter(|(name, _)| {
        !ws::is_hop_by_hop(name)
            && !name.eq_ignore_ascii_case("x-request-id")
            && !name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("ws-handoff"))
    })
}

fn push_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
