//! A gateway process for one test; killed by its own handle when the test is over.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::http::{UPGRADE, status};
use crate::support::{Endpoint, Wire, eventually, wait_until};

/// A running `evenkeel gateway`.
pub struct Process {
    child: Child,
    /// Its first listener.
    pub address: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    folder: tempfile::TempDir,
}

impl Process {
    /// Starts it and waits until it listens.
    pub fn start(config: &str) -> Self {
        Self::start_as(config, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_as(config: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, addresses) = (folder.path().join("evenkeel.yaml"), folder.path().join("addresses.json"));
        write(&file, config);
        let log = File::create(folder.path().join("log")).expect("the folder is ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.arg("gateway").arg("--config").arg(&file).arg("--address-file").arg(&addresses);
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stderr(log);
        command.envs(variables.iter().copied());
        let mut child = command.spawn().expect("the binary starts");
        let text = eventually("the address file", || {
            let ended = child.try_wait().expect("a child can be looked at");
            let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "it ended: {ended:?}: {}", log());
            std::fs::read_to_string(&addresses).ok()
        });
        let said: serde_json::Value = serde_json::from_str(&text).expect("the address file is JSON");
        let address = |value: &serde_json::Value| {
            value.as_str().and_then(|text| text.parse().ok()).expect("an address")
        };
        let (address, admin) = (address(&said["listeners"][0]), address(&said["admin"]));
        Self { child, address, admin, folder }
    }

    /// Replaces its configuration as editors and Kubernetes do: by a rename.
    pub fn configure(&self, config: &str) {
        write(&self.folder.path().join("evenkeel.yaml"), config);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("the process ends", || child.try_wait().expect("a child can be looked at")).code()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("the log is a file")
    }

    /// A client's connection.
    pub fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// A session: client, endpoint.
    pub fn open(&self, endpoint: &Endpoint) -> (Wire, Wire) {
        let mut client = self.connect();
        client.send(UPGRADE);
        let (upstream, _) = endpoint.accept_websocket();
        assert_eq!(status(&client.head()), 101);
        (client, upstream)
    }

    /// Asks the admin port: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut wire = Wire::connect(self.admin);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
        let (bytes, _) = wire.rest();
        let text = String::from_utf8(bytes).expect("the admin port speaks text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
        (status(head), body.to_owned())
    }

    /// Waits until a metric, named with its labels, is at least `value`.
    pub fn wait_for_metric(&self, name: &str, value: u64) {
        let found = |line: &str| line.strip_prefix(name)?.trim().parse::<u64>().ok();
        wait_until(name, || self.get("/metrics").1.lines().filter_map(found).any(|found| found >= value));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs `evenkeel` to its end: exit code, standard output, standard error.
pub fn evenkeel(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("EVENKEEL_ADMIN")
        .env_remove("EVENKEEL_REPLICAS")
        .env_remove("EVENKEEL_TOKEN_FILE")
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Writes a file beside its place and renames it, so that no half of it is ever read.
pub fn write(path: &Path, text: &str) {
    let aside = path.with_extension("aside");
    std::fs::write(&aside, text).expect("the folder is ours");
    std::fs::rename(&aside, path).expect("the folder is ours");
}
