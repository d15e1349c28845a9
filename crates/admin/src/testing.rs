//! What the tests of this crate share: a process that writes down what it is asked, and a client made of bytes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::{EndpointId, PoolName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::server::Port;
use crate::{Admin, Control, Token, TokenFile, Unknown};

/// A token of the right size.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The header of a caller on the same machine.
pub const LOCAL: &str = "Host: 127.0.0.1:9900\r\n";

/// A file with [`SECRET`]; it lives as long as its folder.
pub fn token_file() -> (tempfile::TempDir, TokenFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, SECRET).unwrap();
    let file = TokenFile::open(&path, Instant::now()).unwrap();
    (folder, file)
}

/// [`SECRET`] as a token.
pub fn token() -> Token {
    token_file().1.current(Instant::now()).unwrap()
}

/// A process with the pools `chat` and `echo`, each with the endpoint `a` and any that has a `:`, `/` or `+`.
#[derive(Debug, Default)]
pub struct Asked {
    /// What the next look at an endpoint finds.
    pub left: AtomicU64,
    unready: AtomicBool,
    calls: Mutex<Vec<String>>,
}

impl Asked {
    pub fn set_ready(&self, ready: bool) {
        self.unready.store(!ready, Relaxed);
    }

    /// What was asked since the last time.
    pub fn take(&self) -> String {
        std::mem::take(&mut *self.calls.lock().unwrap()).join(", ")
    }

    fn pools(&self, what: &str, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown> {
        self.calls.lock().unwrap().push(format!("{what} {}", pool.map_or("all", PoolName::as_str)));
        let known = ["chat", "echo"].map(PoolName::from).to_vec();
        match pool {
            None => Ok(known),
            Some(pool) if known.contains(pool) => Ok(vec![pool.clone()]),
            Some(pool) => Err(Unknown(format!("there is no pool {pool}; pools: chat, echo"))),
        }
    }

    fn endpoint(&self, what: &str, endpoint: &EndpointId, how: &str) -> Result<(), Unknown> {
        if endpoint.as_str() == "nope" {
            return Err(Unknown("there is no endpoint nope; there are: a".into()));
        }
        self.calls.lock().unwrap().push(format!("{what} {endpoint}{how}"));
        Ok(())
    }
}

impl Control for Asked {
    fn is_ready(&self) -> bool {
        !self.unready.load(Relaxed)
    }

    fn metrics(&self) -> String {
        "evenkeel_up 1\n".into()
    }

    fn status(&self) -> Value {
        json!({"ready": self.is_ready()})
    }

    fn tier(&self) -> Value {
        json!({"sessions": 5})
    }

    fn plan(&self, pool: Option<&PoolName>) -> Result<Value, Unknown> {
        self.pools("plan", pool).map(|_| json!({"chat": {"moves_total": 0}}))
    }

    fn rebalance(&self, pool: &PoolName) -> Result<(), Unknown> {
        self.pools("rebalance", Some(pool)).map(drop)
    }

    fn rehearse(&self, pool: &PoolName) -> Result<u64, Unknown> {
        self.pools("rehearse", Some(pool)).map(|_| 7)
    }

    fn pause(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown> {
        self.pools("pause", pool)
    }

    fn resume(&self, pool: Option<&PoolName>) -> Result<Vec<PoolName>, Unknown> {
        self.pools("resume", pool)
    }

    fn drain(
        &self,
        pool: &PoolName,
        endpoint: &EndpointId,
        deadline: Option<Duration>,
    ) -> Result<Duration, Unknown> {
        let how = deadline.map_or(" as configured".into(), |deadline| format!(" {deadline:?}"));
        self.endpoint(&format!("drain {pool}"), endpoint, &how)?;
        Ok(deadline.unwrap_or(Duration::from_secs(30)))
    }

    /// One less at each look.
    fn left(&self, pool: &PoolName, _: &EndpointId) -> Result<u64, Unknown> {
        self.pools("left", Some(pool))?;
        let one_less = |left: u64| Some(left.saturating_sub(1));
        Ok(self.left.fetch_update(Relaxed, Relaxed, one_less).unwrap_or_default())
    }

    fn cancel_drain(&self, pool: &PoolName, endpoint: &EndpointId) -> Result<(), Unknown> {
        self.endpoint(&format!("cancel {pool}"), endpoint, "")
    }
}

/// A port that is served until the test ends.
pub struct Served {
    pub address: SocketAddr,
    pub asked: Arc<Asked>,
    server: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub struct Found {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Found {
    /// The text of `{"error": text}`.
    pub fn error(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        body["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

impl Served {
    /// On loopback, and as if it were not when `is_loopback` is false.
    pub async fn start(is_loopback: bool, token: Option<TokenFile>) -> Self {
        let admin = Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = admin.address().unwrap();
        let asked = Arc::new(Asked::default());
        let port = Port { control: asked.clone(), token: token.map(Arc::new), is_loopback };
        Self { address, asked, server: tokio::spawn(admin.run(port)) }
    }

    pub async fn get(&self, path: &str) -> Found {
        self.call("GET", path, LOCAL, "").await
    }

    /// `headers`: each with its line end.
    pub async fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Found {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        self.send(&head).await
    }

    pub async fn send(&self, request: &str) -> Found {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A body that was not read ends the connection with a reset, behind the answer.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        Found { status: head[9..12].parse().unwrap(), head: format!("{head}\r\n"), body: body.to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}
