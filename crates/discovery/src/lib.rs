//! Endpoint snapshots from static lists and watched files.
//!
//! [`spawn`] follows the configuration and gives a `watch` channel with all pools' endpoints; who reads it never
//! learns where they came from. Not here: what an endpoint list may look like (`config`), and what a change
//! means for sessions (`balance`). DNS and Kubernetes come later through the same door.

mod file;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use config::Config;
use model::Snapshot;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::sources::Sources;

/// Time between two looks at the watched files.
const POLL: Duration = Duration::from_millis(500);

/// Starts to follow the pools of `config`. The first snapshot is in the channel when this returns: files are read
/// once before, so call it before serving starts. Later ones are sent only when something differs.
///
/// It ends when all receivers of the snapshots are gone. When the sender of `config` is gone, the files are
/// followed on.
///
/// # Panics
/// Outside of a tokio runtime with time enabled.
pub fn spawn(mut config: watch::Receiver<Arc<Config>>) -> watch::Receiver<Arc<Snapshot>> {
    metrics::describe_gauge!(
        sources::STALE,
        "1 while a pool's endpoints file cannot be used and the last good list stays in force"
    );
    let mut sources = Sources::default();
    sources.configure(&config.borrow_and_update().pools);
    let (tx, rx) = watch::channel(Arc::new(sources.snapshot()));
    tokio::spawn(follow(config, sources, tx));
    rx
}

async fn follow(
    mut config: watch::Receiver<Arc<Config>>,
    mut sources: Sources,
    tx: watch::Sender<Arc<Snapshot>>,
) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut configured = true;
    loop {
        let fresh = tokio::select! {
            // Nobody is left to tell.
            () = tx.closed() => return,
            changed = config.changed(), if configured => {
                configured = changed.is_ok();
                configured.then(|| Arc::clone(&config.borrow_and_update()))
            }
            // The look at the files.
            _ = ticks.tick() => None,
        };
        // A network file system may hang; the runtime must not hang with it.
        let looked = tokio::task::spawn_blocking(move || {
            match fresh {
                Some(config) => sources.configure(&config.pools),
                None => sources.poll(),
            }
            sources
        });
        // It fails only when the runtime shuts down.
        let Ok(back) = looked.await else { return };
        sources = back;
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
