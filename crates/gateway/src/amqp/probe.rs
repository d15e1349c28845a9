//! Probes of AMQP endpoints: a connection, the protocol header, and the endpoint's `connection.start` in time.
//!
//! One that does not answer several times in a row counts as unready, so that nothing new is placed there; its sessions
//! stay. RabbitMQ logs each probe as a client that has closed its connection amid the handshake.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{EndpointId, EndpointState, PoolName, Time};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frames::Frames;
use super::reach::{NoStart, hello};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::telemetry;

/// How often it is looked whether a probe is due.
const LOOK: Duration = Duration::from_millis(100);
/// Probes of a pool at once.
const PROBES_MAX: usize = 32;

/// Probes the endpoints of all AMQP pools until the gateway takes nobody new any more.
pub async fn run(shared: Arc<Shared>) {
    let mut due: BTreeMap<PoolName, Time> = BTreeMap::new();
    while !shared.is_closed() {
        let now = shared.clock.now();
        let pools = shared.pools();
        due.retain(|name, _| pools.iter().any(|pool| pool.name == *name));
        for pool in pools {
            let policy = pool.policy();
            let Some(amqp) = &policy.amqp else { continue };
            if amqp.probe.interval.is_zero() {
                if pool.known.forget_probes() {
                    shared.wake_planner();
                }
                continue;
            }
            if due.get(&pool.name).is_some_and(|at| *at > now) {
                continue;
            }
            due.insert(pool.name.clone(), now + amqp.probe.interval);
            tokio::spawn(probe_all(shared.clone(), pool));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn probe_all(shared: Arc<Shared>, pool: Arc<Pool>) {
    let status = pool.plan(|planner| planner.status(shared.clock.now()));
    let mut probes = JoinSet::new();
    for endpoint in status.endpoints {
        if endpoint.state == EndpointState::Terminating {
            continue;
        }
        if probes.len() >= PROBES_MAX {
            probes.join_next().await;
        }
        probes.spawn(probe(shared.clone(), pool.clone(), endpoint.id, endpoint.address));
    }
    while probes.join_next().await.is_some() {}
}

async fn probe(shared: Arc<Shared>, pool: Arc<Pool>, endpoint: EndpointId, address: SocketAddr) {
    let policy = pool.policy();
    let Some(amqp) = &policy.amqp else { return };
    // One is over before the next begins.
    let wait = amqp.probe.timeout.min(amqp.probe.interval);
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        hello(&mut stream, &mut Frames::new(&[]), &policy, None).await
    };
    let error = match timeout(wait, answer).await {
        Ok(Ok(start)) => {
            pool.known.learn_start(&pool.name, &endpoint, start.payload());
            if pool.known.answered(&endpoint) {
                tracing::info!(pool = %pool.name, %endpoint, "endpoint answers again");
                shared.wake_planner();
            }
            return;
        }
        Ok(Err(error)) => error,
        Err(_) => NoStart::Timeout(wait),
    };
    telemetry::probe_failed(&pool.name);
    tracing::debug!(pool = %pool.name, %endpoint, %error, "endpoint does not answer a probe");
    if pool.known.failed(&endpoint, amqp.probe.failures) {
        tracing::warn!(pool = %pool.name, %endpoint, %error, failures = amqp.probe.failures,
            "endpoint does not answer: nothing new is placed there");
        shared.wake_planner();
    }
}
