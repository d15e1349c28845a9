//! Who may do what: everything, or just what the rules of a Role say, less what a test forbids.

use serde_json::Value;

use crate::failure::Failure;
use crate::path::Objects;

/// Who asks, as far as messages go.
pub const USER: &str = "system:serviceaccount:default:evenkeel";

/// One rule of a Role, or of a test's refusals. `*` is everything.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
    /// Empty: all.
    names: Vec<String>,
}

/// What is allowed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// None: everything is allowed. A namespace that is given is where alone its rules hold.
    rules: Option<Vec<(Option<String>, Rule)>>,
    /// Verb and resource.
    denied: Vec<(String, String)>,
}

impl Access {
    /// From now on only what Roles and ClusterRoles given here allow; a Role holds in its namespace.
    ///
    /// # Errors
    /// When it has no rules.
    pub fn grant(&mut self, role: &Value) -> anyhow::Result<()> {
        let Some(rules) = role["rules"].as_array() else {
            anyhow::bail!("the Role has no rules; expected an object with `rules`");
        };
        let cluster = role["kind"] == "ClusterRole";
        let namespace = role["metadata"]["namespace"].as_str().filter(|_| !cluster).map(str::to_owned);
        let read = rules.iter().map(|rule| {
            let list = |key: &str| texts(&rule[key]);
            let (groups, resources) = (list("apiGroups"), list("resources"));
            let rule = Rule { groups, resources, verbs: list("verbs"), names: list("resourceNames") };
            (namespace.clone(), rule)
        });
        self.rules.get_or_insert_default().extend(read.collect::<Vec<_>>());
        Ok(())
    }

    /// Everything is allowed again.
    pub fn allow_everything(&mut self) {
        *self = Self::default();
    }

    /// Forbids a verb (`*`: all) on a resource as Roles name it (`pods`, `deployments/scale`; `*`: all).
    pub fn deny(&mut self, verb: &str, resource: &str) {
        self.denied.push((verb.to_owned(), resource.to_owned()));
    }

    /// Takes a refusal back.
    pub fn allow(&mut self, verb: &str, resource: &str) {
        self.denied.retain(|(denied, of)| denied != verb || of != resource);
    }

    /// Whether a request may be made.
    ///
    /// # Errors
    /// 403 in the words of the API.
    pub fn check(&self, verb: &str, objects: &Objects, name: Option<&str>) -> Result<(), Failure> {
        let resource = objects.role_name();
        let denied = self.denied.iter().any(|(v, r)| (v == "*" || v == verb) && (r == "*" || *r == resource));
        let granted = self.rules.as_ref().is_none_or(|rules| {
            rules.iter().any(|(namespace, rule)| {
                let here = namespace.is_none() || *namespace == objects.namespace;
                here && rule.allows(verb, objects.resource.group, &resource, name)
            })
        });
        if granted && !denied {
            return Ok(());
        }
        Err(forbidden(verb, objects, name))
    }
}

impl Rule {
    fn allows(&self, verb: &str, group: &str, resource: &str, name: Option<&str>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        // The name of an object that is being created is not known to the authorizer.
        let named = self.names.is_empty() || name.is_some_and(|name| self.names.iter().any(|n| n == name));
        has(&self.groups, group) && has(&self.resources, resource) && has(&self.verbs, verb) && named
    }
}

fn forbidden(verb: &str, objects: &Objects, name: Option<&str>) -> Failure {
    let (resource, group) = (objects.role_name(), objects.resource.group);
    let place = match &objects.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let qualified = objects.resource.qualified();
    let name = name.unwrap_or_default();
    let shown = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    let message = format!(
        "{qualified}{shown} is forbidden: User {USER:?} cannot {verb} resource {resource:?} in API group {group:?} {place}"
    );
    Failure::new(403, "Forbidden", message).about(objects.resource, name)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::path::Target;

    fn objects(path: &str) -> Objects {
        match Target::parse(path).unwrap() {
            Target::Objects(objects) => objects,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn a_refusal_is_worded_as_the_api_does() {
        let mut access = Access::default();
        let slices = objects("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices");
        assert_eq!(access.check("list", &slices, None), Ok(()));
        access.deny("list", "endpointslices");
        let failure = access.check("list", &slices, None).unwrap_err();
        assert_eq!((failure.code, failure.reason), (403, "Forbidden"));
        assert_eq!(
            failure.message,
            "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:default:evenkeel\" cannot \
             list resource \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"shop\""
        );
        assert_eq!(access.check("watch", &slices, None), Ok(()));
        access.allow("list", "endpointslices");
        assert_eq!(access.check("list", &slices, None), Ok(()));
    }

    #[test]
    fn a_role_holds_in_its_namespace_and_allows_what_it_names() {
        let mut access = Access::default();
        let role = json!({"kind": "Role", "metadata": {"namespace": "a"}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"], "resourceNames": ["p"]},
            {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["*"]},
        ]});
        access.grant(&role).unwrap();
        let allowed = |verb, path, name| access.check(verb, &objects(path), name).is_ok();
        assert!(allowed("patch", "/api/v1/namespaces/a/pods/p", Some("p")));
        assert!(!allowed("patch", "/api/v1/namespaces/a/pods/q", Some("q")));
        assert!(!allowed("list", "/api/v1/namespaces/a/pods", None));
        assert!(!allowed("patch", "/api/v1/namespaces/b/pods/p", Some("p")));
        assert!(allowed("patch", "/apis/apps/v1/namespaces/a/deployments/d/scale", Some("d")));
        assert!(!allowed("get", "/apis/apps/v1/namespaces/a/deployments/d", Some("d")));
        assert!(access.grant(&json!({})).is_err());
    }
}
