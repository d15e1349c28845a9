//! Endpoint snapshots from static lists, watched files, Kubernetes and DNS.
//!
//! [`spawn`] follows the configuration and gives a `watch` channel with all pools' endpoints; who reads it never
//! learns where they came from. Not here: what an endpoint list may look like (`config`), and what a change
//! means for sessions (`balance`).

mod dns;
mod file;
mod kubernetes;
mod sources;

use std::sync::Arc;

use cluster::Cluster;
use config::{Config, Source};
use model::Snapshot;
use tokio::sync::{mpsc, watch};

use crate::file::WatchedFile;
use crate::sources::{Looked, Sources, Update};

/// News of all sources that wait to be taken; a source waits when there are more.
const UPDATES_MAX: usize = 64;

/// Starts to follow the pools of `config`; those with `kubernetes` through `cluster`, of which nothing is asked as
/// long as there are none. The first snapshot is in the channel when this returns: files are read
/// once before, so call it before serving starts. Later ones are sent only when something differs.
///
/// It ends when all receivers of the snapshots are gone. When the sender of `config` is gone, the sources are
/// followed on.
///
/// # Panics
/// Outside of a tokio runtime with time enabled.
pub fn spawn(cluster: Cluster, mut config: watch::Receiver<Arc<Config>>) -> watch::Receiver<Arc<Snapshot>> {
    metrics::describe_gauge!(
        sources::STALE,
        "1 while a pool's source (a file, the API server, a name) can not be used and the last good list stays in force"
    );
    let (updates_tx, updates) = mpsc::channel(UPDATES_MAX);
    let mut sources = Sources::new(cluster, updates_tx);
    let first = Arc::clone(&config.borrow_and_update());
    sources.configure(&first, look_once(&first));
    let (tx, rx) = watch::channel(Arc::new(sources.snapshot()));
    tokio::spawn(follow(config, sources, updates, tx));
    rx
}

/// Reads each file once, so that the first snapshot has its list.
fn look_once(config: &Config) -> Looked {
    let mut looked = Looked::new();
    for (name, pool) in &config.pools {
        if let Source::File(path) = pool.source() {
            let mut file = WatchedFile::new(path.to_owned());
            let found = file.look_for(name);
            looked.insert(name.clone(), (file, found));
        }
    }
    looked
}

async fn follow(
    mut config: watch::Receiver<Arc<Config>>,
    mut sources: Sources,
    mut updates: mpsc::Receiver<Update>,
    tx: watch::Sender<Arc<Snapshot>>,
) {
    let mut configured = true;
    loop {
        tokio::select! {
            // Nobody is left to tell.
            () = tx.closed() => return,
            changed = config.changed(), if configured => {
                configured = changed.is_ok();
                if configured {
                    let fresh = Arc::clone(&config.borrow_and_update());
                    sources.configure(&fresh, Looked::new());
                }
            }
            // It never ends: the sources keep a sender for followers to come.
            Some(update) = updates.recv() => sources.handle_update(update),
        }
        // What is there already makes one snapshot.
        while let Ok(update) = updates.try_recv() {
            sources.handle_update(update);
        }
        let snapshot = sources.snapshot();
        tx.send_if_modified(|current| {
            let differs = **current != snapshot;
            if differs {
                *current = Arc::new(snapshot);
            }
            differs
        });
    }
}
