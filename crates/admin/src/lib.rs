//! The operator's port: liveness, readiness, metrics, status. On loopback unless configured otherwise.
//!
//! It knows nothing of the gateway: the binary hands it closures. Calls that change something come later.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use tokio::net::TcpListener;

/// What the port shows.
pub struct Sources {
    /// True while the process should get new clients.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// Everything `/api/v1/status` says.
    pub status: Box<dyn Fn() -> Value + Send + Sync>,
    /// The metrics.
    pub metrics: PrometheusHandle,
}

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

    /// Serves until dropped.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, sources: Sources) -> std::io::Result<()> {
        axum::serve(self.listener, router(sources)).await
    }
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "try /livez, /readyz, /metrics or /api/v1/status\n") })
        .with_state(Arc::new(sources))
}

async fn ready(State(sources): State<Arc<Sources>>) -> (StatusCode, &'static str) {
    if (sources.ready)() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining: this process takes no new clients\n")
    }
}

async fn metrics(State(sources): State<Arc<Sources>>) -> Response {
    let text = sources.metrics.render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(sources): State<Arc<Sources>>) -> Json<Value> {
    Json((sources.status)())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_the_gateway_and_liveness_does_not() {
        let is_ready = Arc::new(AtomicBool::new(true));
        let shown = is_ready.clone();
        let recorder = PrometheusBuilder::new().build_recorder();
        let sources = Sources {
            ready: Box::new(move || shown.load(Relaxed)),
            status: Box::new(|| serde_json::json!({"ready": true})),
            metrics: recorder.handle(),
        };
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.address().unwrap();
        let server = tokio::spawn(admin.serve(sources));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        is_ready.store(false, Relaxed);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/api/v1/status").await.ends_with(r#"{"ready":true}"#));
        assert!(get(address, "/nothing").await.contains("/readyz"));
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        server.abort();
    }
}
