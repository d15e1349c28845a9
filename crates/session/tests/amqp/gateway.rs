//! A plain shell for one session: it obeys the contract of `session::AmqpSession`, and moves bytes when it is told to.
//!
//! What the gateway does with sockets and tasks is done here with queues of bytes. The network between it and the peers is part of
//! it: a link holds what is under way in both directions.

use std::collections::{BTreeMap, VecDeque};

use model::Time;
use session::{AmqpEvent, AmqpLeg, AmqpSession, AmqpSettings, Retiree};

/// Who is at the other end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Client,
    /// A node's connection.
    Node(usize),
}

/// What kept bytes wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    /// More of them.
    More,
    /// The session to read that leg again.
    Wanted,
    /// Nothing.
    Now,
}

/// A connection of the gateway's, and what is under way on it.
#[derive(Debug)]
pub struct Link {
    pub peer: Peer,
    /// To the gateway.
    pub inbound: VecDeque<u8>,
    /// The peer has ended its stream behind that.
    pub inbound_fin: bool,
    /// The peer has reset it; what is inbound may still arrive.
    pub reset: bool,
    kept: Vec<u8>,
    waits: Kept,
    /// The end, or the reset, was told.
    pub end_told: bool,
    /// To the peer.
    pub outbound: VecDeque<u8>,
    /// The gateway has ended its stream behind that.
    pub outbound_fin: bool,
    pub fin_arrived: bool,
}

impl Link {
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            inbound: VecDeque::new(),
            inbound_fin: false,
            reset: false,
            kept: Vec::new(),
            waits: Kept::More,
            end_told: false,
            outbound: VecDeque::new(),
            outbound_fin: false,
            fin_arrived: false,
        }
    }
}

/// What came of the orders to move.
#[derive(Default, Clone, Debug)]
pub struct Results {
    pub migrated: u64,
    pub replaced: u64,
    pub switched: u64,
    pub rolled_back: u64,
    pub aborted: BTreeMap<&'static str, u64>,
    pub forced: BTreeMap<&'static str, u64>,
    pub pinned: BTreeMap<&'static str, u64>,
    /// Frames of former endpoints that should not have come.
    pub unexpected: u64,
}

pub const LEGS: [AmqpLeg; 3] = [AmqpLeg::Downstream, AmqpLeg::Upstream, AmqpLeg::Next];

#[derive(Debug)]
pub struct Gateway {
    pub session: AmqpSession,
    pub settings: AmqpSettings,
    pub links: [Option<Link>; 3],
    /// `bool`: it has served the client.
    pub retirees: Vec<(Retiree, Link, bool)>,
    /// Links that are dropped; what was written arrives.
    pub dropped: Vec<Link>,
    /// Connections that are dropped as broken.
    pub broken: Vec<Peer>,
    pub dialing: bool,
    pub is_over: bool,
    pub results: Results,
    /// Events since the world looked.
    pub news: Vec<String>,
    pub is_traced: bool,
    /// The session broke its contract.
    pub fault: Option<String>,
    idle_calls: u32,
}

impl Gateway {
    pub fn new(session: AmqpSession, settings: AmqpSettings, client: Link, node: Link) -> Self {
        Self {
            session,
            settings,
            links: [Some(client), Some(node), None],
            retirees: Vec::new(),
            dropped: Vec::new(),
            broken: Vec::new(),
            dialing: false,
            is_over: false,
            results: Results::default(),
            news: Vec::new(),
            is_traced: false,
            fault: None,
            idle_calls: 0,
        }
    }

    /// The leg can be read, and something is there to be read.
    pub fn may_read(&self, leg: AmqpLeg) -> bool {
        let wants = !self.is_over && self.session.wants_read(leg);
        wants && self.links[leg as usize].as_ref().is_some_and(|link| !link.inbound.is_empty())
    }

    /// The leg's end can be told.
    pub fn may_end(&self, leg: AmqpLeg) -> bool {
        let Some(link) = self.links[leg as usize].as_ref().filter(|link| !link.end_told && !self.is_over)
        else {
            return false;
        };
        let is_read = link.inbound.is_empty() && self.session.wants_read(leg) && link.waits == Kept::More;
        link.reset && (is_read || !self.session.wants_read(leg)) || link.inbound_fin && is_read
    }

    /// Reads so many bytes of the leg.
    pub fn read(&mut self, now: Time, leg: AmqpLeg, count: usize) {
        let Some(link) = self.links[leg as usize].as_mut() else { return };
        let count = count.min(link.inbound.len());
        link.kept.extend(link.inbound.drain(..count));
        link.waits = Kept::Now;
        self.pump(now);
    }

    /// Tells the session of the leg's end.
    pub fn end(&mut self, now: Time, leg: AmqpLeg) {
        let Some(link) = self.links[leg as usize].as_mut() else { return };
        link.end_told = true;
        link.inbound.clear();
        if link.reset {
            link.outbound.clear();
            self.session.handle_broken(now, &self.settings, leg);
        } else {
            self.session.handle_end(now, &self.settings, leg);
        }
        self.obey(now);
        self.pump(now);
    }

    /// The dial has come to something: a connection, or nothing.
    pub fn connected(&mut self, now: Time, peer: Option<Peer>) {
        self.dialing = false;
        match peer {
            Some(peer) => {
                self.links[AmqpLeg::Next as usize] = Some(Link::new(peer));
                self.session.handle_connected(now, &self.settings);
            }
            None => self.session.handle_no_endpoint(now, &self.settings),
        }
        self.obey(now);
        self.pump(now);
    }

    /// Calls the session, and does what it says.
    pub fn call<T>(&mut self, now: Time, what: impl FnOnce(&mut AmqpSession, &AmqpSettings) -> T) -> T {
        let answer = what(&mut self.session, &self.settings);
        self.obey(now);
        self.pump(now);
        answer
    }

    /// Hands in what is kept, as long as the session takes any.
    fn pump(&mut self, now: Time) {
        loop {
            let next = LEGS.into_iter().find(|&leg| {
                let wants = self.session.wants_read(leg);
                let link = self.links[leg as usize].as_ref().filter(|link| !link.kept.is_empty());
                wants && link.is_some_and(|link| link.waits != Kept::More)
            });
            match next {
                Some(leg) if !self.is_over => self.hand_in(now, leg),
                _ => return,
            }
        }
    }

    fn hand_in(&mut self, now: Time, leg: AmqpLeg) {
        let link = self.links[leg as usize].as_mut().expect("it was found");
        let mut bytes = std::mem::take(&mut link.kept);
        let span = self.session.handle_bytes(now, &self.settings, leg, &mut bytes);
        let end = span.forward + span.skip;
        // A call that takes nothing says something; it does not do so for ever.
        self.idle_calls = if end == 0 && !span.hold { self.idle_calls + 1 } else { 0 };
        if end > bytes.len() || leg == AmqpLeg::Next && span.forward > 0 || self.idle_calls > 10 {
            self.fault = Some(format!("contract: {span:?} of {} bytes from {leg:?}", bytes.len()));
            self.is_over = true;
            return;
        }
        let rest = bytes.split_off(end);
        bytes.truncate(span.forward);
        link.waits = if span.hold || rest.is_empty() { Kept::More } else { Kept::Now };
        link.kept = rest;
        let other = if leg == AmqpLeg::Downstream { AmqpLeg::Upstream } else { AmqpLeg::Downstream };
        if !bytes.is_empty() {
            match self.links[other as usize].as_mut() {
                Some(link) if !link.outbound_fin => link.outbound.extend(bytes.iter()),
                // Two Closes have crossed: an answer to one that nobody waits for.
                Some(_) if self.session.end().is_some() => {}
                Some(_) => self.fault = Some(format!("contract: bytes for {other:?} behind its end")),
                None => self.fault = Some(format!("contract: bytes for {other:?}, which is not there")),
            }
        }
        self.obey(now);
    }

    /// Events, then transmits, then ends.
    fn obey(&mut self, now: Time) {
        while let Some(event) = self.session.poll_event() {
            if self.is_traced {
                self.news.push(format!("{event:?}"));
            }
            self.event(now, event);
        }
        for leg in LEGS {
            if let Some(bytes) = self.session.poll_transmit(leg) {
                match self.links[leg as usize].as_mut() {
                    Some(link) if link.reset => {}
                    Some(link) if !link.outbound_fin => link.outbound.extend(bytes.iter()),
                    Some(_) => self.fault = Some(format!("contract: a transmit for {leg:?} behind its end")),
                    None => {
                        self.fault = Some(format!("contract: a transmit for {leg:?}, which is not there"))
                    }
                }
            }
            let Some(link) = self.links[leg as usize].as_mut() else { continue };
            link.outbound_fin |= self.session.wants_fin(leg);
            if !link.kept.is_empty() && !self.session.wants_read(leg) {
                link.waits = Kept::Wanted;
            }
        }
        if self.session.is_finished() && !self.is_over {
            self.is_over = true;
            for link in self.links.iter_mut().filter_map(Option::take) {
                self.dropped.push(Link { outbound_fin: true, ..link });
            }
        }
    }

    fn event(&mut self, now: Time, event: AmqpEvent) {
        let count = |counts: &mut BTreeMap<&'static str, u64>, why: &'static str| {
            *counts.entry(why).or_default() += 1
        };
        match event {
            AmqpEvent::Dial => {
                if self.dialing || self.links[AmqpLeg::Next as usize].is_some() {
                    self.fault = Some("contract: a dial while there is a next leg".into());
                }
                self.dialing = true;
            }
            AmqpEvent::Switched { retiree } => {
                self.results.switched += 1;
                let next = self.links[AmqpLeg::Next as usize].take();
                if next.is_none() {
                    self.fault = Some("contract: a switch without a next leg".into());
                }
                let former = std::mem::replace(&mut self.links[AmqpLeg::Upstream as usize], next);
                self.retire(now, former, retiree, true);
            }
            AmqpEvent::NextDropped { retiree } => {
                self.dialing = false;
                let former = self.links[AmqpLeg::Next as usize].take();
                self.retire(now, former, retiree, false);
            }
            AmqpEvent::UpstreamDropped { retiree } => {
                let former = self.links[AmqpLeg::Upstream as usize].take();
                self.retire(now, former, retiree, false);
            }
            AmqpEvent::Migrated { replaced, .. } => {
                self.results.migrated += u64::from(!replaced);
                self.results.replaced += u64::from(replaced);
            }
            AmqpEvent::Aborted { reason, rolled_back } => {
                count(&mut self.results.aborted, reason.as_str());
                self.results.rolled_back += u64::from(rolled_back);
            }
            AmqpEvent::Forced { reason, .. } => count(&mut self.results.forced, reason.as_str()),
        }
    }

    fn retire(&mut self, now: Time, former: Option<Link>, retiree: Option<Retiree>, served: bool) {
        match (former, retiree) {
            (Some(mut link), Some(mut retiree)) => {
                retiree.handle_bytes(now, &std::mem::take(&mut link.kept));
                self.retirees.push((retiree, link, served));
                self.obey_retiree(self.retirees.len() - 1);
            }
            (Some(link), None) => self.broken.push(link.peer),
            (None, _) => {}
        }
    }

    fn obey_retiree(&mut self, index: usize) {
        let (retiree, link, _) = &mut self.retirees[index];
        if let Some(bytes) = retiree.poll_transmit() {
            link.outbound.extend(bytes.iter());
        }
        link.outbound_fin |= retiree.wants_fin();
        if retiree.is_finished() {
            let (retiree, link, served) = self.retirees.remove(index);
            self.results.unexpected += if served { u64::from(retiree.unexpected()) } else { 0 };
            self.dropped.push(Link { outbound_fin: true, ..link });
        }
    }

    /// A former leg is read.
    pub fn read_retiree(&mut self, now: Time, index: usize, count: usize) {
        let (retiree, link, _) = &mut self.retirees[index];
        let bytes: Vec<u8> = link.inbound.drain(..count.min(link.inbound.len())).collect();
        retiree.handle_bytes(now, &bytes);
        self.obey_retiree(index);
    }

    /// A former leg has ended.
    pub fn end_retiree(&mut self, index: usize) {
        let (retiree, link, _) = &mut self.retirees[index];
        link.end_told = true;
        retiree.handle_end();
        self.obey_retiree(index);
    }

    /// The next deadline.
    pub fn next_timeout(&self) -> Option<Time> {
        let own = self.session.poll_timeout().filter(|_| !self.is_over).map(|(at, _)| at);
        let retirees = self.retirees.iter().filter_map(|(retiree, ..)| retiree.poll_timeout());
        retirees.map(|(at, _)| at).chain(own).min()
    }

    /// Deadlines that have come.
    pub fn handle_timeouts(&mut self, now: Time) {
        if !self.is_over && self.session.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.session.handle_timeout(now, &self.settings);
            self.obey(now);
            self.pump(now);
        }
        for index in (0..self.retirees.len()).rev() {
            if self.retirees[index].0.poll_timeout().is_some_and(|(at, _)| at <= now) {
                self.retirees[index].0.handle_timeout(now);
                self.obey_retiree(index);
            }
        }
    }
}
