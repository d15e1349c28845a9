//! Installs what the tests need and a fresh Debian with Rust lacks: rustfmt, clippy, Node.js with `ws` and `amqplib`,
//! Python with `websockets`, `pika` and `aio-pika`, RabbitMQ.
//!
//! Everything but Debian's own packages goes into target/interop: nothing is installed for the whole machine,
//! and `cargo clean` removes it. Present parts are kept, so that a second run needs no network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::broker;
use crate::steps::call;

/// Oldest Node.js that `ws` 8 and our scripts run on; Debian 12 has 18.
const NODE_MAJOR_MIN: u32 = 18;
/// Packages of npm, each with the versions that will do.
const NPM_PACKAGES: [(&str, &str); 2] = [("ws", "^8.18.0"), ("amqplib", "^2.3.1")];
/// Packages of Python, likewise.
pub const PIP_PACKAGES: [(&str, &str); 3] =
    [("websockets", ">=15,<18"), ("pika", ">=1.3,<2"), ("aio-pika", ">=9.5,<11")];
/// Oldest kubectl whose `kustomize` knows what deploy/ uses.
const KUBECTL_MINOR_MIN: u32 = 27;
const KUBECTL_HINT: &str = "please install kubectl 1.27 or newer and put it first in PATH: \
                            https://kubernetes.io/docs/tasks/tools (Debian 13: apt-get install kubernetes-client)";

/// Returns one line that says what is there.
///
/// # Errors
/// When a part is missing and can not be installed; the message says what to install by hand.
pub fn run(root: &Path) -> anyhow::Result<String> {
    components()?;
    let folder = root.join("target/interop");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let node = node()?;
    let npm = npm_packages(&folder)?;
    let python = python_packages(&folder, &PIP_PACKAGES)?;
    let pip = pip_versions(&python, &PIP_PACKAGES).unwrap_or_default();
    broker::install()?;
    Ok(format!("Node.js {node} with {npm}, Python with {pip} in {}; RabbitMQ", folder.display()))
}

/// Installs what is missing; says what is there. npm removes what one call does not name, so each call names all.
fn npm_packages(folder: &Path) -> anyhow::Result<String> {
    let all_there =
        || NPM_PACKAGES.iter().map(|(name, _)| npm_version(folder, name)).collect::<Option<Vec<_>>>();
    if let Some(there) = all_there() {
        return Ok(there.join(", "));
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix", "."]);
    npm.args(NPM_PACKAGES.map(|(name, versions)| format!("{name}@{versions}")));
    call(npm.current_dir(folder))?;
    Ok(all_there().context("npm has installed its packages but they cannot be found")?.join(", "))
}

fn npm_version(folder: &Path, name: &str) -> Option<String> {
    let file = folder.join("node_modules").join(name).join("package.json");
    let package: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    Some(format!("{name} {}", package["version"].as_str()?))
}

/// Makes a virtual environment in `folder` with these packages, unless it is there; its Python.
///
/// # Errors
/// When Python or a package can not be installed.
pub fn python_packages(folder: &Path, packages: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let python = folder.join("venv/bin/python");
    if pip_versions(&python, packages).is_some() {
        return Ok(python);
    }
    if output(&python.display().to_string(), &["-m", "pip", "--version"]).is_none() {
        venv(folder)?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet"]);
    call(pip.args(packages.iter().map(|(name, versions)| format!("{name}{versions}"))))?;
    pip_versions(&python, packages).context("pip has installed its packages but they cannot be found")?;
    Ok(python)
}

/// kubectl renders manifests; from 1.27 on as ours need it. Debian 13 has it as a package, others have to bring it.
///
/// # Errors
/// When it is missing or too old; the message says how to get it.
pub fn kubectl() -> anyhow::Result<()> {
    if kubectl_minor().is_none() {
        apt(&["kubernetes-client"]).context(KUBECTL_HINT)?;
    }
    match kubectl_minor() {
        Some(minor) if minor >= KUBECTL_MINOR_MIN => Ok(()),
        found => bail!("kubectl is 1.{}: {KUBECTL_HINT}", found.unwrap_or_default()),
    }
}

fn kubectl_minor() -> Option<u32> {
    let said: serde_json::Value =
        serde_json::from_str(&output("kubectl", &["version", "--client", "--output=json"])?).ok()?;
    said["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}

/// A minimal installation of Rust has neither.
fn components() -> anyhow::Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if output("cargo", &[command, "--version"]).is_none() {
            call(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("please install {component}"))?;
        }
    }
    Ok(())
}

/// The version of Node.js, installing it when it is missing.
fn node() -> anyhow::Result<String> {
    if node_version().is_none() || output("npm", &["--version"]).is_none() {
        apt(&["nodejs", "npm"])?;
    }
    let version = node_version().context("Node.js is installed but `node --version` fails")?;
    if major(&version).is_none_or(|major| major < NODE_MAJOR_MIN) {
        bail!(
            "Node.js is {version}, expected {NODE_MAJOR_MIN} or newer: install one and put it first in PATH"
        );
    }
    Ok(version)
}

fn node_version() -> Option<String> {
    output("node", &["--version"])
}

/// `v20.1.2` -> 20.
fn major(version: &str) -> Option<u32> {
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Debian splits `venv` from Python: without python3-venv the first try fails and leaves half a folder.
fn venv(folder: &Path) -> anyhow::Result<()> {
    let make = || call(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")));
    if make().is_err() {
        apt(&["python3", "python3-venv"])?;
        make()?;
    }
    Ok(())
}

fn pip_versions(python: &Path, packages: &[(&str, &str)]) -> Option<String> {
    let names: Vec<&str> = packages.iter().map(|(name, _)| *name).collect();
    let look = format!(
        "from importlib.metadata import version; print(', '.join(f'{{name}} {{version(name)}}' for name in {names:?}))"
    );
    output(python.to_str()?, &["-c", &look])
}

/// Installs Debian packages.
///
/// # Errors
/// When apt-get is missing or refuses; the message says what to install by hand.
pub fn apt(packages: &[&str]) -> anyhow::Result<()> {
    let hint = || {
        format!("please install {} (Debian: apt-get install {})", packages.join(" and "), packages.join(" "))
    };
    call(Command::new("apt-get").args(["update", "-q"])).with_context(hint)?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(install).args(packages);
    call(&mut apt).with_context(hint)?;
    Ok(())
}

/// Trimmed standard output of a command that succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_with_and_without_the_letter() {
        assert_eq!((major("v20.20.2"), major("18.1"), major("none")), (Some(20), Some(18), None));
    }
}
