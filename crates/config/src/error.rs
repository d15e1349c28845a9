//! What is wrong with a file: where, what was found, what was expected, what to do.

use std::fmt;

use crate::tree::{Node, Path, Place, Tree};

/// One complaint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// `pools.chat.endpoints[2].address`; empty for the whole file.
    pub path: String,
    /// What was found and expected, and what to do.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(at: Place, path: &Path, message: impl Into<String>) -> Self {
        Self { line: at.line, column: at.column, path: path.to_string(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Legal, and probably not what was meant.
pub type Warning = Problem;

/// All complaints about one file, in its order; at least one. Shown one a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl From<Problem> for Errors {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Says what the YAML reader found in our own words, at the key it concerns.
pub(crate) fn from_reader(error: &serde_saphyr::Error, tree: Option<&Tree>) -> Problem {
    use serde_saphyr::Error as Reader;

    let error = error.without_snippet();
    let at = error.location().map_or(Place { line: 1, column: 1 }, Place::from);
    let (path, found) = match tree.map(|tree| tree.at(at)) {
        // The reader tells a missing key at one of its neighbours; it is the mapping around them that lacks it.
        Some(here) if here.by_key && matches!(error, Reader::SerdeMissingField { .. }) => {
            (here.path.parent(), None)
        }
        Some(here) => (here.path, Some(here.node)),
        None => (Path::default(), None),
    };
    let message = match error {
        Reader::SerdeUnknownField { field, expected, .. } => {
            format!(
                "unknown key `{field}`{}; known here: {}",
                did_you_mean(field, expected),
                expected.join(", ")
            )
        }
        Reader::SerdeUnknownVariant { variant, expected, .. } => {
            let hint = did_you_mean(variant, expected);
            format!("`{variant}` is none of {}{hint}", expected.join(", "))
        }
        Reader::SerdeMissingField { field, .. } => format!("the key `{field}` is missing; add it"),
        Reader::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` is written twice; keep one of them")
        }
        Reader::InvalidScalar { ty, .. } => expected(found, scalar_in_words(ty)),
        Reader::InvalidBooleanStrict { .. } => expected(found, "true or false"),
        Reader::Unexpected { expected: what, .. } => expected(found, structure_in_words(what)),
        Reader::NonFiniteFloat { value, .. } => format!("found `{value}`, expected a finite number"),
        other => {
            let text = other.to_string();
            // The place is told once, in front.
            let bare = text.split(" at line ").next().unwrap_or(&text).to_owned();
            match found {
                Some(Node::Leaf(Some(value))) if bare == "invalid socket address syntax" => format!(
                    "`{value}` is not an IP address with a port, expected for example 10.0.0.7:8080 or \"[::]:8080\""
                ),
                Some(Node::Leaf(Some(value))) if !bare.contains(value.as_str()) => {
                    format!("`{value}`: {bare}")
                }
                Some(Node::Leaf(_) | Node::List(_) | Node::Map(_)) | None => bare,
            }
        }
    };
    Problem::new(at, &path, message)
}

fn expected(found: Option<&Node>, what: &str) -> String {
    match found {
        Some(node) => format!("found {}, expected {what}", node.describe()),
        None => format!("expected {what}"),
    }
}

fn scalar_in_words(ty: &str) -> &str {
    match ty {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "f64" | "floating point" => "a number",
        "boolean" | "bool" => "true or false",
        other => other,
    }
}

fn structure_in_words(what: &str) -> &str {
    match what {
        "mapping start" => "a mapping (`key: value` on lines of their own, or `{}`)",
        "sequence start" => "a list (lines that begin with `- `, or `[]`)",
        "string scalar" => "a single value",
        other => other,
    }
}

/// `; did you mean "x"?` when a known word is close, else nothing.
pub(crate) fn did_you_mean(word: &str, known: &[impl AsRef<str>]) -> String {
    let closest = known.iter().map(|k| (distance(word, k.as_ref()), k.as_ref())).min();
    match closest {
        Some((steps, name)) if steps <= 1 + word.chars().count() / 4 => format!("; did you mean `{name}`?"),
        Some(_) | None => String::new(),
    }
}

/// Levenshtein distance in characters; words longer than 64 are far from everything.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_word_is_suggested_and_a_far_one_is_not() {
        let known = ["balance", "rebalance", "move"];
        assert_eq!(did_you_mean("balanc", &known), "; did you mean `balance`?");
        assert_eq!(did_you_mean("mve", &known), "; did you mean `move`?");
        assert_eq!(did_you_mean("colour", &known), "");
        assert_eq!(did_you_mean(&"x".repeat(1_000), &known), "");
    }
}
