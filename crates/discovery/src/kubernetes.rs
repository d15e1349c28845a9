//! Pools that are found through the Kubernetes API: what `cluster` finds is reported as it is.

use cluster::{Endpoints, PodNotes, Target};
use config::{Kubernetes, KubernetesPool};

use crate::sources::{News, Reporter};

/// What has to be followed for a pool.
pub(crate) fn target(pool: &KubernetesPool, kubernetes: &Kubernetes) -> Target {
    Target {
        service: pool.service.clone(),
        namespace: pool.namespace.clone(),
        port: pool.port.clone(),
        notes: PodNotes::Read,
        empty_grace: kubernetes.empty_grace,
    }
}

/// Reports whatever is found, at once.
pub(crate) async fn follow(mut endpoints: Endpoints, reporter: Reporter) {
    let mut told = None;
    loop {
        let found = endpoints.next().await;
        reporter.tell(News::Stale(found.stale.is_some())).await;
        let Some(list) = found.endpoints else { continue };
        if told.as_ref() != Some(&list) {
            tracing::info!(pool = %reporter.pool(), endpoints = list.len(), "endpoints of the Service");
            told = Some(list.clone());
            reporter.tell(News::List(list)).await;
        }
    }
}
