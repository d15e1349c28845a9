//! What became of one publisher's messages in one queue: set arithmetic on their numbers, no clock, no connection.
//!
//! A number is never used twice, and a message whose fate its publisher does not know is not published again. So a
//! message that arrives twice was delivered twice, and one behind a later one is out of order.

use scenario::amqp::Account;

use crate::ranges::Ranges;

/// One publisher's messages in one queue.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    next: u64,
    /// They could not be handed to the connection.
    failed: Ranges,
    confirmed: Ranges,
    refused: Ranges,
    returned: Ranges,
    consumed: Ranges,
    latest: Option<u64>,
    acked: u64,
    redelivered: u64,
    duplicated: u64,
    reordered: u64,
    /// Numbers below it are waited for by nobody: their connection ended.
    since: u64,
    consumed_since: u64,
}

impl Stream {
    /// Numbers the next message.
    pub fn publish(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// It could not be handed to the connection. It may arrive all the same.
    pub fn fail(&mut self, number: u64) {
        self.failed.insert(number);
    }

    /// The broker confirmed it.
    pub fn confirm(&mut self, number: u64) {
        self.confirmed.insert(number);
    }

    /// The broker refused it.
    pub fn refuse(&mut self, number: u64) {
        self.refused.insert(number);
    }

    /// The broker had no queue for it.
    pub fn give_back(&mut self, number: u64) {
        self.returned.insert(number);
    }

    /// It was delivered.
    pub fn deliver(&mut self, number: u64, redelivered: bool) {
        self.redelivered += u64::from(redelivered);
        if !self.consumed.insert(number) {
            self.duplicated += 1;
            return;
        }
        self.consumed_since += u64::from(number >= self.since);
        self.reordered += u64::from(self.latest.is_some_and(|latest| number < latest));
        self.latest = self.latest.max(Some(number));
    }

    /// Its consumer acknowledged a delivery.
    pub fn ack(&mut self) {
        self.acked += 1;
    }

    /// The publisher has a new connection: it does not wait for what it published on the old one.
    pub fn begin_anew(&mut self) {
        self.since = self.next;
        self.consumed_since = 0;
    }

    /// How many messages of the publisher's present connection are on their way or in the queue.
    pub fn backlog(&self) -> u64 {
        (self.next - self.since).saturating_sub(self.consumed_since)
    }

    /// Whether every message that should arrive has arrived.
    pub fn drained(&self) -> bool {
        let account = self.account();
        account.lost == 0 && account.missing == 0
    }

    /// Messages published and consumed so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.next - self.failed.len(), self.consumed.len())
    }

    /// Everything that is known.
    pub fn account(&self) -> Account {
        let all = Ranges::first(self.next);
        let lost = self.confirmed.missing_in(&self.consumed);
        let excused = [&self.failed, &self.refused, &self.returned];
        let excused: u64 = excused.iter().map(|set| set.missing_in(&self.consumed)).sum();
        Account {
            sent: self.next - self.failed.len(),
            confirmed: self.confirmed.len(),
            refused: self.refused.len(),
            returned: self.returned.len(),
            consumed: self.consumed.len(),
            acked: self.acked,
            redelivered: self.redelivered,
            duplicated: self.duplicated,
            reordered: self.reordered,
            damaged: 0,
            lost,
            missing: all.missing_in(&self.consumed).saturating_sub(lost + excused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(count: u64) -> Stream {
        let mut stream = Stream::default();
        for number in 0..count {
            assert_eq!(stream.publish(), number);
        }
        stream
    }

    #[test]
    fn a_run_without_fault_has_none() {
        let mut stream = published(5);
        for number in 0..5 {
            assert!(!stream.drained());
            stream.confirm(number);
            stream.deliver(number, false);
            stream.ack();
        }
        assert!(stream.drained());
        let expected = Account { sent: 5, confirmed: 5, consumed: 5, acked: 5, ..Account::default() };
        assert_eq!(stream.account(), expected);
    }

    #[test]
    fn a_confirmed_message_that_never_arrives_is_lost_and_an_unconfirmed_one_missing() {
        let mut stream = published(4);
        stream.confirm(0);
        stream.confirm(1);
        stream.deliver(1, false);
        stream.deliver(3, false);
        let account = stream.account();
        assert_eq!((account.lost, account.missing, account.consumed), (1, 1, 2));
        assert!(!stream.drained());
    }

    #[test]
    fn what_was_refused_returned_or_never_sent_is_neither_lost_nor_missing() {
        let mut stream = published(4);
        stream.refuse(0);
        stream.give_back(1);
        stream.fail(2);
        stream.deliver(3, false);
        assert!(stream.drained());
        assert_eq!((stream.account().sent, stream.account().refused, stream.account().returned), (3, 1, 1));
        stream.deliver(2, false);
        assert!(stream.drained(), "a failed one that arrives all the same is no fault");
    }

    #[test]
    fn a_message_that_comes_again_is_a_duplicate_and_not_out_of_order() {
        let mut stream = published(3);
        stream.deliver(0, false);
        stream.deliver(1, false);
        stream.deliver(0, true);
        stream.deliver(2, false);
        let account = stream.account();
        assert_eq!((account.duplicated, account.redelivered, account.reordered), (1, 1, 0));
    }

    #[test]
    fn a_message_behind_a_later_one_is_out_of_order_redelivered_or_not() {
        let mut stream = published(4);
        for (number, redelivered) in [(0, false), (3, false), (1, true), (2, false)] {
            stream.deliver(number, redelivered);
        }
        let account = stream.account();
        assert_eq!((account.reordered, account.redelivered, account.duplicated), (2, 1, 0));
    }

    #[test]
    fn a_publisher_does_not_wait_for_what_its_old_connection_lost() {
        let mut stream = published(10);
        stream.deliver(0, false);
        assert_eq!(stream.backlog(), 9);
        stream.begin_anew();
        assert_eq!(stream.backlog(), 0);
        stream.publish();
        stream.deliver(5, false);
        assert_eq!(stream.backlog(), 1, "what arrives late of the old one is not of the new one");
        stream.deliver(10, false);
        assert_eq!(stream.backlog(), 0);
    }
}
