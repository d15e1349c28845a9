//! The tier as each replica sees it: counts that travel every few seconds, and closes because others have fewer. What
//! `gateway::tier` and the shell's polls do.

use std::time::Duration;

use balance::Count;
use model::{ReplicaName, Time};

use super::Sim;
use super::event::Event;

/// Between two polls of the other replicas.
const POLL: Duration = Duration::from_secs(5);

impl Sim {
    /// The first poll is due.
    pub(super) fn begin_tier(&mut self) {
        if self.spec.tier.enabled {
            self.queue.push(self.now + POLL, Event::Poll);
        }
    }

    /// A replica learns which others are ready.
    pub(super) fn tell_peers(&mut self, replica: u16) {
        let others = self.replicas.iter().enumerate();
        let ready = others.filter(|(place, other)| other.alive && *place != usize::from(replica));
        let names: Vec<ReplicaName> = ready.map(|(place, _)| name(place)).collect();
        self.replicas[usize::from(replica)].tier.handle_replicas(self.now, &names);
    }

    /// Every replica asks every other one.
    pub(super) fn poll_peers(&mut self) {
        let now = self.now;
        let counts: Vec<Option<Count>> = self
            .replicas
            .iter()
            .map(|replica| replica.alive.then(|| replica.planner.tier_count(now)))
            .collect();
        for replica in self.replicas.iter_mut().filter(|replica| replica.alive) {
            for (place, count) in counts.iter().enumerate() {
                match count {
                    Some(count) => replica.tier.handle_count(now, &name(place), *count),
                    None => replica.tier.handle_silence(&name(place)),
                }
            }
        }
        self.queue.push(now + POLL, Event::Poll);
    }

    /// Asks for the closes that are due now.
    pub(super) fn level_tier(&mut self, replica: u16) {
        let now = self.now;
        let record = &mut self.replicas[usize::from(replica)];
        let own = record.planner.tier_count(now);
        let wanted = record.tier.poll_moves(now, own);
        record.planner.shed_for_tier(now, wanted);
    }

    /// When a replica has more to close.
    pub(super) fn tier_timeout(&self, replica: u16) -> Option<Time> {
        let record = &self.replicas[usize::from(replica)];
        record.tier.poll_timeout(self.now, record.planner.tier_count(self.now))
    }

    /// The fullest of the replicas against the mean of all.
    pub(super) fn tier_imbalance(&self) -> f64 {
        let alive = || self.replicas.iter().filter(|replica| replica.alive);
        let count = |replica: &super::parts::Replica| replica.sessions.iter().map(Vec::len).sum::<usize>();
        let (sum, most) = alive().map(count).fold((0, 0), |(sum, most), n| (sum + n, n.max(most)));
        if sum == 0 { 1.0 } else { (most * alive().count()) as f64 / sum as f64 }
    }
}

fn name(place: usize) -> ReplicaName {
    format!("evenkeel-{place}").as_str().into()
}
