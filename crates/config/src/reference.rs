//! Every key of `evenkeel.yaml` as a reader looks it up: what may be written there, what holds without it, what it means.
//!
//! Taken from the schema, so from the types and the checks themselves. How a page of it looks is decided elsewhere.

use serde_json::Value;

use crate::json_schema::{json_schema, resolve};

/// One mapping of the file with its keys, ordered by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// `pools.<name>.rebalance`, `listeners[].tls`; empty for the whole file.
    pub path: String,
    /// What may be written in it.
    pub entries: Vec<Entry>,
}

/// One key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// From the root: `pools.<name>.rebalance.settle`.
    pub path: String,
    /// What is written there: `duration`, `integer`, `list`, or the words to choose from.
    pub kind: String,
    /// `0s to 10m`, where there are bounds.
    pub range: Option<String>,
    /// What holds when it is left out: a value, `required`, `none`, or words.
    pub default: String,
    /// What it means.
    pub meaning: String,
}

/// What introduces words for a default in a doc comment.
const DEFAULT: &str = "Default: ";

/// All sections, each before those within it.
pub fn reference() -> Vec<Section> {
    let schema = json_schema();
    let mut sections = Vec::new();
    section(&schema, String::new(), "", &mut sections);
    sections
}

fn section(schema: &Value, place: String, path: &str, into: &mut Vec<Section>) {
    let here = &schema.pointer(&place).unwrap_or(&Value::Null);
    let required: Vec<&str> = strings(&here["required"]).collect();
    let at = into.len();
    into.push(Section { path: path.into(), entries: Vec::new() });
    let Some(properties) = here["properties"].as_object() else { return };
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let place = resolve(schema, format!("{place}/properties/{name}"));
        let value = schema.pointer(&place).unwrap_or(&Value::Null);
        let mut entry = entry(&path, property, value);
        if required.contains(&name.as_str()) {
            entry.default = "required".into();
        }
        into[at].entries.push(entry);
        let (inner, path) = if value["items"].is_object() {
            (format!("{place}/items"), format!("{path}[]"))
        } else if value["additionalProperties"].is_object() {
            (format!("{place}/additionalProperties"), format!("{path}.<name>"))
        } else {
            (place, path)
        };
        let inner = resolve(schema, inner);
        if schema.pointer(&inner).is_some_and(|inner| inner["properties"].is_object()) {
            section(schema, inner, &path, into);
        }
    }
}

/// `property` is what the key itself says, `value` what it refers to.
fn entry(path: &str, property: &Value, value: &Value) -> Entry {
    let description = one_line(property["description"].as_str().unwrap_or_default());
    let (mut meaning, worded) = split_default(&description);
    let variants = value["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
    for variant in variants {
        let (word, says) = (&variant["const"], one_line(variant["description"].as_str().unwrap_or_default()));
        if let Some(word) = word.as_str() {
            meaning.push_str(&format!(" `{word}`: {says}"));
        }
    }
    Entry {
        path: path.into(),
        kind: kind(property, value, variants),
        range: range(property).or_else(|| range(value)),
        default: worded.unwrap_or_else(|| default(property, value)),
        meaning: meaning.trim().into(),
    }
}

fn kind(property: &Value, value: &Value, variants: &[Value]) -> String {
    let words: Vec<&str> =
        variants.iter().filter_map(|v| v["const"].as_str()).chain(strings(&value["enum"])).collect();
    if !words.is_empty() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    let named = property["x-type"].as_str().or(value["x-type"].as_str());
    let kind = value["type"].as_str().or(value["type"][0].as_str()).unwrap_or_default();
    named.map_or_else(
        || match kind {
            "boolean" => "true, false".into(),
            "string" if value["contentEncoding"] == "base64" => "base64".into(),
            "string" => "text".into(),
            "array" => "list".into(),
            "object" => "mapping".into(),
            other => other.to_owned(),
        },
        str::to_owned,
    )
}

fn range(value: &Value) -> Option<String> {
    if let Some(words) = value["x-range"].as_str() {
        return Some(words.into());
    }
    match (value["minimum"].as_f64(), value["maximum"].as_f64()) {
        (Some(least), Some(most)) => Some(format!("{} to {}", grouped(least), grouped(most))),
        (Some(least), None) => Some(format!("{} or more", grouped(least))),
        (None, Some(_) | None) => None,
    }
}

/// `1,000,000`: from five digits on, as figures are written in the documents.
fn grouped(number: f64) -> String {
    let text = number.to_string();
    if number.fract() != 0.0 || text.len() < 5 {
        return text;
    }
    let group = |(at, digit): (usize, char)| {
        let comma = at > 0 && (text.len() - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    text.chars().enumerate().flat_map(group).collect()
}

fn default(property: &Value, value: &Value) -> String {
    match &property["default"] {
        Value::String(text) => format!("`{text}`"),
        Value::Number(number) => number.as_f64().map_or_else(String::new, |number| number.to_string()),
        Value::Bool(flag) => flag.to_string(),
        Value::Null if value["type"] == "object" && property["anyOf"].is_null() => String::new(),
        Value::Null | Value::Array(_) | Value::Object(_) => "none".into(),
    }
}

/// Takes the sentence out that says what holds when the key is left out.
fn split_default(description: &str) -> (String, Option<String>) {
    let Some((before, after)) = description.split_once(DEFAULT) else {
        return (description.into(), None);
    };
    let (words, rest) = after.split_once(". ").unwrap_or((after.trim_end_matches('.'), ""));
    (format!("{before}{rest}").trim().into(), Some(words.into()))
}

/// A doc comment's first paragraph as one line.
fn one_line(text: &str) -> String {
    text.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> Entry {
        let entries = reference().into_iter().flat_map(|section| section.entries);
        entries.into_iter().find(|entry| entry.path == path).unwrap_or_else(|| panic!("no {path}"))
    }

    #[test]
    fn a_key_has_its_range_from_the_checks_and_its_default_from_the_type() {
        let settle = find("pools.<name>.rebalance.settle");
        assert_eq!((settle.kind.as_str(), settle.default.as_str()), ("duration", "`5s`"));
        assert_eq!(settle.range.as_deref(), Some("0s to 10m"));
        let ratio = find("pools.<name>.rebalance.start_ratio");
        assert_eq!((ratio.kind.as_str(), ratio.default.as_str()), ("number", "1.1"));
        assert_eq!(ratio.range.as_deref(), Some("1 to 10"));
        assert_eq!(find("pools.<name>.rebalance.stop_ratio").range.as_deref(), Some("1 to start_ratio"));
        assert_eq!(find("pools.<name>.endpoints[].weight").range.as_deref(), Some("1 to 1000"));
    }

    #[test]
    fn words_for_a_default_leave_the_meaning() {
        let bound = find("limits.connections_max");
        assert_eq!(bound.default, "what the file descriptors allow, (limit - 200) / 2");
        assert!(!bound.meaning.contains("Default"), "{}", bound.meaning);
        assert_eq!(split_default("A. Default: b. C."), ("A. C.".into(), Some("b".into())));
    }

    #[test]
    fn a_choice_tells_what_each_word_means() {
        let protocol = find("listeners[].protocol");
        assert_eq!((protocol.kind.as_str(), protocol.default.as_str()), ("`http`, `amqp`", "`http`"));
        assert!(protocol.meaning.contains("`amqp`: AMQP 0-9-1"), "{}", protocol.meaning);
    }

    #[test]
    fn every_number_and_every_duration_has_a_range() {
        // Close codes are judged one by one.
        let free = ["pools.<name>.move.close.code", "pools.<name>.websocket.on_upstream_abort"];
        for entry in reference().iter().flat_map(|section| &section.entries) {
            let is_measured = ["integer", "number", "duration"].contains(&entry.kind.as_str());
            if is_measured && !free.contains(&entry.path.as_str()) {
                let range = entry.range.as_deref().unwrap_or_default();
                assert!(!range.is_empty() && range != "0 or more", "{}: a check tells its range", entry.path);
            }
        }
    }

    #[test]
    fn every_key_says_what_it_means() {
        for entry in reference().iter().flat_map(|section| &section.entries) {
            assert!(entry.meaning.ends_with('.'), "{}: {:?}", entry.path, entry.meaning);
        }
    }
}
