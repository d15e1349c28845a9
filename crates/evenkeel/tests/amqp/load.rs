//! A run of jobs while their connections are moved: begin, move, end, compare.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::Bench;
use crate::gateway::{Mover, Moves};
use crate::judge::{Record, Rules, Total, judge};
use crate::peer::Peer;

/// Between two times that every connection is moved.
pub const MOVE_EVERY: Duration = Duration::from_millis(200);

/// How long connections are moved: seconds in a usual run, and in one of `cargo xtask test --long`, which sets
/// EVENKEEL_LONG.
pub fn run_time(usual: u64, long: u64) -> Duration {
    let long_run = std::env::var_os("EVENKEEL_LONG").is_some();
    Duration::from_secs(if long_run { long } else { usual })
}

/// What came of a run.
pub struct Outcome {
    pub findings: Vec<String>,
    pub total: Total,
    pub moves: Moves,
    pub records: Vec<Record>,
}

impl Outcome {
    /// Prints the counts, and fails when there are findings or fewer migrations than `moves`.
    pub fn expect(self, title: &str, moves: u64) -> Self {
        println!("{title}: {}; {}", self.total, self.moves);
        let shown: Vec<&str> = self.findings.iter().take(20).map(String::as_str).collect();
        assert!(shown.is_empty(), "{title}: {} findings:\n{}", self.findings.len(), shown.join("\n"));
        assert!(
            self.moves.switched >= moves,
            "{title}: a run that hardly moves proves nothing: {}",
            self.moves
        );
        self
    }
}

/// Runs `jobs` on `peer` for `time` while every connection is moved every [`MOVE_EVERY`], ends them, waits until what was
/// published is consumed, and compares. `meanwhile` runs beside it.
pub fn run(bench: &mut Bench, peer: &mut Peer, jobs: &[Value], time: Duration, rules: Rules) -> Outcome {
    run_with(bench, peer, jobs, time, rules, MOVE_EVERY, |_| ())
}

/// [`run`] with another pace, and something that happens while it runs.
pub fn run_with(
    bench: &mut Bench,
    peer: &mut Peer,
    jobs: &[Value],
    time: Duration,
    rules: Rules,
    every: Duration,
    meanwhile: impl FnOnce(&Bench),
) -> Outcome {
    peer.begin(jobs);
    let mover = Mover::start(&bench.gateway, every);
    let end = Instant::now() + time;
    meanwhile(bench);
    peer.wait(end.saturating_duration_since(Instant::now()));
    let records = finish(peer, jobs);
    let moves = mover.stop();
    let (mut findings, total) = judge(&records, rules);
    assert!(bench.gateway.is_running(), "the gateway ended during the run: {}", bench.gateway.log());
    findings.extend(bench.leftovers());
    if moves.forced > 0 {
        findings.push(format!("{} sessions were closed with 320 after a switch", moves.forced));
    }
    Outcome { findings, total, moves, records }
}

/// Ends the publishers, waits until their messages are consumed, ends the consumers.
pub fn finish(peer: &mut Peer, jobs: &[Value]) -> Vec<Record> {
    let named = |role: &str, yes: bool| -> Vec<String> {
        let found = jobs.iter().filter(|job| (job["role"] == role) == yes);
        found.map(|job| job["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    // Jobs that share a connection end together: the last of them closes it.
    let publishers = named("publish", true);
    let alone: Vec<String> = publishers.iter().filter(|name| !shares(jobs, name)).cloned().collect();
    peer.end(&publishers);
    let mut records = peer.records(&alone);
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    for record in &records {
        *sent.entry(record.queue.clone()).or_default() +=
            record.sent.values().sum::<u64>() - returned(record);
    }
    let consumed: BTreeSet<&str> =
        jobs.iter().filter(|job| job["role"] == "consume").filter_map(|job| job["queue"].as_str()).collect();
    for (queue, count) in sent.iter().filter(|(queue, _)| consumed.contains(queue.as_str())) {
        peer.await_count(queue, *count);
    }
    let shared_queues: BTreeSet<&str> = jobs
        .iter()
        .filter(|job| job["role"] == "publish" && shares(jobs, job["name"].as_str().unwrap_or_default()))
        .filter_map(|job| job["queue"].as_str())
        .collect();
    for queue in shared_queues {
        // How much was sent is told only when the consumer has ended too: wait until nothing comes any more.
        peer.await_quiet(queue);
    }
    peer.end(&named("publish", false));
    let rest: Vec<String> = publishers
        .iter()
        .filter(|name| !alone.contains(name))
        .cloned()
        .chain(named("publish", false))
        .collect();
    records.extend(peer.records(&rest));
    records
}

fn returned(record: &Record) -> u64 {
    record.outcomes.iter().filter(|(_, _, what)| what == "return").count() as u64
}

/// Whether another job has the same connection.
fn shares(jobs: &[Value], name: &str) -> bool {
    let connection = jobs.iter().find(|job| job["name"] == name).map(|job| &job["connection"]);
    connection
        .is_some_and(|own| !own.is_null() && jobs.iter().filter(|job| job["connection"] == *own).count() > 1)
}

/// Lets time pass: of a slow network, a stopped process, an idle client, until the next look at something. No test is right or
/// wrong by how long that takes.
pub fn pause(time: Duration) {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Looks until `done` says so; fails after 30 s.
pub fn await_that(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        pause(Duration::from_millis(10));
    }
}
