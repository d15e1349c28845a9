//! The queue of what is going to happen, in order of time; of equal times, what was scheduled first is first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use model::Time;
use session::Leg;

/// Something that is going to happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Event {
    /// A client opens a connection.
    Connect(u32),
    /// A client's request is at a replica.
    Arrive(u32),
    /// A client's handshake with an endpoint is over.
    Dialed(u32, Dial),
    /// A client sees its connection end without a word of ours.
    Dropped {
        /// Who.
        client: u32,
        /// The session it had.
        session: u32,
    },
    /// A replica's rebalance loop goes round; only the turn with the newest number counts.
    Turn(u16, u32),
    /// A peer's word has reached the gateway.
    Heard(Word, Said),
    /// The gateway's word has reached a peer.
    Told(Word, Said),
    /// A relay's deadline.
    Timer {
        /// Which relay.
        relay: u32,
        /// Relays come and go in the same place.
        serial: u32,
    },
    /// A replica gets the list of endpoints with this number.
    Discover(u16, u32),
    /// A replica is told the number of replicas.
    Replicas(u16, u32),
    /// The replicas ask each other for their counts.
    Poll,
    /// The step with this number.
    Step(u32),
    /// An endpoint leaves or rejoins, by the step with this number.
    Flap(u32),
    /// The sessions are counted.
    Sample,
    /// A new client comes, with the churn of this number.
    Arrival(u32),
    /// A client leaves for good, with the churn of this number.
    Departure(u32),
    /// A draining endpoint looks whether it may stop.
    Stop(u16),
    /// The successor of an endpoint starts.
    Succeed(u16),
    /// Discovery drops a dead endpoint.
    Forget(u16),
    /// A session has reached the age at which a rival closes it.
    Expire {
        /// Which.
        session: u32,
        /// Sessions come and go in the same place.
        serial: u32,
    },
    /// A rival's own clock.
    Rival,
}

/// Between a relay and one of its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// Which relay.
    pub relay: u32,
    /// Relays come and go in the same place.
    pub serial: u32,
    /// Which peer.
    pub leg: Leg,
}

impl PartialOrd for Word {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Word {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.relay, self.serial, self.leg as u8).cmp(&(other.relay, other.serial, other.leg as u8))
    }
}

/// What is said between a relay and a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Said {
    /// A message; the next one follows at its time.
    Message,
    /// A message that answers one.
    Echo,
    /// The client is asked to leave.
    Notice,
    /// A Close frame.
    Close,
    /// The end of the stream.
    End,
}

/// How a dial and handshake went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Dial {
    /// 101.
    Ok,
    /// Nobody listens.
    Refused,
    /// Nobody is there.
    Unreachable,
    /// No answer in time.
    TimedOut,
}

/// Events by time.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<(Time, u64, Event)>>,
    next: u64,
}

impl Queue {
    /// Schedules.
    pub fn push(&mut self, at: Time, event: Event) {
        self.heap.push(Reverse((at, self.next, event)));
        self.next += 1;
    }

    /// The next one that is due by `end`.
    pub fn pop(&mut self, end: Time) -> Option<(Time, Event)> {
        if self.heap.peek().is_none_or(|Reverse((at, ..))| *at > end) {
            return None;
        }
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }

    /// Events that were ever scheduled.
    pub fn scheduled(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_the_order_of_scheduling() {
        let mut queue = Queue::default();
        let at = Time::from_millis(5);
        queue.push(at, Event::Sample);
        queue.push(Time::from_millis(1), Event::Rival);
        queue.push(at, Event::Connect(1));
        let end = Time::from_millis(5);
        let order: Vec<Event> = std::iter::from_fn(|| queue.pop(end)).map(|(_, event)| event).collect();
        assert_eq!(order, [Event::Rival, Event::Sample, Event::Connect(1)]);
    }

    #[test]
    fn nothing_beyond_the_end_happens() {
        let mut queue = Queue::default();
        queue.push(Time::from_millis(6), Event::Sample);
        assert_eq!(queue.pop(Time::from_millis(5)), None);
    }

    #[test]
    fn an_event_is_small() {
        assert!(size_of::<Event>() <= 16, "{}", size_of::<Event>());
    }
}
