//! Writes what the gateway notices to the Service of the pool, as Events. How many, is decided in `cluster::events`.

use std::sync::Arc;

use cluster::Cluster;
use cluster::events::{Events, ServiceName, Told, Written};
use config::{Config, Source};
use gateway::Notice;
use metrics::counter;
use model::PoolName;
use tokio::sync::{mpsc, watch};

/// Notices that wait for the API; more are dropped.
pub const NOTICES_MAX: usize = 64;

/// Writes until the gateway is gone.
pub async fn run(
    cluster: Cluster,
    config: watch::Receiver<Arc<Config>>,
    mut notices: mpsc::Receiver<Notice>,
) {
    let own_namespace = cluster.identity().namespace.clone();
    let mut events = Events::new(cluster);
    while let Some(notice) = notices.recv().await {
        let service = service(&config.borrow(), &notice.pool, own_namespace.as_deref());
        let Some(service) = service else { continue };
        let Notice { reason, is_warning, text, pool } = notice;
        let told = Told { reason, is_warning, text: format!("Pool {pool}: {text}") };
        let outcome = match events.write(&service, &told).await {
            Written::Written => "written",
            Written::Dropped => "dropped",
            Written::Failed => "failed",
        };
        counter!("evenkeel_events_total", "outcome" => outcome).increment(1);
    }
}

/// Where Events of a pool go; `None`: nowhere.
fn service(config: &Config, pool: &PoolName, own_namespace: Option<&str>) -> Option<ServiceName> {
    if !config.kubernetes.events {
        return None;
    }
    let Source::Kubernetes(found) = config.pools.get(pool)?.source() else { return None };
    let namespace = found.namespace.as_deref().or(own_namespace)?.to_owned();
    Some(ServiceName { namespace, name: found.service.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pools_of_a_service_have_events_and_only_when_they_are_wanted() {
        let text = |events: bool| {
            format!(
                "{{listeners: [{{address: '127.0.0.1:0'}}], routes: [{{pool: a}}, {{path: /b, pool: b}}], \
                 pools: {{a: {{kubernetes: {{service: chat}}}}, b: {{endpoints: []}}}}, kubernetes: {{events: {events}}}}}"
            )
        };
        let config =
            |events| config::parse(&text(events), std::path::Path::new("/")).expect("it is valid").config;
        let found = service(&config(true), &"a".into(), Some("own"));
        assert_eq!(found, Some(ServiceName { namespace: "own".into(), name: "chat".into() }));
        assert_eq!(service(&config(true), &"a".into(), None), None, "no namespace is known");
        assert_eq!(service(&config(true), &"b".into(), Some("own")), None);
        assert_eq!(service(&config(false), &"a".into(), Some("own")), None);
    }
}
