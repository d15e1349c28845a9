//! One source a pool, and what becomes of it when the configuration changes.

use std::collections::BTreeMap;

use config::Pool;
use config::Source as From;
use model::{Endpoint, PoolName, Snapshot};

use crate::file::{Look, WatchedFile};

/// Gauge by pool: 1 while the pool's file cannot be used.
pub(crate) const STALE: &str = "evenkeel_discovery_stale";

#[derive(Default)]
pub(crate) struct Sources(BTreeMap<PoolName, Source>);

/// Where one pool's endpoints come from.
struct Source {
    /// The last good list; `None` until there is one.
    endpoints: Option<Vec<Endpoint>>,
    /// Present: `endpoints` follows this file.
    file: Option<WatchedFile>,
}

impl Sources {
    /// Follows the pools of a configuration from now on. A file that is followed already goes on as it is; a pool
    /// whose new file is unusable keeps the list it had.
    pub(crate) fn configure(&mut self, pools: &BTreeMap<PoolName, Pool>) {
        let mut old = std::mem::take(&mut self.0);
        for (name, pool) in pools {
            let before = old.remove(name);
            let source = match (pool.source(), before) {
                (From::File(path), Some(before))
                    if before.file.as_ref().is_some_and(|f| f.path() == path) =>
                {
                    before
                }
                (From::File(path), before) => Source {
                    endpoints: before.and_then(|before| before.endpoints),
                    file: Some(WatchedFile::new(path.to_owned())),
                },
                (From::Fixed(list), _) => {
                    metrics::gauge!(STALE, "pool" => name.to_string()).set(0.0);
                    Source { endpoints: Some(list), file: None }
                }
                (From::Kubernetes(_) | From::Dns(_), before) => {
                    Source { endpoints: before.and_then(|before| before.endpoints), file: None }
                }
            };
            self.0.insert(name.clone(), source);
        }
        for gone in old.keys() {
            metrics::gauge!(STALE, "pool" => gone.to_string()).set(0.0);
        }
        self.poll();
    }

    /// Looks at every watched file once.
    pub(crate) fn poll(&mut self) {
        for (name, source) in &mut self.0 {
            let Some(file) = &mut source.file else { continue };
            let path = file.path().display().to_string();
            match file.look() {
                Look::Same => {}
                Look::List(list) => {
                    tracing::info!(pool = %name, file = path, endpoints = list.len(), "endpoints file was read");
                    source.endpoints = Some(list);
                }
                Look::Unusable(fault) => {
                    tracing::warn!(
                        pool = %name, file = path, fault, kept = source.endpoints.as_ref().map_or(0, Vec::len),
                        "endpoints file cannot be used: the last good list stays; mend the file, it is read again"
                    );
                }
            }
            let stale = if file.is_unusable() { 1.0 } else { 0.0 };
            metrics::gauge!(STALE, "pool" => name.to_string()).set(stale);
        }
    }

    /// What is known now. A pool whose file was never readable is missing from it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let known = |(name, source): (&PoolName, &Source)| Some((name.clone(), source.endpoints.clone()?));
        Snapshot { pools: self.0.iter().filter_map(known).collect() }
    }
}
