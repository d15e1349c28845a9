//! Where RabbitMQ's programs are on this machine, and the environment that keeps them off everything but their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

/// Names another folder with `rabbitmq-server` and `rabbitmqctl`, for example that of an unpacked newer release.
const FOLDER_VARIABLE: &str = "RABBITMQ_SBIN";
/// Where Debian's and Red Hat's packages have the plain scripts. Those in /usr/sbin change the user.
const FOLDER: &str = "/usr/lib/rabbitmq/bin";

/// RabbitMQ's programs.
#[derive(Clone, Debug)]
pub struct Install {
    folder: PathBuf,
}

impl Install {
    /// Looks in `$RABBITMQ_SBIN`, else where the packages put them.
    ///
    /// # Errors
    /// When they are not there; the message says how to get them.
    pub fn find() -> anyhow::Result<Self> {
        let folder = std::env::var_os(FOLDER_VARIABLE).map_or_else(|| FOLDER.into(), PathBuf::from);
        if !folder.join("rabbitmq-server").exists() {
            bail!(
                "there is no rabbitmq-server in {}: run `cargo xtask setup`, install the package \
                 rabbitmq-server, or name its folder in {FOLDER_VARIABLE}",
                folder.display()
            );
        }
        Ok(Self { folder })
    }

    /// One of the programs, with nothing of our environment but the path; `home` has the cookie.
    pub(crate) fn program(&self, name: &str, home: &Path, epmd_port: u16) -> Command {
        own_environment(Command::new(self.folder.join(name)), home, epmd_port)
    }

    /// The same as a child that the kernel kills when the thread that started it ends, however it ends.
    pub(crate) fn mortal(&self, name: &str, home: &Path, epmd_port: u16) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.folder.join(name));
        own_environment(command, home, epmd_port)
    }
}

pub(crate) fn own_environment(mut command: Command, home: &Path, epmd_port: u16) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        // A crash dump of the broker is hundreds of megabytes.
        .env("ERL_CRASH_DUMP_BYTES", "0")
        // A file that is not there: the system's settings are not ours.
        .env("RABBITMQ_CONF_ENV_FILE", home.join("no-such-file"))
        // Any port, instead of one of eleven fixed ones.
        .env("RABBITMQ_CTL_DIST_PORT_MIN", "0")
        .env("RABBITMQ_CTL_DIST_PORT_MAX", "0");
    command
}
