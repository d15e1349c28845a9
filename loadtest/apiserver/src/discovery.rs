//! What `/version`, `/api` and `/apis` answer: enough for kubectl and for clients that look kinds up.

use serde_json::{Value, json};

use crate::resource::{RESOURCES, Resource};

const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];

/// `/version`
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2025-04-23T13:00:00Z", "goVersion": "go1.24.2", "compiler": "gc", "platform": "linux/amd64",
    })
}

/// `/api`
pub fn api() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`
pub fn apis() -> Value {
    let mut names: Vec<&str> = RESOURCES.iter().map(|r| r.group).filter(|group| !group.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let groups: Vec<Value> = names.into_iter().map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub fn group(name: &str) -> Value {
    let mut versions: Vec<Value> = Vec::new();
    for resource in RESOURCES.iter().filter(|r| r.group == name) {
        let version = json!({"groupVersion": resource.api_version(), "version": resource.version});
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let preferred = versions.first().cloned();
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred})
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub fn resources(group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    let mut api_version = version.to_owned();
    for resource in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        api_version = resource.api_version();
        list.push(entry(resource));
        list.push(part(resource, "status", resource.kind, Value::Null));
        if resource.scalable {
            list.push(part(resource, "scale", "Scale", json!({"group": "autoscaling", "version": "v1"})));
        }
        if resource.kind == "Pod" {
            list.push(part(resource, "eviction", "Eviction", json!({"group": "policy", "version": "v1"})));
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list})
}

fn entry(resource: &Resource) -> Value {
    json!({
        "name": resource.plural, "singularName": resource.kind.to_lowercase(), "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": ALL_VERBS, "shortNames": resource.short,
    })
}

fn part(resource: &Resource, name: &str, kind: &str, of: Value) -> Value {
    let verbs = if name == "eviction" { &["create"][..] } else { &PART_VERBS };
    let mut part = json!({
        "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
        "kind": kind, "verbs": verbs,
    });
    if of.is_object() {
        part["group"] = of["group"].clone();
        part["version"] = of["version"].clone();
    }
    part
}
