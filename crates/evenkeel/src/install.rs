//! `evenkeel install`: the program copies itself.
//!
//! An image that holds one static program has no `cp`. So an init container of a Pod that is no gateway, such as a node of
//! RabbitMQ, runs this, and the Pod's own container finds the program in a shared folder. Nothing else is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// The program's name in the folder.
const NAME: &str = "evenkeel";

/// Puts a copy of the running program into `folder`; whole or not at all, over an older one.
///
/// # Errors
/// When the program can not be found (without /proc) or the folder can not be written; the message names the path.
pub fn install(folder: &Path) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("the program does not know where it is; is /proc there?")?;
    let (part, target) = (folder.join(format!(".{NAME}.part")), folder.join(NAME));
    fs::copy(&own, &part).with_context(|| {
        format!("{} can not be copied to {}; may it be written?", own.display(), part.display())
    })?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} can not be made executable", part.display()))?;
    fs::rename(&part, &target).with_context(|| format!("{} can not be put in place", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_executable_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "older").unwrap();
        install(folder.path()).unwrap();
        let own = std::env::current_exe().unwrap();
        let copy = folder.path().join(NAME);
        assert_eq!(fs::metadata(&copy).unwrap().len(), fs::metadata(own).unwrap().len());
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", install(&folder.path().join("none")).unwrap_err());
        assert!(error.contains("none/.evenkeel.part"), "{error}");
    }
}
