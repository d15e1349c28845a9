//! The documents as a book: links and anchors that lead somewhere, a summary that leaves nothing out, and the book itself.
//!
//! The rules need no mdbook, so that `cargo xtask tidy` holds them everywhere; `cargo xtask book` builds with it.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::steps::{Counts, call};
use crate::test::cargo;
use crate::tree::File;

const BOOK: &str = "docs/";
const SUMMARY: &str = "docs/SUMMARY.md";
/// The release with which docs/book.toml is known to work.
const MDBOOK: &str = "0.5.4";

/// Builds the book into target/book; installs mdbook into target/tools when it is missing, which takes minutes.
///
/// # Errors
/// When mdbook cannot be installed, or finds something wrong.
pub fn build(root: &Path) -> anyhow::Result<Counts> {
    let works = |program: &Path| Command::new(program).arg("--version").output().is_ok();
    let tools = root.join("target/tools");
    let mut mdbook = PathBuf::from("mdbook");
    if !works(&mdbook) {
        mdbook = tools.join("bin/mdbook");
    }
    if !works(&mdbook) {
        // Without its web server and its search index.
        let install =
            ["install", "mdbook", "--version", MDBOOK, "--locked", "--no-default-features", "--root"];
        call(cargo(root).args(install).arg(&tools)).context("mdbook is missing")?;
    }
    call(Command::new(mdbook).current_dir(root).args(["build", "docs"]))
}

/// Links of all documents, and pages that the summary leaves out.
pub fn judge(files: &[File], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let documents: Vec<&File> = files.iter().filter(|file| file.path.ends_with(".md")).collect();
    let mut findings: Vec<String> =
        documents.iter().flat_map(|file| judge_links(file, &documents, &exists)).collect();
    findings.extend(judge_summary(&documents));
    findings
}

fn judge_links(file: &File, documents: &[&File], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    for (line, link) in links(&file.text) {
        let mut add = |what: &str| findings.push(format!("{}:{line}: link to {link}, {what}", file.path));
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if path.is_empty() { file.path.clone() } else { normal(&folder.join(path)) };
        if !exists(Path::new(&target)) {
            add("which does not exist");
        } else if file.path.starts_with(BOOK) && !target.starts_with(BOOK) {
            add("which is not in the book; name the file instead");
        } else if !anchor.is_empty() {
            let page = documents.iter().find(|page| page.path == target);
            if !page.is_some_and(|page| anchors(&page.text).contains(anchor)) {
                add("where no heading has that name");
            }
        }
    }
    findings
}

/// Every page of the book has its line.
fn judge_summary(documents: &[&File]) -> Vec<String> {
    let Some(summary) = documents.iter().find(|page| page.path == SUMMARY) else { return Vec::new() };
    let listed: Vec<String> = links(&summary.text).map(|(_, link)| format!("{BOOK}{link}")).collect();
    let pages = documents.iter().filter(|page| page.path.starts_with(BOOK) && page.path != SUMMARY);
    pages
        .filter(|page| !listed.contains(&page.path))
        .map(|page| format!("{}: not in {SUMMARY}; add a line there", page.path))
        .collect()
}

/// Links to files of ours with their line, from 1; code blocks and the web are left out.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    lines_outside_code(text).flat_map(|(line, text)| {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        links
            .filter(|link| !link.contains("://") && !link.starts_with(['<']) && !link.starts_with("mailto:"))
            .map(move |link| (line, link))
    })
}

/// The names that a page's headings have in links.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let headings = lines_outside_code(text).filter(|(_, line)| line.starts_with('#'));
    for (_, heading) in headings {
        let name = anchor(heading.trim_start_matches('#').trim());
        // A second heading of the same name gets a number.
        let numbered = (1..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

/// As mdbook and the usual Git hosts do: lower case, blanks to hyphens, no punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn lines_outside_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((at + 1, line))
    })
}

/// Without `..`, with `/`.
fn normal(path: &Path) -> String {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> =
            files.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
        judge(&files, |path| files.iter().any(|file| Path::new(&file.path) == path))
    }

    #[test]
    fn links_must_lead_somewhere_and_the_web_is_not_followed() {
        let links = "[a](docs/a.md) [b](https://x.y) [c](mailto:a@b.c)\n```\n[e](f)\n```\n";
        assert_eq!(
            found(&[("README.md", links), ("docs/a.md", "[b](b.md) [b](../docs/b.md)\n"), ("docs/b.md", "")])
                .len(),
            0
        );
        assert_eq!(
            found(&[("docs/b.md", "\n[a](c.md)\n")]),
            ["docs/b.md:2: link to c.md, which does not exist"]
        );
    }

    #[test]
    fn anchors_must_be_headings() {
        let page = "# Who may, and `why`?\n## Twice\n## Twice\n```\n# no heading\n```\n";
        let good = "[a](b.md#who-may-and-why) [a](b.md#twice) [a](b.md#twice-1) [a](#here)\n# Here\n";
        assert_eq!(found(&[("docs/a.md", good), ("docs/b.md", page)]), [] as [&str; 0]);
        let bad = found(&[("docs/a.md", "[a](b.md#no-heading) [a](#there)\n"), ("docs/b.md", page)]);
        assert!(
            bad.len() == 2 && bad.iter().all(|finding| finding.contains("no heading has that name")),
            "{bad:?}"
        );
    }

    #[test]
    fn a_page_of_the_book_links_only_within_it() {
        let files = [("docs/a.md", "[a](../README.md)\n"), ("README.md", "[a](docs/a.md)\n")];
        assert_eq!(
            found(&files),
            ["docs/a.md:1: link to ../README.md, which is not in the book; name the file instead"]
        );
    }

    #[test]
    fn a_page_that_the_summary_leaves_out_is_found() {
        let files = [("docs/SUMMARY.md", "- [A](a.md)\n"), ("docs/a.md", ""), ("docs/decisions/001.md", "")];
        assert_eq!(found(&files), ["docs/decisions/001.md: not in docs/SUMMARY.md; add a line there"]);
    }
}
