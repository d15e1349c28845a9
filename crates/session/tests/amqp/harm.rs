//! Faults, and how a schedule is judged in the end: a part of `world`.

use super::*;
use crate::queue::Asked;

impl World {
    pub(super) fn is_time_for_fault(&self) -> bool {
        let Some((phase, ..)) = self.fault else { return false };
        if self.gateway.is_over || self.client.stage != client::Stage::Open {
            return false;
        }
        match phase {
            "lingering" => !self.gateway.retirees.is_empty(),
            "active" => self.gateway.session.phase() == "active" && self.client.script.is_empty(),
            phase => self.gateway.session.phase() == phase,
        }
    }

    pub(super) fn inject(&mut self) {
        let Some((phase, fault, chances)) = self.fault else { return };
        if chances > 0 {
            self.fault = Some((phase, fault, chances - 1));
            return;
        }
        self.fault = None;
        let now = self.now;
        *self.outcome.faults.entry((phase, fault)).or_default() += 1;
        self.note(|_| format!("FAULT {fault:?} in {phase}"));
        let stop = Duration::from_millis(self.dice.pick(&[50, 500, 1500, 8000]));
        match fault {
            Fault::OldDies | Fault::OldEnds | Fault::OldCloses | Fault::OldStops => {
                self.ledger.is_strict = false;
                // A node that stands still is waited for, unless it is to take consumers over.
                self.client.may_be_closed |= fault != Fault::OldStops || phase == "replaying";
                self.client.is_on_slow_node |= fault == Fault::OldStops;
                self.harm(Place::Leg(AmqpLeg::Upstream as usize), fault, stop);
            }
            Fault::NextDies | Fault::NextEnds | Fault::NextCloses | Fault::NextStops => {
                self.next_was_harmed = true;
                self.harm(Place::Leg(AmqpLeg::Next as usize), fault, stop);
            }
            Fault::FormerDies | Fault::FormerStops => {
                self.ledger.is_strict = false;
                if !self.gateway.retirees.is_empty() {
                    self.harm(Place::Former(self.gateway.retirees.len() - 1), fault, stop);
                }
            }
            Fault::ClientDies | Fault::ClientEnds => {
                self.ledger.client_left = true;
                self.client.stage = client::Stage::Gone;
                self.is_complete = false;
                let (reset, keep) = (fault == Fault::ClientDies, self.dice.below(400));
                if let Some(link) = self.gateway.links[0].as_mut() {
                    link.inbound.extend(self.client.out.drain(..));
                    if reset {
                        link.inbound.truncate(keep);
                    }
                    (link.reset, link.inbound_fin) = (reset, !reset);
                }
            }
            Fault::ClientCloses => {
                self.is_complete = false;
                self.client.channels.values_mut().for_each(client::Chan::give_up);
                self.client.close(&mut self.ledger);
            }
            Fault::ClientStops => {
                self.ledger.beats_are_judged = false;
                self.client_stops_until = now + stop;
            }
            Fault::Shed | Fault::ShedOrClose => {
                self.client.may_be_closed = true;
                // Nothing is waited for but the deadline: what comes back when it stays is no promise.
                self.ledger.is_strict = false;
                let close = fault == Fault::ShedOrClose;
                let until = now + stop;
                let _pinned = self
                    .gateway
                    .call(now, |session, settings| session.begin_shed(now, settings, until, close));
            }
            Fault::Cut => {
                self.client.may_be_closed = true;
                self.gateway.call(now, |session, settings| {
                    session.cut(now, settings, 320, "CONNECTION_FORCED - cut")
                });
            }
        }
    }

    fn harm(&mut self, place: Place, fault: Fault, stop: Duration) {
        let keep = self.dice.below(300);
        let link = match place {
            Place::Leg(n) => self.gateway.links[n].as_mut(),
            Place::Former(n) => self.gateway.retirees.get_mut(n).map(|(_, link, _)| link),
            Place::Dropped(_) => None,
        };
        let Some(link) = link else { return };
        let Peer::Node(connection) = link.peer else { return };
        match fault {
            Fault::OldStops | Fault::NextStops | Fault::FormerStops => {
                self.cluster.connections[connection].frozen_until = self.now + stop;
                self.cluster.connections[connection].heard = self.now + stop;
            }
            Fault::OldEnds | Fault::NextEnds => self.cluster.lose(connection, &mut self.ledger),
            Fault::OldCloses | Fault::NextCloses => {
                let text = "CONNECTION_FORCED - Node was put into maintenance mode";
                self.cluster.close_connection(connection, 320, text, &mut self.ledger);
            }
            _ => {
                link.inbound.truncate(keep);
                link.reset = true;
                self.cluster.lose(connection, &mut self.ledger);
                self.cluster.connections[connection].out.clear();
            }
        }
    }

    /// Everything has come to rest.
    pub(super) fn judge(&mut self) {
        let stage = self.client.stage;
        let World { ledger, client, cluster, gateway, .. } = self;
        ledger.check(gateway.retirees.is_empty(), || "I6: a former connection lingers for ever".into());
        ledger.check(gateway.is_over || !gateway.session.is_moving(), || {
            format!("I6: a move never ends: {}", gateway.session.phase())
        });
        let is_open = stage == client::Stage::Open;
        ledger
            .check(!is_open || client.is_settled(), || format!("I7: the client waits for ever: {client:?}"));
        ledger.check(is_open || gateway.is_over, || {
            format!("I6: the client has ended at {stage:?}, the session goes on: {:?}", gateway.session)
        });
        ledger.check(stage != client::Stage::Closing, || "I4: the client's Close was never answered".into());
        let open = cluster.connections.iter().filter(|one| one.stage != Stage::Closed).count();
        ledger
            .check(open == usize::from(is_open), || format!("I6: {open} connections are left at the nodes"));
        ledger.check(!is_open || !client.is_blocked, || "I4: the client is blocked for ever".into());
        ledger.check(gateway.results.unexpected == 0 || !ledger.is_strict, || {
            "I6: a former endpoint sent something that nobody got".into()
        });
        let mut left = BTreeSet::new();
        for queue in &cluster.queues {
            left.extend(queue.left());
        }
        let is_complete = self.is_complete
            && !client.met_oddness
            && ledger.is_strict
            && !matches!(stage, client::Stage::Closed(_));
        ledger.close(&left, is_complete);
        if is_open && is_complete {
            self.compare_consumers();
        }
    }

    /// What the client has is what its node has for it.
    fn compare_consumers(&mut self) {
        let expected = self.client.expected_consumers();
        let World { ledger, client, cluster, .. } = self;
        let open = cluster.connections.iter().find(|one| one.stage == Stage::Open);
        let channels = open.map(|one| one.open.clone()).unwrap_or_default();
        let numbers: Vec<u16> = channels.keys().copied().collect();
        let wanted: Vec<u16> = client.channels.keys().copied().collect();
        ledger.check(numbers == wanted, || format!("I6: channels {numbers:?} are open, expected {wanted:?}"));
        let mut count = 0;
        for (number, channel) in &channels {
            let process = &cluster.channels[*channel];
            count += process.consumers.len();
            let prefetch = client.channels.get(number).map(|chan| chan.prefetch);
            ledger.check(prefetch == Some(process.prefetch), || {
                format!("I6: channel {number} has prefetch {}, expected {prefetch:?}", process.prefetch)
            });
            for queue in &cluster.queues {
                let with = queue.count_with(*channel);
                ledger.check(with == 0, || {
                    format!("I6: {with} messages are with the settled channel {number}")
                });
            }
        }
        ledger.check(count == expected.len(), || format!("I6: {count} consumers, expected {expected:?}"));
        for (number, queue, mut asked) in expected {
            let process = channels.get(&number).map(|channel| &cluster.channels[*channel]);
            // One that was started again beside its own unacknowledged messages goes by another tag of the same length.
            let is_alias = |tag: &[u8], (on, other): &(usize, Asked)| {
                let Some((last, rest)) = tag.split_last() else { return false };
                let is_it = *rest == asked.tag[..asked.tag.len() - 1] && !last.is_ascii_alphanumeric();
                is_it && *on == queue && other.prefetch == asked.prefetch && other.no_ack == asked.no_ack
            };
            let consumers = process.map(|process| &process.consumers);
            let exact = consumers.and_then(|consumers| consumers.get(&asked.tag));
            let alike = || consumers?.iter().find(|(tag, one)| is_alias(tag, one)).map(|(_, one)| one);
            let found = exact.or_else(alike);
            let mut found = found.cloned();
            if let Some((_, found)) = &mut found {
                found.tag.clone_from(&asked.tag);
            }
            asked.nowait = found.as_ref().is_some_and(|(_, found)| found.nowait);
            ledger.check(found == Some((queue, asked.clone())), || {
                format!("I6: channel {number}: consumer {asked:?} on {queue} is {found:?} at the node")
            });
        }
    }
}
