//! The clients of one measurement, a process of its own, and what the proxy took while they ran.
//!
//! It ends by itself and prints one line, a [`Measured`]. Messages and the proxy's time are read at the same two
//! instants, in one process, so that neither is counted without the other.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use amqp::{Bits, Kind, Method, MethodId, write};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::wire::{Wire, content};
use crate::usage;

/// Longest wait for a handshake: the machine is loaded.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for all connections.
const CONNECT_WITHIN: Duration = Duration::from_secs(90);
/// Handshakes at once.
const HANDSHAKES: usize = 64;
/// Traffic before the window that counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// Silence before memory is read.
const HOLD: Duration = Duration::from_secs(2);

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Two channels, one consumer of an empty queue, silence.
    Idle,
    /// Publish with confirms.
    Publish,
    /// Consume with a prefetch and acks.
    Consume,
}

/// How the clients are started.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What they do
    #[arg(long)]
    pub work: Work,
    /// Where they connect
    #[arg(long)]
    pub target: SocketAddr,
    /// Process of the proxy
    #[arg(long)]
    pub proxy: u32,
    /// Process of the broker
    #[arg(long)]
    pub broker: u32,
    /// How many
    #[arg(long)]
    pub connections: u32,
    /// Messages in flight on each connection: unconfirmed, or the prefetch
    #[arg(long, default_value_t = 1)]
    pub window: u16,
    /// Bytes of a message's body
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
    /// Seconds that count
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
}

/// What one measurement has shown.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Resident memory for each connection, B.
    pub rss_per_connection: f64,
    /// The same, with shared pages divided among their users.
    pub pss_per_connection: f64,
    /// Time of the proxy for each message, us.
    pub cpu_us: f64,
    /// Messages in each second.
    pub per_second: f64,
    /// CPUs that processes other than proxy, broker and clients took meanwhile.
    pub other_cpus: f64,
}

/// What all clients share.
struct Desk {
    args: Args,
    handshakes: Semaphore,
    open: Cell<u32>,
    /// Confirmed, or received.
    messages: Cell<u64>,
    failed: RefCell<Option<anyhow::Error>>,
}

/// Measures once and prints it.
///
/// # Errors
/// When a connection fails, or a process can not be looked at.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let before = usage::of(args.proxy).context("the proxy's memory can not be read")?;
    let connections = args.connections;
    let desk = Rc::new(Desk {
        args,
        handshakes: Semaphore::new(HANDSHAKES),
        open: Cell::new(0),
        messages: Cell::new(0),
        failed: RefCell::new(None),
    });
    for client in 0..connections {
        let desk = desk.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = talk(&desk, client).await {
                desk.failed.borrow_mut().get_or_insert(error);
            }
        });
    }
    let began = Instant::now();
    while desk.open.get() < connections {
        desk.check()?;
        if began.elapsed() > CONNECT_WITHIN {
            bail!("{} of {connections} connections within {CONNECT_WITHIN:?}", desk.open.get());
        }
        sleep(Duration::from_millis(10)).await;
    }
    let measured = match desk.args.work {
        Work::Idle => idle(&desk, before).await?,
        Work::Publish | Work::Consume => busy(&desk).await?,
    };
    desk.check()?;
    serde_json::to_writer(std::io::stdout().lock(), &measured)?;
    Ok(())
}

async fn idle(desk: &Desk, before: usage::Usage) -> anyhow::Result<Measured> {
    sleep(HOLD).await;
    let after = usage::of(desk.args.proxy)?;
    let each = |before: u64, after: u64| {
        (after as f64 - before as f64) * 1024.0 / f64::from(desk.args.connections.max(1))
    };
    Ok(Measured {
        rss_per_connection: each(before.rss_kib, after.rss_kib),
        pss_per_connection: each(before.pss_kib, after.pss_kib),
        ..Measured::default()
    })
}

async fn busy(desk: &Desk) -> anyhow::Result<Measured> {
    let processes = [desk.args.proxy, desk.args.broker, std::process::id()];
    let look = || -> anyhow::Result<_> {
        let mut cpu_s = [0.0; 3];
        for (cpu_s, pid) in cpu_s.iter_mut().zip(processes) {
            *cpu_s = usage::cpu_s(pid)?;
        }
        Ok((Instant::now(), desk.messages.get(), cpu_s, usage::busy_s()?))
    };
    sleep(WARM_UP).await;
    let (began, sent, cpu, machine) = look()?;
    sleep(Duration::from_secs_f64(desk.args.seconds)).await;
    let (ended, sent_then, cpu_then, machine_then) = look()?;
    let seconds = (ended - began).as_secs_f64();
    let messages = sent_then - sent;
    if messages == 0 {
        bail!("no message got through within {seconds:.1} s");
    }
    let ours: f64 = cpu_then.iter().zip(cpu).map(|(then, before)| then - before).sum();
    Ok(Measured {
        cpu_us: (cpu_then[0] - cpu[0]) * 1e6 / messages as f64,
        per_second: messages as f64 / seconds,
        other_cpus: ((machine_then - machine - ours) / seconds).max(0.0),
        ..Measured::default()
    })
}

impl Desk {
    fn check(&self) -> anyhow::Result<()> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn count(&self) {
        self.messages.set(self.messages.get() + 1);
    }
}

async fn talk(desk: &Desk, client: u32) -> anyhow::Result<()> {
    let work = desk.args.work;
    let mut wire = {
        let _turn = desk.handshakes.acquire().await?;
        let wire = timeout(HANDSHAKE_WITHIN, open(desk, client));
        wire.await
            .with_context(|| format!("client {client} waited {HANDSHAKE_WITHIN:?} for its handshake"))??
    };
    desk.open.set(desk.open.get() + 1);
    match work {
        Work::Publish => publish(desk, &mut wire).await,
        Work::Consume => consume(desk, &mut wire).await,
        Work::Idle if wire.fill().await? => bail!("an idle client was told something"),
        Work::Idle => bail!("an idle client was cut off"),
    }
}

/// Connects and sets up its channels.
async fn open(desk: &Desk, client: u32) -> anyhow::Result<Wire> {
    let mut wire =
        Wire::new(TcpStream::connect(desk.args.target).await.context("no connection to the proxy")?);
    wire.log_in().await?;
    wire.open_channel(1).await?;
    let queue = match desk.args.work {
        Work::Idle => {
            wire.open_channel(2).await?;
            format!("empty.{client}")
        }
        Work::Publish => {
            write::confirm_select(&mut wire.out, 1, false);
            wire.flush().await?;
            wire.method(MethodId::CONFIRM_SELECT_OK).await?;
            return Ok(wire);
        }
        Work::Consume => format!("full.{client}"),
    };
    write::method(&mut wire.out, 1, MethodId::QUEUE_DECLARE, |out| {
        out.extend_from_slice(&[0; 2]);
        write::short_string(out, queue.as_bytes());
        // Durable, as most are.
        out.push(0b10);
        write::long_string(out, b"");
    });
    wire.flush().await?;
    wire.method(MethodId::QUEUE_DECLARE_OK).await?;
    write::qos(&mut wire.out, 1, desk.args.window, false);
    wire.flush().await?;
    wire.method(MethodId::BASIC_QOS_OK).await?;
    write::consume(&mut wire.out, 1, queue.as_bytes(), b"consumer", Bits(0), b"");
    wire.flush().await?;
    wire.method(MethodId::BASIC_CONSUME_OK).await?;
    Ok(wire)
}

async fn publish(desk: &Desk, wire: &mut Wire) -> anyhow::Result<()> {
    let mut message = Vec::new();
    write::method(&mut message, 1, MethodId::BASIC_PUBLISH, |out| {
        out.extend_from_slice(&[0; 2]);
        write::short_string(out, b"");
        write::short_string(out, b"queue");
        out.push(0);
    });
    content(&mut message, 1, desk.args.bytes);
    for _ in 0..desk.args.window {
        wire.out.extend_from_slice(&message);
    }
    loop {
        wire.flush().await?;
        if !wire.fill().await? {
            bail!("a publisher was cut off");
        }
        let mut confirmed = 0;
        while let Some(seen) = wire.take()? {
            match Method::parse(seen.payload)? {
                Method::Ack { multiple: false, .. } => confirmed += 1,
                other => bail!("a publisher was told {other:?}"),
            }
        }
        for _ in 0..confirmed {
            desk.count();
            wire.out.extend_from_slice(&message);
        }
    }
}

async fn consume(desk: &Desk, wire: &mut Wire) -> anyhow::Result<()> {
    let mut tag = 0;
    loop {
        let mut out = std::mem::take(&mut wire.out);
        while let Some(seen) = wire.take()? {
            match seen.kind {
                Kind::Method => match Method::parse(seen.payload)? {
                    Method::Deliver { tag: next, .. } if next == tag + 1 => tag = next,
                    other => bail!("a consumer was told {other:?}, expected delivery {}", tag + 1),
                },
                Kind::Body => {
                    desk.count();
                    write::ack(&mut out, seen.channel, tag, false);
                }
                Kind::Header | Kind::Heartbeat => {}
            }
        }
        wire.out = out;
        wire.flush().await?;
        if !wire.fill().await? {
            bail!("a consumer was cut off");
        }
    }
}
