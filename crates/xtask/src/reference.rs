//! `cargo xtask reference`: the pages that are written from the source, so that no table is kept by hand.
//!
//! docs/configuration-reference.md comes from `config::reference`, the tables of docs/metrics.md between their marks from
//! `telemetry`. `cargo xtask tidy` fails when either is stale. Not here: what only a person can say; that is in the
//! prose of docs/configuration.md and docs/metrics.md.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use config::reference::{Entry, Section, reference};

use crate::telemetry::{Metric, metrics};
use crate::tree::{File, text_files};

const KEYS_PAGE: &str = "docs/configuration-reference.md";
const METRICS_PAGE: &str = "docs/metrics.md";
const BEGIN: &str = "<!-- begin: written by cargo xtask reference -->\n";
const END: &str = "<!-- end -->\n";
const COMMAND: &str = "cargo xtask reference";

const KEYS_INTRODUCTION: &str = "\
# Configuration reference

<!-- Written by cargo xtask reference from the types and the checks of crates/config; do not edit. -->

Every key of `evenkeel.yaml`, by the mapping that it stands in. How a file is written, with complete examples, is in
[configuration](configuration.md). `evenkeel schema` prints the same as a JSON schema, for editors.

- `<name>` stands for a name of yours: 1 to 63 of `a-z A-Z 0-9 - _ .`; `[]` for each entry of a list.
- A duration is a number with its unit, or several: `100ms`, `5s`, `1m 30s`, `2h`.
- An address is IP address and port: `0.0.0.0:8080`, `\"[::]:8080\"` (quoted, because `[` begins a list in YAML).
- A relative path starts at the folder of the file.
- What is bounded \"for the whole tier\" is divided by the number of gateway replicas.
";

/// Writes the pages.
///
/// # Errors
/// When a file cannot be read or written, or a page has lost its marks.
pub fn run(root: &Path) -> anyhow::Result<bool> {
    let files = text_files(root)?;
    for (page, text) in pages(&files)? {
        let is_new = files.iter().all(|file| file.path != page || file.text != text);
        if is_new {
            std::fs::write(root.join(page), text).with_context(|| format!("{page} cannot be written"))?;
        }
        println!("{page}: {}", if is_new { "written" } else { "up to date" });
    }
    Ok(true)
}

/// What tidy has to say: stale pages, metrics without a help text, and documents that name a metric nobody records.
///
/// # Errors
/// When a page has lost its marks.
pub fn judge(files: &[File]) -> anyhow::Result<Vec<String>> {
    let (metrics, mut findings) = metrics(files);
    for (page, text) in pages(files)? {
        if files.iter().all(|file| file.path != page || file.text != text) {
            findings.push(format!("{page} is not what the source says; run {COMMAND}"));
        }
    }
    findings.extend(files.iter().flat_map(|file| judge_names(file, &metrics)));
    Ok(findings)
}

fn pages(files: &[File]) -> anyhow::Result<[(&'static str, String); 2]> {
    let page = files.iter().find(|file| file.path == METRICS_PAGE);
    let page = page.map(|page| page.text.as_str()).unwrap_or_default();
    let tables = metric_tables(&metrics(files).0);
    let whole = between(page, &tables).with_context(|| {
        format!("{METRICS_PAGE} has no `{}` with `{}` behind it", BEGIN.trim_end(), END.trim_end())
    })?;
    Ok([(KEYS_PAGE, keys_page(&reference())), (METRICS_PAGE, whole)])
}

/// The page with `tables` between its marks.
fn between(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

// ---- configuration ----

fn keys_page(sections: &[Section]) -> String {
    let mut page = KEYS_INTRODUCTION.to_owned();
    for section in sections.iter().filter(|section| !section.entries.is_empty()) {
        let title = if section.path.is_empty() { "Top level".into() } else { format!("`{}`", section.path) };
        let rows = section.entries.iter().map(key_row);
        let table = table("Key | Type, range | Default | Meaning", rows);
        write!(page, "\n## {title}\n\n{table}").ok();
    }
    page
}

fn key_row(entry: &Entry) -> String {
    let kind =
        entry.range.as_ref().map_or_else(|| entry.kind.clone(), |range| format!("{}, {range}", entry.kind));
    format!("`{}` | {kind} | {} | {}", entry.path, entry.default, entry.meaning)
}

fn table(head: &str, rows: impl Iterator<Item = String>) -> String {
    let line = "| --- ".repeat(head.split(" | ").count());
    let mut table = format!("| {head} |\n{line}|\n");
    for row in rows {
        writeln!(table, "| {row} |").ok();
    }
    table.replace("|  ", "| ")
}

// ---- metrics ----

fn metric_tables(metrics: &[Metric]) -> String {
    let is_of_pool = |metric: &&Metric| metric.labels.iter().any(|label| label == "pool");
    let rows =
        |of_pool: bool| metrics.iter().filter(move |metric| is_of_pool(metric) == of_pool).map(metric_row);
    let head = "Name | Type | Labels | Unit | Meaning";
    format!(
        "### Of the gateway\n\n{}\n### Of a pool\n\n{}",
        table(head, rows(false)),
        table(head, rows(true))
    )
}

fn metric_row(metric: &Metric) -> String {
    let Metric { name, kind, labels, help } = metric;
    format!("`{name}` | {kind} | {} | {} | {help}", labels.join(", "), metric.unit())
}

/// Names in a document that look like a metric of ours and are none.
fn judge_names(file: &File, metrics: &[Metric]) -> Vec<String> {
    let is_document =
        file.path.ends_with(".md") && (file.path.starts_with("docs/") || !file.path.contains('/'));
    if !is_document {
        return Vec::new();
    }
    let is_known = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        metrics.iter().any(|metric| {
            let rest = word.strip_prefix(metric.name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || metric.kind == "histogram" && parts.contains(&rest))
        })
    };
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("evenkeel_") && !is_known(word)) {
            findings.push(format!("{}:{}: {word} is no metric of ours", file.path, at + 1));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn source() -> File {
        let text = "//! A.\nfn a() { describe_counter!(\"evenkeel_a_total\", \"Counts a\"); counter!(\"evenkeel_a_total\") }\n";
        file("crates/a/src/b.rs", text)
    }

    #[test]
    fn a_page_keeps_its_prose_and_gets_its_tables() {
        let page = format!("# M\n\n{BEGIN}old\n{END}\nprose\n");
        let files = [source(), file(METRICS_PAGE, &page)];
        let [(_, keys), (_, metrics)] = pages(&files).expect("the marks are there");
        assert!(metrics.contains("| `evenkeel_a_total` | counter | | | Counts a |\n"), "{metrics}");
        assert!(!metrics.contains("old") && metrics.ends_with("<!-- end -->\n\nprose\n"), "{metrics}");
        assert!(keys.contains("| `pools.<name>.rebalance.settle` | duration, 0s to 10m | `5s` | "), "{keys}");
    }

    #[test]
    fn a_stale_page_is_found_and_a_fresh_one_is_not() {
        let stale = file(METRICS_PAGE, &format!("{BEGIN}{END}"));
        let fresh =
            pages(&[source(), stale]).expect("the marks are there").map(|(path, text)| file(path, &text));
        let [keys, metrics] = fresh;
        assert_eq!(judge(&[source(), keys, metrics]).ok(), Some(vec![]));
        let stale = [source(), file(METRICS_PAGE, &format!("{BEGIN}{END}"))];
        assert_eq!(judge(&stale).map(|findings| findings.len()).ok(), Some(2));
        assert!(judge(&[file(METRICS_PAGE, "no marks")]).is_err());
    }

    #[test]
    fn a_document_that_names_an_unknown_metric_is_found() {
        let metrics = metrics(&[source()]).0;
        let found = |path: &str, text: &str| judge_names(&file(path, text), &metrics).len();
        assert_eq!(found("docs/a.md", "`rate(evenkeel_a_total[5m])`, evenkeel_b"), 1);
        assert_eq!(found("docs/a.md", "evenkeel_a_total_bucket"), 1, "a counter has no buckets");
        assert_eq!(found("crates/a/README.md", "evenkeel_b"), 0);
    }
}
