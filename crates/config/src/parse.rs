//! From the text of `evenkeel.yaml` to a checked [`Config`].

use std::path::{Path, PathBuf};

use crate::check::check;
use crate::error::from_reader;
use crate::tree::{Place, Tree};
use crate::{Config, Errors, Problem, Warning};

/// Longest file that is read, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// A configuration that can be used as it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Checked {
    /// Every path in it is joined to the file's folder.
    pub config: Config,
    /// What is legal and probably not meant, in the file's order.
    pub warnings: Vec<Warning>,
}

/// Reads and checks a whole configuration. Relative paths in it start at `base`, the folder of the file; they are
/// joined as text, no file is looked at.
///
/// # Errors
/// [`Errors`]: the first mistake of form, or all mistakes of content.
pub fn parse(text: &str, base: &Path) -> Result<Checked, Errors> {
    let (mut config, tree) = read::<Config>(text)?;
    let warnings = check(&config, &tree)?;
    for tls in config.listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
        join(base, &mut tls.certificate);
        join(base, &mut tls.key);
    }
    for file in config.pools.values_mut().filter_map(|pool| pool.endpoints_file.as_mut()) {
        join(base, file);
    }
    if let Some(file) = &mut config.admin.token_file {
        join(base, file);
    }
    Ok(Checked { config, warnings })
}

/// Reads a text as `T` and as bare structure.
pub(crate) fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<(T, Tree), Errors> {
    let start = Place { line: 1, column: 1 };
    let whole = crate::tree::Path::default();
    if text.len() > TEXT_BYTES_MAX {
        let message =
            format!("the file has {} bytes, at most {TEXT_BYTES_MAX} are read; split it", text.len());
        return Err(Problem::new(start, &whole, message).into());
    }
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Err(Problem::new(start, &whole, "the file is empty (an empty list is written `[]`)").into());
    }
    let tree = Tree::read(text);
    match (serde_saphyr::from_str::<T>(text), tree) {
        (Ok(value), Ok(tree)) => Ok((value, tree)),
        (_, Err(error)) => Err(from_reader(&error, None).into()),
        (Err(error), Ok(tree)) => Err(from_reader(&error, Some(&tree)).into()),
    }
}

fn join(base: &Path, path: &mut PathBuf) {
    *path = base.join(&*path);
}
