//! One node: its folder, its configuration, the command that becomes it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cluster::Lifetime;
use crate::install::Install;
use crate::ports::Port;
use crate::process::Process;

/// Memory from which the broker blocks publishers, bytes. The default, a share of the machine, would be for each node.
const MEMORY: u64 = 768 << 20;
/// Free disk space below which it does so, bytes.
const DISK_FREE: u64 = 50 << 20;
/// Size of a write-ahead log of quorum queues, bytes. The default is 512 MiB, of each node.
const WAL: u64 = 64 << 20;

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    pub(crate) amqp: Port,
    pub(crate) dist: Port,
    pub(crate) process: Option<Process>,
}

impl Node {
    /// Node number `number`, from 1 on, of the cluster in `folder`; it does not run yet.
    ///
    /// # Errors
    /// When there is no port or its folder cannot be written.
    pub(crate) fn create(folder: &Path, number: usize, cookie: &str) -> anyhow::Result<Self> {
        let short = format!("ek{number}");
        let folder = folder.join(&short);
        let home = folder.join("home");
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        write_cookie(&home, cookie)?;
        fs::write(folder.join("enabled_plugins"), "[].\n").context("cannot write the list of plugins")?;
        Ok(Self {
            name: format!("{short}@localhost"),
            folder,
            amqp: Port::pick()?,
            dist: Port::pick()?,
            process: None,
        })
    }

    /// As Erlang knows it: `ek1@localhost`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves AMQP; the same for the cluster's life.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.amqp.number()).into()
    }

    /// Its process while it is started: running, booting or paused.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// Its own log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log").join(format!("{}.log", self.name))
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Starts the process; with `seed`, a node that has no data yet joins the cluster of that one.
    pub(crate) fn launch(
        &mut self,
        install: &Install,
        epmd_port: u16,
        lifetime: Lifetime,
        seed: Option<&str>,
    ) -> anyhow::Result<()> {
        let config = self.folder.join("advanced.config");
        fs::write(&config, self.config(seed))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let home = self.home();
        let mut command = match lifetime {
            Lifetime::Ours => install.mortal("rabbitmq-server", &home, epmd_port),
            Lifetime::Detached => install.program("rabbitmq-server", &home, epmd_port),
        };
        self.complete(&mut command)?;
        self.process = Some(match lifetime {
            Lifetime::Ours => Process::start_mortal(command)?,
            Lifetime::Detached => Process::start(command)?,
        });
        Ok(())
    }

    fn complete(&self, command: &mut Command) -> anyhow::Result<()> {
        let output = self.folder.join("output.log");
        let file = fs::File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        command
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.dist.number().to_string())
            // Without a rabbitmq.conf nothing has to be translated, which saves a second of CPU.
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("no-such-file"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", self.folder.join("advanced.config"))
            .env("RABBITMQ_MNESIA_BASE", self.folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", self.folder.join("generated"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", self.folder.join("pid"))
            // With it the scripts become the broker instead of waiting for it: its pid is the one we started.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", additional_arguments())
            .arg("-noinput")
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(file.try_clone().context("cannot share the node's output")?)
            .stdout(file);
        Ok(())
    }

    /// Erlang terms, which need no translation at the start.
    fn config(&self, seed: Option<&str>) -> String {
        // Who looks for others locks them all, and waits in growing steps. So it asks for one node only, and often.
        let join = seed.map_or_else(String::new, |seed| {
            format!(
                "  {{cluster_nodes, {{['{seed}', '{}'], disc}}}},\n\
                 \x20 {{cluster_formation, [{{discovery_retry_limit, 600}}, {{discovery_retry_interval, 100}},\n\
                 \x20                       {{internal_lock_retries, 100}}]}},\n",
                self.name
            )
        });
        format!(
            "[\n {{rabbit, [\n{join}\
             \x20 {{tcp_listeners, [{{\"127.0.0.1\", {}}}]}},\n\
             \x20 {{loopback_users, []}},\n\
             \x20 {{vm_memory_high_watermark, {{absolute, {MEMORY}}}}},\n\
             \x20 {{disk_free_limit, {DISK_FREE}}}\n ]}},\n\
             \x20{{ra, [{{wal_max_size_bytes, {WAL}}}]}}\n].\n",
            self.amqp.number()
        )
    }

    /// The last lines of what it wrote, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder.join("output.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(12);
        format!("{}\n(more in {})", lines[from..].join("\n"), self.folder.display())
    }
}

/// One scheduler a node: several nodes share few cores, and none should spin.
fn additional_arguments() -> &'static str {
    "+S 1:1 +SDio 4 -kernel inet_dist_use_interface {127,0,0,1}"
}

/// Erlang refuses a cookie that others may read.
fn write_cookie(home: &Path, cookie: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = home.join(".erlang.cookie");
    fs::write(&file, cookie).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_joins_asks_the_seed_and_the_first_asks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::create(folder.path(), 2, "COOKIE").unwrap();
        assert_eq!(node.name(), "ek2@localhost");
        let joins = node.config(Some("ek1@localhost"));
        assert!(joins.contains("{cluster_nodes, {['ek1@localhost', 'ek2@localhost'], disc}}"), "{joins}");
        assert!(joins.contains(&format!("[{{\"127.0.0.1\", {}}}]", node.address().port())), "{joins}");
        assert!(!node.config(None).contains("cluster_nodes"));
    }
}
