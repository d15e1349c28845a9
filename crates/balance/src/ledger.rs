//! The return ledger: which moved clients are still on their way back, and where they came from.
//!
//! A client is known by its address only, so several behind one address share a queue; the oldest entry is taken
//! first. Bounded in number and in time; what falls out counts as never returned.
//!
//! With several gateway replicas most moved clients return to another one, and those of the others come here. A
//! stranger that comes in such a client's stead is a credit: the entry stays, to recognise its own client, but it no
//! longer counts as away.

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
    /// How often it has been moved, this one included.
    pub(crate) moves: u32,
    /// It has been let in past the others once already.
    pub(crate) passed: bool,
}

/// Entries that have left the ledger without their client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Expired {
    /// Nobody came in their stead.
    pub(crate) lost: u64,
    /// Covered by a stranger's arrival: back at another replica, as far as one can tell.
    pub(crate) elsewhere: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// By client, then by order of departure.
    entries: BTreeMap<(ClientKey, u64), Departure>,
    /// All of them, oldest first.
    order: BTreeMap<u64, (ClientKey, Time)>,
    next: u64,
    /// Strangers that came in the stead of so many entries.
    credits: u64,
    /// Entries with a smaller number are late.
    late_below: u64,
    late: u64,
}

impl Ledger {
    /// Clients on their way back, as far as one can tell.
    pub(crate) fn away(&self) -> u64 {
        self.order.len() as u64 - self.credits
    }

    /// Entries that a stranger stands for.
    pub(crate) fn credits(&self) -> u64 {
        self.credits
    }

    /// Of those that are away, the late ones.
    pub(crate) fn late(&self) -> u64 {
        self.late.saturating_sub(self.credits)
    }

    /// Notes a departure. What had to be forgotten for it has expired.
    pub(crate) fn push(&mut self, client: ClientKey, departure: Departure) -> Expired {
        let mut expired = Expired::default();
        if self.order.len() >= ENTRIES_MAX {
            self.pop_oldest(&mut expired);
        }
        self.order.insert(self.next, (client, departure.moved_at));
        self.entries.insert((client, self.next), departure);
        self.next += 1;
        expired
    }

    /// The donor of the client's oldest departure.
    pub(crate) fn donor(&self, client: ClientKey) -> Option<&EndpointId> {
        let (_, departure) = self.entries.range((client, 0)..=(client, u64::MAX)).next()?;
        Some(&departure.donor)
    }

    /// Lets a client in that was moved: once for each of its departures.
    pub(crate) fn pass(&mut self, client: ClientKey) -> bool {
        let mut departures = self.entries.range_mut((client, 0)..=(client, u64::MAX));
        departures.find(|(_, departure)| !departure.passed).is_some_and(|(_, departure)| {
            departure.passed = true;
            true
        })
    }

    /// A departure that was none: the client was not there. The latest one of it is forgotten; `None` when it is settled
    /// already, and otherwise whether it was late.
    pub(crate) fn withdraw(&mut self, client: ClientKey) -> Option<bool> {
        let key = *self.entries.range((client, 0)..=(client, u64::MAX)).next_back()?.0;
        self.remove(key).map(|(_, was_late)| was_late)
    }

    /// The oldest departure of this client, which is then settled, and whether it was late.
    pub(crate) fn take(&mut self, client: ClientKey) -> Option<(Departure, bool)> {
        let key = *self.entries.range((client, 0)..=(client, u64::MAX)).next()?.0;
        self.remove(key)
    }

    fn remove(&mut self, key: (ClientKey, u64)) -> Option<(Departure, bool)> {
        self.order.remove(&key.1);
        let was_late = key.1 < self.late_below;
        self.late -= u64::from(was_late);
        self.credits = self.credits.min(self.order.len() as u64);
        Some((self.entries.remove(&key)?, was_late))
    }

    /// A stranger came in the stead of one that is away. False when nobody is.
    pub(crate) fn credit(&mut self) -> bool {
        let is_owed = self.away() > 0;
        self.credits += u64::from(is_owed);
        is_owed
    }

    /// Those away for `after` are late from now on. Returns how many became so, and are not covered by a stranger.
    pub(crate) fn mark_late(&mut self, now: Time, after: Duration) -> u64 {
        let before = self.late.saturating_sub(self.credits);
        let ripe =
            self.order.range(self.late_below..).take_while(|(_, (_, moved_at))| *moved_at + after <= now);
        let (mut count, mut last) = (0, None);
        for (number, _) in ripe {
            (count, last) = (count + 1, Some(*number));
        }
        if let Some(last) = last {
            self.late += count;
            self.late_below = last + 1;
        }
        self.late.saturating_sub(self.credits) - before
    }

    /// Drops those that have been away for `timeout`.
    pub(crate) fn expire(&mut self, now: Time, timeout: Duration) -> Expired {
        let mut expired = Expired::default();
        while self.expires_at(timeout).is_some_and(|at| at <= now) {
            self.pop_oldest(&mut expired);
        }
        expired
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn expires_at(&self, timeout: Duration) -> Option<Time> {
        let (_, (_, moved_at)) = self.order.first_key_value()?;
        Some(*moved_at + timeout)
    }

    /// What [`Self::expire`] would find.
    pub(crate) fn overdue(&self, now: Time, timeout: Duration) -> Expired {
        let all = self.order.values().take_while(|(_, moved_at)| *moved_at + timeout <= now).count() as u64;
        let elsewhere = all.min(self.credits);
        Expired { lost: all - elsewhere, elsewhere }
    }

    fn pop_oldest(&mut self, expired: &mut Expired) {
        let Some((number, (client, _))) = self.order.pop_first() else { return };
        self.entries.remove(&(client, number));
        self.late -= u64::from(number < self.late_below);
        if self.credits > 0 {
            self.credits -= 1;
            expired.elsewhere += 1;
        } else {
            expired.lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departure(donor: &str, millis: u64) -> Departure {
        Departure { donor: donor.into(), moved_at: Time::from_millis(millis), moves: 1, passed: false }
    }

    #[test]
    fn the_oldest_departure_of_a_client_is_taken_first() {
        let mut ledger = Ledger::default();
        ledger.push(ClientKey(1), departure("a", 1));
        ledger.push(ClientKey(2), departure("b", 2));
        ledger.push(ClientKey(1), departure("c", 3));
        assert_eq!(ledger.take(ClientKey(1)), Some((departure("a", 1), false)));
        assert_eq!(ledger.take(ClientKey(1)), Some((departure("c", 3), false)));
        assert_eq!(ledger.take(ClientKey(1)), None);
        assert_eq!(ledger.away(), 1);
    }

    #[test]
    fn a_departure_expires_at_its_timeout_and_not_before() {
        let mut ledger = Ledger::default();
        ledger.push(ClientKey(1), departure("a", 1_000));
        ledger.push(ClientKey(1), departure("a", 2_000));
        let timeout = Duration::from_secs(30);
        let one = Expired { lost: 1, elsewhere: 0 };
        assert_eq!(ledger.expires_at(timeout), Some(Time::from_millis(31_000)));
        assert_eq!(ledger.expire(Time::from_millis(30_999), timeout), Expired::default());
        assert_eq!(ledger.overdue(Time::from_millis(31_000), timeout), one);
        assert_eq!(ledger.expire(Time::from_millis(31_000), timeout), one);
        assert_eq!(ledger.take(ClientKey(1)), Some((departure("a", 2_000), false)));
    }

    #[test]
    fn the_ledger_is_bounded_and_forgets_the_oldest() {
        let mut ledger = Ledger::default();
        let forgotten: u64 = (0..ENTRIES_MAX + 3)
            .map(|i| ledger.push(ClientKey(i as u128), departure("a", i as u64)).lost)
            .sum();
        assert_eq!((forgotten, ledger.away()), (3, ENTRIES_MAX as u64));
        assert_eq!(ledger.take(ClientKey(2)), None);
        assert!(ledger.take(ClientKey(3)).is_some());
    }

    #[test]
    fn a_strangers_arrival_stands_for_somebody_who_is_away() {
        let mut ledger = Ledger::default();
        assert!(!ledger.credit(), "nobody is away");
        for i in 0..3 {
            ledger.push(ClientKey(i), departure("a", 1_000));
        }
        assert!(ledger.credit() && ledger.credit());
        assert_eq!(ledger.away(), 1);
        assert_eq!(ledger.donor(ClientKey(0)), Some(&"a".into()), "its own client is still recognised");
        assert!(ledger.take(ClientKey(0)).is_some());
        assert_eq!(ledger.away(), 0);
        let expired = ledger.expire(Time::from_millis(90_000), Duration::from_secs(30));
        assert_eq!(expired, Expired { lost: 0, elsewhere: 2 });
        assert_eq!(ledger.away(), 0);
    }

    #[test]
    fn each_departure_lets_its_client_in_once() {
        let mut ledger = Ledger::default();
        assert!(!ledger.pass(ClientKey(1)));
        for n in 0..2 {
            ledger.push(ClientKey(1), departure("a", n));
        }
        assert_eq!([(); 3].map(|()| ledger.pass(ClientKey(1))), [true, true, false]);
        assert_eq!(ledger.away(), 2, "it is away until it is back");
    }

    #[test]
    fn a_departure_that_was_none_is_forgotten() {
        let mut ledger = Ledger::default();
        for n in 0..2 {
            ledger.push(ClientKey(1), departure("a", n));
        }
        ledger.mark_late(Time::from_millis(9_000), Duration::from_secs(2));
        assert_eq!((ledger.withdraw(ClientKey(1)), ledger.withdraw(ClientKey(2))), (Some(true), None));
        assert_eq!(ledger.take(ClientKey(1)).map(|(d, _)| d.moved_at), Some(Time::from_millis(0)));
    }

    #[test]
    fn who_is_late_is_counted_until_it_is_back_or_given_up() {
        let mut ledger = Ledger::default();
        for i in 0..4 {
            ledger.push(ClientKey(i), departure("a", 1_000 * i as u64));
        }
        let after = Duration::from_secs(2);
        assert_eq!(ledger.mark_late(Time::from_millis(1_999), after), 0);
        assert_eq!(ledger.mark_late(Time::from_millis(3_500), after), 2);
        assert_eq!(ledger.mark_late(Time::from_millis(3_600), after), 0, "each once");
        assert!(ledger.take(ClientKey(0)).expect("it is away").1, "it was late");
        assert!(!ledger.take(ClientKey(3)).expect("it is away").1, "it was not");
        assert_eq!(ledger.late(), 1);
        ledger.credit();
        assert_eq!(ledger.late(), 0, "a stranger stands for it");
        assert_eq!(ledger.mark_late(Time::from_millis(60_000), after), 1);
        ledger.expire(Time::from_millis(60_000), Duration::from_secs(30));
        assert_eq!((ledger.late(), ledger.away()), (0, 0));
    }
}
