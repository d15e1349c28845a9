//! The few keys behind a `?`. Unknown ones are errors: a misspelt `dry_run` must not move sessions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::answer::Failure;

/// The keys of `query`, each of which must be one of `known` and there once.
pub fn parse<'a>(query: Option<&str>, known: &[&'a str]) -> Result<BTreeMap<&'a str, String>, Failure> {
    let mut found = BTreeMap::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key)?;
        let Some(key) = known.iter().find(|known| **known == key) else {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::bad(format!("unknown key {key:?} behind the `?`; known here: {known}")));
        };
        if found.insert(*key, decode(value)?.into_owned()).is_some() {
            return Err(Failure::bad(format!("`{key}` is there twice; expected once")));
        }
    }
    Ok(found)
}

/// `true` or `false`; absent is false.
pub fn flag(value: Option<&String>, key: &str) -> Result<bool, Failure> {
    match value.map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Failure::bad(format!("`{key}` is {other:?}, expected true or false"))),
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, Failure> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(|text| Cow::Owned(text.into_owned()))
        .map_err(|_| Failure::bad("what stands behind the `?` is not UTF-8 when decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<String, String> {
        let found = parse(Some(query), &["deadline", "pool"]).map_err(|failure| failure.text)?;
        Ok(found.iter().map(|(key, value)| format!("{key}={value};")).collect())
    }

    #[test]
    fn known_keys_are_decoded_and_anything_else_is_an_error() {
        for (query, expected) in [
            ("", ""),
            ("pool=a", "pool=a;"),
            ("&pool=a&&deadline=1m+30s", "deadline=1m 30s;pool=a;"),
            ("p%6Fol=%61", "pool=a;"),
            ("pool", "pool=;"),
            ("pool=a=b", "pool=a=b;"),
        ] {
            assert_eq!(parsed(query).as_deref(), Ok(expected), "{query}");
        }
        for (query, why) in
            [("poll=a", "known here: deadline, pool"), ("pool=a&pool=b", "twice"), ("pool=%ff", "not UTF-8")]
        {
            let error = parsed(query).unwrap_err();
            assert!(error.contains(why), "{query}: {error}");
        }
        assert!(parse(None, &[]).unwrap().is_empty());
        assert!(parse(Some("a"), &[]).unwrap_err().text.contains("known here: none"));
    }

    #[test]
    fn a_flag_is_true_or_false_and_nothing_else() {
        let of = |text: &str| flag(Some(&text.to_owned()), "dry_run");
        assert_eq!((flag(None, "dry_run"), of("true"), of("false")), (Ok(false), Ok(true), Ok(false)));
        for other in ["", "1", "yes", "True"] {
            assert!(of(other).unwrap_err().text.contains("expected true or false"), "{other}");
        }
    }
}
