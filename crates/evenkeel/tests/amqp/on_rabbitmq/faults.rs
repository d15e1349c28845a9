//! Every state of a move, and in each of them every fault on either node, and a client that goes: before the switch the client
//! sees nothing of what happens at the next node, after it a Close at worst; a confirmed message is never lost.
//!
//! One session a case, all on one cluster, several at once. The state is held by keeping back the frame that would end it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use amqp::{MethodId, write};

use crate::bench::Bench;
use crate::gateway::{Gateway, Moves};
use crate::interposer::{Act, Link, Mark, Spot, Trap, Way, Wires, dead_end};
use crate::load::pause;
use crate::raw::{Does, Raw, Seen, drain};

/// Cases at once.
const LANES: usize = 6;
/// Longer than a move waits for anything.
const STOPPED: Duration = Duration::from_millis(2000);
/// Shorter than that.
const SLOW: Duration = Duration::from_millis(60);
/// For what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a move is when something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Refused,
    Dialing,
    LoggingIn,
    Preparing,
    Saturating,
    Cancelling,
    Settling,
    Freezing,
    Flushing,
    Resting,
    Replaying,
    Started,
    Lingering,
    RollingBack,
}

impl State {
    /// Those that a frame ends. The others have nothing at the other end.
    const ALL: [Self; 12] = [
        Self::LoggingIn,
        Self::Preparing,
        Self::Saturating,
        Self::Cancelling,
        Self::Settling,
        Self::Freezing,
        Self::Flushing,
        Self::Resting,
        Self::Replaying,
        Self::Started,
        Self::Lingering,
        Self::RollingBack,
    ];

    const fn has_next(self) -> bool {
        !matches!(self, Self::Refused | Self::Dialing)
    }

    const fn is_before_switch(self) -> bool {
        !matches!(self, Self::Replaying | Self::Started | Self::Lingering | Self::RollingBack)
    }

    /// The client of a state in which consumers have no part does not consume.
    const fn consumes(self) -> bool {
        !matches!(self, Self::Freezing | Self::Flushing | Self::Resting)
    }

    /// The frame at which the state begins or would end, whether it goes on first, how long until the act, and how long it is
    /// kept after it.
    fn trap(self, victim: Link, act: Act) -> Option<Trap> {
        let spot = |link, way, id| Spot { link, way, mark: Mark::Method(id) };
        let ms = Duration::from_millis;
        let old = |id| spot(Link::Old, Way::Back, id);
        let next = |id| spot(Link::Next, Way::Back, id);
        let prepared = Some(next(MethodId::CONFIRM_SELECT_OK));
        let (after, at, passes, wait, hold) = match self {
            Self::Refused | Self::Dialing => return None,
            Self::LoggingIn => (None, next(MethodId::CONNECTION_TUNE), false, 10, 60),
            Self::Preparing => (None, next(MethodId::CHANNEL_OPEN_OK), false, 10, 60),
            Self::Saturating => (None, next(MethodId::CONFIRM_SELECT_OK), true, 30, 0),
            Self::Cancelling => (None, old(MethodId::BASIC_CANCEL_OK), false, 20, 60),
            Self::Settling => (None, old(MethodId::BASIC_CANCEL_OK), true, 10, 0),
            Self::Freezing => {
                (prepared, Spot { link: Link::Client, way: Way::Out, mark: Mark::Body }, false, 60, 60)
            }
            Self::Flushing => (prepared, old(MethodId::BASIC_ACK), false, 60, 60),
            Self::Resting => (None, old(MethodId::BASIC_QOS_OK), true, 4, 0),
            Self::Replaying => (None, spot(Link::Next, Way::Out, MethodId::BASIC_CONSUME), false, 20, 60),
            Self::Started => (None, next(MethodId::BASIC_CONSUME_OK), false, 20, 60),
            Self::Lingering => (None, next(MethodId::BASIC_CONSUME_OK), true, 60, 0),
            Self::RollingBack => (None, old(MethodId::BASIC_CONSUME_OK), false, 20, 60),
        };
        Some(Trap { after, at, passes, wait: ms(wait), victim, act, hold: ms(hold) })
    }
}

/// What may be seen of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// Nothing at all, and the session moves when it is asked again.
    Nothing,
    /// Nothing, or a Close with 320.
    Forced,
    /// The client has gone.
    Gone,
}

#[derive(Clone, Debug)]
struct Case {
    state: State,
    victim: Link,
    act: Act,
    expect: Expect,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match &self.act {
            Act::Reset => "killed",
            Act::Cut => "cut mid-frame",
            Act::Stall(time) if *time == STOPPED => "stopped",
            Act::Stall(_) => "slow",
            Act::Answer(_) => "refuses",
        };
        write!(f, "{:?}: {:?} {act}", self.state, self.victim)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for state in State::ALL {
        for victim in [Link::Old, Link::Next] {
            // The next leg is gone already.
            if state == State::RollingBack && victim == Link::Next {
                continue;
            }
            for act in [Act::Reset, Act::Cut, Act::Stall(STOPPED), Act::Stall(SLOW)] {
                let expect = expect(state, victim, &act);
                cases.push(Case { state, victim, act, expect });
            }
        }
        cases.push(Case { state, victim: Link::Client, act: Act::Reset, expect: Expect::Gone });
    }
    for state in [State::Refused, State::Dialing] {
        for act in [Act::Reset, Act::Cut, Act::Stall(STOPPED), Act::Stall(SLOW)] {
            let expect = expect(state, Link::Old, &act);
            cases.push(Case { state, victim: Link::Old, act, expect });
        }
        cases.push(Case { state, victim: Link::Client, act: Act::Reset, expect: Expect::Gone });
    }
    let mut refused = Vec::new();
    write::connection_close(&mut refused, 530, "NOT_ALLOWED - no room");
    let mut no_channel = Vec::new();
    write::channel_close(&mut no_channel, 1, 504, "CHANNEL_ERROR - refused");
    let mut forbidden = Vec::new();
    write::channel_close(&mut forbidden, 1, 403, "ACCESS_REFUSED - not yours");
    let refusals = [
        (State::LoggingIn, refused.clone(), Expect::Nothing),
        (State::Preparing, no_channel, Expect::Nothing),
        (State::Preparing, refused.clone(), Expect::Nothing),
        (State::Started, forbidden, Expect::Forced),
        (State::Started, refused, Expect::Forced),
    ];
    cases.extend(refusals.map(|(state, bytes, expect)| Case {
        state,
        victim: Link::Next,
        act: Act::Answer(bytes),
        expect,
    }));
    cases
}

fn expect(state: State, victim: Link, act: &Act) -> Expect {
    match (victim, act) {
        (_, Act::Stall(time)) if *time == SLOW => Expect::Nothing,
        // A node that stops is not found out before the session has gone over to it.
        (Link::Next, Act::Stall(_)) if matches!(state, State::LoggingIn | State::Preparing) => {
            Expect::Nothing
        }
        (Link::Next, Act::Stall(_)) => Expect::Forced,
        (Link::Next, _) if state.is_before_switch() => Expect::Nothing,
        (Link::Next, _) => Expect::Forced,
        (Link::Old, Act::Stall(_)) => Expect::Nothing,
        // The node that serves the client is lost: replaced where nothing is under way, and else a Close.
        (Link::Old, _) if state.is_before_switch() || state == State::RollingBack => Expect::Forced,
        (Link::Old, _) => Expect::Nothing,
        (Link::Client, _) => Expect::Gone,
    }
}

const TIMES: &str = "      prepare_timeout: 800ms\n      saturate_timeout: 300ms\n      settle_timeout: 400ms\n      \
    flush_timeout: 500ms\n      replay_timeout: 1400ms\n      linger: 300ms\n      linger_max: 2s\n      close_timeout: 1s\n      \
    probe: {interval: 0s}\n";

/// A gateway of its own between wires.
struct Stage {
    wires: Wires,
    gateway: Gateway,
    client_at: SocketAddr,
    /// Of an endpoint that is none.
    _dead: Vec<OwnedFd>,
}

fn stage(bench: &Bench, number: usize, state: State) -> Stage {
    let wires = Wires::default();
    let folder = bench.folder.join(format!("case-{number}"));
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let nodes = bench.endpoints();
    let mut dead = Vec::new();
    let mut end = |index: usize| {
        let (id, address) = &nodes[(number + index) % nodes.len()];
        let mut address = wires.listen(*address, false);
        if index == 1 && !state.has_next() {
            (address, dead) = dead_end(state == State::Dialing);
        }
        format!("    - {{id: {id:?}, address: \"{address}\"}}\n")
    };
    let ends = [end(0), end(1)].concat();
    let order = if state == State::Resting { "relaxed" } else { "strict" };
    let token = folder.join("token");
    std::fs::write(&token, crate::gateway::TOKEN).expect("the test folder is writable");
    let text = format!(
        "listeners:\n- address: \"127.0.0.1:0\"\n  protocol: amqp\n  routes: [{{pool: rabbit}}]\n\
         admin: {{address: \"127.0.0.1:0\", token_file: {:?}}}\nlog: {{level: debug}}\n\
         pools:\n  rabbit:\n    endpoints:\n{ends}    dial_timeout: 300ms\n    \
         placement: {{ejection_failures: 0}}\n    \
         rebalance: {{enabled: false, min_ready: 0s}}\n    amqp:\n      order: {order}\n{TIMES}",
        token.display().to_string()
    );
    let gateway = Gateway::start_with(&folder, &text);
    let client_at = wires.listen(gateway.address, true);
    Stage { wires, gateway, client_at, _dead: dead }
}

/// What came of a case: how it looked to the client, or what was wrong.
fn run(bench: &Bench, number: usize, case: &Case) -> Result<&'static str, String> {
    let state = case.state;
    let stage = stage(bench, number, state);
    let queue = format!("case-{number}");
    let does = Does {
        vhost: bench.vhost.clone(),
        queue: queue.clone(),
        kind: if state == State::Saturating { "quorum" } else { "classic" },
        // One that does not fill up, and one that does.
        prefetch: if !state.consumes() { 0 } else { 500 },
        confirms: state != State::Resting,
        size: 200,
        every: Duration::from_millis(4),
        ahead: 40,
        limit: u64::MAX,
        heartbeat: 0,
    };
    let (consumes, confirms) = (state.consumes(), does.confirms);
    let client = Raw::start(stage.client_at, does);
    client.ack_after(Duration::from_millis(match state {
        State::Settling => 60,
        State::RollingBack => 1200,
        _ => 2,
    }));
    if confirms {
        client.await_traffic(5, consumes);
    } else {
        await_that("publishes", || client.counts().0 > 5)?;
    }
    stage.wires.arm(state.trap(case.victim, case.act.clone()));
    stage.gateway.rehearse();
    if !state.has_next() {
        // A dial that is refused has ended by then, and the session is as it was.
        pause(SLOW);
        stage.wires.act(case.victim, &case.act);
    } else if !stage.wires.await_sprung(PATIENCE) {
        let log = stage.gateway.log();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        return Err(format!("the state was not reached: {}; {lines:?}", stage.gateway.moves()));
    }
    client.ack_after(Duration::from_millis(2));
    if case.expect == Expect::Gone {
        return gone(bench, &stage, client, &queue);
    }
    let after = stage.gateway.moves();
    if case.expect == Expect::Nothing {
        settle(&stage, &client, state, &after)?;
    } else if matches!(case.act, Act::Stall(_)) {
        pause(STOPPED);
    }
    if confirms && !client.has_ended() {
        client.await_traffic(5, consumes);
    }
    let seen = client.stop();
    let node = bench.endpoints()[number % 3].1;
    let left = drain(node, &bench.vhost, &queue);
    let looked = judge(case, &seen, &left, confirms)?;
    await_that("every connection to a node ends", || stage.wires.live() == 0)?;
    Ok(looked)
}

/// Once the fault is over the session moves, unless it has.
fn settle(stage: &Stage, client: &Raw, state: State, after: &Moves) -> Result<(), String> {
    // The last of these: a consumer that gets something but does not fill up is not moved.
    client.publishes(state != State::Saturating);
    let end = Instant::now() + PATIENCE;
    loop {
        let now = stage.gateway.moves();
        let is_over =
            if state.has_next() { now.switched > 0 } else { now.aborts.contains_key("no_endpoint") };
        if is_over || client.has_ended() {
            break;
        }
        if Instant::now() > end {
            return Err(format!("it does not move any more: {after} and later {now}"));
        }
        pause(Duration::from_millis(50));
        stage.gateway.rehearse();
    }
    client.publishes(true);
    Ok(())
}

/// Nothing of a client that has gone is left behind, and nothing of its messages is lost.
fn gone(bench: &Bench, stage: &Stage, client: Raw, queue: &str) -> Result<&'static str, String> {
    await_that("every connection to a node ends", || stage.wires.live() == 0)?;
    let seen = client.stop();
    let left = drain(bench.endpoints()[0].1, &bench.vhost, queue);
    seen.lost(&left)?;
    await_that("its session ends", || stage.gateway.metric("evenkeel_sessions", "") == 0)?;
    Ok("the client had gone")
}

fn judge(case: &Case, seen: &Seen, left: &[(u64, bool)], confirms: bool) -> Result<&'static str, String> {
    seen.lost(left)?;
    if let Some(first) = seen.odd.first() {
        return Err(format!("the client saw {first}; Close {:?}", seen.close));
    }
    match &seen.close {
        Some((320, text)) if case.expect != Expect::Nothing && text.starts_with("CONNECTION_FORCED") => {
            return Ok("closed with 320");
        }
        Some(close) => return Err(format!("the client was closed: {close:?}")),
        None => {}
    }
    if confirms && seen.confirmed.len() as u64 != seen.sent {
        return Err(format!("{} sent, {} confirmed", seen.sent, seen.confirmed.len()));
    }
    let came = seen.consumed.iter().chain(left);
    let numbers: Vec<u64> = came.clone().map(|(number, _)| *number).collect();
    if numbers != (0..seen.sent).collect::<Vec<u64>>() && case.expect == Expect::Nothing {
        let place = numbers.iter().zip(0..).find(|(number, place)| *number != place);
        return Err(format!("{} sent, {} came; the first out of turn: {place:?}", seen.sent, numbers.len()));
    }
    if let Some((number, _)) = came.clone().find(|(_, redelivered)| *redelivered)
        && case.expect == Expect::Nothing
    {
        return Err(format!("{number} is marked as redelivered"));
    }
    Ok("nothing was seen")
}

fn await_that(what: &str, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            return Err(format!("not within {PATIENCE:?}: {what}"));
        }
        pause(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn whatever_fails_in_a_move_the_client_sees_nothing_or_a_close_and_loses_nothing() {
    let bench = Bench::start("faults", "");
    let only = std::env::var("EVENKEEL_CASE").unwrap_or_default();
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.to_string().contains(&only)).collect();
    let (turn, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let number = turn.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return };
                    let result = run(&bench, number, case);
                    println!(
                        "{case}: {}",
                        result.as_ref().map_or_else(|why| format!("WRONG: {why}"), |ok| (*ok).into())
                    );
                    results.lock().expect("no lane panics").push((case.clone(), result));
                }
            });
        }
    });
    let results = results.into_inner().expect("no lane panics");
    let of = |looked: &str| results.iter().filter(|(_, result)| *result == Ok(looked)).count();
    let wrong: Vec<String> = results
        .iter()
        .filter_map(|(case, result)| Some(format!("{case}: {}", result.as_ref().err()?)))
        .collect();
    println!(
        "{} faults: {} unseen, {} closed with 320, {} clients gone, {} wrong",
        results.len(),
        of("nothing was seen"),
        of("closed with 320"),
        of("the client had gone"),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), results.len(), wrong.join("\n"));
}
