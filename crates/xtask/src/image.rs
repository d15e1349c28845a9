//! `cargo xtask image`: builds the static program, lays out the image, and runs it as a node would: alone in its root, without
//! libc, shell or /proc, as a user who is nobody. TLS, DNS and WebSocket have to work there.
//!
//! What the image is, stands in deploy/image/Dockerfile and is read from there. Not here: a container engine, nor layers and
//! registries, which are its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::setup::{self, apt, python_packages};
use crate::steps::{Counts, call};
use crate::test::cargo;

mod elf;

const DOCKERFILE: &str = "deploy/image/Dockerfile";
/// Plays client, backend and name server around the program.
const TRIAL: &str = include_str!("image/trial.py");
/// Longest life of the trial.
const TRIAL_SECONDS: &str = "60";

/// Builds, lays out and tries.
///
/// # Errors
/// When a tool is missing and can not be installed, the program is not static, or does not work alone in its root.
pub fn run(root: &Path) -> anyhow::Result<Counts> {
    if !is_root()? {
        bail!("please run it as root: it changes its root, as a container does");
    }
    let python = python_packages(&root.join("target/interop"), &setup::PIP_PACKAGES)?;
    let dockerfile = fs::read_to_string(root.join(DOCKERFILE)).context(DOCKERFILE)?;
    let image = Image::parse(&dockerfile).context(DOCKERFILE)?;
    let program = build(root)?;
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    elf::judge(&bytes).with_context(|| format!("{} is not static", program.display()))?;
    let folder = root.join("target/image");
    let rootfs = folder.join("rootfs");
    lay_out(&rootfs, &image, &program)?;
    try_out(&python, &folder, &rootfs, &image)?;
    let size = bytes.len() as f64 / f64::from(1 << 20);
    println!("image: one file, {}, {size:.1} MiB, static, tried as {}", image.program, image.user);
    Ok(Counts { passed: 1, failed: 0 })
}

/// What the last stage of the Dockerfile says.
#[derive(PartialEq, Eq, Debug)]
struct Image {
    /// The program's path.
    program: String,
    user: String,
    /// ENTRYPOINT and CMD.
    command: Vec<String>,
}

impl Image {
    fn parse(dockerfile: &str) -> anyhow::Result<Self> {
        let (_, stage) = dockerfile.rsplit_once("\nFROM ").context("there is no stage")?;
        let mut lines = stage.lines();
        if lines.next() != Some("scratch") {
            bail!("the last stage is not `FROM scratch`");
        }
        let told = |word: &str| stage.lines().find_map(|line| line.strip_prefix(word)).map(str::trim);
        let copies: Vec<&str> = stage.lines().filter(|line| line.starts_with("COPY ")).collect();
        let [copy] = copies[..] else { bail!("expected one COPY, found {}", copies.len()) };
        let list = |word: &str| -> anyhow::Result<Vec<String>> {
            Ok(serde_json::from_str(told(word).with_context(|| format!("no {word}"))?)?)
        };
        let command = [list("ENTRYPOINT ")?, list("CMD ")?].concat();
        let program = copy.rsplit(' ').next().unwrap_or_default().to_owned();
        if command.first() != Some(&program) {
            bail!("ENTRYPOINT is not {program}");
        }
        Ok(Self { program, user: told("USER ").context("no USER: it would be root")?.into(), command })
    }
}

/// Whoever runs us, by the owner of our own process.
fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata("/proc/self").context("/proc is not there")?.uid() == 0)
}

fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// How the program is built here and in the Dockerfile.
const BUILD: [&str; 5] = ["build", "--release", "--locked", "--package", "evenkeel"];
/// Nothing in the image could read symbols.
const STRIP: &str = "CARGO_PROFILE_RELEASE_STRIP";

/// The static program, stripped: the image has nothing that could read its symbols.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let target = target();
    let rustup = Command::new("rustup").args(["target", "list", "--installed"]).output();
    let installed = rustup.context("rustup does not start; it brings musl's standard library")?.stdout;
    if !String::from_utf8_lossy(&installed).lines().any(|line| line == target) {
        call(Command::new("rustup").args(["target", "add", &target]))?;
    }
    if Command::new("musl-gcc").arg("--version").stdout(Stdio::null()).status().is_err() {
        apt(&["musl-tools"])?;
    }
    let recipe = fs::read_to_string(root.join("deploy/image/Dockerfile"))?;
    if !recipe.contains(&format!("{STRIP}=symbols cargo {} ", BUILD.join(" "))) {
        bail!(
            "deploy/image/Dockerfile builds otherwise than is tried here; expected `{STRIP}=symbols cargo {}`",
            BUILD.join(" ")
        );
    }
    let mut build = cargo(root);
    build.args(BUILD).args(["--target", &target]);
    call(build.env(STRIP, "symbols"))?;
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(folder.join(target).join("release/evenkeel"))
}

/// The image's root, afresh.
fn lay_out(rootfs: &Path, image: &Image, program: &Path) -> anyhow::Result<()> {
    if rootfs.exists() {
        fs::remove_dir_all(rootfs).with_context(|| format!("cannot remove {}", rootfs.display()))?;
    }
    let path = rootfs.join(image.program.trim_start_matches('/'));
    let folder = path.parent().context("the program is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::copy(program, &path).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Runs it with what a node mounts into it: a configuration, a certificate, /etc/resolv.conf.
fn try_out(python: &Path, folder: &Path, rootfs: &Path, image: &Image) -> anyhow::Result<()> {
    let mut trial = Command::new("timeout");
    trial.arg(TRIAL_SECONDS).arg(python).args(["-c", TRIAL]).arg(folder).arg(rootfs).arg(&image.user);
    println!("$ chroot --userspec={} {} {}", image.user, rootfs.display(), image.command.join(" "));
    let status = trial.args(&image.command).status().context("timeout does not start")?;
    if !status.success() {
        bail!("the program does not work alone in its root: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: &str = "FROM a AS build\nRUN b\nUSER root\n\nFROM scratch\nCOPY --from=build /out/e /bin/e\n\
                          USER 1:2\nENTRYPOINT [\"/bin/e\"]\nCMD [\"gateway\", \"--config\", \"/c\"]\n";

    #[test]
    fn the_last_stage_says_what_runs_and_as_whom() {
        let image = Image::parse(STAGES).unwrap();
        assert_eq!((image.program.as_str(), image.user.as_str()), ("/bin/e", "1:2"));
        assert_eq!(image.command, ["/bin/e", "gateway", "--config", "/c"]);
    }

    #[test]
    fn an_image_that_holds_more_or_runs_as_root_is_refused() {
        let refused = |from: &str, to: &str| Image::parse(&STAGES.replace(from, to)).unwrap_err().to_string();
        assert!(refused("FROM scratch", "FROM debian").contains("FROM scratch"));
        assert!(refused("USER 1:2\n", "").contains("it would be root"));
        assert!(refused("USER 1:2\n", "USER 1:2\nCOPY a /b\n").contains("expected one COPY, found 2"));
        assert!(refused("[\"/bin/e\"]", "[\"/bin/f\"]").contains("ENTRYPOINT is not /bin/e"));
    }
}
