//! The return ledger: which moved clients are still on their way back, and where they came from.
//!
//! A client is known by its address only, so several behind one address share a queue; the oldest entry is taken
//! first. Bounded in number and in time; what falls out counts as never returned.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{EndpointId, Time};

use crate::ClientKey;

/// Entries kept at once. About 150 bytes each.
const ENTRIES_MAX: usize = 100_000;

/// A client that was moved and has not been seen since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Departure {
    pub(crate) donor: EndpointId,
    pub(crate) moved_at: Time,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// By client, then by order of departure.
    entries: BTreeMap<(ClientKey, u64), Departure>,
    /// All of them, oldest first.
    order: BTreeMap<u64, (ClientKey, Time)>,
    next: u64,
}

impl Ledger {
    /// Clients on their way back.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Notes a departure. Returns how many older ones were forgotten for it: 0 or 1.
    pub(crate) fn push(&mut self, client: ClientKey, departure: Departure) -> u64 {
        let forgotten = if self.len() >= ENTRIES_MAX { self.pop_oldest() } else { 0 };
        self.order.insert(self.next, (client, departure.moved_at));
        self.entries.insert((client, self.next), departure);
        self.next += 1;
        forgotten
    }

    /// The oldest departure of this client, which is then settled.
    pub(crate) fn take(&mut self, client: ClientKey) -> Option<Departure> {
        let key = *self.entries.range((client, 0)..=(client, u64::MAX)).next()?.0;
        self.order.remove(&key.1);
        self.entries.remove(&key)
    }

    /// Drops those that have been away for `timeout`. Returns how many.
    pub(crate) fn expire(&mut self, now: Time, timeout: Duration) -> u64 {
        let mut expired = 0;
        while let Some((_, (_, moved_at))) = self.order.first_key_value() {
            if *moved_at + timeout > now {
                break;
            }
            expired += self.pop_oldest();
        }
        expired
    }

    /// How many [`Self::expire`] would drop.
    pub(crate) fn overdue(&self, now: Time, timeout: Duration) -> usize {
        self.order.values().take_while(|(_, moved_at)| *moved_at + timeout <= now).count()
    }

    fn pop_oldest(&mut self) -> u64 {
        let Some((number, (client, _))) = self.order.pop_first() else { return 0 };
        self.entries.remove(&(client, number));
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departure(donor: &str, millis: u64) -> Departure {
        Departure { donor: donor.into(), moved_at: Time::from_millis(millis) }
    }

    #[test]
    fn the_oldest_departure_of_a_client_is_taken_first() {
        let mut ledger = Ledger::default();
        ledger.push(ClientKey(1), departure("a", 1));
        ledger.push(ClientKey(2), departure("b", 2));
        ledger.push(ClientKey(1), departure("c", 3));
        assert_eq!(ledger.take(ClientKey(1)), Some(departure("a", 1)));
        assert_eq!(ledger.take(ClientKey(1)), Some(departure("c", 3)));
        assert_eq!(ledger.take(ClientKey(1)), None);
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn a_departure_expires_at_its_timeout_and_not_before() {
        let mut ledger = Ledger::default();
        ledger.push(ClientKey(1), departure("a", 1_000));
        ledger.push(ClientKey(1), departure("a", 2_000));
        let timeout = Duration::from_secs(30);
        assert_eq!(ledger.expire(Time::from_millis(30_999), timeout), 0);
        assert_eq!(ledger.overdue(Time::from_millis(31_000), timeout), 1);
        assert_eq!(ledger.expire(Time::from_millis(31_000), timeout), 1);
        assert_eq!(ledger.take(ClientKey(1)), Some(departure("a", 2_000)));
    }

    #[test]
    fn the_ledger_is_bounded_and_forgets_the_oldest() {
        let mut ledger = Ledger::default();
        let forgotten: u64 =
            (0..ENTRIES_MAX + 3).map(|i| ledger.push(ClientKey(i as u128), departure("a", i as u64))).sum();
        assert_eq!((forgotten, ledger.len()), (3, ENTRIES_MAX));
        assert_eq!(ledger.take(ClientKey(2)), None);
        assert!(ledger.take(ClientKey(3)).is_some());
    }
}
