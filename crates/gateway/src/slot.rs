//! What the rest of the gateway may see and ask of a running session, without touching its task.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use balance::victims::{Candidate, Preference};
use balance::{ClientKey, Visitor};
use model::{EndpointId, Time};
use session::ShedSpec;

use crate::pool::Pool;

/// What a session may be asked.
#[derive(Clone, Debug)]
pub enum Command {
    /// Close politely so that the client comes back elsewhere.
    Shed(Arc<ShedSpec>),
    /// The same, without waiting for a quiet moment any longer: a shed that waits goes on at the next boundary, and a
    /// session without one begins with this.
    Hasten(Arc<ShedSpec>),
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
    /// Can not be moved: opaque.
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

    /// Why a session that stands here can not be moved, if so.
    pub const fn pin(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::Moving => Some("moving"),
            Self::Pinned => Some("opaque"),
            Self::Ending => Some("ending"),
        }
    }
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
    /// The worker's count of unread commands.
    unread: Arc<AtomicUsize>,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    waker: Option<Waker>,
    command: Option<Command>,
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
            unread,
            inbox: Mutex::default(),
        }
    }

    /// Leaves a command for the session's task and wakes it. A later command replaces an unread one, but for
    /// [`Command::CutIdle`], which gives way.
    pub fn command(&self, command: Command) {
        let waker = {
            let mut inbox = self.inbox();
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

    /// The task has ended; it can not be woken any more.
    pub fn detach(&self) {
        self.take_command();
        self.inbox().waker = None;
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

    /// It has ended. Returns where it stood.
    pub fn end(&self) -> Standing {
        Standing::from_u8(self.standing.swap(Standing::Ending as u8, Relaxed))
    }

    /// What the planner knows the client by.
    pub fn visitor(&self) -> Visitor {
        Visitor { client: client_key(self.client), moves: self.terms.moves }
    }

    /// What is known of it to whoever chooses sessions to move, who finds it again by `key`.
    pub fn candidate(&self, key: usize) -> Candidate {
        let Terms { cooling_until, expires_at, tenant, moves, preference, .. } = self.terms;
        Candidate {
            key,
            opened: self.opened,
            cooling_until,
            expires_at,
            idle_since: self.active_at(),
            moves,
            resting_until: Time::ZERO,
            pin: self.standing().pin(),
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

    #[test]
    fn a_session_that_has_ended_is_moved_by_nobody() {
        let config = config::parse(
            "{listeners: [{address: '127.0.0.1:0'}], routes: [{pool: a}], pools: {a: {endpoints: [{address: '127.0.0.1:1'}]}}}",
            std::path::Path::new("/"),
        );
        let config = config.expect("it is valid").config;
        let name = model::PoolName::from("a");
        let pool =
            Pool::new(name.clone(), &config.pools[&name], &config.limits, crate::clock::Clock::start());
        let terms = Terms {
            cooling_until: Time::ZERO,
            expires_at: None,
            tenant: 0,
            moves: 0,
            preference: Preference::Normal,
            may_notify: false,
        };
        let client = IpAddr::from([127, 0, 0, 1]);
        let slot = Slot::new(pool, "e".into(), client, Time::ZERO, terms, Arc::default());
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
    fn a_session_shows_little_of_itself() {
        // One allocation a session, beside the relay's own: its two counts are in front.
        let bytes = size_of::<Slot>() + 2 * size_of::<usize>();
        assert!(bytes <= 192, "a slot takes {bytes} bytes");
    }
}
