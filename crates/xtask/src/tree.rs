//! The files of the workspace that are ours: everything but build output and what git ignores.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Folders that git ignores, or that are git's own.
const IGNORED: [&str; 8] = [
    "target",
    ".git",
    "fuzz/target",
    "fuzz/corpus",
    "fuzz/artifacts",
    "results",
    "node_modules",
    "__pycache__",
];
/// Extensions of text files that we write.
const TEXT: [&str; 10] = ["rs", "toml", "md", "yaml", "yml", "json", "py", "mjs", "sh", "html"];

/// A text file: path from the root with `/`, and its content.
pub struct File {
    pub path: String,
    pub text: String,
}

/// All text files, by path.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn text_files(root: &Path) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            let name = relative(root, &path);
            if is_ignored(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| TEXT.iter().any(|text| e == *text)) {
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("{name} is not readable text"))?;
                files.push(File { path: name, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// What a visitor sees at the root: names that git follows and that are not hidden.
///
/// # Errors
/// When the folder cannot be read.
pub fn root_entries(root: &Path) -> anyhow::Result<Vec<String>> {
    let names = entries(root)?.into_iter().map(|path| relative(root, &path));
    Ok(names.filter(|name| !name.starts_with('.') && !is_ignored(name)).collect())
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn is_ignored(name: &str) -> bool {
    IGNORED
        .iter()
        .any(|ignored| name == *ignored || name.ends_with(&format!("/{ignored}")) && !ignored.eq(&"results"))
}
