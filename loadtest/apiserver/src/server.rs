//! The server as a value: it runs in a thread of its own from its start until it is dropped.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::oneshot;

use crate::handle::Handle;
use crate::serve;
use crate::shared::{Hook, Shared, tell};
use crate::world::Scaled;

/// Longest wait for it to listen.
const START_WITHIN: Duration = Duration::from_secs(10);

/// A running server. Everything that can be asked of it is asked of its [`Handle`], which it derefs to.
pub struct ApiServer {
    handle: Handle,
    hook: Arc<Mutex<Option<Hook>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the port ours while nobody listens on it.
    _reserved: socket2::Socket,
}

impl ApiServer {
    /// Starts it, on a port that the system picks.
    ///
    /// # Errors
    /// When the system gives no port or no thread.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_on(0)
    }

    /// Starts it on this port; 0: one that the system picks.
    ///
    /// # Errors
    /// When the port is taken, or the system gives no thread.
    pub fn start_on(port: u16) -> anyhow::Result<Self> {
        let (reserved, address) =
            serve::reserve(port).with_context(|| format!("cannot bind port {port} of 127.0.0.1"))?;
        let (scaled, changes) = mpsc::channel();
        let shared = Arc::new(Shared::new(scaled));
        let hook = Arc::<Mutex<Option<Hook>>>::default();
        let told = Arc::clone(&hook);
        // Ends when the last handle is gone.
        std::thread::Builder::new()
            .name("apiserver-scale".into())
            .spawn(move || tell(&changes, &told))
            .context("cannot start a thread")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the event loop")?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("apiserver".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve::run(serving, address) => {}
                        // An error is the end of the value that could stop it.
                        _ = stopped => {}
                    }
                });
            })
            .context("cannot start a thread")?;
        let handle = Handle::new(shared, address);
        let server = Self { handle, hook, stop: Some(stop), thread: Some(thread), _reserved: reserved };
        ensure!(server.listens_within(START_WITHIN), "the API server does not listen on {address}");
        Ok(server)
    }

    /// Another handle; it outlives the server, which then does nothing any more.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// From now on calls `hook` after each change of the replicas of a Deployment, ReplicaSet or StatefulSet, in a thread
    /// of its own, one change after the other. It is what a controller would do, and may take as long as it needs.
    pub fn on_scale(&self, hook: impl FnMut(Scaled) + Send + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }
}

impl Deref for ApiServer {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiServer").field(&self.url()).finish()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // A hook that runs is waited for.
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(stop) = self.stop.take() {
            // Refused only when the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // It panics only where a bug of ours does; a test has seen that already.
            let _ = thread.join();
        }
    }
}
