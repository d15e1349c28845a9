//! Sockets: accepting, answering, streaming, and every way in which that is cut short.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::call::Request;
use crate::failure::Failure;
use crate::shared::{Cut, Shared};
use crate::watch::Watch;
use crate::world::Reply;

/// Largest body of a request, as etcd's limit demands of the real server.
const BODY_BYTES_MAX: usize = 3 << 20;
/// How long a watch without `timeoutSeconds` may take.
const WATCH_FOR: Duration = Duration::from_secs(45 * 60);
/// Events that wait for a slow client; then the watch stands still.
const WAITING_EVENTS_MAX: usize = 16;
/// For the last line to reach the socket before it is cut.
const FLUSH_WITHIN: Duration = Duration::from_millis(20);
/// Between two attempts to have the port again.
const BIND_EVERY: Duration = Duration::from_millis(10);

/// A socket that is bound to a port and never listens, so that nobody else gets the port while we do not listen.
///
/// # Errors
/// When the system refuses.
pub fn reserve(port: u16) -> std::io::Result<(Socket, SocketAddr)> {
    let socket = bound(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let address = socket.local_addr()?.as_socket().unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
    Ok((socket, address))
}

fn bound(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Listens whenever it should, until the server is stopped.
pub async fn run(shared: Arc<Shared>, address: SocketAddr) {
    let mut wanted = shared.listen.subscribe();
    loop {
        while !*wanted.borrow_and_update() {
            shared.note_listening(false);
            if wanted.changed().await.is_err() {
                return;
            }
        }
        let Ok(listener) = listen(address) else {
            sleep(BIND_EVERY).await;
            continue;
        };
        shared.note_listening(true);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(connection(Arc::clone(&shared), stream))),
                    Err(_) => sleep(BIND_EVERY).await,
                },
                _ = wanted.changed() => break,
            }
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = bound(address)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// A connection's end, in the hands of those who may bring it about.
#[derive(Clone, Debug)]
struct Line(watch::Sender<Option<Cut>>);

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    // Refused only when the peer has gone already.
    let _ = stream.set_nodelay(true);
    // The last handle decides how the connection ends: with what was set on it.
    let last = SockRef::from(&stream).try_clone();
    let line = Line(watch::Sender::new(None));
    let (mut cut, mut all) = (line.0.subscribe(), shared.cut_all.subscribe());
    let service = service_fn(|request| answer(Arc::clone(&shared), line.clone(), request));
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let how = tokio::select! {
        // Its error is the peer's doing.
        _ = serving => None,
        _ = cut.changed() => *cut.borrow(),
        _ = all.changed() => Some(all.borrow().1),
    };
    if let (Some(Cut::Reset), Ok(last)) = (how, &last) {
        let _ = last.set_linger(Some(Duration::ZERO));
    }
}

async fn answer(
    shared: Arc<Shared>,
    line: Line,
    request: http::Request<Incoming>,
) -> Result<Response<Payload>, Infallible> {
    let request = match read(request).await {
        Ok(request) => request,
        Err(failure) => return Ok(refusal(&failure)),
    };
    shared.world(|world| world.note(&request));
    shared.while_hung().await;
    let reply = shared.world(|world| world.handle(&request));
    shared.turn();
    let response = match reply {
        Ok(Reply::Whole(code, value)) => {
            if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) {
                sleep(shared.list_delay()).await;
            }
            whole(code, &value)
        }
        Ok(Reply::Watch(watch)) => {
            let (lines, body) = mpsc::channel(WAITING_EVENTS_MAX);
            tokio::spawn(stream(shared, line, *watch, lines));
            json_response(StatusCode::OK, Payload::Lines(body))
        }
        Err(failure) => refusal(&failure),
    };
    Ok(response)
}

async fn read(request: http::Request<Incoming>) -> Result<Request, Failure> {
    let (head, body) = request.into_parts();
    let text = |name: header::HeaderName| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|e| {
        let message = format!("the request cannot be read, or is larger than {BODY_BYTES_MAX} bytes: {e}");
        Failure::new(413, "RequestEntityTooLarge", message)
    })?;
    Ok(Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: Request::parse_query(head.uri.query().unwrap_or_default()),
        accept: text(header::ACCEPT),
        content_type: text(header::CONTENT_TYPE),
        user_agent: text(header::USER_AGENT),
        body: body.to_bytes(),
        now: now(),
    })
}

/// The time as objects are stamped with it.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Feeds a watch until its time is over, its client gone, or its line cut.
async fn stream(shared: Arc<Shared>, line: Line, mut watch: Watch, lines: mpsc::Sender<Bytes>) {
    let _open = Open::new(&shared, watch.resource());
    let (mut turns, mut cuts, mut bookmarks) =
        (shared.turns.subscribe(), shared.cut_watches.subscribe(), shared.bookmarks.subscribe());
    let ends = Instant::now() + watch.timeout.unwrap_or(WATCH_FOR);
    let mut wants_bookmark = false;
    loop {
        shared.while_hung().await;
        turns.borrow_and_update();
        let told = shared.world(|world| watch.look(&world.store));
        let is_over = told.is_err();
        let events =
            told.unwrap_or_else(|failure| vec![json!({"type": "ERROR", "object": failure.status()})]);
        for event in &events {
            if lines.send(line_of(event)).await.is_err() {
                return;
            }
        }
        if is_over {
            return;
        }
        if std::mem::take(&mut wants_bookmark) {
            send_bookmark(&watch, &lines).await;
        }
        tokio::select! {
            // What has happened before a cut is told before it.
            biased;
            _ = turns.changed() => {}
            _ = bookmarks.changed() => wants_bookmark = true,
            _ = lines.closed() => return,
            _ = sleep_until(ends) => {
                send_bookmark(&watch, &lines).await;
                return;
            }
            _ = cuts.changed() => {
                let how = cuts.borrow().1;
                cut(how, &line, &lines).await;
                return;
            }
        }
    }
}

async fn send_bookmark(watch: &Watch, lines: &mpsc::Sender<Bytes>) {
    if let Some(bookmark) = watch.bookmark() {
        // A client that has gone is noticed at the next turn.
        let _ = lines.send(line_of(&bookmark)).await;
    }
}

async fn cut(how: Cut, line: &Line, lines: &mpsc::Sender<Bytes>) {
    if how == Cut::HalfLine {
        let event =
            line_of(&json!({"type": "MODIFIED", "object": {"kind": "Pod", "metadata": {"name": "half"}}}));
        let _ = lines.send(event.slice(..event.len() / 2)).await;
    }
    if how != Cut::Reset {
        // What was told is on its way, not lost with the connection.
        sleep(FLUSH_WITHIN).await;
    }
    line.0.send_replace(Some(how));
    // The body must not end by itself before the connection does.
    lines.closed().await;
}

/// A watch that is counted as long as it runs.
struct Open<'a> {
    shared: &'a Shared,
    id: u64,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, resource: String) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        shared.note_watch(id, Some(resource));
        Self { shared, id }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.note_watch(self.id, None);
    }
}

fn line_of(event: &Value) -> Bytes {
    let mut text = event.to_string();
    text.push('\n');
    text.into()
}

fn whole(code: u16, value: &Value) -> Response<Payload> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(status, Payload::Whole(Some(value.to_string().into())))
}

fn refusal(failure: &Failure) -> Response<Payload> {
    let mut response = whole(failure.code, &failure.status());
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_response(status: StatusCode, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// What an answer carries.
#[derive(Debug)]
enum Payload {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Lines(lines) => std::task::ready!(lines.poll_recv(cx)),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }
}
