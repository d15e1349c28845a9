//! Every file in `fixtures/` with what is said about it, compared to the letter.
//!
//! Beside `x.yaml` lies `x.txt`: for `valid/` the warnings and the explanation, for `invalid/` the errors. A failure
//! shows the text that was found; when the words were changed on purpose, it goes into the file.

use std::fs;
use std::path::{Path, PathBuf};

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kind);
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Compares all before it fails, so that one run shows every difference.
fn compare(kind: &str, say: impl Fn(&str) -> Result<String, String>) {
    let mut differences = String::new();
    for file in fixtures(kind) {
        let text = fs::read_to_string(&file).expect("the fixture can be read");
        let said = say(&text).unwrap_or_else(|wrong| panic!("{}: {wrong}", file.display()));
        let beside = file.with_extension("txt");
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if said != expected {
            differences.push_str(&format!("{}\nexpected:\n{expected}\nfound:\n{said}\n", file.display()));
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn valid_files_are_explained_to_the_letter() {
    compare("valid", |text| {
        let checked = config::parse(text, Path::new("/etc/evenkeel")).map_err(|errors| errors.to_string())?;
        let warnings = checked.warnings.iter().map(|warning| format!("warning: {warning}\n"));
        Ok(warnings.collect::<String>() + &config::explain(&checked.config))
    });
}

#[test]
fn invalid_files_are_refused_to_the_letter() {
    compare("invalid", |text| match config::parse(text, Path::new("/etc/evenkeel")) {
        Ok(_) => Err("was accepted".into()),
        Err(errors) => Ok(format!("{errors}\n")),
    });
}
