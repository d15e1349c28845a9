//! The resources that are served: a table of what discovery tells and what the store calls them.
//!
//! Behaviour is the same for all of them; only `Event` has two faces, see `events`. A resource that is missing here is one line.

/// A kind of object.
#[derive(PartialEq, Eq, Debug)]
pub struct Resource {
    /// API group; empty: core.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Lower case plural, as in paths and Roles.
    pub plural: &'static str,
    /// As in objects.
    pub kind: &'static str,
    /// False: it is the cluster's.
    pub namespaced: bool,
    /// What kubectl also calls it.
    pub short: &'static [&'static str],
    /// It has the subresource `scale`.
    pub scalable: bool,
}

/// Everything that is served.
pub const RESOURCES: &[Resource] = &[
    core("services", "Service", &["svc"]),
    core("pods", "Pod", &["po"]),
    core("endpoints", "Endpoints", &["ep"]),
    core("configmaps", "ConfigMap", &["cm"]),
    core("serviceaccounts", "ServiceAccount", &["sa"]),
    core("events", "Event", &["ev"]),
    Resource { namespaced: false, ..core("namespaces", "Namespace", &["ns"]) },
    Resource { namespaced: false, ..core("nodes", "Node", &["no"]) },
    of("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", &[]),
    of("events.k8s.io", "v1", "events", "Event", &["ev"]),
    scalable(of("apps", "v1", "deployments", "Deployment", &["deploy"])),
    scalable(of("apps", "v1", "replicasets", "ReplicaSet", &["rs"])),
    scalable(of("apps", "v1", "statefulsets", "StatefulSet", &["sts"])),
    of("batch", "v1", "jobs", "Job", &[]),
    of("coordination.k8s.io", "v1", "leases", "Lease", &[]),
];

const fn of(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
) -> Resource {
    Resource { group, version, plural, kind, namespaced: true, short, scalable: false }
}

const fn core(plural: &'static str, kind: &'static str, short: &'static [&'static str]) -> Resource {
    of("", "v1", plural, kind, short)
}

const fn scalable(resource: Resource) -> Resource {
    Resource { scalable: true, ..resource }
}

impl Resource {
    /// By what stands in a path.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
    }

    /// By what stands in an object.
    pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            return self.version.to_owned();
        }
        format!("{}/{}", self.group, self.version)
    }

    /// `pods`, `deployments.apps`: how messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            return self.plural.to_owned();
        }
        format!("{}.{}", self.plural, self.group)
    }

    /// Under which name the store has it: the two groups of `Event` are two views of the same objects.
    pub fn storage(&self) -> (&'static str, &'static str) {
        if self.is_new_event() { ("", self.plural) } else { (self.group, self.plural) }
    }

    /// It is the `Event` of `events.k8s.io`.
    pub fn is_new_event(&self) -> bool {
        self.group == "events.k8s.io"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_found_by_path_and_by_kind() {
        let slices = Resource::find("discovery.k8s.io", "v1", "endpointslices").unwrap();
        assert_eq!(Resource::of_kind("discovery.k8s.io/v1", "EndpointSlice"), Some(slices));
        assert_eq!(slices.qualified(), "endpointslices.discovery.k8s.io");
        assert_eq!(Resource::find("", "v1", "pods").unwrap().qualified(), "pods");
        assert_eq!(Resource::find("", "v2", "pods"), None);
    }

    #[test]
    fn both_events_are_kept_in_one_place() {
        let [old, new] = ["", "events.k8s.io"].map(|group| Resource::find(group, "v1", "events").unwrap());
        assert_eq!(old.storage(), new.storage());
    }
}
