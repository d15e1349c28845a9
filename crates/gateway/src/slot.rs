//! What the rest of the gateway may see and ask of a running session, without touching its task.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use balance::victims::{Candidate, Preference};
use balance::{ClientKey, MoveReason, Opened, Visitor};
use model::{EndpointId, Time};
use session::{MigrateSpec, ShedSpec};

use crate::pool::Pool;

/// What a session may be asked.
#[derive(Clone, Debug)]
pub enum Command {
    /// Close politely so that the client comes back elsewhere.
    Shed(Arc<ShedSpec>),
    /// The same, without waiting for a quiet moment any longer: a shed that waits goes on at the next boundary, and a
    /// session without one begins with this.
    Hasten(Arc<ShedSpec>),
    /// Go on at another endpoint while the client stays. Only for [`MoveBy::Migrate`].
    Migrate(Arc<MigrateSpec>),
    /// End now if no byte came for this long: the slot learns of traffic late.
    CutIdle(Duration),
    /// End now.
    Cut(CutReason),
}

/// Why a session is ended without waiting for a quiet moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutReason {
    /// A peer took no byte for `write_stall_timeout`.
    WriteStall,
    /// No byte in either direction for `idle_timeout`.
    Idle,
    /// The deadline of a drain has come.
    Deadline,
}

impl CutReason {
    /// RFC 6455 section 7.4.1: 1001 going away for what the peer did not do, 1012 for a drain.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::WriteStall | Self::Idle => 1001,
            Self::Deadline => 1012,
        }
    }
}

/// Where a session stands for whoever looks for sessions to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Standing {
    /// May be moved.
    Open = 0,
    /// Is being moved.
    Moving = 1,
    /// Can not be moved, for a reason that the slot knows.
    Pinned = 2,
    /// Is ending.
    Ending = 3,
}

impl Standing {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Open,
            1 => Self::Moving,
            2 => Self::Pinned,
            _ => Self::Ending,
        }
    }
}

/// By what means a session is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveBy {
    /// It is closed, and its client comes back.
    Shed,
    /// Its upstream leg is exchanged. One that is pinned can still be closed.
    Migrate,
}

/// What decides whether and when a session may be moved: fixed when it opens.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Not moved for balance before this.
    pub cooling_until: Time,
    /// When it is moved for its age.
    pub expires_at: Option<Time>,
    /// Whose it is; 0: nobody's.
    pub tenant: u64,
    /// How often the client was moved before.
    pub moves: u32,
    /// What its route wants.
    pub preference: Preference,
    /// It may be asked to leave by a message.
    pub may_notify: bool,
    /// By what means it is moved.
    pub by: MoveBy,
}

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The shared face of one session.
#[derive(Debug)]
pub struct Slot {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// The endpoint it is pinned to.
    pub endpoint: EndpointId,
    /// The client's address.
    pub client: IpAddr,
    /// When it opened.
    pub opened: Time,
    /// Whether and when it may be moved.
    pub terms: Terms,
    active_at: AtomicU64,
    deadline: AtomicU64,
    stalled_since: AtomicU64,
    standing: AtomicU8,
    is_timed: AtomicBool,
    /// Nobody reads commands any more. Read and written under the inbox's lock; there it would take a word.
    is_closed: AtomicBool,
    /// The worker's count of unread commands.
    unread: Arc<AtomicUsize>,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    waker: Option<Waker>,
    command: Option<Command>,
    rare: Option<Box<Rare>>,
}

/// What few sessions have, and those that do seldom.
#[derive(Debug, Default)]
struct Rare {
    /// Why it is pinned.
    pin: Option<&'static str>,
    /// Not moved before this, because its last migration was given up.
    resting_until: Time,
}

impl Slot {
    /// A session that opens at `now`.
    pub fn new(
        pool: Arc<Pool>,
        endpoint: EndpointId,
        client: IpAddr,
        now: Time,
        terms: Terms,
        unread: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            pool,
            endpoint,
            client,
            opened: now,
            terms,
            active_at: AtomicU64::new(now.as_nanos()),
            deadline: AtomicU64::new(NEVER),
            stalled_since: AtomicU64::new(NEVER),
            standing: AtomicU8::new(Standing::Open as u8),
            is_timed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            unread,
            inbox: Mutex::default(),
        }
    }

    /// The slot of the same session at another endpoint, on other terms: what the task has said of itself goes along.
    /// `pin`: why it can not be moved from there, if so.
    pub fn successor(&self, endpoint: EndpointId, opened: Opened, pin: Option<&'static str>) -> Self {
        let Opened { cooling_until, moves, expires_at } = opened;
        let standing = if pin.is_some() { Standing::Pinned } else { Standing::Open };
        let rare = pin.is_some().then(|| Box::new(Rare { pin, ..Rare::default() }));
        Self {
            pool: self.pool.clone(),
            endpoint,
            client: self.client,
            opened: self.opened,
            terms: Terms { cooling_until, moves, expires_at, ..self.terms },
            active_at: AtomicU64::new(self.active_at.load(Relaxed)),
            deadline: AtomicU64::new(NEVER),
            stalled_since: AtomicU64::new(self.stalled_since.load(Relaxed)),
            standing: AtomicU8::new(standing as u8),
            is_timed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            unread: self.unread.clone(),
            inbox: Mutex::new(Inbox { rare, ..Inbox::default() }),
        }
    }

    /// Leaves a command for the session's task and wakes it. A later command replaces an unread one, but for
    /// [`Command::CutIdle`], which gives way. A session that has ended, or goes on in another slot, gets none.
    pub fn command(&self, command: Command) {
        let waker = {
            let mut inbox = self.inbox();
            if self.is_closed.load(Relaxed) {
                return;
            }
            if matches!(command, Command::CutIdle(_)) && inbox.command.is_some() {
                // Whatever it was told already is no weaker.
                return;
            }
            if inbox.command.replace(command).is_none() {
                self.unread.fetch_add(1, Relaxed);
            }
            inbox.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the session's task.
    pub fn wake(&self) {
        let waker = self.inbox().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The session's task says how to wake it (once: a task's waker never changes) and takes its command.
    pub fn attach(&self, waker: &Waker) {
        self.inbox().waker = Some(waker.clone());
    }

    /// The task has ended, or goes on in another slot: here it can not be woken any more, and a command is dropped, the
    /// unread one as well. Returns how it was woken.
    pub fn detach(&self) -> Option<Waker> {
        let mut inbox = self.inbox();
        self.is_closed.store(true, Relaxed);
        if inbox.command.take().is_some() {
            self.unread.fetch_sub(1, Relaxed);
        }
        inbox.waker.take()
    }

    /// The command left for the task, if any. Not worth a look while the worker has no [`Worker::unread`] ones.
    ///
    /// [`Worker::unread`]: crate::worker::Worker::unread
    pub fn take_command(&self) -> Option<Command> {
        let command = self.inbox().command.take();
        if command.is_some() {
            self.unread.fetch_sub(1, Relaxed);
        }
        command
    }

    /// Bytes came or went.
    pub fn touch(&self, now: Time) {
        self.active_at.store(now.as_nanos(), Relaxed);
    }

    /// When bytes last came or went.
    pub fn active_at(&self) -> Time {
        Time::from_nanos(self.active_at.load(Relaxed))
    }

    /// Since when a peer has not taken a byte that is waiting for it.
    pub fn stalled_since(&self) -> Option<Time> {
        optional(self.stalled_since.load(Relaxed))
    }

    /// Says since when, or that nothing is waiting.
    pub fn set_stalled(&self, since: Option<Time>) {
        self.stalled_since.store(since.map_or(NEVER, Time::as_nanos), Relaxed);
    }

    /// When the task wants to be woken.
    pub fn deadline(&self) -> Option<Time> {
        optional(self.deadline.load(Relaxed))
    }

    /// Says when the task wants to be woken. True when its worker has to be told of it.
    pub fn set_deadline(&self, at: Option<Time>) -> bool {
        let nanos = at.map_or(NEVER, Time::as_nanos);
        if self.deadline.load(Relaxed) != nanos {
            self.deadline.store(nanos, Relaxed);
        }
        at.is_some() && !self.is_timed.swap(true, Relaxed)
    }

    /// The worker no longer looks at the deadline.
    pub fn untime(&self) {
        self.is_timed.store(false, Relaxed);
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        Standing::from_u8(self.standing.load(Relaxed))
    }

    /// Takes it from any of `from` to `to`. Returns where it stood, when that was one of them.
    ///
    /// A change that the planner is told of is made under the planner's lock: so nobody begins a move of a session that
    /// has ended, and no end overlooks a move.
    pub fn change(&self, from: &[Standing], to: Standing) -> Option<Standing> {
        let change = |&old: &Standing| {
            self.standing.compare_exchange(old as u8, to as u8, Relaxed, Relaxed).is_ok().then_some(old)
        };
        from.iter().find_map(change)
    }

    /// It can not be moved for `reason` until [`Self::unpin`]. One that is being moved stays so: whoever moves it finds out.
    pub fn pin(&self, reason: &'static str) {
        self.inbox().rare.get_or_insert_default().pin = Some(reason);
        self.change(&[Standing::Open], Standing::Pinned);
    }

    /// It may be moved again.
    pub fn unpin(&self) {
        if let Some(rare) = &mut self.inbox().rare {
            rare.pin = None;
        }
        self.change(&[Standing::Pinned], Standing::Open);
    }

    /// It is not moved before this.
    pub fn rest_until(&self, at: Time) {
        self.inbox().rare.get_or_insert_default().resting_until = at;
    }

    /// Where a session may stand that is moved for `reason`. `close_pinned`: a rebalance closes those that can not migrate;
    /// a drain does so in any case. One that can neither migrate nor be closed safely is never moved. One that can
    /// migrate is never closed for the tier's sake.
    pub fn movable_from(&self, reason: MoveReason, close_pinned: bool) -> &'static [Standing] {
        let closes = match reason {
            MoveReason::Draining => true,
            MoveReason::Surplus | MoveReason::MaxAge => close_pinned,
            MoveReason::Rehearsal | MoveReason::Tier => false,
        };
        match self.terms.by {
            MoveBy::Migrate if reason == MoveReason::Tier => &[],
            MoveBy::Migrate if closes => &[Standing::Open, Standing::Pinned],
            MoveBy::Migrate | MoveBy::Shed => &[Standing::Open],
        }
    }

    /// It has ended. Returns where it stood.
    pub fn end(&self) -> Standing {
        Standing::from_u8(self.standing.swap(Standing::Ending as u8, Relaxed))
    }

    /// What the planner knows the client by.
    pub fn visitor(&self) -> Visitor {
        Visitor { client: client_key(self.client), moves: self.terms.moves }
    }

    /// What is known of it to whoever chooses sessions to move for `reason`, who finds it again by `key`. See
    /// [`Self::movable_from`].
    pub fn candidate(&self, key: usize, reason: MoveReason, close_pinned: bool) -> Candidate {
        let Terms { cooling_until, expires_at, tenant, moves, preference, .. } = self.terms;
        let standing = self.standing();
        let mut resting_until = Time::ZERO;
        let mut pin = None;
        // Of the others nothing is written there, and a look would cost a lock for each of thousands.
        if self.terms.by == MoveBy::Migrate
            && let Some(rare) = &self.inbox().rare
        {
            (resting_until, pin) = (rare.resting_until, rare.pin);
        }
        let pin = match standing {
            _ if self.movable_from(reason, close_pinned).contains(&standing) => None,
            Standing::Open if self.terms.by == MoveBy::Migrate => Some("migrates"),
            Standing::Open => None,
            Standing::Moving => Some("moving"),
            Standing::Pinned => Some(pin.unwrap_or("opaque")),
            Standing::Ending => Some("ending"),
        };
        Candidate {
            key,
            opened: self.opened,
            cooling_until,
            expires_at,
            idle_since: self.active_at(),
            moves,
            resting_until,
            pin,
            preference,
            tenant,
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the planner knows a client by: its address.
pub fn client_key(address: IpAddr) -> ClientKey {
    match address {
        IpAddr::V4(v4) => ClientKey(v4.to_ipv6_mapped().to_bits()),
        IpAddr::V6(v6) => ClientKey(v6.to_bits()),
    }
}

fn optional(nanos: u64) -> Option<Time> {
    (nanos != NEVER).then(|| Time::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(by: MoveBy) -> (Slot, Arc<AtomicUsize>) {
        let config = config::parse(
            "{listeners: [{address: '127.0.0.1:0'}], routes: [{pool: a}], pools: {a: {endpoints: [{address: '127.0.0.1:1'}]}}}",
            std::path::Path::new("/"),
        );
        let config = config.expect("it is valid").config;
        let name = model::PoolName::from("a");
        let pool = Pool::new(name, &config, crate::clock::Clock::start());
        let terms = Terms {
            cooling_until: Time::ZERO,
            expires_at: None,
            tenant: 0,
            moves: 0,
            preference: Preference::Normal,
            may_notify: false,
            by,
        };
        let client = IpAddr::from([127, 0, 0, 1]);
        let unread = Arc::default();
        (Slot::new(pool, "e".into(), client, Time::ZERO, terms, Arc::clone(&unread)), unread)
    }

    #[test]
    fn a_session_that_has_ended_is_moved_by_nobody() {
        let (slot, _) = slot(MoveBy::Shed);
        assert_eq!(slot.change(&[Standing::Open], Standing::Moving), Some(Standing::Open));
        assert_eq!(slot.change(&[Standing::Open], Standing::Moving), None, "once");
        assert_eq!(
            slot.change(&[Standing::Open, Standing::Pinned], Standing::Ending),
            None,
            "it is being moved"
        );
        assert_eq!(slot.end(), Standing::Moving);
        assert_eq!(slot.change(&[Standing::Open, Standing::Moving], Standing::Moving), None);
    }

    #[test]
    fn a_command_to_a_slot_that_nobody_reads_is_dropped_and_not_counted() {
        let (slot, unread) = slot(MoveBy::Migrate);
        slot.command(Command::Cut(CutReason::Idle));
        assert_eq!(unread.load(Relaxed), 1);
        slot.detach();
        slot.command(Command::Cut(CutReason::Idle));
        assert_eq!(unread.load(Relaxed), 0);
        assert!(slot.take_command().is_none());
    }

    #[test]
    fn a_pinned_session_that_migrates_leaves_only_where_it_would_be_closed() {
        let keeps = |slot: &Slot, reason, close_pinned| slot.candidate(0, reason, close_pinned).pin;
        let (opaque, _) = slot(MoveBy::Shed);
        opaque.change(&[Standing::Open], Standing::Pinned);
        let (exclusive, _) = slot(MoveBy::Migrate);
        exclusive.pin("exclusive_queue");
        for (reason, close_pinned, expected) in [
            (MoveReason::Surplus, false, Some("exclusive_queue")),
            (MoveReason::Surplus, true, None),
            (MoveReason::MaxAge, false, Some("exclusive_queue")),
            (MoveReason::Draining, false, None),
            (MoveReason::Rehearsal, true, Some("exclusive_queue")),
        ] {
            assert_eq!(keeps(&exclusive, reason, close_pinned), expected, "{reason:?} {close_pinned}");
            assert_eq!(keeps(&opaque, reason, close_pinned), Some("opaque"), "{reason:?} {close_pinned}");
        }
        exclusive.unpin();
        assert_eq!(keeps(&exclusive, MoveReason::Surplus, false), None);
        exclusive.rest_until(Time::from_millis(5));
        let candidate = exclusive.candidate(0, MoveReason::Draining, false);
        assert_eq!(candidate.resting_until, Time::from_millis(5));
    }

    #[test]
    fn a_successor_keeps_what_the_task_said_and_takes_other_terms() {
        let (old, _) = slot(MoveBy::Migrate);
        old.touch(Time::from_millis(7));
        old.set_stalled(Some(Time::from_millis(6)));
        let opened = Opened { cooling_until: Time::from_millis(9), moves: 3, expires_at: None };
        let new = old.successor("f".into(), opened, Some("stream"));
        assert_eq!((new.endpoint.as_str(), new.visitor().moves), ("f", 3));
        assert_eq!((new.active_at(), new.stalled_since()), (old.active_at(), old.stalled_since()));
        assert_eq!(new.standing(), Standing::Pinned);
        assert_eq!(new.candidate(0, MoveReason::Surplus, false).pin, Some("stream"));
        assert_eq!(old.successor("f".into(), opened, None).standing(), Standing::Open);
    }

    #[test]
    fn a_session_shows_little_of_itself() {
        // One allocation a session, beside the relay's own: its two counts are in front.
        let bytes = size_of::<Slot>() + 2 * size_of::<usize>();
        assert!(bytes <= 192, "a slot takes {bytes} bytes");
    }
}
