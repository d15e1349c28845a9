//! `cargo xtask rabbitmq up|down|status`: a real cluster on loopback that stays until it is told to go.
//!
//! How a cluster is started and known by its pids is the crate `rabbitmq`'s; here are the command line and the
//! installation. Tests start clusters of their own and need none of this.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Subcommand;
use rabbitmq::{Cluster, Install, Lifetime, NODES_MAX, Options, Record};

use crate::setup;

/// Debian asks this program whether a package may start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What is to be done with a cluster.
#[derive(Subcommand)]
pub enum Action {
    /// Starts one, installing RabbitMQ when it is missing, and waits until every node serves.
    Up {
        /// Its folder below target/rabbitmq; several clusters can stand side by side.
        #[arg(long, default_value = "default")]
        name: String,
        /// How many nodes, 1 to 5.
        #[arg(long, default_value_t = 3)]
        nodes: usize,
    },
    /// Ends it, also one that only half started.
    Down {
        /// Its folder below target/rabbitmq.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Says which nodes there are, where, and whether they serve.
    Status {
        /// Its folder below target/rabbitmq.
        #[arg(long, default_value = "default")]
        name: String,
    },
}

/// Does it; true when everything is as it was to be.
///
/// # Errors
/// When RabbitMQ cannot be installed or started, or the cluster's record cannot be read.
pub fn run(root: &Path, action: &Action) -> anyhow::Result<bool> {
    match action {
        Action::Up { name, nodes } => up(&folder(root, name)?, *nodes),
        Action::Down { name } => {
            let ended = rabbitmq::down(&folder(root, name)?)?;
            println!("{ended} processes ended");
            Ok(true)
        }
        Action::Status { name } => status(&folder(root, name)?),
    }
}

/// Installs RabbitMQ when it is missing. Its service is not started, and epmd's neither.
///
/// # Errors
/// When it is missing and cannot be installed; the message says what to install by hand.
pub fn install() -> anyhow::Result<()> {
    if Install::find().is_ok() {
        return Ok(());
    }
    let _forbidden = NoServices::forbid();
    setup::apt(&["rabbitmq-server"])?;
    Install::find().map(|_| ())
}

/// While it lives, packages that are installed start no service.
struct NoServices {
    written: bool,
}

impl NoServices {
    fn forbid() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let absent = !Path::new(POLICY).exists();
        // Where it cannot be written we are not root, and apt-get will say so.
        let written = absent
            && fs::write(POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).is_ok();
        Self { written }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.written {
            let _ = fs::remove_file(POLICY);
        }
    }
}

fn up(folder: &Path, nodes: usize) -> anyhow::Result<bool> {
    if !(1..=NODES_MAX).contains(&nodes) {
        bail!("--nodes is {nodes}, expected 1 to {NODES_MAX}");
    }
    let alive = |record: &Record| record.nodes.iter().filter(|node| Record::alive(node)).count();
    if let Some(record) = Record::load(folder)?.filter(|record| alive(record) > 0) {
        if alive(&record) != nodes || record.nodes.len() != nodes {
            bail!(
                "{} of {} nodes run in {}, expected {nodes} or none: run `cargo xtask rabbitmq down` first",
                alive(&record),
                record.nodes.len(),
                folder.display()
            );
        }
        println!("it runs already");
        return status(folder);
    }
    install()?;
    let began = Instant::now();
    let tell = |line: &str| println!("  {line}");
    let cluster = Cluster::up(folder, &Options { nodes, lifetime: Lifetime::Detached, tell })?;
    println!("{nodes} nodes serve after {:.1} s; user guest, password guest", began.elapsed().as_secs_f64());
    println!("{}", cluster.folder().join("cluster.json").display());
    Ok(true)
}

fn status(folder: &Path) -> anyhow::Result<bool> {
    let Some(record) = Record::load(folder)? else {
        println!("no cluster in {}", folder.display());
        return Ok(false);
    };
    let mut all = true;
    for node in &record.nodes {
        let address = format!("127.0.0.1:{}", node.amqp_port);
        let serves = rabbitmq::answers(address.parse().context("a port is a number")?);
        let state = match (Record::alive(node), serves) {
            (true, true) => "serves",
            (true, false) => "runs, but does not serve",
            (false, _) => "does not run",
        };
        all &= serves;
        println!("{}  amqp://guest:guest@{address}  pid {}  {state}", node.name, node.pid);
    }
    Ok(all)
}

fn folder(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        bail!("--name is {name:?}, expected letters, digits, '-' and '_'");
    }
    Ok(root.join("target/rabbitmq").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let root = Path::new("/project");
        assert_eq!(folder(root, "a-1").unwrap(), Path::new("/project/target/rabbitmq/a-1"));
        for bad in ["", "..", "a/b", "a.b"] {
            assert!(folder(root, bad).unwrap_err().to_string().contains("--name"), "{bad:?}");
        }
    }
}
