//! A demo endpoint: a WebSocket server that echoes, pushes, and keeps account of every message by number.
//!
//! A process of its own, so that it can be killed like a Pod. It judges nothing: the replay compares its account
//! with that of the clients.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use scenario::rng::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::protocol::{self, Answer, EndpointSession, Phase};
use crate::wire;

/// How often the number of open sessions is told.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for a peer in a handshake or a close.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a gateway may take to learn that an endpoint goes: until then new sessions come.
const UNTIL_KNOWN: Duration = Duration::from_secs(2);
/// Bytes of a pushed message.
const PUSH_BYTES: usize = 64;

/// How an endpoint is started.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name told to clients in the handshake
    #[arg(long)]
    pub name: String,
    /// Address to listen on; port 0 for one that the system picks
    #[arg(long)]
    pub address: SocketAddr,
    /// Milliseconds between two pushes in a session; absent: none
    #[arg(long)]
    pub push_every_ms: Option<u64>,
    /// Run until SIGTERM or SIGINT instead of until standard input ends; then stop when no session is left
    #[arg(long)]
    pub standalone: bool,
    /// With --standalone: seconds after the signal, when the sessions that are left are closed
    #[arg(long, default_value_t = 40)]
    pub leave_within_s: u64,
}

struct Desk {
    name: HeaderValue,
    push_every: Option<Duration>,
    phase: watch::Receiver<Phase>,
    open: Cell<u32>,
    records: RefCell<Vec<EndpointSession>>,
}

/// Serves until told to finish, then reports.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.address)
        .await
        .with_context(|| format!("endpoint {} cannot listen on {}", args.name, args.address))?;
    let (phase, phases) = watch::channel(Phase::Run);
    let desk = Rc::new(Desk {
        name: HeaderValue::from_str(&args.name).context("the name is no header value")?,
        push_every: args.push_every_ms.map(Duration::from_millis),
        phase: phases.clone(),
        open: Cell::new(0),
        records: RefCell::default(),
    });
    if args.standalone {
        let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        let within = Duration::from_secs(args.leave_within_s);
        tokio::task::spawn_local(leave(signals, desk.clone(), within, phase));
    } else {
        tokio::task::spawn_local(protocol::follow(protocol::orders(), phase, drop));
    }
    protocol::answer(&Answer::Listening(listener.local_addr()?));
    accept(listener, &desk, phases).await;
    let end = Instant::now() + PATIENCE;
    while desk.open.get() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    protocol::answer(&Answer::Open(desk.open.get()));
    protocol::answer_records(&desk.records.borrow(), Answer::EndpointSessions);
    Ok(())
}

/// A Pod that is asked to stop serves on until the gateway has moved its sessions. As the first process of a container it
/// has to listen to the signal: nobody else would obey.
async fn leave(
    signals: [std::io::Result<Signal>; 2],
    desk: Rc<Desk>,
    within: Duration,
    phase: watch::Sender<Phase>,
) {
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else {
        // Without signals it runs until it is killed.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let asked = Instant::now();
    while asked.elapsed() < UNTIL_KNOWN || (desk.open.get() > 0 && asked.elapsed() < within) {
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    phase.send_replace(Phase::Finish);
}

async fn accept(listener: TcpListener, desk: &Rc<Desk>, mut phase: watch::Receiver<Phase>) {
    let mut sample = tokio::time::interval(SAMPLE_EVERY);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    tokio::task::spawn_local(greet(socket, desk.clone()));
                }
                // Out of descriptors, or the peer is gone already: the next sample is a pause long enough.
                Err(_) => { sample.tick().await; }
            },
            _ = sample.tick() => protocol::answer(&Answer::Open(desk.open.get())),
            finished = phase.wait_for(|phase| *phase == Phase::Finish) => {
                drop(finished);
                return;
            }
        }
    }
}

async fn greet(socket: TcpStream, desk: Rc<Desk>) {
    // Without it, small answers wait for the peer's delayed acknowledgement.
    let _ = socket.set_nodelay(true);
    let mut identity = None;
    #[expect(clippy::result_large_err, reason = "the library's own callback type")]
    let callback = |request: &Request, mut response: Response| {
        identity = request.uri().query().and_then(wire::parse_query);
        response.headers_mut().insert(wire::ENDPOINT_HEADER, desk.name.clone());
        Ok(response)
    };
    let handshake = accept_hdr_async_with_config(socket, callback, Some(wire::small_buffers()));
    let Ok(Ok(ws)) = timeout(PATIENCE, handshake).await else {
        return;
    };
    desk.open.set(desk.open.get() + 1);
    let account = converse(ws, &desk).await;
    desk.open.set(desk.open.get() - 1);
    if let Some((client, session)) = identity {
        desk.records.borrow_mut().push(EndpointSession { client, session, ..account });
    }
}

/// One session, to its end. Client and session number are left to the caller.
async fn converse(mut ws: WebSocketStream<TcpStream>, desk: &Desk) -> EndpointSession {
    let mut account =
        EndpointSession { client: 0, session: 0, sent: 0, received: Default::default(), repeated: 0 };
    let mut phase = desk.phase.clone();
    let every = desk.push_every.unwrap_or(Duration::from_secs(3600));
    let lead = every.mul_f64(Rng::new(account_seed(&ws), 0).unit());
    let mut pushes = interval_at(Instant::now() + lead, every);
    pushes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            message = ws.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let Some(number) = wire::parse_client_message(&text) else { continue };
                    if !account.received.insert(number) {
                        account.repeated += 1;
                    }
                    say(&mut ws, &mut account, |n| wire::echo_message(n, &text)).await;
                }
                Some(Ok(_)) => {}
                // The stream ended, with or without a Close frame: the client's account says which.
                Some(Err(_)) | None => return account,
            },
            _ = pushes.tick(), if desk.push_every.is_some() && *phase.borrow() == Phase::Run => {
                say(&mut ws, &mut account, |n| wire::push_message(n, PUSH_BYTES)).await;
            }
            finished = phase.wait_for(|phase| *phase == Phase::Finish) => {
                drop(finished);
                farewell(ws).await;
                return account;
            }
        }
    }
}

/// A message counts as sent when it was flushed before a Close frame was seen; the library refuses it after one.
async fn say(
    ws: &mut WebSocketStream<TcpStream>,
    account: &mut EndpointSession,
    text: impl FnOnce(u64) -> String,
) {
    if ws.send(Message::text(text(account.sent))).await.is_ok() {
        account.sent += 1;
    }
}

async fn farewell(mut ws: WebSocketStream<TcpStream>) {
    let frame = CloseFrame { code: CloseCode::Away, reason: wire::STOP_REASON.into() };
    let _ = timeout(PATIENCE, async {
        let _ = ws.close(Some(frame)).await;
        while let Some(Ok(_)) = ws.next().await {}
    })
    .await;
}

/// Any number that differs between sessions, so that their pushes are spread out: the peer's port.
fn account_seed(ws: &WebSocketStream<TcpStream>) -> u64 {
    ws.get_ref().peer_addr().map_or(0, |peer| u64::from(peer.port()))
}
