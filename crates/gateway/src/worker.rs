//! A worker: one thread, one current-thread runtime, and the sessions that live on it.
//!
//! Both legs of a session stay on one worker, so that no byte crosses threads. Its timer is one sweep a second over
//! all sessions (stalls, idleness) and a short tick over the few that have a deadline.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, mpsc};

use crate::admission::Admitted;
use crate::clock::Clock;
use crate::front;
use crate::http::Connections;
use crate::shared::Shared;
use crate::slot::{Command, CutReason, Slot};

/// How often sessions with a deadline are looked at.
const TICK: Duration = Duration::from_millis(20);
/// All sessions are looked at this many times within the shortest of their limits,
const SWEEPS_PER_LIMIT: u32 = 8;
/// but not more often than this,
const SWEEP_MIN: Duration = Duration::from_millis(100);
/// nor less often: walking all sessions takes their memory through the cache.
const SWEEP_MAX: Duration = Duration::from_secs(5);
/// Accepted sockets that a worker has not picked up yet.
pub const QUEUE_MAX: usize = 4096;

/// A socket that was accepted and admitted.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// The client.
    pub peer: SocketAddr,
    /// Which listener it came through.
    pub listener: ListenerId,
    /// Its place in the counts.
    pub admitted: Admitted,
}

/// A listener, as far as a connection needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerId {
    /// Its place in the configuration.
    pub index: usize,
    /// Its port.
    pub port: u16,
}

/// Bytes and messages, by leg: to the client, to the endpoint.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes read for that leg.
    pub bytes: [AtomicU64; 2],
    /// Data messages begun towards that leg, of ended sessions.
    pub messages: [AtomicU64; 2],
}

/// One thread's sessions.
#[derive(Debug)]
pub struct Worker {
    /// The gateway's clock.
    pub clock: Clock,
    /// What it carried.
    pub traffic: Traffic,
    /// Commands that sessions of this thread have not read: while there are none, a session need not look.
    pub unread: Arc<AtomicUsize>,
    /// Kept connections to endpoints, for plain HTTP.
    pub connections: Connections,
    slots: Mutex<Slab<Arc<Slot>>>,
    timed: Mutex<Vec<Arc<Slot>>>,
    timed_changed: Notify,
    /// Connections that were handed to it and have not ended.
    load: AtomicUsize,
    logs_access: AtomicBool,
}

impl Worker {
    /// A worker that no thread runs yet.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            traffic: Traffic::default(),
            unread: Arc::default(),
            connections: Connections::default(),
            slots: Mutex::default(),
            timed: Mutex::default(),
            timed_changed: Notify::new(),
            load: AtomicUsize::new(0),
            logs_access: AtomicBool::new(false),
        })
    }

    /// Starts the thread. It ends when the sender is dropped.
    ///
    /// # Errors
    /// When the system gives no thread or no epoll descriptor.
    pub fn start(index: usize, shared: Arc<Shared>) -> std::io::Result<(Arc<Self>, mpsc::Sender<Accepted>)> {
        let worker = Self::new(shared.clock);
        let (tx, rx) = mpsc::channel(QUEUE_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = worker.clone();
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(run.run(shared, rx)))?;
        Ok((worker, tx))
    }

    /// Adds a session; the key removes it again.
    pub fn insert(&self, slot: Arc<Slot>) -> usize {
        self.slots().insert(slot)
    }

    /// Puts another slot of the same session in the place of `key`.
    pub fn replace(&self, key: usize, slot: Arc<Slot>) {
        if let Some(place) = self.slots().get_mut(key) {
            *place = slot;
        }
    }

    /// Removes a session.
    pub fn remove(&self, key: usize) {
        self.slots().try_remove(key);
    }

    /// Calls `f` for every session.
    pub fn for_each(&self, mut f: impl FnMut(&Arc<Slot>)) {
        for (_, slot) in self.slots().iter() {
            f(slot);
        }
    }

    /// A session got a deadline.
    pub fn watch(&self, slot: Arc<Slot>) {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        self.timed_changed.notify_one();
    }

    /// Whether ended sessions are logged.
    pub fn logs_access(&self) -> bool {
        self.logs_access.load(Relaxed)
    }

    /// Connections on this thread.
    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// A connection was handed over; dropping the guard gives it back.
    pub fn enter(self: &Arc<Self>) -> LoadGuard {
        self.load.fetch_add(1, Relaxed);
        LoadGuard(self.clone())
    }

    async fn run(self: Arc<Self>, shared: Arc<Shared>, mut accepted: mpsc::Receiver<Accepted>) {
        let ticker = tokio::spawn(self.clone().tick());
        let sweeper = tokio::spawn(self.clone().sweep(shared.clone()));
        while let Some(socket) = accepted.recv().await {
            self.logs_access.store(shared.runtime.load().config.log.access, Relaxed);
            tokio::spawn(front::serve(shared.clone(), self.clone(), socket));
        }
        // The gateway has stopped: what is left ends with the runtime.
        ticker.abort();
        sweeper.abort();
    }

    /// Wakes sessions whose deadline has come.
    async fn tick(self: Arc<Self>) {
        loop {
            let idle = self.timed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            if idle {
                self.timed_changed.notified().await;
            }
            tokio::time::sleep(TICK).await;
            let now = self.clock.now();
            let mut due = Vec::new();
            self.timed.lock().unwrap_or_else(PoisonError::into_inner).retain(|slot| match slot.deadline() {
                None => {
                    slot.untime();
                    false
                }
                Some(at) => {
                    if at <= now {
                        due.push(slot.clone());
                    }
                    // An ended session is held by this list alone.
                    Arc::strong_count(slot) > 1 + usize::from(at <= now)
                }
            });
            due.iter().for_each(|slot| slot.wake());
        }
    }

    /// Ends sessions that a peer has stalled, or that are idle beyond the limit.
    async fn sweep(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            let (stall, idle) = {
                let runtime = shared.runtime.load();
                (runtime.config.limits.write_stall_timeout, runtime.config.limits.idle_timeout)
            };
            let shortest = idle.map_or(stall, |idle| idle.min(stall));
            tokio::time::sleep((shortest / SWEEPS_PER_LIMIT).clamp(SWEEP_MIN, SWEEP_MAX)).await;
            let now = self.clock.now();
            let mut cut = Vec::new();
            self.for_each(|slot| {
                if slot.stalled_since().is_some_and(|since| now.since(since) >= stall) {
                    cut.push((slot.clone(), Command::Cut(CutReason::WriteStall)));
                } else if let Some(idle) = idle.filter(|idle| now.since(slot.active_at()) >= *idle) {
                    cut.push((slot.clone(), Command::CutIdle(idle)));
                }
            });
            for (slot, command) in cut {
                slot.command(command);
            }
            self.connections.sweep(now, shared.runtime.load().config.limits.http_keep_alive_timeout);
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slab<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts for its worker's load.
#[derive(Debug)]
pub struct LoadGuard(Arc<Worker>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Relaxed);
    }
}
