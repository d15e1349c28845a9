//! Writes: what a new object gets, what a change may not touch, and when it is refused.

use serde_json::{Value, json};

use crate::call::Call;
use crate::events;
use crate::failure::Failure;
use crate::patch::How;
use crate::resource::Resource;

/// What a write is made with.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The time, RFC 3339.
    pub now: &'a str,
    /// Makes uids differ.
    pub number: u64,
}

/// A new object as it is kept.
///
/// # Errors
/// 400 when it is another kind of object or in another namespace, 422 when it breaks a rule.
pub fn created(call: &Call, mut object: Value, stamp: Stamp) -> Result<Value, Failure> {
    let resource = call.objects.resource;
    settle_type(resource, &mut object)?;
    let namespace = call.objects.namespace.as_deref();
    settle_namespace(resource, namespace, &mut object)?;
    let metadata = &mut object["metadata"];
    if metadata["name"].as_str().unwrap_or_default().is_empty() {
        let Some(prefix) = metadata["generateName"].as_str().filter(|prefix| !prefix.is_empty()) else {
            return Err(Failure::invalid(
                resource.kind,
                "",
                "metadata.name",
                "Required value: name or generateName is required",
            ));
        };
        metadata["name"] = format!("{prefix}{:05x}", stamp.number).into();
    }
    check_name(resource, metadata["name"].as_str().unwrap_or_default())?;
    metadata["uid"] = uid(stamp.number).into();
    metadata["creationTimestamp"] = stamp.now.into();
    if object.get("spec").is_some() {
        object["metadata"]["generation"] = 1.into();
    }
    if resource.is_new_event() {
        object = events::to_core(&object);
        events::check_new(&object)?;
    }
    Ok(object)
}

/// An object that takes the place of `old`. A change of the object leaves its status, one of the status leaves the rest.
///
/// # Errors
/// 400 when it is another kind of object, 409 when `old` is not what the client has read.
pub fn replaced(call: &Call, old: &Value, mut new: Value) -> Result<Value, Failure> {
    let resource = call.objects.resource;
    settle_type(resource, &mut new)?;
    settle_namespace(resource, call.objects.namespace.as_deref(), &mut new)?;
    check_unchanged(resource, old, &new)?;
    if resource.is_new_event() {
        new = events::to_core(&new);
    }
    if call.objects.subresource == "status" {
        let mut object = old.clone();
        object["status"] = new["status"].take();
        return Ok(object);
    }
    for key in ["name", "uid", "creationTimestamp", "generation", "resourceVersion"] {
        carry(&old["metadata"], &mut new["metadata"], key);
    }
    carry(old, &mut new, "status");
    if old.get("spec") != new.get("spec") {
        new["metadata"]["generation"] = (old["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
    }
    Ok(new)
}

/// Lets `new` have at `key` what `old` has, or nothing.
fn carry(old: &Value, new: &mut Value, key: &str) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => drop(new.insert(key.to_owned(), value.clone())),
        None => drop(new.remove(key)),
    }
}

/// An object after a patch, still to be [`replaced`].
///
/// # Errors
/// As [`How::apply`].
pub fn patched(call: &Call, how: How, old: &Value, patch: &Value) -> Result<Value, Failure> {
    let shown = if call.objects.resource.is_new_event() { events::to_new(old) } else { old.clone() };
    how.apply(&shown, patch)
}

/// The `Scale` of an object.
pub fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": replicas(object)},
        "status": {"replicas": object["status"]["replicas"].as_u64().unwrap_or(0), "selector": selector.join(",")},
    })
}

/// An object with the number of replicas that a `Scale` demands.
///
/// # Errors
/// 409 when the object is not what the client has read, 422 when the number is none.
pub fn scaled(resource: &Resource, old: &Value, scale: &Value) -> Result<Value, Failure> {
    check_unchanged(resource, old, scale)?;
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let demanded = &scale["spec"]["replicas"];
    let Some(count) = demanded.as_u64().filter(|count| i32::try_from(*count).is_ok()) else {
        let why = format!("Invalid value: {demanded}: must be greater than or equal to 0");
        return Err(Failure::invalid("Scale.autoscaling", name, "spec.replicas", &why));
    };
    let mut new = old.clone();
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    new["spec"]["replicas"] = count.into();
    Ok(new)
}

/// Replicas that an object demands.
pub fn replicas(object: &Value) -> u64 {
    object["spec"]["replicas"].as_u64().unwrap_or(1)
}

/// Checks what a client demands of the object that it deletes.
///
/// # Errors
/// 409 when it is another one.
pub fn check_preconditions(resource: &Resource, old: &Value, options: &Value) -> Result<(), Failure> {
    let demanded = json!({"metadata": options["preconditions"]});
    check_unchanged(resource, old, &demanded)
}

fn check_unchanged(resource: &Resource, old: &Value, new: &Value) -> Result<(), Failure> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let (known, found) = (&new["metadata"]["uid"], &old["metadata"]["uid"]);
    if known.as_str().is_some_and(|known| !known.is_empty()) && known != found {
        let why = format!("Precondition failed: UID in precondition: {known}, UID in object meta: {found}");
        return Err(Failure::conflict(resource, name, &why));
    }
    let (known, found) = (&new["metadata"]["resourceVersion"], &old["metadata"]["resourceVersion"]);
    if known.as_str().is_some_and(|known| !known.is_empty()) && known != found {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Failure::conflict(resource, name, why));
    }
    Ok(())
}

fn settle_type(resource: &Resource, object: &mut Value) -> Result<(), Failure> {
    if !object.is_object() {
        return Err(Failure::bad_request("the object provided is unrecognized: expected a JSON object"));
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    for (key, expected) in [("kind", resource.kind.to_owned()), ("apiVersion", resource.api_version())] {
        match object[key].as_str() {
            None | Some("") => object[key] = expected.into(),
            Some(found) if found == expected => {}
            Some(found) => {
                let message =
                    format!("the {key} in the data ({found}) does not match the expected ({expected})");
                return Err(Failure::bad_request(message));
            }
        }
    }
    Ok(())
}

fn settle_namespace(resource: &Resource, path: Option<&str>, object: &mut Value) -> Result<(), Failure> {
    if !resource.namespaced {
        return Ok(());
    }
    let path = path.unwrap_or("default");
    match object["metadata"]["namespace"].as_str() {
        None | Some("") => object["metadata"]["namespace"] = path.into(),
        Some(found) if found == path => {}
        Some(_) => {
            let message =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Failure::bad_request(message));
        }
    }
    Ok(())
}

/// Names are DNS subdomains, RFC 1123.
fn check_name(resource: &Resource, name: &str) -> Result<(), Failure> {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let (first, last) = (label.bytes().next(), label.bytes().last());
        first.is_some_and(inner) && last.is_some_and(inner) && label.bytes().all(|b| inner(b) || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let why = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
         '-' or '.', and must start and end with an alphanumeric character"
    );
    Err(Failure::invalid(resource.kind, name, "metadata.name", &why))
}

fn uid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}
