//! What the threads share: the world behind a lock, and the switches of a test.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::world::{Scaled, World};

/// Between two looks at a condition that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cut {
    /// The end of the stream (FIN) between two lines, without the end of the body.
    #[default]
    End,
    /// A reset (RST).
    Reset,
    /// Half a line, then the end of the stream.
    HalfLine,
}

/// Who is told of changes of scale.
pub type Hook = Box<dyn FnMut(Scaled) + Send>;

/// The world and the switches.
#[derive(Debug)]
pub struct Shared {
    inner: Mutex<Inner>,
    happened: Condvar,
    /// Counts changes of the world.
    pub turns: watch::Sender<u64>,
    /// Whether the server should listen.
    pub listen: watch::Sender<bool>,
    /// Counts cuts of all watches, with the way of the last.
    pub cut_watches: watch::Sender<(u64, Cut)>,
    /// Counts cuts of all connections, with the way of the last.
    pub cut_all: watch::Sender<(u64, Cut)>,
    /// Counts bookmarks for everybody.
    pub bookmarks: watch::Sender<u64>,
    hung: watch::Sender<bool>,
    scaled: std::sync::mpsc::Sender<Scaled>,
}

#[derive(Debug, Default)]
struct Inner {
    world: World,
    watches: BTreeMap<u64, String>,
    listening: bool,
    list_delay: Duration,
}

impl Shared {
    /// An empty world that is not listened for yet; changes of scale go to `scaled`.
    pub fn new(scaled: std::sync::mpsc::Sender<Scaled>) -> Self {
        Self {
            inner: Mutex::default(),
            happened: Condvar::new(),
            turns: watch::Sender::new(0),
            listen: watch::Sender::new(true),
            cut_watches: watch::Sender::new((0, Cut::End)),
            cut_all: watch::Sender::new((0, Cut::End)),
            bookmarks: watch::Sender::new(0),
            hung: watch::Sender::new(false),
            scaled,
        }
    }

    /// Does something with the world; whoever waits for it to change looks again.
    pub fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let mut inner = self.inner();
        let result = work(&mut inner.world);
        for scaled in inner.world.scaled.drain(..) {
            // Nobody has asked to be told.
            let _ = self.scaled.send(scaled);
        }
        drop(inner);
        self.happened.notify_all();
        result
    }

    /// Watches look for changes.
    pub fn turn(&self) {
        self.turns.send_modify(|turn| *turn += 1);
    }

    /// Returns when the server answers.
    pub async fn while_hung(&self) {
        // An error means that the server ends, and whoever waits with it.
        let _ = self.hung.subscribe().wait_for(|hung| !hung).await;
    }

    /// Whether the server answers nobody.
    pub fn hang(&self, hung: bool) {
        self.hung.send_replace(hung);
    }

    /// How long lists take.
    pub fn list_delay(&self) -> Duration {
        self.inner().list_delay
    }

    /// Lists take so long from now on.
    pub fn set_list_delay(&self, delay: Duration) {
        self.inner().list_delay = delay;
    }

    /// Whether the server listens now.
    pub fn note_listening(&self, listening: bool) {
        self.inner().listening = listening;
        self.happened.notify_all();
    }

    /// See [`note_listening`](Self::note_listening).
    pub fn is_listening(&self) -> bool {
        self.inner().listening
    }

    /// A watch has begun with a resource, or ended without.
    pub fn note_watch(&self, id: u64, resource: Option<String>) {
        let mut inner = self.inner();
        match resource {
            Some(resource) => drop(inner.watches.insert(id, resource)),
            None => drop(inner.watches.remove(&id)),
        }
        drop(inner);
        self.happened.notify_all();
    }

    /// Watches that run on a resource.
    pub fn watches(&self, resource: &str) -> usize {
        self.inner().watches.values().filter(|of| *of == resource).count()
    }

    /// Blocks until a condition holds, or for as long; answers whether it does.
    pub fn wait(&self, within: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + within;
        loop {
            if condition() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            // Whatever happens between the look and this wait is seen after it at the latest.
            drop(self.happened.wait_timeout(self.inner(), LOOK_EVERY));
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells somebody of changes of scale, one after the other, until the server ends.
pub fn tell(scaled: &std::sync::mpsc::Receiver<Scaled>, hook: &Mutex<Option<Hook>>) {
    while let Ok(change) = scaled.recv() {
        if let Some(hook) = hook.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            hook(change);
        }
    }
}
