//! Which Pods get another deletion cost now: a decision without IO, told by tables.
//!
//! A ReplicaSet that shrinks takes the Pods with the lowest `controller.kubernetes.io/pod-deletion-cost` first. Written are the
//! sessions that all gateway replicas together have at a Pod, so that the emptiest goes. That needs a write for each
//! Pod, so it is slow on purpose, and wrong by a tenth at most. One replica writes: see [`is_writer`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{Pod, Time};

/// Least time between two writes to one Pod.
const PAUSE: Duration = Duration::from_secs(30);
/// Least time between two writes: five a second.
const STEP: Duration = Duration::from_millis(200);
/// Writes that may come at once.
const BURST: usize = 5;
/// A change by less than this share is not worth a write.
const WORTH: f64 = 0.1;

/// A Pod and what all replicas have there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its UID: a Pod of the same name is another one later.
    pub uid: String,
    /// Its namespace and name.
    pub pod: Pod,
    /// Sessions of the whole tier.
    pub sessions: u64,
}

/// One write that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The Pod's UID.
    pub uid: String,
    /// Its namespace and name.
    pub pod: Pod,
    /// What to write.
    pub cost: i32,
}

/// What was written, by UID. Bounded by the Pods that are wanted.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    known: BTreeMap<String, Known>,
    /// When all writes that were made have been paid for.
    paid_at: Time,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// What was written last, when that succeeded.
    cost: Option<i32>,
    at: Time,
}

impl Costs {
    /// What to write now, the largest changes first. Each is taken to be made: [`Self::handle_failed`] when it was not.
    ///
    /// `wanted`: every Pod; of those that are gone nothing is remembered. One that was never written is written
    /// whatever it has, since another replica may have left a cost there.
    pub fn due(&mut self, now: Time, wanted: &[Wanted]) -> Vec<Write> {
        let there: BTreeSet<&str> = wanted.iter().map(|wanted| wanted.uid.as_str()).collect();
        self.known.retain(|uid, _| there.contains(uid.as_str()));
        let mut due: Vec<(f64, Write)> = wanted
            .iter()
            .filter_map(|wanted| {
                let known = self.known.get(&wanted.uid);
                if known.is_some_and(|known| now.since(known.at) < PAUSE) {
                    return None;
                }
                let cost = i32::try_from(wanted.sessions).unwrap_or(i32::MAX);
                let change = change(known.and_then(|known| known.cost), cost)?;
                Some((change, Write { uid: wanted.uid.clone(), pod: wanted.pod.clone(), cost }))
            })
            .collect();
        due.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| left.uid.cmp(&right.uid)));
        due.truncate(self.room(now));
        for (_, write) in &due {
            self.known.insert(write.uid.clone(), Known { cost: Some(write.cost), at: now });
            self.paid_at = self.paid_at.max(now) + STEP;
        }
        due.into_iter().map(|(_, write)| write).collect()
    }

    /// A write was not made: it is tried again after the pause.
    pub fn handle_failed(&mut self, uid: &str) {
        if let Some(known) = self.known.get_mut(uid) {
            known.cost = None;
        }
    }

    /// Another replica writes, or counts are missing: what was written here may be overwritten, and says nothing.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    fn room(&self, now: Time) -> usize {
        let owed = self.paid_at.since(now).as_nanos().div_ceil(STEP.as_nanos());
        BURST.saturating_sub(usize::try_from(owed).unwrap_or(usize::MAX))
    }
}

/// How urgent a change is; `None`: not worth a write.
fn change(before: Option<i32>, after: i32) -> Option<f64> {
    let Some(before) = before else { return Some(f64::INFINITY) };
    if before == after {
        return None;
    }
    if before == 0 || after == 0 {
        // An empty Pod is the best one to take, and one that no longer is must not be taken for it.
        return Some(f64::from(i32::MAX));
    }
    let share = f64::from(before.abs_diff(after)) / f64::from(before);
    (share > WORTH).then_some(share)
}

/// The replica with the lowest name writes for all. `others`: the other ready ones.
pub fn is_writer<'a>(own: &str, others: impl IntoIterator<Item = &'a str>) -> bool {
    others.into_iter().all(|other| own < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, sessions: u64) -> Wanted {
        let pod = Pod { namespace: "chat".into(), name: name.into(), node: None };
        Wanted { uid: format!("uid-{name}"), pod, sessions }
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn told(writes: &[Write]) -> Vec<(&str, i32)> {
        writes.iter().map(|write| (write.pod.name.as_str(), write.cost)).collect()
    }

    #[test]
    fn only_a_change_that_is_worth_it_is_written_and_not_too_soon() {
        let mut costs = Costs::default();
        assert_eq!(told(&costs.due(at(0), &[wanted("a", 100)])), [("a", 100)], "never written");
        for (millis, sessions, expected) in [
            (29_000, 500, None),
            (31_000, 110, None),
            (31_000, 90, None),
            (31_000, 111, Some(111)),
            (62_000, 0, Some(0)),
            (93_000, 1, Some(1)),
            (124_000, 1, None),
            (124_000, 2, Some(2)),
            (155_000, u64::MAX, Some(i32::MAX)),
        ] {
            let writes = costs.due(at(millis), &[wanted("a", sessions)]);
            assert_eq!(writes.first().map(|write| write.cost), expected, "{sessions} at {millis} ms");
        }
    }

    #[test]
    fn at_most_five_a_second_are_written_the_largest_changes_first() {
        let mut costs = Costs::default();
        let pods: Vec<Wanted> = (0..12).map(|n| wanted(&format!("p{n:02}"), 100)).collect();
        let first = costs.due(at(0), &pods);
        assert_eq!(first.len(), 5);
        assert!(costs.due(at(100), &pods).is_empty());
        assert_eq!(costs.due(at(400), &pods).len(), 2);
        let rest = costs.due(at(2_000), &pods);
        assert_eq!(rest.len(), 5);
        let changed = [wanted("p00", 150), wanted("p01", 300), wanted("p02", 0), wanted("p03", 105)];
        assert_eq!(told(&costs.due(at(60_000), &changed)), [("p02", 0), ("p01", 300), ("p00", 150)]);
    }

    #[test]
    fn a_write_that_failed_is_made_again_and_a_pod_that_is_gone_is_forgotten() {
        let mut costs = Costs::default();
        costs.due(at(0), &[wanted("a", 7), wanted("b", 7)]);
        costs.handle_failed("uid-a");
        assert!(costs.due(at(10_000), &[wanted("a", 7), wanted("b", 7)]).is_empty());
        assert_eq!(told(&costs.due(at(30_000), &[wanted("a", 7)])), [("a", 7)]);
        assert_eq!(told(&costs.due(at(61_000), &[wanted("a", 7), wanted("b", 7)])), [("b", 7)]);
        costs.forget();
        assert_eq!(told(&costs.due(at(62_000), &[wanted("a", 7)])), [("a", 7)]);
    }

    #[test]
    fn of_all_replicas_exactly_one_writes() {
        let names = ["gw-b", "gw-a", "gw-c"];
        let writes = |own: &&str| is_writer(own, names.into_iter().filter(|other| other != own));
        assert_eq!(names.iter().filter(|own| writes(own)).collect::<Vec<_>>(), [&"gw-a"]);
        assert!(is_writer("gw-b", []));
    }
}
