//! Patches: merge (RFC 7386), strategic merge as far as lists of named things go, JSON patch (RFC 6902).
//!
//! A server-side apply is taken as a merge that creates what is not there; field ownership is not kept.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// How a body changes an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/json-patch+json`
    Json,
    /// `application/apply-patch+yaml`
    Apply,
}

impl How {
    /// By content type.
    ///
    /// # Errors
    /// 415 when it is none of the four.
    pub fn of(content_type: &str) -> Result<Self, Failure> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/json-patch+json" => Ok(Self::Json),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => {
                let message =
                    format!("the body of the request was in an unknown format - {other:?} is no patch");
                Err(Failure::new(415, "UnsupportedMediaType", message))
            }
        }
    }

    /// The object after the patch.
    ///
    /// # Errors
    /// 400 when the patch is none; 422 when a JSON patch does not fit.
    pub fn apply(self, object: &Value, patch: &Value) -> Result<Value, Failure> {
        let mut object = object.clone();
        match self {
            Self::Json => json_patch(&mut object, patch)?,
            Self::Merge | Self::Strategic | Self::Apply if !patch.is_object() => {
                return Err(Failure::bad_request("error decoding patch: expected an object"));
            }
            Self::Merge => merge(&mut object, patch, false),
            Self::Strategic | Self::Apply => merge(&mut object, patch, true),
        }
        Ok(object)
    }
}

fn merge(target: &mut Value, patch: &Value, named_lists: bool) {
    let Value::Object(patch) = patch else {
        match (target.as_array_mut(), patch.as_array()) {
            (Some(list), Some(more)) if named_lists && more.iter().all(|item| name_of(item).is_some()) => {
                merge_named(list, more);
            }
            _ => *target = patch.clone(),
        }
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value, named_lists);
        }
    }
}

fn merge_named(list: &mut Vec<Value>, more: &[Value]) {
    for item in more {
        let at = list.iter().position(|known| name_of(known) == name_of(item));
        match at {
            Some(at) if item["$patch"] == "delete" => drop(list.remove(at)),
            Some(at) => merge(&mut list[at], item, true),
            None => list.push(item.clone()),
        }
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("name")?.as_str()
}

fn json_patch(object: &mut Value, patch: &Value) -> Result<(), Failure> {
    let Some(operations) = patch.as_array() else {
        return Err(Failure::bad_request("error decoding patch: expected a list of operations"));
    };
    for operation in operations {
        operate(object, operation).ok_or_else(|| {
            let message =
                format!("the server rejected our request due to an error in our request: {operation}");
            Failure::new(422, "Invalid", message)
        })?;
    }
    Ok(())
}

/// One operation; none when it does not fit.
fn operate(object: &mut Value, operation: &Value) -> Option<()> {
    let path = operation.get("path")?.as_str()?;
    match operation.get("op")?.as_str()? {
        "test" => (object.pointer(path)? == operation.get("value")?).then_some(()),
        "add" => add(object, path, operation.get("value")?.clone()),
        "replace" => {
            *object.pointer_mut(path)? = operation.get("value")?.clone();
            Some(())
        }
        "remove" => remove(object, path).map(drop),
        "move" => {
            let value = remove(object, operation.get("from")?.as_str()?)?;
            add(object, path, value)
        }
        "copy" => {
            let value = object.pointer(operation.get("from")?.as_str()?)?.clone();
            add(object, path, value)
        }
        _ => None,
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    let (parent, key) = parent(object, path)?;
    match parent {
        Value::Object(map) => drop(map.insert(key, value)),
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let at = key.parse().ok().filter(|at| *at <= list.len())?;
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &str) -> Option<Value> {
    let (parent, key) = parent(object, path)?;
    match parent {
        Value::Object(map) => map.remove(&key),
        Value::Array(list) => {
            let at = key.parse().ok().filter(|at| *at < list.len())?;
            Some(list.remove(at))
        }
        _ => None,
    }
}

fn parent<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, key) = path.rsplit_once('/')?;
    Some((object.pointer_mut(parent)?, key.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_adds_replaces_and_removes() {
        let object = json!({"metadata": {"annotations": {"a": "1", "b": "2"}}, "list": [1, 2]});
        let patch =
            json!({"metadata": {"annotations": {"a": null, "c": "3"}, "labels": {"x": "y"}}, "list": [3]});
        let after = How::Merge.apply(&object, &patch).unwrap();
        let metadata = json!({"annotations": {"b": "2", "c": "3"}, "labels": {"x": "y"}});
        assert_eq!(after, json!({"metadata": metadata, "list": [3]}));
        assert_eq!(How::Merge.apply(&object, &json!([])).unwrap_err().code, 400);
    }

    #[test]
    fn a_strategic_patch_meets_named_things_in_lists_by_their_name() {
        let object =
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}], "args": [1]});
        let patch = json!({"containers": [{"name": "b", "image": "z"}, {"name": "c"}], "args": [2]});
        let after = How::Strategic.apply(&object, &patch).unwrap();
        assert_eq!(after["containers"][0]["image"], "x");
        assert_eq!(after["containers"][1], json!({"name": "b", "image": "z"}));
        assert_eq!((after["containers"][2]["name"].as_str(), &after["args"]), (Some("c"), &json!([2])));
    }

    #[test]
    fn a_json_patch_does_all_of_it_or_says_what_does_not_fit() {
        let object = json!({"metadata": {"annotations": {}}, "list": [1, 3]});
        let patch = json!([
            {"op": "test", "path": "/list/0", "value": 1},
            {"op": "add", "path": "/metadata/annotations/a~1b", "value": "1"},
            {"op": "add", "path": "/list/1", "value": 2},
            {"op": "remove", "path": "/list/0"},
            {"op": "replace", "path": "/list/1", "value": 4},
        ]);
        let after = How::Json.apply(&object, &patch).unwrap();
        assert_eq!(after, json!({"metadata": {"annotations": {"a/b": "1"}}, "list": [2, 4]}));
        let wrong = json!([{"op": "remove", "path": "/nothing"}]);
        assert_eq!(How::Json.apply(&object, &wrong).unwrap_err().code, 422);
    }

    #[test]
    fn a_patch_of_an_unknown_format_is_415() {
        assert_eq!(How::of("application/json").unwrap_err().code, 415);
        assert_eq!(How::of("application/merge-patch+json; charset=utf-8"), Ok(How::Merge));
    }
}
