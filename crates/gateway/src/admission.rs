//! Who may connect: bounds on connections in total, per client address and per route. Counts that can not leak.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Which bound refuses a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `limits.connections_max`, or the file descriptors.
    Total,
    /// `limits.connections_per_client_max`.
    Client,
    /// The route's `connections_max`.
    Route,
}

impl Refusal {
    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "connections_max",
            Self::Client => "connections_per_client_max",
            Self::Route => "route_connections_max",
        }
    }
}

/// The live counts of the process.
#[derive(Debug, Default)]
pub struct Admission {
    total: AtomicUsize,
    /// Only filled while there is a bound per client. Entries vanish at zero, so it is as large as there are clients.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    /// Connections now.
    pub fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// Counts a new connection of `client`.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn admit(
        self: &Arc<Self>,
        client: IpAddr,
        total_max: usize,
        per_client_max: Option<usize>,
    ) -> Result<Admitted, Refusal> {
        if self.total.fetch_add(1, Relaxed) >= total_max {
            self.total.fetch_sub(1, Relaxed);
            return Err(Refusal::Total);
        }
        let mut admitted = Admitted { admission: self.clone(), client: None };
        if let Some(max) = per_client_max {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let count = clients.entry(client).or_default();
            if *count >= max {
                return Err(Refusal::Client);
            }
            *count += 1;
            admitted.client = Some(client);
        }
        Ok(admitted)
    }
}

/// A connection that counts. Dropping it gives the count back.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    client: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.total.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            let mut clients = self.admission.clients.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = clients.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    clients.remove(&client);
                }
            }
        }
    }
}

/// The count of one route.
#[derive(Debug, Default)]
pub struct RouteCount(AtomicUsize);

impl RouteCount {
    /// Counts a connection through the route.
    ///
    /// # Errors
    /// When `max` is reached.
    pub fn enter(self: &Arc<Self>, max: Option<usize>) -> Result<RoutePermit, Refusal> {
        if self.0.fetch_add(1, Relaxed) >= max.unwrap_or(usize::MAX) {
            self.0.fetch_sub(1, Relaxed);
            return Err(Refusal::Route);
        }
        Ok(RoutePermit(self.clone()))
    }
}

/// A connection through a route. Dropping it gives the count back.
#[derive(Debug)]
pub struct RoutePermit(Arc<RouteCount>);

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// Everything that a session counts in, held until it ends.
#[derive(Debug)]
pub struct Permit {
    _admitted: Arc<Admitted>,
    _route: RoutePermit,
}

impl Permit {
    /// A connection of `admitted` through a route.
    pub fn new(admitted: Arc<Admitted>, route: RoutePermit) -> Self {
        Self { _admitted: admitted, _route: route }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_dropped_connection_makes_room_again() {
        let admission = Arc::new(Admission::default());
        let first = admission.admit(CLIENT, 2, Some(1)).expect("room");
        assert_eq!(admission.admit(CLIENT, 2, Some(1)).unwrap_err(), Refusal::Client);
        assert_eq!(admission.total(), 1);
        drop(first);
        let again = admission.admit(CLIENT, 1, Some(1)).expect("room again");
        assert_eq!(admission.admit(CLIENT, 1, None).unwrap_err(), Refusal::Total);
        drop(again);
        assert!(admission.clients.lock().unwrap().is_empty());
        assert_eq!(admission.total(), 0);
    }

    #[test]
    fn a_route_takes_no_more_than_its_bound() {
        let route = Arc::new(RouteCount::default());
        let permit = route.enter(Some(1)).expect("room");
        assert_eq!(route.enter(Some(1)).unwrap_err(), Refusal::Route);
        drop(permit);
        assert!(route.enter(Some(1)).is_ok());
    }
}
