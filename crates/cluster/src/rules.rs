//! Every right that the gateway needs of the API server, in one table. The Role in deploy/ grants these and no others, which
//! crates/evenkeel/tests/deploy.rs compares.

/// What RBAC calls a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// API group; empty is the core.
    pub group: &'static str,
    /// In the plural.
    pub resource: &'static str,
    /// In the order in which they are asked for.
    pub verbs: &'static [&'static str],
}

/// Where endpoints and the own replicas are.
pub const ENDPOINT_SLICES: Rule =
    Rule { group: "discovery.k8s.io", resource: "endpointslices", verbs: &["list", "watch"] };
/// Annotations of backend Pods.
pub const PODS: Rule = Rule { group: "", resource: "pods", verbs: &["list", "watch"] };
/// What a plan did.
pub const EVENTS: Rule = Rule { group: "events.k8s.io", resource: "events", verbs: &["create"] };
/// The deletion cost of backend Pods; only with `kubernetes.deletion_cost`.
pub const DELETION_COST: Rule = Rule { group: "", resource: "pods", verbs: &["patch"] };

/// Always asked for.
pub const RULES: [Rule; 3] = [ENDPOINT_SLICES, PODS, EVENTS];
