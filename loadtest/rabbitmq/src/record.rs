//! `cluster.json`: what a later run has to know of a cluster that was left running, and how it is ended from that.
//!
//! It is written before the first process and after each, so that a start that was interrupted can be cleaned up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::process::Process;

/// Name of the file in a cluster's folder.
const FILE: &str = "cluster.json";
/// Longest wait for a node to end after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(20);

/// A cluster as it is written down.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Its nodes.
    pub nodes: Vec<NodeRecord>,
    /// Port of its own epmd.
    pub epmd_port: u16,
    /// Process of its own epmd; 0: none.
    pub epmd_pid: u32,
    /// Start of that, clock ticks since boot.
    pub epmd_started: u64,
    /// What its nodes and `rabbitmqctl` know each other by. Loopback only, and for this one cluster.
    pub cookie: String,
}

/// A node as it is written down.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeRecord {
    /// As Erlang knows it: `ek1@localhost`.
    pub name: String,
    /// Where it serves AMQP on 127.0.0.1.
    pub amqp_port: u16,
    /// Where it speaks with other nodes.
    pub dist_port: u16,
    /// Its process; 0: it was not started.
    pub pid: u32,
    /// Start of that, clock ticks since boot.
    pub started: u64,
}

impl Record {
    /// Reads that of the cluster in `folder`; `None`: there is none.
    ///
    /// # Errors
    /// When the file is not what this program writes.
    pub fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        let file = path(folder);
        let Ok(text) = fs::read_to_string(&file) else {
            return Ok(None);
        };
        let record = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `rabbitmq up` writes", file.display()))?;
        Ok(Some(record))
    }

    /// Whether the node's process is there still.
    pub fn alive(node: &NodeRecord) -> bool {
        node.pid != 0 && Process::known(node.pid, node.started).alive()
    }

    pub(crate) fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let (file, new) = (path(folder), folder.join("cluster.json.new"));
        let text = serde_json::to_string_pretty(self).context("a cluster's record is plain text")?;
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        // A reader sees the old or the new, never a part.
        fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) fn remove(folder: &Path) {
        // What is not there needs no removal.
        let _ = fs::remove_file(path(folder));
    }
}

/// Ends the cluster that an earlier run left in `folder`, whole or half-started; answers how many processes were alive.
/// Its data and logs stay.
///
/// # Errors
/// When the record is not ours, or a process survives SIGKILL.
pub fn down(folder: &Path) -> anyhow::Result<usize> {
    let Some(record) = Record::load(folder)? else {
        return Ok(0);
    };
    let nodes = record.nodes.iter().filter(|node| node.pid != 0);
    let mut processes: Vec<Process> = nodes.map(|node| Process::known(node.pid, node.started)).collect();
    if record.epmd_pid != 0 {
        processes.push(Process::known(record.epmd_pid, record.epmd_started));
    }
    processes.retain_mut(Process::alive);
    let found = processes.len();
    for process in &mut processes {
        process.signal(rustix::process::Signal::TERM);
    }
    for process in &mut processes {
        process.end(END_WITHIN)?;
    }
    Record::remove(folder);
    Ok(found)
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_half_started_cluster_is_ended_by_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut node = Process::start(command).unwrap();
        let started = NodeRecord {
            name: "ek1@localhost".into(),
            pid: node.pid,
            started: node.started,
            ..NodeRecord::default()
        };
        let never = NodeRecord { name: "ek2@localhost".into(), ..NodeRecord::default() };
        let record = Record { nodes: vec![started, never], ..Record::default() };
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path()).unwrap(), Some(record));
        assert_eq!(down(folder.path()).unwrap(), 1);
        assert!(!node.alive());
        assert_eq!(down(folder.path()).unwrap(), 0, "the record is gone with the cluster");
    }

    #[test]
    fn a_pid_that_belongs_to_somebody_else_now_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut other = Process::start(command).unwrap();
        let stale = NodeRecord { pid: other.pid, started: other.started - 1, ..NodeRecord::default() };
        Record { nodes: vec![stale], ..Record::default() }.save(folder.path()).unwrap();
        assert_eq!(down(folder.path()).unwrap(), 0);
        assert!(other.alive());
        other.kill().unwrap();
    }

    #[test]
    fn a_file_that_is_no_record_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(format!("{:#}", down(folder.path()).unwrap_err()).contains("cluster.json"));
    }
}
