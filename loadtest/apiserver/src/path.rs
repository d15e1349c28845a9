//! What a request path names.

use percent_encoding::percent_decode_str;

use crate::failure::Failure;
use crate::resource::{RESOURCES, Resource};

/// What a path names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// `/livez` and the like.
    Health,
    /// `/version`
    Version,
    /// `/api`
    Api,
    /// `/apis`
    Apis,
    /// `/apis/apps`
    Group(String),
    /// `/api/v1`, `/apis/apps/v1`: group (empty: core) and version.
    GroupVersion(String, String),
    /// A collection or an object.
    Objects(Objects),
}

/// A collection, an object, or a part of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Objects {
    /// Of what kind.
    pub resource: &'static Resource,
    /// Absent: of all namespaces, or the resource has none.
    pub namespace: Option<String>,
    /// Absent: all.
    pub name: Option<String>,
    /// `status`, `scale`, `eviction`; empty: the object itself.
    pub subresource: String,
}

impl Target {
    /// Reads a path without its query.
    ///
    /// # Errors
    /// 404 when nothing is there.
    pub fn parse(path: &str) -> Result<Self, Failure> {
        let segments: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Ok(Self::Health),
            ["version"] => Ok(Self::Version),
            ["api"] => Ok(Self::Api),
            ["apis"] => Ok(Self::Apis),
            ["apis", group] if has_group(group) => Ok(Self::Group((*group).into())),
            ["api", version, rest @ ..] => Self::within("", version, rest),
            ["apis", group, version, rest @ ..] if !group.is_empty() => Self::within(group, version, rest),
            _ => Err(Failure::no_path()),
        }
    }

    fn within(group: &str, version: &str, rest: &[&str]) -> Result<Self, Failure> {
        if !RESOURCES.iter().any(|r| r.group == group && r.version == version) {
            return Err(Failure::no_path());
        }
        if rest.is_empty() {
            return Ok(Self::GroupVersion(group.into(), version.into()));
        }
        // `namespaces/a/pods` is a collection within a; `namespaces/a` and `namespaces/a/status` are a itself.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !matches!(rest, [] | ["status" | "finalize"]) => {
                (Some((*namespace).to_owned()), rest)
            }
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, ""),
            [plural, name] => (plural, Some(*name), ""),
            [plural, name, subresource] => (plural, Some(*name), *subresource),
            _ => return Err(Failure::no_path()),
        };
        let resource = Resource::find(group, version, plural).ok_or_else(Failure::no_path)?;
        let misplaced =
            resource.namespaced != namespace.is_some() && (!resource.namespaced || name.is_some());
        let known = match subresource {
            "" | "status" => true,
            "scale" => resource.scalable,
            "eviction" => resource.kind == "Pod",
            _ => false,
        };
        if misplaced || !known {
            return Err(Failure::no_path());
        }
        let (name, subresource) = (name.map(str::to_owned), subresource.to_owned());
        Ok(Self::Objects(Objects { resource, namespace, name, subresource }))
    }
}

impl Objects {
    /// `pods`, `deployments/scale`: as a Role names it.
    pub fn role_name(&self) -> String {
        if self.subresource.is_empty() {
            return self.resource.plural.to_owned();
        }
        format!("{}/{}", self.resource.plural, self.subresource)
    }
}

fn has_group(group: &str) -> bool {
    !group.is_empty() && RESOURCES.iter().any(|resource| resource.group == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(path: &str) -> (String, Option<String>, Option<String>) {
        match Target::parse(path).unwrap() {
            Target::Objects(objects) => (objects.role_name(), objects.namespace, objects.name),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn a_path_names_a_collection_an_object_or_a_part_of_one() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(objects("/api/v1/pods"), ("pods".into(), None, None));
        assert_eq!(objects("/api/v1/namespaces/a/pods/p"), ("pods".into(), some("a"), some("p")));
        assert_eq!(objects("/api/v1/namespaces/a"), ("namespaces".into(), None, some("a")));
        assert_eq!(objects("/api/v1/namespaces/a/status"), ("namespaces/status".into(), None, some("a")));
        let scale = objects("/apis/apps/v1/namespaces/a/deployments/d/scale");
        assert_eq!(scale, ("deployments/scale".into(), some("a"), some("d")));
    }

    #[test]
    fn a_path_that_names_nothing_is_404() {
        for path in [
            "/",
            "/apis/nothing",
            "/api/v2",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/pods/p/scale",
            "/api/v1/namespaces/a/pods/p/status/more",
            "/openapi/v2",
        ] {
            assert_eq!(Target::parse(path).unwrap_err().code, 404, "{path}");
        }
    }
}
