//! The proxies that are compared: the gateway, and HAProxy in TCP mode, both with two threads and the same nodes.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::gateway::Gateway;

/// Threads of each.
const THREADS: u32 = 2;
/// Looks for HAProxy's port, 20 ms apart.
const LOOKS: u32 = 250;

/// A running proxy.
#[derive(Debug)]
pub enum Peer {
    /// The gateway under test.
    Gateway(Box<Gateway>),
    /// HAProxy, and its port.
    Haproxy(Box<Child>, SocketAddr),
}

impl Peer {
    /// The gateway, in front of `nodes`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn gateway(folder: &Path, nodes: &[SocketAddr]) -> anyhow::Result<Self> {
        let endpoints: Vec<_> = nodes.iter().map(|node| json!({"address": node.to_string()})).collect();
        let list = folder.join("endpoints.yaml");
        fs::write(&list, serde_json::to_string(&endpoints)?)?;
        let config = json!({
            "listeners": [{"address": "127.0.0.1:0", "protocol": "amqp", "routes": [{"pool": "nodes"}]}],
            "pools": {"nodes": {"endpoints_file": std::path::absolute(list)?.to_string_lossy()}},
            "admin": {"address": "127.0.0.1:0"},
            "shutdown": {"grace": "4s", "propagation": "0s"},
            "log": {"level": "warn"},
            "workers": THREADS,
        });
        Ok(Self::Gateway(Box::new(Gateway::configured(folder, &config).await?)))
    }

    /// HAProxy, in front of `nodes`.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn haproxy(program: &Path, folder: &Path, nodes: &[SocketAddr]) -> anyhow::Result<Self> {
        // It can not tell which port the system has picked, so one is picked for it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.join("haproxy.cfg");
        fs::write(&config, haproxy_config(address, nodes))?;
        let log = fs::File::create(folder.join("haproxy.log"))?;
        let mut process = Command::new(program)
            .args(["-db".as_ref(), "-f".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        for _ in 0..LOOKS {
            if let Some(status) = process.try_wait()? {
                let said = fs::read_to_string(folder.join("haproxy.log")).unwrap_or_default();
                bail!("haproxy ended at start ({status}); it said:\n{said}");
            }
            if TcpStream::connect(address).await.is_ok() {
                return Ok(Self::Haproxy(Box::new(process), address));
            }
            sleep(Duration::from_millis(20)).await;
        }
        bail!("haproxy does not listen on {address}")
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Gateway(gateway) => gateway.listener,
            Self::Haproxy(_, address) => *address,
        }
    }

    /// Its process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let pid = match self {
            Self::Gateway(gateway) => gateway.pid(),
            Self::Haproxy(process, _) => process.id(),
        };
        pid.context("a proxy has ended by itself")
    }
}

/// Where HAProxy is installed, if it is.
pub fn find_haproxy() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join("haproxy"))
        .find(|program| program.is_file())
}

fn haproxy_config(address: SocketAddr, nodes: &[SocketAddr]) -> String {
    let mut text = format!(
        "global\n    nbthread {THREADS}\n    maxconn 9500\n\ndefaults\n    mode tcp\n    backlog 4096\n    \
         maxconn 9500\n    balance leastconn\n    timeout connect 10s\n    timeout client 24h\n    \
         timeout server 24h\n    timeout tunnel 24h\n\nfrontend clients\n    bind {address}\n    \
         default_backend nodes\n\nbackend nodes\n"
    );
    for (n, node) in nodes.iter().enumerate() {
        text += &format!("    server n{n} {node}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_gets_every_node_and_as_many_threads_as_the_gateway() {
        let nodes = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = haproxy_config(SocketAddr::from(([127, 0, 0, 1], 9)), &nodes);
        for line in
            ["nbthread 2", "mode tcp", "bind 127.0.0.1:9", "server n0 127.0.0.1:1", "server n1 127.0.0.1:2"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
