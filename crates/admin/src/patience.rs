//! How long a request and its connection may take: bounds that a call which is meant to wait moves by as much.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A moment that can be put off.
#[derive(Debug)]
pub struct Limit(Mutex<Instant>);

impl Limit {
    /// `after` from now.
    pub fn new(after: Duration) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now() + after)))
    }

    /// Later by `more`.
    pub fn put_off(&self, more: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += more;
    }

    /// Waits for the moment, wherever it is put meanwhile.
    pub async fn passed(&self) {
        loop {
            let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if at <= Instant::now() {
                return;
            }
            sleep_until(at).await;
        }
    }
}

/// The bounds of one request.
#[derive(Clone, Debug)]
pub struct Patience {
    /// From its head to its answer.
    pub request: Arc<Limit>,
    /// Of the connection that it came on.
    pub connection: Arc<Limit>,
}

impl Patience {
    /// The answer is meant to take `more`.
    pub fn put_off(&self, more: Duration) {
        self.request.put_off(more);
        self.connection.put_off(more);
    }
}
