//! A pool whose endpoints are the addresses of a name: asked for again when they expire, followed as they change.
//!
//! A, AAAA and SRV records alone, by the system's own configuration; not here: names of Services inside the cluster that the
//! API knows better (`kubernetes:`), and what a list that changes means for sessions (`balance`).

mod ask;
mod known;
#[cfg(test)]
mod tests;

use std::time::Duration;

use config::DnsPool;
use hickory_resolver::TokioResolver;
use model::Endpoint;

pub(crate) use self::ask::Server;
use self::known::{Found, Known, Round};
use crate::sources::{News, Reporter};

/// Longest time for all questions of a round.
const ROUND_WITHIN: Duration = Duration::from_secs(20);

/// Asks again and again and reports what changes.
pub(crate) async fn follow(pool: DnsPool, server: Server, reporter: Reporter) {
    let mut known = Known::default();
    let mut told = Told::default();
    let mut resolver = None;
    loop {
        let round = ask_once(&pool, server, &mut resolver, &mut known).await;
        if round.fault.is_some() {
            // The system may ask somebody else by now.
            resolver = None;
        }
        told.tell(&pool, round, &reporter).await;
        tokio::time::sleep(known.next_round(pool.refresh)).await;
    }
}

async fn ask_once(
    pool: &DnsPool,
    server: Server,
    resolver: &mut Option<TokioResolver>,
    known: &mut Known,
) -> Round {
    let made = match resolver.take() {
        Some(made) => Ok(made),
        None => server.resolver(),
    };
    let made = match made {
        Ok(made) => resolver.insert(made),
        Err(fault) => return known.take(Found::Failed(fault), &Default::default()),
    };
    match tokio::time::timeout(ROUND_WITHIN, ask::round(made, pool)).await {
        Ok((targets, hosts)) => known.take(targets, &hosts),
        Err(_) => {
            let fault = format!("the questions were not answered within {ROUND_WITHIN:?}");
            known.take(Found::Failed(fault), &Default::default())
        }
    }
}

/// What was told already.
#[derive(Default)]
struct Told {
    list: Option<Vec<Endpoint>>,
    fault: Option<String>,
    stale: Option<bool>,
}

impl Told {
    /// Tells the log and the snapshot what is new.
    async fn tell(&mut self, pool: &DnsPool, round: Round, reporter: &Reporter) {
        let (name, of) = (&pool.name, reporter.pool());
        if let Some(list) = round.list
            && self.list.as_ref() != Some(&list)
        {
            tracing::info!(pool = %of, name, endpoints = list.len(), "DNS name was resolved to other endpoints");
            self.list = Some(list.clone());
            reporter.tell(News::List(list)).await;
        }
        if let Some(fault) = round.fault.as_ref().filter(|fault| self.fault.as_ref() != Some(fault)) {
            tracing::warn!(
                pool = %of, name, fault, kept = self.list.as_ref().map_or(0, Vec::len),
                "DNS name can not be resolved: what was known of it stays; check pools.<name>.dns.name and the name server"
            );
        } else if round.fault.is_none() && self.fault.is_some() {
            tracing::info!(pool = %of, name, "DNS name is resolved again");
        }
        let stale = round.fault.is_some();
        self.fault = round.fault;
        if self.stale.replace(stale) != Some(stale) {
            reporter.tell(News::Stale(stale)).await;
        }
    }
}
