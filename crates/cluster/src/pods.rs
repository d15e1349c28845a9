//! Writes to Pods: their deletion cost, and nothing else of them.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use tokio::time::timeout;

use crate::client::Cluster;
use crate::deletion_cost::Write;
use crate::rules;
use crate::trouble::{Call, Trouble};

/// What ReplicaSets go by when they shrink.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

impl Cluster {
    /// Writes the deletion cost of one Pod: a merge patch of that annotation. A Pod that is gone is no trouble.
    ///
    /// # Errors
    /// [`Trouble`]: why it was not written.
    pub async fn write_deletion_cost(&self, write: &Write) -> Result<(), Trouble> {
        let call = Call::new("patch", &rules::DELETION_COST, &write.pod.namespace);
        let api: Api<Pod> = Api::namespaced(self.client().await?, &write.pod.namespace);
        let patch = PartialObjectMeta::<Pod> {
            types: None,
            metadata: kube::core::ObjectMeta {
                annotations: Some([(DELETION_COST.to_owned(), write.cost.to_string())].into()),
                ..kube::core::ObjectMeta::default()
            },
            _phantom: std::marker::PhantomData,
        };
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let after = self.times().list;
        match timeout(after, api.patch_metadata(&write.pod.name, &params, &patch)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(Trouble::new(call, &error)),
            Err(_) => Err(Trouble::TimedOut { call, after }),
        }
    }
}
