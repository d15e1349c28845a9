//! Plain HTTP on the same port: health checks, negotiate calls, long polling, and answers to upgrades that are no 101.
//!
//! hyper does the protocol, on both sides; bodies stream. Kept connections to endpoints are shared by a worker's
//! clients. An upgrade that comes later on a kept connection takes the same way as one that comes first.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use balance::Purpose;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self as client, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::Time;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use ws::{RequestHead, ResponseHead};

use crate::admission::Permit;
use crate::forwarded::Forwarded;
use crate::front::{self, Downstream, First, Guest};
use crate::io::{AlreadySent, Io, Rewound};
use crate::pool::{Caller, Ticket};
use crate::reply::Reply;
use crate::shared::{RouteRuntime, Runtime};
use crate::telemetry;
use crate::upstream::{self, Answer, HttpAnswer, Switched, UpgradeCall};

/// Kept connections to one endpoint, a worker.
const IDLE_PER_ENDPOINT_MAX: usize = 32;

/// A body that streams through.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Idle connections to endpoints.
#[derive(Debug, Default)]
pub struct Connections(Mutex<BTreeMap<SocketAddr, Vec<Idle>>>);

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Body>,
    since: Time,
}

impl Connections {
    fn take(&self, address: SocketAddr) -> Option<SendRequest<Body>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.get_mut(&address)?;
        std::iter::from_fn(|| idle.pop()).map(|idle| idle.sender).find(|sender| !sender.is_closed())
    }

    fn put(&self, address: SocketAddr, sender: SendRequest<Body>, now: Time) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.entry(address).or_default();
        if idle.len() < IDLE_PER_ENDPOINT_MAX {
            idle.push(Idle { sender, since: now });
        }
    }

    /// Drops what has been idle for longer than `timeout`.
    pub fn sweep(&self, now: Time, timeout: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, idle| {
            idle.retain(|idle| now.since(idle.since) < timeout && !idle.sender.is_closed());
            !idle.is_empty()
        });
    }
}

/// Refuses a request whose end two readers could see in different places (RFC 9112 section 6.1: it may be an attempt
/// at smuggling). Of later requests of the connection hyper ignores the length, and closes behind them.
///
/// # Errors
/// What the client is told.
pub fn check_framing(head: &RequestHead<'_>) -> Result<(), Reply> {
    let has = |name| head.header_all(name).next().is_some();
    if has("content-length") && has("transfer-encoding") {
        let message = "request: expected Content-Length or Transfer-Encoding, found both (RFC 9112 6.1)";
        return Err(Reply::new(400, message));
    }
    Ok(())
}

/// Serves a connection whose first request is no upgrade, or one that the endpoint did not agree to (`first`).
pub async fn serve(guest: Guest, io: Io, read: Bytes, first: First) {
    let guest = Arc::new(guest);
    let limits = guest.shared.runtime.load().config.limits.clone();
    let first = Arc::new(Mutex::new(first));
    let service = service_fn({
        let guest = guest.clone();
        move |request| {
            let (guest, first) = (guest.clone(), first.clone());
            async move { Ok::<_, Infallible>(respond(guest, first, request).await) }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_keep_alive_timeout)
        .max_buf_size(limits.head_bytes_max.max(8192))
        .max_headers(ws::HEADERS_MAX)
        .serve_connection(TokioIo::new(Rewound { prefix: read, stream: io }), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut check = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(client = %guest.peer.client, %error, "HTTP connection ended");
                }
                return;
            }
            // An idle connection must not keep a draining gateway waiting.
            _ = check.tick() => if guest.shared.is_draining() {
                connection.as_mut().graceful_shutdown();
            },
        }
    }
}

async fn respond(guest: Arc<Guest>, first: Arc<Mutex<First>>, request: Request<Incoming>) -> Response<Body> {
    let runtime = guest.shared.runtime.load_full();
    let stashed = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let forwarded = Forwarded::new(&guest.peer, &runtime.config.trusted_proxies, &pairs(request.headers()));
    let request_id = forwarded.request_id.clone();
    let result = match stashed {
        Some(answer) => replay(answer).await,
        None if !has_one_host(&request) => {
            Err(Reply::new(400, "request: expected exactly one Host header (RFC 9112 3.2)"))
        }
        None => {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
            match front::find_route(&guest, &runtime, host.as_deref(), &target) {
                Err(reply) => Err(reply),
                Ok((route, permit)) if is_websocket(request.headers()) => {
                    upgrade(&guest, &runtime, route, permit, request, forwarded).await
                }
                Ok((route, permit)) => forward(&guest, &route, permit, request, &forwarded).await,
            }
        }
    };
    let mut response = result.unwrap_or_else(Reply::into_response);
    if let Ok(id) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Sends a request to a picked endpoint over a kept connection or a new one.
async fn forward(
    guest: &Guest,
    route: &RouteRuntime,
    permit: Permit,
    request: Request<Incoming>,
    forwarded: &Forwarded,
) -> Result<Response<Body>, Reply> {
    let policy = route.pool.policy();
    let caller = {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        policy.caller(guest.client_key(), target, || {
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
        })
    };
    let mut request = outgoing(request, forwarded)?;
    let mut tried = Vec::new();
    loop {
        let (mut sender, ticket, fresh) = connect(guest, route, &caller, &mut tried).await?;
        let sent = timeout(policy.response_timeout, sender.try_send_request(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                telemetry::upstream_failed(&route.pool.name);
                // Only a request of which nothing was sent may be sent again: it need not be idempotent.
                match error.take_message() {
                    Some(unsent) if !fresh || tried.len() < usize::from(policy.tries_max) => {
                        request = unsent;
                        if !fresh {
                            tried.pop();
                        }
                        continue;
                    }
                    _ => {
                        let message = format!("endpoint {}: {}", ticket.endpoint, error.error());
                        return Err(Reply::new(502, message));
                    }
                }
            }
            Err(_) => {
                let (endpoint, waited) = (ticket.endpoint.clone(), policy.response_timeout);
                return Err(upstream::Failure::Timeout { endpoint, waited }.reply());
            }
        };
        check_answer(&response, &ticket)?;
        telemetry::http_request(&route.pool.name, response.status());
        let (address, worker) = (ticket.address, guest.worker.clone());
        tokio::spawn(async move {
            // Ready again when the response's body is through.
            if sender.ready().await.is_ok() {
                worker.connections.put(address, sender, worker.clock.now());
            }
        });
        return Ok(incoming(response, (ticket, permit)));
    }
}

/// A connection to a picked endpoint; `true` when it is a new one.
async fn connect(
    guest: &Guest,
    route: &RouteRuntime,
    caller: &Caller,
    tried: &mut Vec<model::EndpointId>,
) -> Result<(SendRequest<Body>, Ticket, bool), Reply> {
    let policy = route.pool.policy();
    let picked = route.pool.pick(caller, Purpose::Request, tried);
    let kept = picked.as_ref().ok().and_then(|ticket| guest.worker.connections.take(ticket.address));
    let picked = match (picked, kept) {
        (Ok(ticket), Some(sender)) => {
            tried.push(ticket.endpoint.clone());
            return Ok((sender, ticket, false));
        }
        // No second pick: under round_robin it would skip an endpoint each time.
        (picked, _) => picked,
    };
    let dialed = upstream::dial(&route.pool, &policy, caller, Purpose::Request, tried, picked).await;
    let (stream, ticket) = dialed.map_err(|failure| failure.reply())?;
    let sender = drive(stream).await.map_err(|error| {
        Reply::new(502, format!("endpoint {} refused HTTP/1.1: {error}", ticket.endpoint))
    })?;
    Ok((sender, ticket, true))
}

/// Gives a stream to hyper's client.
async fn drive<S>(stream: S) -> Result<SendRequest<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        client::Builder::new().max_headers(ws::HEADERS_MAX).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(sender)
}

/// The endpoint's answer to an upgrade request that was sent by the front door already.
async fn replay(answer: HttpAnswer) -> Result<Response<Body>, Reply> {
    let HttpAnswer { stream, read, ticket } = answer;
    let stream = AlreadySent::new(Rewound { prefix: Bytes::from(read), stream });
    match read_again(stream, &ticket).await {
        Ok((response, sender)) => {
            telemetry::http_request(ticket.pool_name(), response.status());
            Ok(incoming(response, (ticket, sender)))
        }
        Err(reply) => {
            ticket.failed();
            Err(reply)
        }
    }
}

async fn read_again(
    stream: AlreadySent<Rewound<TcpStream>>,
    ticket: &Ticket,
) -> Result<(Response<Incoming>, SendRequest<Body>), Reply> {
    let failed = |error: hyper::Error| {
        Reply::new(502, format!("endpoint {} answered with what is not HTTP/1.1: {error}", ticket.endpoint))
    };
    let mut sender = drive(stream).await.map_err(failed)?;
    let request = Request::new(Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync());
    let response = sender.send_request(request).await.map_err(failed)?;
    check_answer(&response, ticket)?;
    Ok((response, sender))
}

/// An upgrade on a connection that hyper has.
async fn upgrade(
    guest: &Arc<Guest>,
    runtime: &Runtime,
    route: RouteRuntime,
    permit: Permit,
    request: Request<Incoming>,
    forwarded: Forwarded,
) -> Result<Response<Body>, Reply> {
    let raw = raw_head(&request);
    let head = match RequestHead::parse(&raw, runtime.config.limits.head_bytes_max) {
        Ok(Some(head)) => head,
        Ok(None) => return Err(Reply::new(400, "request head: incomplete")),
        Err(error) => return Err(Reply::new(error.status(), error.to_string())),
    };
    let asked = ws::upgrade_request(&head)
        .map_err(|error| Reply::new(error.status(), error.to_string()).with(error.headers()))?;
    let Some(asked) = asked else { return Err(Reply::new(400, "upgrade request: not for a WebSocket")) };
    let policy = route.pool.policy();
    let call = UpgradeCall {
        head: upstream::request_head(head.target, head.headers(), &forwarded),
        key: asked.key,
        caller: policy.caller(guest.client_key(), head.target, || head.headers()),
    };
    let started = guest.shared.clock.now();
    match upstream::call(&route.pool, &policy, &runtime.config.limits, &call).await {
        Ok(Answer::Http(answer)) => replay(answer).await,
        Ok(Answer::Switched(switched)) => {
            route.pool.metrics.handshake(guest.shared.clock.now().since(started));
            let response = switching_response(&switched, runtime.config.limits.head_bytes_max)?;
            let guest = guest.clone();
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(request).await
                    && let Ok(parts) = upgraded.downcast::<TokioIo<Downstream>>()
                {
                    let Rewound { prefix, stream } = parts.io.into_inner();
                    let early = [&prefix[..], &parts.read_buf[..]].concat();
                    front::begin(&guest, &route, permit, stream, switched, forwarded.request_id, &early);
                }
            });
            Ok(response)
        }
        Err(failure) => Err(failure.reply()),
    }
}

/// A request of hyper's as the bytes it once was: the rules for upgrades read heads.
fn raw_head(request: &Request<Incoming>) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let version = if request.version() == Version::HTTP_10 { "1.0" } else { "1.1" };
    let mut head = format!("{} {target} HTTP/{version}\r\n", request.method()).into_bytes();
    for (name, value) in pairs(request.headers()) {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The endpoint's 101 as a response of hyper's.
fn switching_response(switched: &Switched, bytes_max: usize) -> Result<Response<Body>, Reply> {
    let Ok(Some(head)) = ResponseHead::parse(&switched.read, bytes_max) else {
        return Err(Reply::new(502, "the endpoint's response head vanished"));
    };
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in upstream::switching_headers(&head) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(response)
}

/// The request as the endpoint gets it.
fn outgoing(request: Request<Incoming>, forwarded: &Forwarded) -> Result<Request<Body>, Reply> {
    let (mut parts, body) = request.into_parts();
    if parts.method == http::Method::CONNECT {
        return Err(Reply::new(405, "CONNECT is not served: this is a gateway to fixed pools, not a proxy"));
    }
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    parts.uri = Uri::try_from(target).map_err(|error| Reply::new(400, format!("request target: {error}")))?;
    parts.version = Version::HTTP_11;
    let kept = parts.headers.iter().filter(|(name, _)| forwarded.keeps(name.as_str()));
    let mut headers: HeaderMap = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    for (name, value) in &forwarded.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(*name, value);
        }
    }
    parts.headers = headers;
    Ok(Request::from_parts(parts, body.boxed_unsync()))
}

/// Refuses an answer after which client and endpoint could disagree on what its end is: a 101 that nobody asked for,
/// or a length beside chunks (RFC 9112 section 6.3).
fn check_answer(response: &Response<Incoming>, ticket: &Ticket) -> Result<(), Reply> {
    let has = |name| response.headers().contains_key(name);
    let fault = if response.status().is_informational() {
        "a final answer to a plain request, found 101"
    } else if has(CONTENT_LENGTH) && has(TRANSFER_ENCODING) {
        "Content-Length or Transfer-Encoding, found both (RFC 9112 6.3)"
    } else {
        return Ok(());
    };
    telemetry::upstream_failed(ticket.pool_name());
    Err(Reply::new(502, format!("endpoint {}: expected {fault}", ticket.endpoint)))
}

/// The response as the client gets it; `held` is kept until its body is through.
fn incoming<T: Send + 'static>(response: Response<Incoming>, held: T) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let listed: Vec<String> =
        ws::connection_options(parts.headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes))
            .map(str::to_ascii_lowercase)
            .collect();
    let ends_here = |name: &HeaderName| {
        ws::is_hop_by_hop(name.as_str()) || listed.iter().any(|listed| listed == name.as_str())
    };
    let kept = parts.headers.iter().filter(|(name, _)| !ends_here(name));
    parts.headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    parts.version = Version::HTTP_11;
    let body = body.map_frame(move |frame| {
        let _ = &held;
        frame
    });
    Response::from_parts(parts, body.boxed_unsync())
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// RFC 9112 section 3.2: whoever reads the other Host would find another route. HTTP/1.0 knew none.
fn has_one_host(request: &Request<Incoming>) -> bool {
    match request.headers().get_all(HOST).iter().count() {
        0 => request.version() == Version::HTTP_10,
        count => count == 1,
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    })
}

fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}
