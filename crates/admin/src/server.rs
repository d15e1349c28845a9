//! The listener and the routes. One request a connection, and a deadline on it: a few slow or forgotten peers can not
//! keep a liveness probe from being answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::access::{self, Access};
use crate::answer::Failure;
use crate::calls::{self, Gate};
use crate::control::Control;
use crate::patience::{Limit, Patience};
use crate::token::TokenFile;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// Longest wait for a complete request head: silent connections must not keep the kubelet's probes waiting for long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait from the head to the answer, the request's body included. A call that waits for something has that time on top.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest connection, from its acceptance until the answer is taken, without such waits.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request body.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Pause after the system refused a connection: it lacks descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound admin port.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    /// Binds `address`. Port 0 takes one that the system picks.
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system can not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped, its connections included. Calls that change something bring the token of `token`; without
    /// one they are let in on loopback only.
    ///
    /// # Errors
    /// When the system can not tell where it listens.
    pub async fn serve(self, control: Arc<dyn Control>, token: Option<TokenFile>) -> std::io::Result<()> {
        let is_loopback = access::is_loopback(self.address()?);
        self.run(Port { control, token: token.map(Arc::new), is_loopback }).await;
        Ok(())
    }

    /// Without end.
    pub(crate) async fn run(self, port: Port) {
        calls::describe();
        let router = router(port);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(converse(stream, peer, router.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin port can not accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// What the handlers know.
#[derive(Clone)]
pub struct Port {
    /// The process.
    pub control: Arc<dyn Control>,
    /// Present: calls that change something bring the token.
    pub token: Option<Arc<TokenFile>>,
    /// Only this machine reaches the port.
    pub is_loopback: bool,
}

impl Port {
    /// What is asked of a caller now.
    pub fn access(&self, now: Instant) -> Access {
        match &self.token {
            Some(file) => file.current(now).map_or(Access::Unusable, Access::Token),
            None if self.is_loopback => Access::Loopback,
            None => Access::Closed,
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

async fn converse(stream: TcpStream, peer: SocketAddr, router: Router) {
    let limit = Limit::new(CONNECTION_TIMEOUT);
    let router = router.layer(Extension(Peer(peer))).layer(Extension(limit.clone()));
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        done = connection => if let Err(error) = done {
            tracing::debug!(%peer, %error, "an admin connection broke");
        },
        () = limit.passed() => tracing::debug!(%peer, "an admin connection took too long"),
    }
}

fn router(port: Port) -> Router {
    let changing = |call, route: MethodRouter<Port>| {
        route.route_layer(from_fn_with_state(Gate { port: port.clone(), call }, calls::guarded))
    };
    let drain = changing("drain", post(calls::drain));
    let cancel_drain = changing("cancel_drain", delete(calls::cancel_drain));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/tier", get(tier))
        .route("/api/v1/plan", get(calls::plan))
        .route("/api/v1/pause", changing("pause", post(calls::pause_all)))
        .route("/api/v1/resume", changing("resume", post(calls::resume_all)))
        .route("/api/v1/pools/{pool}/pause", changing("pause", post(calls::pause)))
        .route("/api/v1/pools/{pool}/resume", changing("resume", post(calls::resume)))
        .route("/api/v1/pools/{pool}/rebalance", changing("rebalance", post(calls::rebalance)))
        .route("/api/v1/pools/{pool}/rehearse", changing("rehearse", post(calls::rehearse)))
        .route("/api/v1/pools/{pool}/endpoints/{endpoint}/drain", drain.merge(cancel_drain).get(calls::left))
        .fallback(nothing_there)
        .method_not_allowed_fallback(another_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(in_time))
        .with_state(port)
}

async fn in_time(Extension(connection): Extension<Arc<Limit>>, mut request: Request, next: Next) -> Response {
    let limit = Limit::new(REQUEST_TIMEOUT);
    request.extensions_mut().insert(Patience { request: limit.clone(), connection });
    tokio::select! {
        biased;
        response = next.run(request) => response,
        () = limit.passed() => {
            let text = format!("the request was not complete within {} s", REQUEST_TIMEOUT.as_secs());
            Failure::new(StatusCode::REQUEST_TIMEOUT, text).into_response()
        }
    }
}

async fn ready(State(port): State<Port>) -> (StatusCode, &'static str) {
    if port.control.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining: this process takes no new clients\n")
    }
}

async fn metrics(State(port): State<Port>) -> Response {
    let text = port.control.metrics();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(port): State<Port>) -> Json<Value> {
    Json(port.control.status())
}

async fn tier(State(port): State<Port>) -> Json<Value> {
    Json(port.control.tier())
}

async fn nothing_there() -> Failure {
    let text = "nothing is here; try /livez, /readyz, /metrics, /api/v1/status or /api/v1/plan (docs/operations.md \
                lists all calls)";
    Failure::new(StatusCode::NOT_FOUND, text)
}

async fn another_method(request: Request) -> Failure {
    let text = format!("{} is not for this path; the Allow header says what is", request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::testing::{LOCAL, SECRET, Served, token_file};

    #[tokio::test]
    async fn readiness_follows_the_gateway_and_liveness_does_not() {
        let served = Served::start(true, None).await;
        assert_eq!(served.get("/readyz").await.status, 200);
        served.asked.set_ready(false);
        assert_eq!(served.get("/readyz").await.status, 503);
        assert_eq!(served.get("/livez").await.status, 200);
        assert_eq!(served.get("/api/v1/status").await.body, "{\"ready\":false}");
        assert_eq!(served.get("/api/v1/tier").await.body, "{\"sessions\":5}");
        assert!(served.get("/metrics").await.body.contains("evenkeel_up 1"));
        let nothing = served.get("/nothing").await;
        assert!(nothing.status == 404 && nothing.error().contains("/readyz"), "{nothing:?}");
    }

    #[tokio::test]
    async fn each_call_reaches_the_gateway_and_says_what_was_done() {
        let served = Served::start(true, None).await;
        let drain = "/api/v1/pools/chat/endpoints/a/drain";
        for (method, path, body, asked, answer) in [
            ("GET", "/api/v1/plan", "", "plan all", r#"{"pools":{"chat":{"moves_total":0}}}"#),
            ("GET", "/api/v1/plan?pool=chat", "", "plan chat", r#"{"pools":{"chat":{"moves_total":0}}}"#),
            (
                "POST",
                "/api/v1/pools/chat/rebalance?dry_run=true",
                "",
                "plan chat",
                r#"{"dry_run":true,"plan":{"moves_total":0},"pool":"chat"}"#,
            ),
            (
                "POST",
                "/api/v1/pools/chat/rebalance",
                "",
                "plan chat, rebalance chat",
                r#"{"dry_run":false,"plan":{"moves_total":0},"pool":"chat"}"#,
            ),
            ("POST", "/api/v1/pools/chat/pause", "", "pause chat", r#"{"paused":["chat"]}"#),
            ("POST", "/api/v1/pause", "", "pause all", r#"{"paused":["chat","echo"]}"#),
            ("POST", "/api/v1/pools/chat/resume", "", "resume chat", r#"{"resumed":["chat"]}"#),
            ("POST", "/api/v1/resume", "", "resume all", r#"{"resumed":["chat","echo"]}"#),
            (
                "POST",
                drain,
                r#"{"deadline": "1m 30s"}"#,
                "drain chat a 90s",
                r#"{"deadline_s":90.0,"draining":true,"endpoint":"a","pool":"chat"}"#,
            ),
            (
                "POST",
                drain,
                "",
                "drain chat a as configured",
                r#"{"deadline_s":30.0,"draining":true,"endpoint":"a","pool":"chat"}"#,
            ),
            ("GET", drain, "", "left chat", r#"{"endpoint":"a","left":0,"pool":"chat"}"#),
            (
                "POST",
                "/api/v1/pools/chat/endpoints/a/drain?wait=100ms&deadline=5s",
                "",
                "drain chat a 5s, left chat",
                r#"{"deadline_s":5.0,"draining":true,"endpoint":"a","left":0,"pool":"chat"}"#,
            ),
            ("POST", "/api/v1/pools/chat/rehearse", "", "rehearse chat", r#"{"pool":"chat","told":7}"#),
            ("DELETE", drain, "", "cancel chat a", r#"{"draining":false,"endpoint":"a","pool":"chat"}"#),
        ] {
            let found = served.call(method, path, LOCAL, body).await;
            assert_eq!((found.status, found.body.as_str()), (200, answer), "{method} {path}");
            assert_eq!(served.asked.take(), asked, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_drain_that_is_waited_for_answers_when_nothing_is_left_or_says_how_much_is() {
        let served = Served::start(true, None).await;
        // Longer than any request that waits for nothing, and than its connection.
        let drain = "/api/v1/pools/chat/endpoints/a/drain?deadline=2m&wait=90s";
        tokio::time::pause();
        served.asked.left.store(800, Relaxed);
        let found = served.call("POST", drain, LOCAL, "").await;
        assert_eq!(found.status, 200, "{found:?}");
        assert!(found.body.contains("\"left\":0"), "{found:?}");
        served.asked.left.store(1_000_000, Relaxed);
        let found = served.call("POST", drain, LOCAL, "").await;
        assert_eq!(found.status, 504, "{found:?}");
        let body: Value = serde_json::from_str(&found.body).unwrap();
        let left = body["left"].as_u64().unwrap();
        assert!(left > 0 && found.error().starts_with(&format!("{left} connections are left on chat/a")));
    }

    #[tokio::test]
    async fn names_in_a_path_are_percent_decoded() {
        let served = Served::start(true, None).await;
        for (written, meant) in [
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("10.0.0.1%3A8080", "10.0.0.1:8080"),
            ("%5B%3A%3A1%5D:8080", "[::1]:8080"),
            ("a%2Fb%3Fc%23d%25", "a/b?c#d%"),
            ("p%C3%B6d", "p\u{f6}d"),
            ("..%2F..%2Fpause", "../../pause"),
            ("a+b", "a+b"),
        ] {
            let path = format!("/api/v1/pools/chat/endpoints/{written}/drain?deadline=5s");
            assert_eq!(served.call("POST", &path, LOCAL, "").await.status, 200, "{written}");
            assert_eq!(served.asked.take(), format!("drain chat {meant} 5s"));
        }
        let broken = served.call("POST", "/api/v1/pools/chat/endpoints/%ff/drain", LOCAL, "").await;
        assert!(broken.status == 400 && broken.error().contains("UTF-8"), "{broken:?}");
    }

    #[tokio::test]
    async fn a_mistake_is_named_and_nothing_is_changed() {
        let served = Served::start(true, None).await;
        let drain = |query: &str| format!("/api/v1/pools/chat/endpoints/a/drain{query}");
        let large = format!("{{\"deadline\": \"{}\"}}", "1".repeat(BODY_BYTES_MAX));
        for (method, path, body, status, why) in [
            ("POST", "/api/v1/pools/nope/pause".to_owned(), "", 404, "pools: chat, echo"),
            ("POST", "/api/v1/pools/nope/rebalance".into(), "", 404, "pools: chat, echo"),
            ("GET", "/api/v1/plan?pool=nope".into(), "", 404, "pools: chat, echo"),
            ("GET", "/api/v1/plan?pol=chat".into(), "", 400, "known here: pool"),
            ("POST", "/api/v1/pools/chat/rebalance?dryrun=true".into(), "", 400, "known here: dry_run"),
            ("POST", "/api/v1/pools/chat/rebalance?dry_run=yes".into(), "", 400, "expected true or false"),
            ("POST", "/api/v1/pause?pool=chat".into(), "", 400, "known here: none"),
            ("POST", drain("?deadline=soon"), "", 422, "expected for example 100ms"),
            ("POST", drain("?deadline="), "", 422, "expected for example 100ms"),
            ("POST", drain("?deadline=30"), "", 422, "expected for example 100ms"),
            ("POST", drain("?deadline=99ms"), "", 422, "expected 100ms to 1d"),
            ("POST", drain("?deadline=2days"), "", 422, "expected 100ms to 1d"),
            ("POST", drain("?wait"), "", 422, "wait: \"\" is not a duration"),
            ("POST", drain("?wait=50ms"), "", 422, "wait is 50ms, expected 100ms to 1h"),
            ("POST", drain("?wait=2h"), "", 422, "wait is 2h, expected 100ms to 1h"),
            ("POST", "/api/v1/pools/nope/rehearse".into(), "", 404, "pools: chat, echo"),
            ("POST", "/api/v1/pools/chat/rehearse?dry_run=true".into(), "", 400, "known here: none"),
            ("GET", "/api/v1/pools/nope/endpoints/a/drain".into(), "", 404, "pools: chat, echo"),
            ("POST", drain("?deadline=5s"), r#"{"deadline":"5s"}"#, 400, "in one of them"),
            ("POST", drain(""), "not JSON", 400, r#"{"deadline": "30s"}"#),
            ("POST", drain(""), r#"{"deadline":"soon"}"#, 422, "is not a duration"),
            ("POST", drain(""), r#"{"deadline":30}"#, 422, "invalid type"),
            ("POST", drain(""), r#"{"dedline":"30s"}"#, 422, "unknown field"),
            ("POST", drain(""), &large, 413, "16 KiB"),
            ("POST", "/api/v1/pools/chat/endpoints/nope/drain".into(), "", 404, "there are: a"),
            ("DELETE", "/api/v1/pools/chat/endpoints/nope/drain".into(), "", 404, "there are: a"),
            ("PUT", drain(""), "", 405, "Allow"),
            ("GET", "/api/v1/pools/chat/rehearse".into(), "", 405, "Allow"),
            ("GET", "/api/v1/pause".into(), "", 405, "Allow"),
            ("POST", "/api/v1/status".into(), "", 405, "Allow"),
            ("POST", "/api/v1/pools/chat".into(), "", 404, "docs/operations.md"),
        ] {
            let found = served.call(method, &path, LOCAL, body).await;
            assert_eq!(found.status, status, "{method} {path}: {found:?}");
            assert!(found.error().contains(why), "{method} {path}: {found:?}");
            assert_eq!(found.head.to_lowercase().contains("\r\nallow: "), status == 405, "{found:?}");
            let asked = served.asked.take();
            assert!(asked.is_empty() || status == 404, "{method} {path}: {asked}");
        }
    }

    #[tokio::test]
    async fn reading_is_open_and_changing_is_not() {
        let bearer = format!("Host: evenkeel.example\r\nAuthorization: Bearer {SECRET}\r\n");
        let wrong = bearer.replace("0123", "3210");
        let page = format!("{LOCAL}Origin: https://evil.example\r\n");
        let named = "Host: evil.example\r\n";
        for (is_loopback, with_token, headers, status, why) in [
            (true, false, LOCAL, 200, ""),
            (true, false, named, 403, "localhost"),
            (true, false, &page, 403, "web page"),
            (true, true, LOCAL, 401, "Authorization: Bearer"),
            (true, true, &wrong, 401, "not the token"),
            (true, true, &bearer, 200, ""),
            (false, false, LOCAL, 403, "admin.token_file"),
            (false, false, &bearer, 403, "admin.token_file"),
            (false, true, LOCAL, 401, "Authorization: Bearer"),
            (false, true, &bearer, 200, ""),
        ] {
            let (_folder, file) = token_file();
            let served = Served::start(is_loopback, with_token.then_some(file)).await;
            for path in ["/livez", "/readyz", "/metrics", "/api/v1/status", "/api/v1/tier", "/api/v1/plan"] {
                assert_eq!(served.call("GET", path, headers, "").await.status, 200, "{path}");
            }
            served.asked.take();
            for (method, path) in [
                ("POST", "/api/v1/pause"),
                ("POST", "/api/v1/resume"),
                ("POST", "/api/v1/pools/chat/pause"),
                ("POST", "/api/v1/pools/chat/resume"),
                ("POST", "/api/v1/pools/chat/rebalance"),
                ("POST", "/api/v1/pools/chat/rehearse"),
                ("POST", "/api/v1/pools/chat/endpoints/a/drain"),
                ("DELETE", "/api/v1/pools/chat/endpoints/a/drain"),
            ] {
                let found = served.call(method, path, headers, "").await;
                assert_eq!(found.status, status, "{is_loopback} {with_token} {headers} {path}: {found:?}");
                let challenged = found.head.to_lowercase().contains("www-authenticate: bearer");
                assert_eq!(challenged, status == 401, "{found:?}");
                if status == 200 {
                    assert_ne!(served.asked.take(), "");
                } else {
                    assert!(found.error().contains(why) && !found.body.contains("0123"), "{found:?}");
                    assert_eq!(served.asked.take(), "", "a refused call changes nothing");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_is_served_when_another_ends() {
        let served = Served::start(true, None).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(served.address).await.unwrap());
        }
        let (answer, ()) = tokio::join!(served.get("/livez"), async { drop(idle.pop()) });
        assert_eq!(answer.status, 200);
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_answered_in_time() {
        let served = Served::start(true, None).await;
        let head =
            format!("POST /api/v1/pools/chat/endpoints/a/drain HTTP/1.1\r\n{LOCAL}Content-Length: 9\r\n\r\n");
        tokio::time::pause();
        let found = served.send(&head).await;
        assert!(found.status == 408 && found.error().contains("within 10 s"), "{found:?}");
    }
}
