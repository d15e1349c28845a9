//! The metrics as the source has them: names, types and labels from where they are recorded, help texts from where they
//! are described.
//!
//! Read from the text of the crates, so that no crate has to be compiled for it. What a metric's page looks like is in
//! `reference`; which values a label has is told there by hand.

use std::collections::BTreeMap;

use crate::source::{Literal, Source, is_word};
use crate::tree::File;

/// What every name of ours begins with.
const PREFIX: &str = "evenkeel_";
/// The macros that record, and the type of metric that each makes.
const RECORDERS: [(&str, &str); 3] =
    [("counter!", "counter"), ("gauge!", "gauge"), ("histogram!", "histogram")];

/// One metric.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metric {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// `pool` first.
    pub labels: Vec<String>,
    pub help: String,
}

impl Metric {
    /// What it counts in, as its name says: `seconds`, `bytes`, `ratio`, or nothing for plain numbers.
    pub fn unit(&self) -> &'static str {
        let name = self.name.trim_end_matches("_total");
        ["seconds", "bytes", "ratio"]
            .into_iter()
            .find(|unit| name.ends_with(&format!("_{unit}")))
            .unwrap_or("")
    }
}

/// All metrics by name, and what is wrong with them.
pub fn metrics(files: &[File]) -> (Vec<Metric>, Vec<String>) {
    let mut found = Found::default();
    let constants = constants(files);
    for file in files.iter().filter(|file| is_ours(file)) {
        found.read(file, &constants);
    }
    for metric in found.by_name.values() {
        let name = &metric.name;
        if metric.kind.is_empty() {
            found.findings.push(format!("{name} is described and recorded nowhere"));
        } else if metric.help.is_empty() {
            found
                .findings
                .push(format!("{name} has no help text; describe it beside the others of its crate"));
        }
    }
    (found.by_name.into_values().collect(), found.findings)
}

fn is_ours(file: &File) -> bool {
    file.path.starts_with("crates/")
        && file.path.contains("/src/")
        && file.path.ends_with(".rs")
        && !file.path.starts_with("crates/xtask/")
}

#[derive(Default)]
struct Found {
    by_name: BTreeMap<String, Metric>,
    findings: Vec<String>,
}

impl Found {
    fn read(&mut self, file: &File, constants: &[(String, String)]) {
        let text = with_constants(&file.text, constants);
        let source = Source::new(&text);
        let code: Vec<char> = source.code.chars().collect();
        let core = source.literals.iter().filter(|literal| literal.line < source.tests_from);
        for (literal, next) in core.zip(source.literals.iter().skip(1).map(Some).chain([None])) {
            if !is_metric(&literal.text) {
                continue;
            }
            let recorder = RECORDERS.iter().find(|(name, _)| is_call(&code, literal, name));
            if let Some((_, kind)) = recorder {
                let labels = labels(&source, &code, literal);
                self.recorded(file, literal, kind, labels);
            } else if let Some(help) = next.filter(|next| is_pair(&code, literal, next)) {
                self.metric(&literal.text).help = unescape(&help.text);
            }
        }
    }

    fn metric(&mut self, name: &str) -> &mut Metric {
        let new = || Metric { name: name.into(), ..Metric::default() };
        self.by_name.entry(name.into()).or_insert_with(new)
    }

    fn recorded(&mut self, file: &File, literal: &Literal, kind: &'static str, labels: Vec<String>) {
        let metric = self.metric(&literal.text);
        if metric.kind.is_empty() {
            (metric.kind, metric.labels) = (kind, labels);
        } else if (metric.kind, &metric.labels) != (kind, &labels) {
            let known = format!("{} with {:?}", metric.kind, metric.labels);
            self.findings.push(format!(
                "{}:{}: {} is a {kind} with {labels:?} here and a {known} elsewhere",
                file.path,
                literal.line + 1,
                literal.text
            ));
        }
    }
}

fn is_metric(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.strip_prefix(PREFIX).is_some_and(|rest| !rest.is_empty() && rest.chars().all(legal))
}

/// Whether the literal is the first argument of this macro, and not of one whose name only ends like it.
fn is_call(code: &[char], literal: &Literal, name: &str) -> bool {
    let before: String = code[..literal.start].iter().collect();
    let Some(before) = before.trim_end().strip_suffix('(').and_then(|rest| rest.strip_suffix(name)) else {
        return false;
    };
    !before.ends_with(is_word)
}

/// Whether the second literal belongs to the first: `"name", "help"`, or with a unit in between.
fn is_pair(code: &[char], name: &Literal, help: &Literal) -> bool {
    let between: String = code[name.end..help.start].iter().filter(|c| !c.is_whitespace()).collect();
    between == "," || between.starts_with(",Unit::") && between.ends_with(',')
}

/// The literals of a call that are followed by `=>`, `pool` first.
fn labels(source: &Source, code: &[char], name: &Literal) -> Vec<String> {
    let mut depth = 0;
    let end = (name.end..code.len()).find(|&at| {
        depth += match code[at] {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth < 0
    });
    let within = name.end..end.unwrap_or(code.len());
    let literals = source.literals.iter().filter(|literal| within.contains(&literal.start));
    let is_label = |literal: &&Literal| {
        let after = code[literal.end..].iter().filter(|c| !c.is_whitespace()).take(2);
        after.eq(&['=', '>'])
    };
    let mut labels: Vec<String> = literals.filter(is_label).map(|literal| literal.text.clone()).collect();
    labels.sort_by_key(|label| (label != "pool", label.clone()));
    labels
}

/// Constants that name a metric: `const STALE: &str = "evenkeel_discovery_stale";`.
fn constants(files: &[File]) -> Vec<(String, String)> {
    let mut constants = Vec::new();
    for file in files.iter().filter(|file| is_ours(file)) {
        for line in file.text.lines() {
            let Some((name, value)) = line.split_once(": &str = \"") else { continue };
            let name = name.rsplit(' ').next().unwrap_or_default();
            let value = value.trim_end_matches("\";");
            if line.contains("const ") && is_metric(value) {
                constants.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    constants
}

/// The text with the constants' values in place of their names, paths before them included.
fn with_constants(text: &str, constants: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in constants {
        let mut replaced = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find(name.as_str()) {
            let (before, after) = (&rest[..at], &rest[at + name.len()..]);
            let is_whole = !before.ends_with(is_word) && !after.starts_with(is_word);
            replaced.push_str(if is_whole {
                before.trim_end_matches(|c| is_word(c) || c == ':')
            } else {
                before
            });
            replaced.push_str(&if is_whole { format!("\"{value}\"") } else { name.clone() });
            rest = after;
        }
        replaced.push_str(rest);
        text = replaced;
    }
    text
}

/// What a literal means: quotes, and line breaks that are none.
fn unescape(literal: &str) -> String {
    let mut lines = literal.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start()).replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Metric>, Vec<String>) {
        metrics(&[File { path: "crates/a/src/b.rs".into(), text: format!("//! A.\n{text}") }])
    }

    #[test]
    fn a_metric_has_its_labels_from_the_call_and_its_help_from_the_description() {
        let (metrics, findings) = read(
            "const ALL: [(&str, &str); 1] = [(\n    \"evenkeel_a_total\",\n    \"Says \\\"a\\\", \\\n     and b\",\n)];\n\
             fn a() { counter!(\"evenkeel_a_total\", \"why\" => f(\"x\"), \"pool\" => \"y\").increment(1); g(\"z\") }\n",
        );
        assert_eq!(findings, [] as [&str; 0]);
        let labels = ["pool".to_owned(), "why".to_owned()].to_vec();
        let help = "Says \"a\", and b".to_owned();
        assert_eq!(metrics, [Metric { name: "evenkeel_a_total".into(), kind: "counter", labels, help }]);
    }

    #[test]
    fn a_described_histogram_behind_a_constant_is_one_metric() {
        let (metrics, findings) = read(
            "pub const TOOK: &str = \"evenkeel_took_seconds\";\n\
             fn a() { describe_histogram!(b::TOOK, Unit::Seconds, \"How long\"); histogram!(TOOK).record(1.0) }\n",
        );
        assert_eq!(findings, [] as [&str; 0]);
        assert_eq!(
            (metrics[0].kind, metrics[0].unit(), metrics[0].help.as_str()),
            ("histogram", "seconds", "How long")
        );
    }

    #[test]
    fn what_is_recorded_must_be_described_and_the_same_everywhere() {
        let found = |text: &str| read(text).1.join("; ");
        assert!(
            found("fn a() { gauge!(\"evenkeel_b\").set(1.0) }\n").contains("evenkeel_b has no help text")
        );
        assert!(found("fn a() { describe_gauge!(\"evenkeel_b\", \"B\") }\n").contains("recorded nowhere"));
        let twice = "fn a() { describe_gauge!(\"evenkeel_b\", \"B\"); gauge!(\"evenkeel_b\"); gauge!(\"evenkeel_b\", \"c\" => d) }\n";
        assert!(
            found(twice).contains("is a gauge with [\"c\"] here and a gauge with [] elsewhere"),
            "{}",
            found(twice)
        );
    }
}
