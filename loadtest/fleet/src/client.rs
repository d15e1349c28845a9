//! One client: it connects, numbers what it says, notes what it hears, and comes back as its library would.
//!
//! A message counts as sent once it was written and flushed before the client saw a Close frame. Its number is
//! never used again, so a message that arrives twice, or never, can be told for certain.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use scenario::rng::Rng;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, http};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::clients::Board;
use crate::protocol::{ClientSession, Ending, Phase};
use crate::wire::{self, FromEndpoint};

/// Longest wait for a connection with its 101.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Longest wait for a message to be taken by the peer.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for the end of the stream after a Close frame.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Longest Retry-After that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

type Ws = WebSocketStream<TcpStream>;

/// Why an attempt failed.
struct Failure {
    /// In words that are the same for all such attempts.
    reason: String,
    /// What the answer said about the next one.
    retry_after: Option<Duration>,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, retry_after: None }
    }
}

/// One of the clients.
pub struct Client {
    number: u32,
    board: Rc<Board>,
    phase: watch::Receiver<Phase>,
    close_delay: Duration,
    rng: Rng,
    /// Of the next session.
    session: u32,
    /// Of the next message; never goes back.
    next_message: u64,
    ticks: Option<Interval>,
}

impl Client {
    /// Client `number` of the board's plan; `close_delay` after the order to finish it closes.
    pub fn new(number: u32, board: Rc<Board>, phase: watch::Receiver<Phase>, close_delay: Duration) -> Self {
        let rng = Rng::new(board.plan.seed, u64::from(number));
        Self { number, board, phase, close_delay, rng, session: 0, next_message: 0, ticks: None }
    }

    /// Connects at `first` and stays, with as many sessions as it takes, until told to finish.
    pub async fn live(mut self, first: Instant) {
        tokio::select! {
            () = sleep_until(first) => {}
            () = finish(self.phase.clone()) => return,
        }
        self.ticks = self.message_ticks();
        let (mut attempt, mut left) = (0, None);
        loop {
            let mut told = None;
            match timeout(CONNECT_WITHIN, self.connect()).await {
                Ok(Ok((ws, endpoint))) => {
                    attempt = 0;
                    left = Some(self.stay(ws, endpoint, left).await);
                }
                Ok(Err(failure)) => {
                    self.failed(&failure.reason);
                    told = failure.retry_after;
                }
                Err(_) => self.failed("no answer within 15 s"),
            }
            if *self.phase.borrow() == Phase::Finish {
                return;
            }
            let (rule, rng) = (self.board.plan.reconnect, &mut self.rng);
            let delay = match told {
                Some(after) => rule.delay_after_refusal(attempt, after, rng),
                None => rule.delay(attempt, rng),
            };
            let Some(delay) = delay else {
                return;
            };
            attempt += 1;
            tokio::select! {
                () = sleep(delay) => {}
                () = finish(self.phase.clone()) => return,
            }
        }
    }

    fn message_ticks(&mut self) -> Option<Interval> {
        let every = Duration::from_millis(self.board.plan.message_every_ms?);
        let mut ticks = interval_at(Instant::now() + every.mul_f64(self.rng.unit()), every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(ticks)
    }

    fn failed(&self, reason: &str) {
        Board::count(&mut self.board.sample.borrow_mut().failed, reason);
    }

    async fn connect(&mut self) -> Result<(Ws, String), Failure> {
        let plan = &self.board.plan;
        let address = {
            let targets = self.board.targets.borrow();
            let place = match targets.len() {
                0 | 1 => 0,
                several => (self.rng.unit() * several as f64) as usize,
            };
            targets.get(place).cloned().unwrap_or_default()
        };
        let socket = dial(&address, source(self.number, plan.addresses))
            .await
            .map_err(|e| Failure::from(format!("connect: {}", e.kind())))?;
        // Without it, small messages wait for the peer's delayed acknowledgement.
        let _ = socket.set_nodelay(true);
        let separator = if plan.path.contains('?') { '&' } else { '?' };
        let query = wire::query(self.number, self.session);
        let url = format!("ws://{}{}{separator}{query}", plan.host, plan.path);
        self.session += 1;
        let (ws, response) = client_async_with_config(url, socket, Some(wire::small_buffers()))
            .await
            .map_err(|e| match e {
                Error::Http(response) => Failure {
                    reason: format!("HTTP {}", response.status().as_u16()),
                    retry_after: retry_after(&response),
                },
                Error::Io(e) => format!("handshake: {}", e.kind()).into(),
                other => format!("handshake: {other}").into(),
            })?;
        Ok((ws, endpoint_name(&response)))
    }

    /// One session, to its end; answers when the close was seen.
    async fn stay(&mut self, mut ws: Ws, endpoint: String, left: Option<Instant>) -> Instant {
        let mut record = ClientSession {
            client: self.number,
            session: self.session - 1,
            endpoint,
            sent: Default::default(),
            echoed: 0,
            received: Default::default(),
            repeated: 0,
            foreign: 0,
            ending: Ending::Own,
            opened_s: self.board.began.elapsed().as_secs_f64(),
            closed_s: 0.0,
            reconnect_ms: left.map(|left| left.elapsed().as_secs_f64() * 1000.0),
        };
        {
            let mut sample = self.board.sample.borrow_mut();
            sample.away -= 1;
            *sample.open.entry(record.endpoint.clone()).or_default() += 1;
        }
        let (ending, seen) = self.talk(&mut ws, &mut record).await;
        drop(ws);
        let mut sample = self.board.sample.borrow_mut();
        sample.away += 1;
        if let Some(open) = sample.open.get_mut(&record.endpoint) {
            *open -= 1;
        }
        Board::count(&mut sample.ends, &ending.label());
        record.ending = ending;
        record.closed_s = (seen - self.board.began).as_secs_f64();
        self.board.records.borrow_mut().push(record);
        seen
    }

    /// Speaks and listens until the session ends; answers how, and when the first sign of it was seen.
    async fn talk(&mut self, ws: &mut Ws, record: &mut ClientSession) -> (Ending, Instant) {
        let mut phase = self.phase.clone();
        let mut leave = std::pin::pin!(leave(self.phase.clone(), self.close_delay));
        let mut mute = false;
        loop {
            let quiet = mute || *phase.borrow_and_update() >= Phase::Quiet;
            let message = tokio::select! {
                biased;
                message = ws.next() => message,
                () = tick(self.ticks.as_mut()), if !quiet => {
                    let number = self.next_message;
                    self.next_message += 1;
                    match say(ws, number, self.board.plan.message_bytes).await {
                        Ok(true) => {
                            record.sent.insert(number);
                            self.board.sample.borrow_mut().sent += 1;
                        }
                        Ok(false) => mute = true,
                        Err(ending) => return (ending, Instant::now()),
                    }
                    continue;
                }
                _ = phase.changed(), if !quiet => continue,
                () = &mut leave => return (close(ws, record).await, Instant::now()),
            };
            let seen = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.board.sample.borrow_mut().received += 1;
                    hear(&text, record);
                }
                Some(Ok(Message::Close(frame))) => return (until_end(ws, frame).await, seen),
                Some(Ok(Message::Binary(_))) => record.foreign += 1,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return (broken(&error), seen),
                None => return (Ending::Cut("end of stream".into()), seen),
            }
        }
    }
}

/// The address of client `number` when they come from so many: 127.1.0.1 and up, all of which are loopback on Linux.
/// `None`: the system picks.
fn source(number: u32, addresses: u32) -> Option<Ipv4Addr> {
    let base = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    (addresses > 1).then(|| Ipv4Addr::from(base + number % addresses))
}

async fn dial(address: &str, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect(address).await;
    };
    let to = address.parse().map_err(io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.connect(to).await
}

/// Sends one message. False: it failed, which is not yet the end, because what the peer said last (a Close frame,
/// perhaps) may still be unread.
///
/// # Errors
/// The session's ending, when the peer takes nothing for long.
async fn say(ws: &mut Ws, number: u64, bytes: usize) -> Result<bool, Ending> {
    match timeout(SEND_WITHIN, ws.send(Message::text(wire::client_message(number, bytes)))).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(Ending::Cut("the peer took no byte for 10 s".into())),
    }
}

fn hear(text: &Utf8Bytes, record: &mut ClientSession) {
    let number = match wire::parse_endpoint_message(text) {
        Some(FromEndpoint::Echo { number, of: _ }) => {
            record.echoed += 1;
            number
        }
        Some(FromEndpoint::Push { number }) => number,
        None => {
            record.foreign += 1;
            return;
        }
    };
    if !record.received.insert(number) {
        record.repeated += 1;
    }
}

/// After the peer's Close frame: the library answers it, then the stream has to end.
async fn until_end(ws: &mut Ws, frame: Option<CloseFrame>) -> Ending {
    let (code, reason) =
        frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
    match timeout(END_WITHIN, ws.next()).await {
        Ok(None) => Ending::Closed { code, reason },
        Ok(Some(Err(error))) => Ending::ClosedBadly { code, then: short(&error) },
        Ok(Some(Ok(_))) => Ending::ClosedBadly { code, then: "a message".into() },
        Err(_) => Ending::ClosedBadly { code, then: "no end of the stream within 5 s".into() },
    }
}

/// The client's own close, at the end of the run.
async fn close(ws: &mut Ws, record: &mut ClientSession) -> Ending {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if let Err(error) = ws.close(Some(frame)).await {
        return Ending::OwnUnanswered(short(&error));
    }
    let end = Instant::now() + END_WITHIN;
    let mut answered = false;
    loop {
        match tokio::time::timeout_at(end, ws.next()).await {
            Ok(None) if answered => return Ending::Own,
            Ok(None) => return Ending::OwnUnanswered("end of stream".into()),
            Ok(Some(Ok(Message::Close(_)))) => answered = true,
            Ok(Some(Ok(Message::Text(text)))) => hear(&text, record),
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => return Ending::OwnUnanswered(short(&error)),
            Err(_) => return Ending::OwnUnanswered("no end of the stream within 5 s".into()),
        }
    }
}

fn broken(error: &Error) -> Ending {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ending::Cut("end of stream".into()),
        Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_) | Error::AttackAttempt => {
            Ending::Protocol(short(error))
        }
        other => Ending::Cut(short(other)),
    }
}

/// An error without the details that would make every one of thousands differ.
fn short(error: &Error) -> String {
    match error {
        Error::Io(e) => e.kind().to_string(),
        other => other.to_string(),
    }
}

fn endpoint_name<T>(response: &http::Response<T>) -> String {
    let name = response.headers().get(wire::ENDPOINT_HEADER).and_then(|name| name.to_str().ok());
    name.unwrap_or("unnamed").to_owned()
}

/// Retry-After of a 503, in seconds. A date, which the header may also be, is not understood here.
fn retry_after<T>(response: &http::Response<T>) -> Option<Duration> {
    if response.status() != http::StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let seconds = response.headers().get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn leave(phase: watch::Receiver<Phase>, delay: Duration) {
    finish(phase).await;
    sleep(delay).await;
}

async fn finish(mut phase: watch::Receiver<Phase>) {
    // The sender outlives the clients; were it gone, finishing would be right as well.
    let _ = phase.wait_for(|phase| *phase == Phase::Finish).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, value: &str) -> Option<u64> {
        let response =
            http::Response::builder().status(status).header("Retry-After", value).body(()).unwrap();
        retry_after(&response).map(|after| after.as_secs())
    }

    #[test]
    fn clients_take_turns_in_the_addresses_there_are() {
        assert_eq!(source(7, 1), None);
        assert_eq!(source(0, 3), Some(Ipv4Addr::new(127, 1, 0, 1)));
        assert_eq!(source(5, 3), Some(Ipv4Addr::new(127, 1, 0, 3)));
        assert_eq!(source(9_799, 9_800), Some(Ipv4Addr::new(127, 1, 38, 72)));
    }

    #[test]
    fn only_a_503_with_seconds_tells_when_to_come_back() {
        assert_eq!(told(503, "7"), Some(7));
        assert_eq!(told(503, "99999999"), Some(3600));
        assert_eq!(told(502, "7"), None);
        assert_eq!(told(503, "-1"), None);
        assert_eq!(told(503, "Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
