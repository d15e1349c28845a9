//! `cargo xtask tidy`: what a reader notices first, held by a program.
//!
//! Each rule takes text and gives findings, so that it is tested without files. What only one machine could say
//! (speed, coverage) is not here, nor what clippy already says.

use std::path::Path;

use crate::metadata::Packages;
use crate::source::{Source, has_word};
use crate::tree::{File, root_entries, text_files};
use crate::{book, reference};

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 700;
/// Lines of a function, signature included.
const FUNCTION_LINES_MAX: usize = 70;
/// Names at the root that a visitor sees.
const ROOT_ENTRIES_MAX: usize = 15;
/// Marks of unfinished work, in comments.
const UNFINISHED_COMMENTS: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// Marks of unfinished work, in code.
const UNFINISHED_CODE: [&str; 3] = ["todo!", "unimplemented!", "#[ignore"];
/// Licences that a dependency may have; of a choice (`OR`) one is enough.
const LICENSES: [&str; 10] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// All findings; empty when the tree is tidy.
///
/// # Errors
/// When cargo or a file cannot be read.
pub fn run(root: &Path) -> anyhow::Result<Vec<String>> {
    let files = text_files(root)?;
    let mut findings: Vec<String> = files.iter().flat_map(judge_file).collect();
    findings.extend(reference::judge(&files)?);
    findings.extend(book::judge(&files, |path| root.join(path).exists()));
    findings.extend(judge_root(&root_entries(root)?));
    findings.extend(judge_packages(&Packages::load(root)?));
    Ok(findings)
}

fn judge_file(file: &File) -> Vec<String> {
    let mut findings = judge_blanks(file);
    if file.path.ends_with(".rs") {
        findings.extend(judge_rust(file));
    } else if file.path.starts_with("crates/") && file.path.ends_with("/Cargo.toml") {
        findings.extend(judge_manifest(file));
    }
    findings
}

fn judge_blanks(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if line.contains('\t') {
            findings.push(format!("{}:{}: a tab; expected spaces", file.path, at + 1));
        }
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(format!("{}:{}: blanks at the end of the line", file.path, at + 1));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(format!("{}: the last line does not end", file.path));
    }
    findings
}

fn judge_rust(file: &File) -> Vec<String> {
    let source = Source::new(&file.text);
    let mut findings = Vec::new();
    let mut add = |line: usize, text: String| findings.push(format!("{}:{}: {text}", file.path, line + 1));
    if !file.text.starts_with("//!") {
        add(0, "no header; a file begins with `//!`: what it is, why, what is not here".into());
    }
    if source.tests_from > FILE_LINES_MAX {
        add(0, format!("{} lines before the tests, at most {FILE_LINES_MAX}", source.tests_from));
    }
    for function in source.functions() {
        if function.line < source.tests_from && function.lines > FUNCTION_LINES_MAX {
            let text =
                format!("fn {} has {} lines, at most {FUNCTION_LINES_MAX}", function.name, function.lines);
            add(function.line, text);
        }
    }
    for (at, line) in source.comments.lines().enumerate() {
        for mark in UNFINISHED_COMMENTS.iter().filter(|mark| has_word(line, mark)) {
            add(at, format!("{mark}: finish it, or open an issue"));
        }
    }
    let is_test_file = file.path.contains("/tests/");
    for (at, line) in source.code.lines().enumerate() {
        for mark in UNFINISHED_CODE.iter().filter(|mark| line.contains(**mark)) {
            add(at, format!("{mark} is not for committed code"));
        }
        if (is_test_file || at >= source.tests_from) && has_word(line, "sleep(") {
            add(at, "a test sleeps; wait for the condition instead".into());
        }
    }
    findings
}

fn judge_manifest(file: &File) -> Vec<String> {
    let keys = ["version", "edition", "rust-version", "license", "publish"];
    let missing = keys.iter().filter(|key| !file.text.contains(&format!("{key}.workspace = true")));
    let mut findings: Vec<String> =
        missing.map(|key| format!("{}: expected `{key}.workspace = true`", file.path)).collect();
    if !file.text.contains("[lints]\nworkspace = true") {
        findings.push(format!("{}: expected `[lints]` with `workspace = true`", file.path));
    }
    findings
}

fn judge_root(entries: &[String]) -> Option<String> {
    let count = entries.len();
    (count > ROOT_ENTRIES_MAX)
        .then(|| format!("{count} entries at the root, at most {ROOT_ENTRIES_MAX}: {entries:?}"))
}

fn judge_packages(packages: &Packages) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages.by_id.values() {
        match &package.license {
            None => findings.push(format!("{}: no licence is named", package.name)),
            Some(license) if !is_allowed(license) => {
                findings
                    .push(format!("{}: licence {license} is not on the list of xtask tidy", package.name));
            }
            Some(_) => {}
        }
    }
    let publishable = packages.own().filter(|package| package.publishable);
    findings.extend(publishable.map(|package| format!("{}: expected publish = false", package.name)));
    findings
}

/// SPDX: `A OR (B AND C)`; older packages write `A/B` for a choice.
fn is_allowed(license: &str) -> bool {
    let spaced = license.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let allowed = choice(&words, &mut at);
    allowed && at == words.len()
}

fn choice(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        allowed |= all_of(words, at);
    }
    allowed
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= one(words, at);
    }
    allowed
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let allowed = choice(words, at);
        *at += 1;
        return allowed;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    LICENSES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn found(path: &str, text: &str) -> String {
        judge_file(&file(path, text)).join("; ")
    }

    #[test]
    fn a_tidy_file_has_no_finding_and_a_string_may_say_anything() {
        assert_eq!(found("crates/a/src/lib.rs", "//! Header.\nfn a() { b(\"TODO\") }\n"), "");
    }

    #[test]
    fn a_missing_header_a_tab_and_blanks_are_found() {
        assert!(found("a.rs", "fn a() {}\n").contains("no header"));
        assert!(found("a.md", "a\tb\n").contains("a.md:1: a tab"));
        assert!(found("a.yaml", "a: b \n").contains("blanks at the end"));
        assert!(found("a.yaml", "a: b").contains("does not end"));
    }

    #[test]
    fn long_files_and_functions_are_found_but_tests_are_not_counted() {
        let body = |lines: usize| format!("fn long() {{\n{}}}\n", "    x();\n".repeat(lines));
        assert_eq!(found("a.rs", &format!("//! A.\n{}", body(68))), "");
        assert!(found("a.rs", &format!("//! A.\n{}", body(69))).contains("a.rs:2: fn long has 71 lines"));
        let tests =
            format!("//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// line\n".repeat(900) + &body(90));
        assert_eq!(found("a.rs", &tests), "");
        assert!(found("a.rs", &format!("//! A.\n{}", "// line\n".repeat(700))).contains("701 lines before"));
    }

    #[test]
    fn unfinished_work_and_sleeping_tests_are_found() {
        assert!(found("a.rs", "//! A.\n// FIXME later\n").contains("a.rs:2: FIXME"));
        assert!(found("a.rs", "//! A.\nfn a() { todo!() }\n").contains("todo! is not for committed code"));
        assert!(found("a.rs", "//! A.\n#[ignore = \"slow\"]\n").contains("#[ignore"));
        assert!(
            found("crates/a/tests/b.rs", "//! A.\nfn a() { thread::sleep(b); }\n").contains("a test sleeps")
        );
        assert_eq!(found("crates/a/src/b.rs", "//! A.\nfn a() { thread::sleep(b); }\n"), "");
    }

    #[test]
    fn of_a_choice_of_licences_one_is_enough_and_of_a_sum_all_are_needed() {
        for license in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(license), "{license}");
        }
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
        for license in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND Y", "", "MIT MIT"] {
            assert!(!is_allowed(license), "{license}");
        }
    }

    #[test]
    fn a_crate_that_does_not_follow_the_workspace_and_a_crowded_root_are_found() {
        let manifest = "version.workspace = true\nedition = \"2021\"\n";
        assert!(found("crates/a/Cargo.toml", manifest).contains("expected `edition.workspace = true`"));
        let names: Vec<String> = (0..16).map(|n| n.to_string()).collect();
        assert!(judge_root(&names).is_some() && judge_root(&names[..15]).is_none());
    }
}
