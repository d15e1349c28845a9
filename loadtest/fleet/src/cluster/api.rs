//! The Kubernetes API: Deployments are scaled, and the gateways behind a headless Service are found.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use scenario::DeploymentScale;
use serde_json::json;
use tokio::time::timeout;

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The port of a headless Service that is the gateways' admin port, when there are several.
const ADMIN_PORT: &str = "admin";

/// A cluster, by KUBECONFIG or from within.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Reads how to reach it; nothing is asked yet.
    ///
    /// # Errors
    /// When neither a kubeconfig nor a service account says.
    pub async fn infer() -> anyhow::Result<Self> {
        let mut config = kube::Config::infer().await.context(
            "cannot find out how to reach the cluster: expected a kubeconfig (KUBECONFIG), or the service account of a \
             Pod",
        )?;
        // It would wait up to minutes; a refusal is to be told.
        config.default_retry = false;
        let client = Client::try_from(config).context("cannot make a client of the cluster's API")?;
        Ok(Self { client })
    }

    /// Gives a Deployment so many replicas.
    ///
    /// # Errors
    /// When the API cannot be reached or refuses; a refusal names the right that is missing.
    pub async fn scale(&self, scale: &DeploymentScale) -> anyhow::Result<()> {
        let namespace = scale.namespace.as_deref().unwrap_or(self.client.default_namespace());
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Merge(json!({"spec": {"replicas": scale.replicas}}));
        let parameters = PatchParams::default();
        let answer = timeout(ANSWER_WITHIN, api.patch_scale(&scale.deployment, &parameters, &patch)).await;
        let what = || format!("cannot scale the Deployment {} in {namespace}", scale.deployment);
        let answer = answer.map_err(|_| anyhow::anyhow!("the API did not answer within {ANSWER_WITHIN:?}"));
        match answer.with_context(what)? {
            Ok(_) => Ok(()),
            Err(error) => Err(needs(error, "patch", "deployments/scale", "apps").context(what())),
        }
    }

    /// Admin ports of the gateways that are ready behind a headless Service.
    ///
    /// # Errors
    /// When the API cannot be reached or refuses, or the Service has several ports and none is called `admin`.
    pub async fn admin_ports(&self, namespace: &str, service: &str) -> anyhow::Result<Vec<SocketAddr>> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let what = || format!("cannot find the gateways behind {namespace}/{service}");
        let Ok(answer) = timeout(ANSWER_WITHIN, api.list(&of_service)).await else {
            bail!("{}: the API did not answer within {ANSWER_WITHIN:?}", what());
        };
        let slices = answer
            .map_err(|error| needs(error, "list", "endpointslices", "discovery.k8s.io").context(what()))?;
        let mut found = Vec::new();
        for slice in &slices {
            found.extend(ready_in(slice).with_context(what)?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// Addresses of the ready endpoints of a slice, with its admin port.
fn ready_in(slice: &EndpointSlice) -> anyhow::Result<Vec<SocketAddr>> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some(ADMIN_PORT));
    let port = match (named, ports) {
        (Some(port), _) | (None, [port]) => port.port,
        _ => bail!("the Service has {} ports and none of them is called {ADMIN_PORT}", ports.len()),
    };
    let port = port.and_then(|port| u16::try_from(port).ok()).context("the Service's port has no number")?;
    let ready = slice
        .endpoints
        .iter()
        // Absent means ready.
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false));
    let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
    Ok(addresses.map(|ip| SocketAddr::new(ip, port)).collect())
}

fn needs(error: kube::Error, verb: &str, resource: &str, group: &str) -> anyhow::Error {
    let is_forbidden = matches!(&error, kube::Error::Api(status) if status.code == 403);
    let error = anyhow::Error::new(error);
    if is_forbidden {
        return error.context(format!(
            "the Role needs a rule {{apiGroups: [{group}], resources: [{resource}], verbs: [{verb}]}}"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(ports: &str) -> EndpointSlice {
        let text = format!(
            r#"{{"metadata": {{}}, "addressType": "IPv4", "ports": {ports}, "endpoints": [
                {{"addresses": ["10.0.0.1"], "conditions": {{"ready": true}}}},
                {{"addresses": ["10.0.0.2"], "conditions": {{"ready": false}}}},
                {{"addresses": ["10.0.0.3"]}}
            ]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_admin_port_of_every_ready_gateway_is_found() {
        let found =
            ready_in(&slice(r#"[{"name": "ws", "port": 80}, {"name": "admin", "port": 9900}]"#)).unwrap();
        assert_eq!(found, ["10.0.0.1:9900", "10.0.0.3:9900"].map(|address| address.parse().unwrap()));
        assert_eq!(ready_in(&slice(r#"[{"port": 9900}]"#)).unwrap(), found);
        let error = ready_in(&slice(r#"[{"name": "a", "port": 1}, {"name": "b", "port": 2}]"#)).unwrap_err();
        assert!(error.to_string().contains("none of them is called admin"), "{error}");
    }
}
