//! The level of the gateway tier itself: how many of its own sessions one replica closes because others have fewer.
//!
//! When the tier scales out, the old replicas hold all clients, and nothing but a close makes a client connect anew. Where it
//! lands is chance (a NodePort, a DNS name): of `n` replicas each gets one of `n` closed clients, the one that closed it as
//! well. So only (n - 1) / n of the closes help a replica that is alone too full, and (n - k) / n when `k` are, each of which
//! gets what the others close. From 2 full replicas to 4 that is every second close, and an even tier takes as many closes as
//! there are sessions. Hence a wide band, a low pace for all replicas together, and off unless asked for.
//!
//! A replica closes sessions only while it knows the fresh count of every other ready one, and all of them are still: no
//! plan, no drain, no stopped guard, no replica that came or went a moment ago. What others do not answer is never guessed.
//! And a tier whose clients come back to where they were (an affinity of the Service, a balancer that remembers) is found out
//! by counts that do not follow, and left alone.
//!
//! Not here: which endpoints give (`tier_shed`), which sessions (`victims`), how counts travel (the shell).

use std::collections::BTreeMap;
use std::time::Duration;

use model::{ReplicaName, Time};
use serde::Serialize;

use crate::pace::{Bucket, MOVE_BURST};

/// A count that is older says nothing: three polls of the shell.
const FRESH: Duration = Duration::from_secs(15);
/// How long a replica waits that had fewer sessions than it was to close: most are too young.
const HOLD: Duration = Duration::from_secs(10);
/// How long it leaves the tier alone after closes that did not help.
const REST: Duration = Duration::from_secs(3600);
/// Closes below the expected help by so many standard deviations are no chance.
const SIGMAS: f64 = 3.0;

/// When the tier is levelled, and how fast: `tier` of the configuration.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TierLimits {
    /// False: sessions are counted and never closed for the tier's sake.
    pub enabled: bool,
    /// A replica begins when it holds more than the mean of all replicas times this: 1.0 to 10.0.
    pub start_ratio: f64,
    /// And stops when it holds no more than the mean times this: 1.0 to `start_ratio`.
    pub stop_ratio: f64,
    /// It begins only when it holds at least so many more than the mean.
    pub min_surplus: u32,
    /// Closes a second of all replicas together.
    pub moves_per_second_max: f64,
    /// Nothing is closed before the set of ready replicas has been the same for this long.
    pub min_ready: Duration,
}

impl Default for TierLimits {
    fn default() -> Self {
        Self {
            enabled: false,
            start_ratio: 1.3,
            stop_ratio: 1.1,
            min_surplus: 10,
            moves_per_second_max: 5.0,
            min_ready: Duration::from_secs(30),
        }
    }
}

/// What one replica has at one moment, of the pools that take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Count {
    /// Open sessions that nobody is moving.
    pub sessions: u64,
    /// Clients that it has closed and expects back, at whatever replica.
    pub away: u64,
    /// Its pools are still: it neither moves nor drains anything, and its clients come back.
    pub is_still: bool,
}

/// One replica's view of the tier.
///
/// `handle_*` tell it what is known; `poll_moves` says how many sessions to close now, to be answered with one
/// `handle_began`; `poll_timeout` says when to ask again at the latest; `status` only looks.
#[derive(Clone, Debug)]
pub struct Tier {
    limits: TierLimits,
    /// The other ready replicas, and what they said last.
    peers: BTreeMap<ReplicaName, Option<(Time, Count)>>,
    /// When the set of replicas last changed; `None`: it was never told.
    since: Option<Time>,
    bucket: Bucket,
    run: Option<Run>,
    /// Nothing is closed before.
    hold_until: Time,
    /// The closes did not help: nothing is closed before.
    rest_until: Time,
    closed: u64,
}

/// Closing that is under way.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Sessions above the mean when it began.
    surplus: f64,
    /// The part of the closes that is expected to help.
    help: f64,
    closed: u64,
    /// It ends after so many, level or not.
    closed_max: u64,
}

/// What a replica makes of all counts.
#[derive(Clone, Copy, Debug)]
struct View {
    own: u64,
    /// Sessions of each replica if all had the same.
    mean: f64,
    /// Of `own`.
    surplus: f64,
    /// Of all replicas together.
    surplus_in_all: f64,
    /// The part of the closes that is expected to help.
    help: f64,
}

/// What the tier looks like from here.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TierStatus {
    /// What is done about it.
    pub state: TierState,
    /// The same in a sentence.
    pub why: String,
    /// Ready replicas, this one included.
    pub replicas: usize,
    /// Those whose count is fresh, this one included.
    pub counted: usize,
    /// Own sessions of the pools that take part.
    pub sessions: u64,
    /// Sessions of each replica if all had the same; `None` until every replica is counted.
    pub mean: Option<f64>,
    /// Own sessions closed for the tier's sake since this process started.
    pub closed: u64,
}

/// What is done about the tier. The order is that of precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TierState {
    /// Not asked for.
    Off,
    /// There is no other replica.
    Alone,
    /// Replicas came or went.
    Settling,
    /// The count of a replica is missing.
    Blind,
    /// A replica moves or drains sessions, or its clients stay away.
    Waiting,
    /// Closes did not help, or too few sessions may be closed.
    Resting,
    /// Sessions are closed.
    Levelling,
    /// Nothing to do.
    Level,
}

impl TierState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Off,
        Self::Alone,
        Self::Settling,
        Self::Blind,
        Self::Waiting,
        Self::Resting,
        Self::Levelling,
        Self::Level,
    ];

    /// As in JSON, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Alone => "alone",
            Self::Settling => "settling",
            Self::Blind => "blind",
            Self::Waiting => "waiting",
            Self::Resting => "resting",
            Self::Levelling => "levelling",
            Self::Level => "level",
        }
    }
}

impl Tier {
    /// A replica that knows of no other.
    pub fn new(limits: TierLimits) -> Self {
        Self {
            limits,
            peers: BTreeMap::new(),
            since: None,
            bucket: Bucket::default(),
            run: None,
            hold_until: Time::ZERO,
            rest_until: Time::ZERO,
            closed: 0,
        }
    }

    /// Takes other settings. What was learnt of closes that do not help is forgotten.
    pub fn reconfigure(&mut self, limits: TierLimits) {
        if self.limits != limits {
            self.limits = limits;
            self.run = None;
            self.rest_until = Time::ZERO;
        }
    }

    /// The other ready replicas, this one not included. The counts of those that stay are kept.
    pub fn handle_replicas<'a>(&mut self, now: Time, peers: impl IntoIterator<Item = &'a ReplicaName>) {
        let mut before = std::mem::take(&mut self.peers);
        let was = before.len();
        let mut kept = 0;
        for name in peers {
            let known = before.remove(name);
            kept += usize::from(known.is_some());
            self.peers.insert(name.clone(), known.flatten());
        }
        if self.since.is_none() || kept != was || self.peers.len() != was {
            self.since = Some(now);
            self.run = None;
        }
    }

    /// What another replica has now. One that is not among the ready ones is ignored.
    pub fn handle_count(&mut self, now: Time, peer: &ReplicaName, count: Count) {
        if let Some(known) = self.peers.get_mut(peer) {
            *known = Some((now, count));
        }
    }

    /// Another replica did not answer: its count is unknown from now on.
    pub fn handle_silence(&mut self, peer: &ReplicaName) {
        if let Some(known) = self.peers.get_mut(peer) {
            *known = None;
        }
    }

    /// Of `asked` sessions, `began` are being closed. When it is fewer, no more may be closed just now.
    pub fn handle_began(&mut self, now: Time, asked: u32, began: u32) {
        self.closed += u64::from(began);
        if let Some(run) = &mut self.run {
            run.closed += u64::from(began);
        }
        if began < asked {
            self.hold_until = now + HOLD;
        }
    }

    /// How many sessions to close now. `own`: what this replica has.
    pub fn poll_moves(&mut self, now: Time, own: Count) -> u32 {
        let Ok(view) = self.view(now, own) else { return 0 };
        if !self.may_go_on(now, &view) {
            return 0;
        }
        let rate = self.rate(&view);
        let left = self.run.map_or(0, |run| run.closed_max.saturating_sub(run.closed));
        let wanted = u32::try_from((view.own - self.keep(&view)).min(left)).unwrap_or(u32::MAX);
        let count = self.bucket.available(now, rate, MOVE_BURST).min(wanted);
        self.bucket.take(now, rate, count);
        count
    }

    /// When `poll_moves` could next give something with the counts as they are.
    pub fn poll_timeout(&self, now: Time, own: Count) -> Option<Time> {
        let (view, _) = (self.view(now, own).ok()?, self.run?);
        let at = self.bucket.ready_at(self.rate(&view), MOVE_BURST);
        Some(at.max(self.hold_until))
    }

    /// The tier as it is at `now`.
    pub fn status(&self, now: Time, own: Count) -> TierStatus {
        let (state, why) = self.state(now, own);
        let fresh = self.peers.values().filter(|known| is_fresh(now, known)).count();
        TierStatus {
            state,
            why,
            replicas: self.peers.len() + 1,
            counted: fresh + 1,
            sessions: own.sessions,
            mean: self.all(now, own).map(|all| (mean(&all) * 100.0).round() / 100.0),
            closed: self.closed,
        }
    }

    /// Ready replicas, this one included; `None`: it was never told.
    pub fn replicas(&self) -> Option<usize> {
        self.since.map(|_| self.peers.len() + 1)
    }

    /// Begins a run, ends it, or lets it go on. True: something may be closed.
    fn may_go_on(&mut self, now: Time, view: &View) -> bool {
        let Some(run) = self.run else {
            let begins = view.own as f64 > view.mean * self.limits.start_ratio
                && view.surplus >= f64::from(self.limits.min_surplus);
            if begins {
                let excess = (view.own - self.keep(view)) as f64;
                let closed_max = (excess / view.help * 1.1).ceil() as u64 + 2;
                self.run = Some(Run { surplus: view.surplus, help: view.help, closed: 0, closed_max });
            }
            return begins;
        };
        if view.own <= self.keep(view) {
            self.run = None;
            return false;
        }
        // Half of what should have come of the closes, and chance on top.
        let helped = run.surplus - view.surplus;
        let closed = run.closed as f64;
        let in_vain = helped < closed * run.help / 2.0 - SIGMAS * closed.sqrt();
        if in_vain || run.closed >= run.closed_max {
            self.run = None;
            self.rest_until = now + if in_vain { REST } else { HOLD };
            return false;
        }
        true
    }

    /// Closes a second at this replica: its part of all surplus.
    fn rate(&self, view: &View) -> f64 {
        self.limits.moves_per_second_max * view.surplus / view.surplus_in_all.max(1.0)
    }

    /// What this replica keeps: never less than its share.
    fn keep(&self, view: &View) -> u64 {
        view.own.min((view.mean * self.limits.stop_ratio).max(view.mean.ceil()) as u64)
    }

    /// Everything that has to be known and quiet before a session is closed, or why nothing is.
    fn view(&self, now: Time, own: Count) -> Result<View, (TierState, String)> {
        self.is_possible(now)?;
        let all = self.all(now, own).ok_or_else(|| self.blind(now))?;
        self.are_still(own)?;
        let seconds = |at: Time| format!("{:.0} s", at.since(now).as_secs_f64());
        if self.rest_until > now {
            let why = format!("closes did not help; tried again in {}", seconds(self.rest_until));
            return Err((TierState::Resting, why));
        }
        if self.hold_until > now {
            let why = format!("too few sessions may be closed; tried again in {}", seconds(self.hold_until));
            return Err((TierState::Resting, why));
        }
        let mean = mean(&all);
        let surplus = |count: &Count| (count.sessions as f64 - mean).max(0.0);
        let full = all.iter().filter(|count| surplus(count) > 0.0).count();
        Ok(View {
            own: own.sessions,
            mean,
            surplus: surplus(&own),
            surplus_in_all: all.iter().map(surplus).sum(),
            // Not everybody can be above the mean, but for rounding.
            help: (all.len() - full).max(1) as f64 / all.len() as f64,
        })
    }

    fn is_possible(&self, now: Time) -> Result<(), (TierState, String)> {
        if !self.limits.enabled {
            return Err((TierState::Off, "tier.balance is off".to_owned()));
        }
        let since = self.since.filter(|_| !self.peers.is_empty());
        let Some(since) = since else {
            return Err((TierState::Alone, "no other gateway replica is ready".to_owned()));
        };
        let settled = since + self.limits.min_ready;
        if settled > now {
            let seconds = settled.since(now).as_secs_f64();
            let why = format!("gateway replicas came or went; looked at in {seconds:.0} s");
            return Err((TierState::Settling, why));
        }
        Ok(())
    }

    /// What every replica has; `None` when the fresh count of one is missing.
    fn all(&self, now: Time, own: Count) -> Option<Vec<Count>> {
        let of =
            |known: &Option<(Time, Count)>| known.filter(|_| is_fresh(now, known)).map(|(_, count)| count);
        self.peers.values().map(of).chain([Some(own)]).collect()
    }

    fn blind(&self, now: Time) -> (TierState, String) {
        let silent =
            self.peers.iter().find(|(_, known)| !is_fresh(now, known)).map(|(name, _)| name.as_str());
        let why = format!("gateway replica {} does not tell its sessions", silent.unwrap_or("?"));
        (TierState::Blind, why)
    }

    fn are_still(&self, own: Count) -> Result<(), (TierState, String)> {
        let busy = self.peers.iter().find(|(_, known)| known.is_some_and(|(_, count)| !count.is_still));
        match busy {
            _ if !own.is_still => {
                let why = "a pool is moved, drained or stopped here; the tier waits for that";
                Err((TierState::Waiting, why.to_owned()))
            }
            Some((name, _)) => {
                let why = format!("a pool is moved, drained or stopped at {name}; the tier waits for that");
                Err((TierState::Waiting, why))
            }
            None => Ok(()),
        }
    }

    fn state(&self, now: Time, own: Count) -> (TierState, String) {
        match self.view(now, own) {
            Err(state) => state,
            Ok(view) if self.run.is_some() => {
                let why = format!(
                    "{} sessions here, {:.0} in the mean: closing {:.2} a second",
                    view.own,
                    view.mean,
                    self.rate(&view)
                );
                (TierState::Levelling, why)
            }
            Ok(view) => {
                let why = format!("{} sessions here, {:.0} in the mean", view.own, view.mean);
                (TierState::Level, why)
            }
        }
    }
}

fn is_fresh(now: Time, known: &Option<(Time, Count)>) -> bool {
    known.is_some_and(|(at, _)| now.since(at) <= FRESH)
}

/// Clients that are away will be somewhere.
fn mean(all: &[Count]) -> f64 {
    let sum: u64 = all.iter().map(|count| count.sessions + count.away).sum();
    sum as f64 / all.len() as f64
}
