//! The dial of a migration: another endpoint for a session that runs, as a future that its relay polls.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use balance::Purpose;
use model::EndpointId;
use tokio::net::TcpStream;

use crate::pool::{Caller, Policy, Pool, Ticket};
use crate::upstream;

/// `None`: there is nowhere to go, or nobody takes the connection.
pub type Dial = Pin<Box<dyn Future<Output = Option<(TcpStream, Ticket)>> + Send>>;

/// Picks and dials an endpoint of `pool` that is not `donor`.
pub fn dial(pool: Arc<Pool>, policy: Arc<Policy>, caller: Caller, donor: EndpointId) -> Dial {
    Box::pin(async move {
        let mut tried = vec![donor];
        let picked = pool.pick(&caller, Purpose::Migration, &tried);
        let dialed = upstream::dial(&pool, &policy, &caller, Purpose::Migration, &mut tried, picked).await;
        dialed
            .inspect_err(|error| {
                tracing::debug!(pool = %pool.name, %error, "no endpoint for a session that migrates");
            })
            .ok()
    })
}
