//! A broker that keeps nothing: it confirms what is published, and delivers as long as its deliveries are acknowledged.
//!
//! One process plays several nodes, each a port. Queues whose name begins with [`FULL`] are never empty, all others
//! always. Each publish gets an ack of its own, each ack brings a delivery: no broker makes more frames of a message.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use amqp::{Kind, Method, MethodId, Start, Table, Tune, write};
use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::wire::{FRAME_BYTES_MAX, Wire, content};
use crate::protocol::{self, Answer, Phase};

/// Queues with such names are never empty.
pub const FULL: &[u8] = b"full";

/// How the broker is started.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Nodes: ports on loopback, picked by the system
    #[arg(long, default_value_t = 3)]
    pub nodes: u16,
    /// Bytes of a delivered message's body
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
}

/// Serves until standard input ends.
///
/// # Errors
/// When no port can be had.
pub async fn serve(args: Args) -> anyhow::Result<()> {
    for _ in 0..args.nodes {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).await.context("the broker has no port")?;
        protocol::answer(&Answer::Listening(listener.local_addr()?));
        tokio::task::spawn_local(accept(listener, args.bytes));
    }
    let (phase, mut phases) = watch::channel(Phase::Run);
    tokio::task::spawn_local(protocol::follow(protocol::orders(), phase, drop));
    let _ = phases.wait_for(|phase| *phase == Phase::Finish).await;
    protocol::answer(&Answer::Done);
    Ok(())
}

async fn accept(listener: TcpListener, bytes: usize) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::task::spawn_local(async move {
                    // Connections end when a measurement is over, in whatever way; that is judged by the clients.
                    let _ = converse(socket, bytes).await;
                });
            }
            // Out of descriptors, or the peer is gone already.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// What is remembered of a channel.
#[derive(Debug, Default)]
struct Channel {
    prefetch: u16,
    confirms: bool,
    published: u64,
    /// A whole delivery, in which only the tag changes.
    delivery: Vec<u8>,
    delivered: u64,
}

impl Channel {
    fn deliver(&mut self, out: &mut Vec<u8>) {
        if self.delivery.is_empty() {
            return;
        }
        self.delivered += 1;
        let start = out.len();
        out.extend_from_slice(&self.delivery);
        let method = usize::from(u16::from_be_bytes([out[start + 5], out[start + 6]]));
        amqp::patch(&mut out[start..start + method + amqp::FRAME_OVERHEAD], self.delivered);
    }

    fn consume(&mut self, id: u16, tag: &[u8], bytes: usize) {
        write::method(&mut self.delivery, id, MethodId::BASIC_DELIVER, |out| {
            write::short_string(out, tag);
            out.extend_from_slice(&[0; 8]);
            out.push(0);
            write::short_string(out, b"");
            write::short_string(out, FULL);
        });
        content(&mut self.delivery, id, bytes);
    }
}

async fn converse(socket: TcpStream, bytes: usize) -> anyhow::Result<()> {
    let mut wire = Wire::new(socket);
    if wire.protocol_header().await? != amqp::PROTOCOL_HEADER {
        bail!("another protocol");
    }
    Start { server_properties: Table::new(&[]), mechanisms: b"PLAIN", locales: b"en_US" }
        .write(&mut wire.out);
    let mut channels = BTreeMap::new();
    loop {
        wire.flush().await?;
        if !wire.fill().await? {
            return Ok(());
        }
        let mut out = std::mem::take(&mut wire.out);
        while let Some(seen) = wire.take()? {
            match seen.kind {
                Kind::Method => answer(&mut out, &mut channels, seen.channel, seen.payload, bytes)?,
                // The clients' messages are of one body frame.
                Kind::Body => confirm(&mut out, &mut channels, seen.channel),
                Kind::Header | Kind::Heartbeat => {}
            }
        }
        wire.out = out;
    }
}

fn confirm(out: &mut Vec<u8>, channels: &mut BTreeMap<u16, Channel>, id: u16) {
    if let Some(channel) = channels.get_mut(&id).filter(|channel| channel.confirms) {
        channel.published += 1;
        write::ack(out, id, channel.published, false);
    }
}

fn answer(
    out: &mut Vec<u8>,
    channels: &mut BTreeMap<u16, Channel>,
    id: u16,
    payload: &[u8],
    bytes: usize,
) -> anyhow::Result<()> {
    let channel = channels.entry(id).or_default();
    match Method::parse(payload)? {
        Method::Publish => {}
        Method::Ack { .. } => channel.deliver(out),
        Method::ChannelOpen => {
            *channel = Channel::default();
            write::method(out, id, MethodId::CHANNEL_OPEN_OK, |out| write::long_string(out, b""));
        }
        Method::Declare(declare) => write::method(out, id, MethodId::QUEUE_DECLARE_OK, |out| {
            write::short_string(out, declare.queue);
            out.extend_from_slice(&[0; 8]);
        }),
        Method::Qos { prefetch, .. } => {
            channel.prefetch = prefetch;
            write::bare(out, id, MethodId::BASIC_QOS_OK);
        }
        Method::ConfirmSelect { .. } => {
            channel.confirms = true;
            write::bare(out, id, MethodId::CONFIRM_SELECT_OK);
        }
        Method::Consume(consume) => {
            write::method(out, id, MethodId::BASIC_CONSUME_OK, |out| write::short_string(out, consume.tag));
            if consume.queue.starts_with(FULL) {
                channel.consume(id, consume.tag, bytes);
                (0..channel.prefetch).for_each(|_| channel.deliver(out));
            }
        }
        Method::Close { .. } => write::connection_close_ok(out),
        Method::Other(MethodId::CONNECTION_START_OK) => {
            let offered = Tune { channel_max: 2047, frame_max: FRAME_BYTES_MAX, heartbeat: 60 };
            offered.write(out, MethodId::CONNECTION_TUNE);
        }
        Method::Other(MethodId::CONNECTION_TUNE_OK) => {}
        Method::Other(MethodId::CONNECTION_OPEN) => amqp::write_open_ok(out),
        other => bail!("this broker can not do {other:?}"),
    }
    Ok(())
}
