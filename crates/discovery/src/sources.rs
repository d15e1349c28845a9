//! One source a pool, and what becomes of it when the configuration changes.
//!
//! A source that changes by itself has a follower: a task that sends an [`Update`] for each news. What a follower
//! waits for is in a module of its own; here is what its news do to the snapshot.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cluster::{Cluster, Target};
use config::{Config, DnsPool, Pool};
use model::{Endpoint, PoolName, Snapshot};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::dns;
use crate::file::{self, WatchedFile};
use crate::kubernetes;

/// Gauge by pool: 1 while the pool's source cannot be used.
pub(crate) const STALE: &str = "evenkeel_discovery_stale";

/// Files that were looked at once before anything is served, with the list that was found.
pub(crate) type Looked = BTreeMap<PoolName, (WatchedFile, Option<Vec<Endpoint>>)>;

/// News of a follower.
#[derive(Debug)]
pub(crate) struct Update {
    pool: PoolName,
    /// Which follower says it: one that was replaced may still have news on the way.
    follower: u64,
    pub(crate) news: News,
}

/// What a follower has found out.
#[derive(Debug)]
pub(crate) enum News {
    /// The list, complete and as good as it gets.
    List(Vec<Endpoint>),
    /// Whether the last good list stays in force because there is nothing to replace it by.
    Stale(bool),
}

/// Where a follower sends its news.
#[derive(Clone)]
pub(crate) struct Reporter {
    pool: PoolName,
    follower: u64,
    tx: mpsc::Sender<Update>,
}

impl Reporter {
    /// Whose news it is.
    pub(crate) fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// News of a pool `a`, for those who look at a follower alone.
    #[cfg(test)]
    pub(crate) fn alone(tx: mpsc::Sender<Update>) -> Self {
        Self { pool: "a".into(), follower: 0, tx }
    }

    /// Waits while too many are on the way. When nobody is left to tell, the follower is about to be aborted.
    pub(crate) async fn tell(&self, news: News) {
        let update = Update { pool: self.pool.clone(), follower: self.follower, news };
        let _ = self.tx.send(update).await;
    }
}

/// All pools of the configuration.
pub(crate) struct Sources {
    cluster: Cluster,
    pools: BTreeMap<PoolName, Followed>,
    tx: mpsc::Sender<Update>,
    next: u64,
}

/// One pool.
struct Followed {
    /// The last good list; `None` until there is one.
    endpoints: Option<Vec<Endpoint>>,
    source: Source,
    follower: Follower,
}

/// What has to stay the same for a follower to go on as it is.
#[derive(PartialEq)]
enum Source {
    Fixed,
    File(PathBuf),
    Kubernetes(Target),
    Dns(DnsPool),
}

/// A task that ends with this value; none where nothing changes by itself.
struct Follower {
    number: u64,
    task: Option<AbortHandle>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Source {
    fn of(pool: &Pool, config: &Config) -> Self {
        match pool.source() {
            config::Source::Fixed(_) => Self::Fixed,
            config::Source::File(path) => Self::File(path.to_owned()),
            config::Source::Kubernetes(pool) => {
                Self::Kubernetes(kubernetes::target(pool, &config.kubernetes))
            }
            config::Source::Dns(dns) => Self::Dns(dns.clone()),
        }
    }
}

impl Sources {
    pub(crate) fn new(cluster: Cluster, tx: mpsc::Sender<Update>) -> Self {
        Self { cluster, pools: BTreeMap::new(), tx, next: 0 }
    }

    /// Follows the pools of a configuration from now on. A source that is followed already goes on as it is; a pool
    /// whose new source has nothing yet keeps the list it had.
    pub(crate) fn configure(&mut self, config: &Config, mut looked: Looked) {
        let mut old = std::mem::take(&mut self.pools);
        for (name, pool) in &config.pools {
            let source = Source::of(pool, config);
            let followed = match old.remove(name) {
                Some(before) if before.source == source && source != Source::Fixed => before,
                before => {
                    let kept = before.and_then(|before| before.endpoints);
                    let (endpoints, follower) = self.begin(name, pool, &source, looked.remove(name));
                    Followed { endpoints: endpoints.or(kept), source, follower }
                }
            };
            self.pools.insert(name.clone(), followed);
        }
        for gone in old.keys() {
            metrics::gauge!(STALE, "pool" => gone.to_string()).set(0.0);
        }
    }

    /// Follows a pool's source anew. Gives what is known of it at once, if anything.
    fn begin(
        &mut self,
        name: &PoolName,
        pool: &Pool,
        source: &Source,
        looked: Option<(WatchedFile, Option<Vec<Endpoint>>)>,
    ) -> (Option<Vec<Endpoint>>, Follower) {
        self.next += 1;
        metrics::gauge!(STALE, "pool" => name.to_string()).set(0.0);
        let reporter = Reporter { pool: name.clone(), follower: self.next, tx: self.tx.clone() };
        let (endpoints, task) = match source {
            Source::Fixed => (Some(pool.fixed_endpoints()), None),
            Source::File(path) => {
                let (file, found) = looked.unwrap_or_else(|| (WatchedFile::new(path.clone()), None));
                (found, Some(tokio::spawn(file::follow(file, reporter))))
            }
            Source::Kubernetes(target) => {
                let endpoints = self.cluster.endpoints(target.clone());
                (None, Some(tokio::spawn(kubernetes::follow(endpoints, reporter))))
            }
            Source::Dns(pool) => {
                (None, Some(tokio::spawn(dns::follow(pool.clone(), dns::Server::System, reporter))))
            }
        };
        (endpoints, Follower { number: self.next, task: task.map(|task| task.abort_handle()) })
    }

    /// Takes the news of a follower, unless it was replaced meanwhile.
    pub(crate) fn handle_update(&mut self, update: Update) {
        let Some(followed) = self.pools.get_mut(&update.pool) else { return };
        if followed.follower.number != update.follower {
            return;
        }
        match update.news {
            News::List(list) => followed.endpoints = Some(list),
            News::Stale(stale) => {
                let value = if stale { 1.0 } else { 0.0 };
                metrics::gauge!(STALE, "pool" => update.pool.to_string()).set(value);
            }
        }
    }

    /// What is known now. A pool whose source never said anything is missing from it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let known = |(name, pool): (&PoolName, &Followed)| Some((name.clone(), pool.endpoints.clone()?));
        Snapshot { pools: self.pools.iter().filter_map(known).collect() }
    }
}
