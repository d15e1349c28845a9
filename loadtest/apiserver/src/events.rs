//! The two faces of an `Event`: kept as `v1`, also told and taken as `events.k8s.io/v1`; and what a new one must have.
//!
//! Bounds and wordings are those of kube-apiserver's validation, so that what is accepted here is accepted there.

use serde_json::Value;

use crate::failure::Failure;

/// `v1` key, `events.k8s.io/v1` key. All others are the same.
const RENAMED: [(&str, &str); 7] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
];
/// Bytes of a note.
const NOTE_BYTES_MAX: usize = 1024;
/// Bytes of reason, action, controller and instance.
const WORD_BYTES_MAX: usize = 128;

/// As it is kept.
pub fn to_core(event: &Value) -> Value {
    rename(event, "v1", RENAMED.map(|(old, new)| (new, old)))
}

/// As `events.k8s.io/v1` tells it.
pub fn to_new(event: &Value) -> Value {
    rename(event, "events.k8s.io/v1", RENAMED)
}

fn rename(event: &Value, api_version: &str, names: [(&str, &str); 7]) -> Value {
    let mut event = event.clone();
    event["apiVersion"] = api_version.into();
    if let Some(object) = event.as_object_mut() {
        for (from, to) in names {
            if let Some(value) = object.remove(from) {
                object.insert(to.to_owned(), value);
            }
        }
    }
    event
}

/// Checks an `events.k8s.io/v1` event that is to be created; it is given as kept.
///
/// # Errors
/// 422 with the field that breaks a rule.
pub fn check_new(event: &Value) -> Result<(), Failure> {
    let name = event["metadata"]["name"].as_str().unwrap_or_default();
    let invalid = |field: &str, why: &str| Err(Failure::invalid("Event.events.k8s.io", name, field, why));
    if event["eventTime"].as_str().is_none_or(|time| !is_micro_time(time)) {
        return invalid("eventTime", "Required value: expected an RFC 3339 time with microseconds");
    }
    for (key, field) in [
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
        ("reason", "reason"),
        ("action", "action"),
    ] {
        match event[key].as_str() {
            None | Some("") => return invalid(field, "Required value"),
            Some(text) if text.len() > WORD_BYTES_MAX => {
                return invalid(field, "can have at most 128 characters");
            }
            Some(_) => {}
        }
    }
    if !event["type"].as_str().is_some_and(|kind| matches!(kind, "Normal" | "Warning")) {
        return invalid("type", "has invalid value; expected Normal or Warning");
    }
    if event["message"].as_str().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        return invalid("message", "can have at most 1024 characters");
    }
    let about = event["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let about = if about.is_empty() { "default" } else { about };
    if event["metadata"]["namespace"].as_str() != Some(about) {
        return invalid("involvedObject.namespace", "does not match event.namespace");
    }
    Ok(())
}

/// `2026-11-24T12:00:00.000000Z`: six digits are what the type can hold.
fn is_micro_time(text: &str) -> bool {
    let fraction = text.split_once('.').map(|(_, rest)| rest.trim_end_matches('Z'));
    text.contains('T')
        && fraction.is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "metadata": {"name": "e", "namespace": "shop"},
            "eventTime": "2026-11-24T12:00:00.000000Z", "reportingController": "evenkeel",
            "reportingInstance": "evenkeel-0", "reason": "PlanStarted", "action": "Rebalance", "type": "Normal",
            "note": "3 to 5", "regarding": {"kind": "Service", "namespace": "shop", "name": "chat"},
        })
    }

    #[test]
    fn an_event_has_two_faces() {
        let kept = to_core(&event());
        assert_eq!((&kept["message"], &kept["involvedObject"]["name"]), (&json!("3 to 5"), &json!("chat")));
        assert_eq!(kept["apiVersion"], "v1");
        assert_eq!(to_new(&kept), event());
        assert_eq!(check_new(&kept), Ok(()));
    }

    #[test]
    fn an_event_that_a_real_server_refuses_is_refused() {
        for (key, value) in [
            ("eventTime", json!(null)),
            ("eventTime", json!("2026-11-24T12:00:00Z")),
            ("reportingInstance", json!("")),
            ("reason", json!("x".repeat(129))),
            ("action", json!(null)),
            ("type", json!("Error")),
            ("note", json!("x".repeat(1025))),
            ("regarding", json!({"namespace": "other"})),
            ("regarding", json!({"kind": "Node"})),
        ] {
            let mut wrong = event();
            wrong[key] = value;
            assert_eq!(check_new(&to_core(&wrong)).map_err(|e| e.code), Err(422), "{wrong}");
        }
    }
}
