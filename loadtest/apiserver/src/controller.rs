//! What controllers make of a list of backends: a Service, its EndpointSlices, its Pods, in steps that real controllers
//! make as well.
//!
//! An endpoint stays in its slice as long as it is there, so that no write makes it vanish for a moment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::handle::Handle;

/// Most endpoints in a slice, as the real controller has it.
pub const SLICE_ENDPOINTS_MAX: usize = 100;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A Service of backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Where.
    pub namespace: String,
    /// Its name, which its Pods have as label `app`.
    pub name: String,
    /// Name of its only port; empty: it has none.
    pub port_name: String,
    /// Most endpoints in a slice.
    pub slice_max: usize,
}

/// One backend: a Pod, and its entry in a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Of the Pod.
    pub name: String,
    /// Of the Pod.
    pub uid: String,
    /// Loopback is fine.
    pub ip: IpAddr,
    /// Backends of different ports stand in different slices, as with named ports of different Pods.
    pub port: u16,
    /// Condition `ready`.
    pub ready: bool,
    /// Condition `serving`.
    pub serving: bool,
    /// Condition `terminating`.
    pub terminating: bool,
    /// Its zone.
    pub zone: Option<String>,
    /// Its node.
    pub node: Option<String>,
}

impl Service {
    /// With one unnamed port and slices of the usual size.
    pub fn new(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { namespace, name, port_name: String::new(), slice_max: SLICE_ENDPOINTS_MAX }
    }
}

impl Backend {
    /// A ready one, with a uid made of its name.
    pub fn new(name: &str, ip: impl Into<IpAddr>, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ip: ip.into(),
            port,
            ready: true,
            serving: true,
            terminating: false,
            zone: None,
            node: None,
        }
    }

    /// It is being deleted, and still serves.
    pub fn terminating(mut self) -> Self {
        (self.ready, self.serving, self.terminating) = (false, true, true);
        self
    }

    /// It is not ready.
    pub fn unready(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }
}

impl Handle {
    /// Brings a Service and its slices to what the list says; Pods are not touched.
    ///
    /// # Errors
    /// When a name is none.
    pub fn apply_backends(&self, service: &Service, backends: &[Backend]) -> Result<(), Failure> {
        if self.get("services", &service.namespace, &service.name).is_none() {
            self.apply(service_object(service, backends))?;
        }
        let known: Vec<Value> = self
            .list("endpointslices", &service.namespace)
            .into_iter()
            .filter(|slice| slice["metadata"]["labels"][SERVICE_LABEL] == service.name.as_str())
            .collect();
        let wanted = slices(service, &known, backends);
        for slice in &wanted {
            if !known
                .iter()
                .any(|old| old["metadata"]["name"] == slice["metadata"]["name"] && same(old, slice))
            {
                self.apply(slice.clone())?;
            }
        }
        for old in &known {
            let name = old["metadata"]["name"].as_str().unwrap_or_default();
            if !wanted.iter().any(|slice| slice["metadata"]["name"] == name) {
                self.delete("endpointslices", &service.namespace, name);
            }
        }
        Ok(())
    }

    /// Makes the Pods that are missing and deletes those of the Service that are not in the list. Annotations of others
    /// stay as they are.
    ///
    /// # Errors
    /// When a name is none.
    pub fn apply_pods(&self, service: &Service, backends: &[Backend]) -> Result<(), Failure> {
        for pod in self.list("pods", &service.namespace) {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let ours = pod["metadata"]["labels"]["app"] == service.name.as_str();
            let wanted = backends.iter().any(|b| b.name == name && pod["metadata"]["uid"] == b.uid.as_str());
            if ours && !wanted {
                self.delete("pods", &service.namespace, name);
            }
        }
        for backend in backends {
            if self.get("pods", &service.namespace, &backend.name).is_none() {
                self.apply(pod_object(service, backend))?;
            }
        }
        Ok(())
    }

    /// Makes a Deployment that demands so many replicas. Its hook is called when the number changes, see
    /// [`on_scale`](crate::ApiServer::on_scale).
    ///
    /// # Errors
    /// When the name is none.
    pub fn apply_deployment(&self, namespace: &str, name: &str, replicas: u32) -> Result<(), Failure> {
        let labels = json!({"app": name});
        self.apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
            },
            "status": {"replicas": replicas},
        }))?;
        Ok(())
    }

    /// Notes in a Deployment how many replicas there are, and how many are ready.
    ///
    /// # Errors
    /// When there is no such Deployment.
    pub fn note_replicas(&self, namespace: &str, name: &str, all: u32, ready: u32) -> Result<(), Failure> {
        let status = json!({"replicas": all, "readyReplicas": ready, "availableReplicas": ready});
        self.merge("deployments", namespace, name, &json!({"status": status}))?;
        Ok(())
    }
}

/// The slices of a Service: every endpoint in the slice where it is, new ones where there is room.
pub fn slices(service: &Service, known: &[Value], backends: &[Backend]) -> Vec<Value> {
    let mut by_kind: BTreeMap<(u16, bool), Vec<&Backend>> = BTreeMap::new();
    for backend in backends {
        by_kind.entry((backend.port, backend.ip.is_ipv6())).or_default().push(backend);
    }
    let mut made: Vec<Value> = Vec::new();
    for ((port, is_v6), backends) in by_kind {
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let fits = |slice: &&Value| {
            slice["addressType"] == family && slice["ports"][0]["port"].as_u64() == Some(port.into())
        };
        let mut parts: Vec<(String, Vec<&Backend>)> = Vec::new();
        let mut new: Vec<&Backend> = backends.clone();
        for slice in known.iter().filter(fits) {
            let stands = |backend: &&Backend| entry_of(slice, &backend.uid);
            let (stays, rest) = new.into_iter().partition::<Vec<_>, _>(stands);
            new = rest;
            if !stays.is_empty() {
                parts.push((slice["metadata"]["name"].as_str().unwrap_or_default().to_owned(), stays));
            }
        }
        let room = service.slice_max.max(1);
        for backend in new {
            match parts.iter_mut().find(|(_, part)| part.len() < room) {
                Some((_, part)) => part.push(backend),
                None => parts.push((String::new(), vec![backend])),
            }
        }
        for (name, part) in parts {
            let name = if name.is_empty() { free_name(service, known, &made) } else { name };
            made.push(slice_object(service, &name, family, port, &part));
        }
    }
    made
}

/// Which Pods a ReplicaSet would delete first: not ready before ready, then by the lowest deletion cost, then the
/// youngest, then by name.
pub fn deleted_first(pods: &[Value]) -> Vec<String> {
    let rank = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        let cost = pod["metadata"]["annotations"][DELETION_COST].as_str().and_then(|cost| cost.parse().ok());
        let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (ready, cost.unwrap_or(0_i32), std::cmp::Reverse(created), name)
    };
    let mut ranked: Vec<_> = pods.iter().map(rank).collect();
    ranked.sort();
    ranked.into_iter().map(|(.., name)| name).collect()
}

fn entry_of(slice: &Value, uid: &str) -> bool {
    slice["endpoints"].as_array().into_iter().flatten().any(|endpoint| endpoint["targetRef"]["uid"] == uid)
}

fn same(old: &Value, new: &Value) -> bool {
    old["endpoints"] == new["endpoints"] && old["ports"] == new["ports"]
}

fn free_name(service: &Service, known: &[Value], made: &[Value]) -> String {
    let taken = |name: &str| known.iter().chain(made).any(|slice| slice["metadata"]["name"] == name);
    let mut number = 1;
    loop {
        let name = format!("{}-{number:05}", service.name);
        if !taken(&name) {
            return name;
        }
        number += 1;
    }
}

fn slice_object(service: &Service, name: &str, family: &str, port: u16, backends: &[&Backend]) -> Value {
    let endpoints: Vec<Value> = backends.iter().map(|backend| endpoint(service, backend)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": service.namespace, "name": name,
            "labels": {SERVICE_LABEL: service.name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": service.port_name, "port": port, "protocol": "TCP"}],
    })
}

fn endpoint(service: &Service, backend: &Backend) -> Value {
    let mut endpoint = json!({
        "addresses": [backend.ip],
        "conditions": {"ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating},
        "targetRef": {"kind": "Pod", "namespace": service.namespace, "name": backend.name, "uid": backend.uid},
    });
    if let Some(zone) = &backend.zone {
        endpoint["zone"] = zone.as_str().into();
    }
    if let Some(node) = &backend.node {
        endpoint["nodeName"] = node.as_str().into();
    }
    endpoint
}

fn service_object(service: &Service, backends: &[Backend]) -> Value {
    let port = backends.first().map_or(80, |backend| backend.port);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": service.namespace, "name": service.name},
        "spec": {
            "clusterIP": "None", "selector": {"app": service.name},
            "ports": [{"name": service.port_name, "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    })
}

fn pod_object(service: &Service, backend: &Backend) -> Value {
    let ready = if backend.ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": service.namespace, "name": backend.name, "uid": backend.uid, "labels": {"app": service.name},
        },
        "spec": {"nodeName": backend.node, "containers": [{"name": "main", "image": "demo"}]},
        "status": {
            "phase": "Running", "podIP": backend.ip, "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn backends(names: &[&str]) -> Vec<Backend> {
        names.iter().map(|name| Backend::new(name, Ipv4Addr::LOCALHOST, 9000)).collect()
    }

    fn names(slices: &[Value]) -> Vec<Vec<&str>> {
        slices
            .iter()
            .map(|slice| {
                let endpoints = slice["endpoints"].as_array().unwrap();
                endpoints.iter().map(|e| e["targetRef"]["name"].as_str().unwrap()).collect()
            })
            .collect()
    }

    #[test]
    fn an_endpoint_stays_in_its_slice() {
        let service = Service { slice_max: 2, ..Service::new("shop", "chat") };
        let first = slices(&service, &[], &backends(&["a", "b", "c", "d"]));
        assert_eq!(names(&first), [vec!["a", "b"], vec!["c", "d"]]);
        let second = slices(&service, &first, &backends(&["b", "c", "d", "e", "f"]));
        assert_eq!(names(&second), [vec!["b", "e"], vec!["c", "d"], vec!["f"]]);
        assert_eq!(second[1]["metadata"]["name"], first[1]["metadata"]["name"]);
        assert_eq!(names(&slices(&service, &second, &backends(&["d"]))), [vec!["d"]]);
    }

    #[test]
    fn ports_and_families_have_slices_of_their_own() {
        let service = Service::new("shop", "chat");
        let mut mixed = backends(&["a", "b", "c"]);
        mixed[1].port = 9001;
        mixed[2].ip = std::net::Ipv6Addr::LOCALHOST.into();
        let made = slices(&service, &[], &mixed);
        let shown: Vec<_> = made
            .iter()
            .map(|slice| {
                (slice["addressType"].as_str().unwrap(), slice["ports"][0]["port"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(shown, [("IPv4", 9000), ("IPv6", 9000), ("IPv4", 9001)]);
    }

    #[test]
    fn a_scale_in_takes_the_unready_then_the_cheapest_then_the_youngest() {
        let pod = |name: &str, ready: &str, cost: Option<&str>, created: &str| {
            json!({
                "metadata": {"name": name, "creationTimestamp": created, "annotations": {DELETION_COST: cost}},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let pods = [
            pod("old", "True", None, "2026-01-01T00:00:00Z"),
            pod("dear", "True", Some("500"), "2026-01-03T00:00:00Z"),
            pod("new", "True", None, "2026-01-02T00:00:00Z"),
            pod("cheap", "True", Some("-1"), "2026-01-01T00:00:00Z"),
            pod("unready", "False", Some("900"), "2026-01-01T00:00:00Z"),
        ];
        assert_eq!(deleted_first(&pods), ["unready", "cheap", "new", "old", "dear"]);
    }
}
