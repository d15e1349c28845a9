//! What a gateway does because it is one of several in a Kubernetes cluster: follows its own replicas, tells Events, keeps
//! the deletion cost of Pods.
//!
//! Each is a task that ends with the runtime. Nothing of it is asked of the API unless the configuration wants it.

mod costs;
mod events;
mod tier;

use std::sync::Arc;

use cluster::Cluster;
use config::Config;
use gateway::Gateway;
use metrics::describe_counter;
use model::Snapshot;
use tokio::sync::watch;

/// Starts the tasks.
pub fn spawn(
    gateway: &Arc<Gateway>,
    cluster: Cluster,
    config: watch::Receiver<Arc<Config>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    describe_counter!("evenkeel_events_total", "Kubernetes Events, by what became of them");
    describe_counter!(
        "evenkeel_deletion_cost_patches_total",
        "Pods whose deletion cost was written, or was to be"
    );
    let (totals_tx, totals) = watch::channel(tier::Totals::default());
    tokio::spawn(tier::Follower::new(gateway.clone(), cluster.clone(), config.clone(), totals_tx).run());
    tokio::spawn(costs::run(cluster.clone(), config.clone(), snapshots, totals));
    let (notices_tx, notices) = tokio::sync::mpsc::channel(events::NOTICES_MAX);
    gateway.listen(notices_tx);
    tokio::spawn(events::run(cluster, config, notices));
}
