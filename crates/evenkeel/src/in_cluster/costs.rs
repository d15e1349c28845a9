//! Keeps the deletion cost of Pods in step with their sessions. What is written when is decided in
//! `cluster::deletion_cost`.

use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use cluster::deletion_cost::{Costs, Wanted};
use config::Config;
use metrics::counter;
use model::{EndpointState, Snapshot, Time};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::tier::Totals;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Writes for as long as the configuration wants it.
pub async fn run(
    cluster: Cluster,
    config: watch::Receiver<Arc<Config>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    totals: watch::Receiver<Totals>,
) {
    let started = Instant::now();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut costs = Costs::default();
    let mut told = None;
    loop {
        looks.tick().await;
        let wanted = {
            let totals = totals.borrow();
            if !totals.is_writer {
                costs.forget();
                continue;
            }
            wanted(&config.borrow(), &snapshots.borrow(), &totals)
        };
        for write in costs.due(Time::ZERO + started.elapsed(), &wanted) {
            let outcome = match cluster.write_deletion_cost(&write).await {
                Ok(()) => {
                    told = None;
                    "written"
                }
                Err(trouble) => {
                    costs.handle_failed(&write.uid);
                    let text = trouble.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(
                            "deletion cost not written: {text} (or set the pool's kubernetes.deletion_cost: false)"
                        );
                        told = Some(text);
                    }
                    "failed"
                }
            };
            counter!("evenkeel_deletion_cost_patches_total", "outcome" => outcome).increment(1);
        }
    }
}

/// The Pods of the pools that want it, with the sessions that all replicas have there. None while those are not known.
fn wanted(config: &Config, snapshot: &Snapshot, totals: &Totals) -> Vec<Wanted> {
    let Some(sums) = &totals.sessions else { return Vec::new() };
    let mut wanted: Vec<Wanted> = Vec::new();
    let wants = |pool: &config::Pool| pool.kubernetes.as_ref().is_some_and(|found| found.deletion_cost);
    for (name, _) in config.pools.iter().filter(|(_, pool)| wants(pool)) {
        let endpoints = snapshot.pools.get(name).map_or(&[][..], Vec::as_slice);
        // One that terminates is being deleted already.
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.state != EndpointState::Terminating) {
            let Some(pod) = &endpoint.pod else { continue };
            let known = sums.get(name).and_then(|pool| pool.get(&endpoint.id)).copied();
            let Some(sessions) = known else { continue };
            // Two pools may have the same Pods, by two of their ports.
            match wanted.iter_mut().find(|other| other.uid == endpoint.id.as_str()) {
                Some(other) => other.sessions += sessions,
                None => {
                    let (uid, pod) = (endpoint.id.to_string(), (**pod).clone());
                    wanted.push(Wanted { uid, pod, sessions });
                }
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use model::{Endpoint, Pod};

    use super::*;

    #[test]
    fn pods_of_the_pools_that_want_it_cost_their_sessions_of_all_pools() {
        let text = "{listeners: [{address: '127.0.0.1:0'}], routes: [{pool: a}, {path: /b, pool: b}, {path: /c, pool: c}], \
                    pools: {a: {kubernetes: {service: s, deletion_cost: true}}, \
                    b: {kubernetes: {service: s, port: 2, deletion_cost: true}}, c: {kubernetes: {service: t}}}}";
        let config = config::parse(text, std::path::Path::new("/")).expect("it is valid").config;
        let pod = |name: &str, state| {
            let pod = Pod { namespace: "n".into(), name: name.into(), node: None };
            let address = "127.0.0.1:80".parse().expect("it is an address");
            Endpoint { pod: Some(Arc::new(pod)), state, ..Endpoint::new(name, address) }
        };
        let list = vec![
            pod("p", EndpointState::Ready),
            pod("q", EndpointState::Unready),
            pod("r", EndpointState::Terminating),
            pod("unknown", EndpointState::Ready),
        ];
        let pools = ["a", "b", "c"].map(|name| (name.into(), list.clone()));
        let snapshot = Snapshot { pools: pools.into() };
        let sessions = |count: u64| ["p", "q", "r"].map(|id| (id.into(), count)).into();
        let sums = [("a".into(), sessions(3)), ("b".into(), sessions(4)), ("c".into(), sessions(50))];
        let totals = Totals { sessions: Some(sums.into()), is_writer: true };
        let found: Vec<_> =
            wanted(&config, &snapshot, &totals).into_iter().map(|w| (w.uid, w.sessions)).collect();
        assert_eq!(found, [("p".to_owned(), 7), ("q".to_owned(), 7)]);
        assert!(wanted(&config, &snapshot, &Totals { sessions: None, is_writer: true }).is_empty());
    }
}
