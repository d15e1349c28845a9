//! The gateway under test: its configuration, its process, its own view of itself.
//!
//! It runs as a child, so that descriptors, CPU time and memory are its own. What it is asked for is only what an
//! operator would ask for: the address file, `/api/v1/status`, the commands beside it, SIGTERM.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::child::Child;
use crate::recording::MoveClose;

/// Longest wait for the gateway to listen and be ready.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Longest wait for it to end after SIGTERM; its grace is 4 s.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    /// Where clients connect.
    pub listener: SocketAddr,
    /// Where operators ask.
    pub admin: Admin,
}

/// A gateway's admin port.
#[derive(Clone, Copy, Debug)]
pub struct Admin(SocketAddr);

#[derive(Deserialize)]
struct Addresses {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts it with the pool of `pool` keys and the endpoints of `list`; returns when it is ready.
    ///
    /// # Errors
    /// With the gateway's last words, when it ends or is not ready in time.
    pub async fn start(folder: &Path, pool: &Map<String, Value>, list: &Path) -> anyhow::Result<Self> {
        Self::configured(folder, &config_of(pool, list)).await
    }

    /// Starts it with this configuration; returns when it is ready.
    ///
    /// # Errors
    /// With the gateway's last words, when it ends or is not ready in time.
    pub async fn configured(folder: &Path, config_text: &Value) -> anyhow::Result<Self> {
        Self::configured_as(folder, config_text, &[]).await
    }

    /// The same with these variables in its environment.
    ///
    /// # Errors
    /// With the gateway's last words, when it ends or is not ready in time.
    pub async fn configured_as(
        folder: &Path,
        config_text: &Value,
        variables: &[(OsString, OsString)],
    ) -> anyhow::Result<Self> {
        let (config, addresses) = (folder.join("evenkeel.yaml"), folder.join("addresses.json"));
        // JSON is YAML, and every value stays what it is.
        fs::write(&config, serde_json::to_string_pretty(config_text)?)
            .with_context(|| format!("cannot write {}", config.display()))?;
        if addresses.exists() {
            fs::remove_file(&addresses).with_context(|| format!("cannot remove {}", addresses.display()))?;
        }
        let args: Vec<OsString> = ["gateway".into(), "--config".into(), config.into()]
            .into_iter()
            .chain(["--address-file".into(), addresses.clone().into()])
            .collect();
        let mut child = Child::spawn_silent(&args, variables, folder.join("gateway.log"))?;
        match timeout(START_WITHIN, listening(&mut child, &addresses)).await {
            Ok(Ok((listener, admin))) => Ok(Self { child, listener, admin }),
            Ok(Err(e)) => Err(e),
            Err(_) => {
                bail!("the gateway was not ready within {START_WITHIN:?}; it said:\n{}", child.last_words())
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// How it ended, if it has ended by itself.
    pub fn died(&mut self) -> Option<String> {
        let status = self.child.ended()?;
        Some(format!("the gateway ended by itself ({status}); it said:\n{}", self.child.last_words()))
    }

    /// `/api/v1/status`.
    ///
    /// # Errors
    /// When it cannot be asked or does not answer with JSON.
    pub async fn status(&self) -> anyhow::Result<Value> {
        self.admin.call("GET", "/api/v1/status").await
    }

    /// An operator's command, `pause` or `resume`: `POST /api/v1/COMMAND`.
    ///
    /// # Errors
    /// When it cannot be given or is refused.
    pub async fn command(&self, command: &str) -> anyhow::Result<()> {
        let answer = self.admin.call("POST", &format!("/api/v1/{command}")).await;
        answer.map(|_| ()).with_context(|| format!("the gateway did not take the command {command}"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.child.terminate();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system refuses to tell.
    pub async fn ended(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    /// SIGTERM, and the end within the drain time.
    ///
    /// # Errors
    /// A line for the report, when it does not end in time or not with 0.
    pub async fn stop(mut self) -> Result<(), String> {
        self.child.terminate();
        match timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("the gateway ended with {status} after SIGTERM, expected 0")),
            Ok(Err(e)) => Err(format!("the gateway's end could not be seen: {e}")),
            Err(_) => Err(format!("the gateway did not end within {STOP_WITHIN:?} after SIGTERM")),
        }
    }
}

/// The pool's keys of the baseline: placement by `policy`, nothing moved for balance. Drains and everything else, such as
/// admission, stay as they are.
pub fn without_rebalance(pool: &Map<String, Value>, policy: &str) -> Map<String, Value> {
    let mut pool = pool.clone();
    pool.insert("balance".into(), policy.into());
    let rebalance = pool.entry("rebalance").or_insert_with(|| json!({}));
    if let Some(keys) = rebalance.as_object_mut() {
        keys.insert("enabled".into(), false.into());
    }
    pool
}

/// The close by which a pool's moves can be told from other closes.
pub fn move_close(pool: &Map<String, Value>) -> MoveClose {
    let close = pool.get("move").and_then(|moves| moves.get("close"));
    let code = close.and_then(|close| close.get("code")?.as_u64()).and_then(|code| u16::try_from(code).ok());
    let reason = close.and_then(|close| close.get("reason")?.as_str());
    MoveClose { code: code.unwrap_or(1012), reason: reason.unwrap_or("rebalance").to_owned() }
}

fn config_of(pool: &Map<String, Value>, list: &Path) -> Value {
    let mut pool = pool.clone();
    let list: PathBuf = std::path::absolute(list).unwrap_or_else(|_| list.to_owned());
    pool.insert("endpoints_file".into(), list.to_string_lossy().into());
    json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "routes": [{"path": "/", "pool": "demo"}],
        "pools": {"demo": pool},
        "admin": {"address": "127.0.0.1:0"},
        "shutdown": {"grace": "4s", "propagation": "0s"},
        "log": {"level": "info"},
    })
}

async fn listening(child: &mut Child, addresses: &Path) -> anyhow::Result<(SocketAddr, Admin)> {
    loop {
        if let Some(status) = child.ended() {
            bail!("the gateway ended at start ({status}); it said:\n{}", child.last_words());
        }
        if let Ok(text) = fs::read_to_string(addresses) {
            let found: Addresses =
                serde_json::from_str(&text).context("the gateway's address file is not what was expected")?;
            let listener =
                *found.listeners.first().context("the gateway's address file names no listener")?;
            let admin = Admin(found.admin);
            let status = admin.call("GET", "/api/v1/status").await;
            if status.is_ok_and(|status| status["ready"] == true) {
                return Ok((listener, admin));
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

impl Admin {
    /// Of a gateway that runs elsewhere.
    pub fn at(address: SocketAddr) -> Self {
        Self(address)
    }

    /// Where it is.
    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// A call that answers with JSON.
    ///
    /// # Errors
    /// When it cannot be asked, or does not answer with 200 and JSON.
    pub async fn call(self, method: &str, path: &str) -> anyhow::Result<Value> {
        let answer = self.ask(method, path).await?;
        serde_json::from_slice(body(&answer)?).context("the answer is not JSON")
    }

    /// `/metrics`, as text.
    ///
    /// # Errors
    /// When it cannot be asked or does not answer with 200.
    pub async fn metrics(self) -> anyhow::Result<String> {
        let answer = self.ask("GET", "/metrics").await?;
        Ok(String::from_utf8_lossy(body(&answer)?).into_owned())
    }

    /// One request on a connection of its own; the admin port answers with a small body.
    async fn ask(self, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        let exchange = async {
            let mut socket = TcpStream::connect(self.0).await?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                self.0
            );
            socket.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            socket.take(4 << 20).read_to_end(&mut answer).await?;
            anyhow::Ok(answer)
        };
        timeout(Duration::from_secs(5), exchange).await.context("no answer within 5 s")?
    }
}

fn body(answer: &[u8]) -> anyhow::Result<&[u8]> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("the answer has no head")?;
    let (status, body) = (answer.split(|byte| *byte == b' ').nth(1).unwrap_or_default(), &answer[head + 4..]);
    if status != b"200" {
        let (status, said) = (String::from_utf8_lossy(status), String::from_utf8_lossy(body));
        bail!("the answer is {status}, expected 200; it says {:.200}", said.trim());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_baseline_changes_policy_and_rebalancing_and_nothing_else() {
        let own = pool(
            r#"{"rebalance": {"min_age": "2s"}, "move": {"close": {"code": 4200}}, "admission": {"burst": 5},
                "balance": "consistent_hash", "hash": {"query": "client"}}"#,
        );
        let baseline = without_rebalance(&own, "random");
        assert_eq!(baseline["balance"], "random");
        assert_eq!(baseline["rebalance"], json!({"min_age": "2s", "enabled": false}));
        for kept in ["move", "admission", "hash"] {
            assert_eq!(baseline[kept], own[kept]);
        }
        assert_eq!(without_rebalance(&pool("{}"), "random")["rebalance"], json!({"enabled": false}));
    }

    #[test]
    fn the_pools_keys_reach_the_gateway_as_they_are() {
        let own = pool(
            r#"{"placement": {"panic_threshold": 0.5}, "admission": {"sessions_per_second": 300}, "balance": "p2c",
                "hash": {"query": "client"}, "tenant": {"header": "x"}, "websocket": {"message_bytes_max": 9}}"#,
        );
        let config = config_of(&own, Path::new("list.yaml"));
        for (key, value) in &own {
            assert_eq!(config["pools"]["demo"][key], *value, "{key}");
        }
    }

    #[test]
    fn moves_are_known_by_the_configured_close() {
        let default = MoveClose { code: 1012, reason: "rebalance".into() };
        assert_eq!(move_close(&pool("{}")), default);
        let own = pool(r#"{"move": {"close": {"code": 4200, "reason": "bye"}}}"#);
        assert_eq!(move_close(&own), MoveClose { code: 4200, reason: "bye".into() });
    }

    #[test]
    fn an_answer_that_is_not_200_is_an_error_that_tells_what_it_says() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        let busy = body(b"HTTP/1.1 503 Busy\r\n\r\nno node").unwrap_err().to_string();
        assert!(busy.contains("503") && busy.contains("no node"), "{busy}");
        assert!(body(b"").is_err());
    }
}
