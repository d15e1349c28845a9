//! Who this replica is, as the downward API tells it in environment variables.

use std::path::Path;

/// Where a Pod finds the namespace of its service account.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// This replica's own Pod. Outside of a cluster nothing of it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// `POD_NAME`.
    pub pod: Option<String>,
    /// `POD_UID`: the id of the own endpoint in the own Service.
    pub uid: Option<String>,
    /// `POD_IP`.
    pub address: Option<std::net::IpAddr>,
    /// `POD_NAMESPACE`, else the service account's.
    pub namespace: Option<String>,
}

impl Identity {
    /// What the environment of this process says.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            pod: variable("POD_NAME"),
            uid: variable("POD_UID"),
            address: variable("POD_IP").and_then(|text| text.parse().ok()),
            namespace: variable("POD_NAMESPACE").or_else(|| namespace_in(Path::new(NAMESPACE_FILE))),
        }
    }
}

fn namespace_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let name = text.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
