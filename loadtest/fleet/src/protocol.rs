//! What the replay says to the processes it started, and what they answer: one JSON object a line, on pipes.
//!
//! A child lives as long as its standard input; so none is left behind when the replay dies.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;

use scenario::reconnect::Reconnect;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::amqp::plan::{AmqpOutcome, AmqpPlan, AmqpSample};
use crate::ranges::Ranges;

/// Records in one line, so that no line grows without bound.
const RECORDS_PER_LINE: usize = 200;

/// From the replay to a child.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Clients only, once, first: connect and talk.
    Start(ClientsPlan),
    /// AMQP clients only, once, first: connect, publish and consume.
    StartAmqp(AmqpPlan),
    /// Clients only: connect to these from now on, each attempt to any of them.
    Targets(Vec<SocketAddr>),
    /// Send no further message of your own; answer and reconnect as before.
    Quiet,
    /// End every session politely, report every record, exit.
    Finish,
}

/// What the client process does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClientsPlan {
    /// Gateway, `127.0.0.1:8080`.
    pub address: String,
    /// Host header and path of the request, `127.0.0.1:8080` and `/`.
    pub host: String,
    /// See `host`.
    pub path: String,
    /// How many clients.
    pub count: u32,
    /// Loopback addresses that they come from, in turn; 1: the system picks.
    pub addresses: u32,
    /// New connections a second while connecting.
    pub connect_per_second: f64,
    /// Milliseconds between two messages of a client; absent: they are silent.
    pub message_every_ms: Option<u64>,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// When a client comes back.
    pub reconnect: Reconnect,
    /// Of message phases and backoff.
    pub seed: u64,
}

/// From a child to the replay.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// An endpoint accepts connections here.
    Listening(SocketAddr),
    /// The clients' state, several times a second.
    Clients(ClientsSample),
    /// Sessions open at an endpoint, several times a second.
    Open(u32),
    /// Some of the clients' records.
    ClientSessions(Vec<ClientSession>),
    /// Some of an endpoint's records.
    EndpointSessions(Vec<EndpointSession>),
    /// The AMQP clients' state, several times a second.
    Amqp(AmqpSample),
    /// The AMQP clients' account.
    AmqpOutcome(AmqpOutcome),
    /// Everything has been said.
    Done,
}

/// The clients at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ClientsSample {
    /// Open sessions by the name that the endpoint gave in its handshake.
    pub open: BTreeMap<String, u32>,
    /// Clients without a session: connecting, or waiting to.
    pub away: u32,
    /// Failed attempts by reason, since the start.
    pub failed: BTreeMap<String, u64>,
    /// Ends of sessions by close code and reason, since the start.
    pub ends: BTreeMap<String, u64>,
    /// Messages sent since the start.
    pub sent: u64,
    /// Messages received since the start.
    pub received: u64,
}

/// A client's account of one session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClientSession {
    /// Which client.
    pub client: u32,
    /// Which of its connection attempts.
    pub session: u32,
    /// Name that the endpoint gave in its handshake.
    pub endpoint: String,
    /// Own message numbers written and flushed before the Close frame was seen; a number is never used twice.
    pub sent: Ranges,
    /// Own messages that came back.
    pub echoed: u64,
    /// The endpoint's numbers received.
    pub received: Ranges,
    /// The endpoint's numbers received again.
    pub repeated: u64,
    /// Received messages that were not what an endpoint sends.
    pub foreign: u64,
    /// How it ended.
    pub ending: Ending,
    /// Seconds from the order to start to the 101.
    pub opened_s: f64,
    /// Seconds from the order to start to the first sign of its end.
    pub closed_s: f64,
    /// Milliseconds from seeing the close of the session before to the 101 of this one.
    pub reconnect_ms: Option<f64>,
}

/// How a session ended, as its client saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A Close frame, then the end of the stream.
    Closed {
        /// Close code; 1005 when the frame had none.
        code: u16,
        /// Close reason.
        reason: String,
    },
    /// A Close frame, then something other than the end of the stream: a reset, data, a wait of 5 s.
    ClosedBadly {
        /// Close code; 1005 when the frame had none.
        code: u16,
        /// What came after it.
        then: String,
    },
    /// No Close frame: what a browser reports as 1006.
    Cut(String),
    /// The peer broke RFC 6455.
    Protocol(String),
    /// The client itself closed at the end of the run, and the peer agreed.
    Own,
    /// The client itself closed at the end of the run, and the handshake did not end well.
    OwnUnanswered(String),
}

impl Ending {
    /// One line a kind, for counting: `1012 rebalance`, `1006 (no Close frame)`.
    pub fn label(&self) -> String {
        match self {
            Self::Closed { code, reason } => format!("{code} {reason}").trim_end().to_owned(),
            Self::ClosedBadly { code, then } => format!("{code}, then {then}"),
            Self::Cut(_) => "1006 (no Close frame)".into(),
            Self::Protocol(error) => format!("protocol error: {error}"),
            Self::Own => "1000 (own, at the end)".into(),
            Self::OwnUnanswered(what) => format!("1000 (own, at the end), then {what}"),
        }
    }

    /// Close frame seen and nothing wrong after it: a browser's `wasClean`.
    pub fn clean(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Own)
    }
}

/// An endpoint's account of one session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointSession {
    /// Which client, by the request's query.
    pub client: u32,
    /// Which of its attempts, by the request's query.
    pub session: u32,
    /// Messages sent (echoes and pushes), numbered from 0 in each session.
    pub sent: u64,
    /// The client's message numbers received.
    pub received: Ranges,
    /// The client's message numbers received again in the same session.
    pub repeated: u64,
}

/// How far a run has come, as its children see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Talk.
    Run,
    /// Say nothing new.
    Quiet,
    /// Close and report.
    Finish,
}

/// Orders as they arrive on standard input; the channel ends with it. Lines that are no order are reported once
/// on standard error and skipped.
pub fn orders() -> mpsc::UnboundedReceiver<Order> {
    let (tx, rx) = mpsc::unbounded_channel();
    // A thread, because a blocking read of standard input would hold the runtime open at exit.
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(order) => {
                    if tx.send(order).is_err() {
                        return;
                    }
                }
                Err(e) => eprintln!("fleet: not an order ({e}): {line:.80}"),
            }
        }
    });
    rx
}

/// Writes one answer. A reader that is gone ends this process soon by the end of its input, so that is no error.
pub fn answer(answer: &Answer) {
    let mut line = serde_json::to_vec(answer).expect("answers have string keys only");
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// Writes all records, in lines of bounded length, and then `Done`.
pub fn answer_records<T: Clone>(records: &[T], wrap: impl Fn(Vec<T>) -> Answer) {
    for some in records.chunks(RECORDS_PER_LINE) {
        answer(&wrap(some.to_vec()));
    }
    answer(&Answer::Done);
}

/// Follows the orders of the replay: the phase advances, and ends at [`Phase::Finish`] when the input ends.
pub async fn follow(
    mut orders: mpsc::UnboundedReceiver<Order>,
    phase: watch::Sender<Phase>,
    mut aim: impl FnMut(Vec<SocketAddr>),
) {
    loop {
        match orders.recv().await {
            Some(Order::Quiet) => phase.send_replace(Phase::Quiet),
            Some(Order::Targets(targets)) => {
                aim(targets);
                continue;
            }
            Some(Order::Start(_) | Order::StartAmqp(_)) => continue,
            Some(Order::Finish) | None => break,
        };
    }
    phase.send_replace(Phase::Finish);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_its_line() {
        let session = ClientSession {
            client: 17,
            session: 3,
            endpoint: "demo-1".into(),
            sent: (0..9).collect(),
            echoed: 9,
            received: (0..12).collect(),
            repeated: 0,
            foreign: 0,
            ending: Ending::Closed { code: 1012, reason: "rebalance".into() },
            opened_s: 2.5,
            closed_s: 4.5,
            reconnect_ms: Some(1.5),
        };
        let answer = Answer::ClientSessions(vec![session]);
        let line = serde_json::to_string(&answer).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
    }

    #[test]
    fn only_a_close_frame_and_a_quiet_end_are_clean() {
        assert!(Ending::Closed { code: 1012, reason: String::new() }.clean());
        assert!(!Ending::ClosedBadly { code: 1012, then: "reset".into() }.clean());
        assert!(!Ending::Cut("reset".into()).clean());
        assert_eq!(Ending::Closed { code: 1012, reason: String::new() }.label(), "1012");
    }
}
