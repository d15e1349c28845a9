//! The handshake of a listener with several routes: the gateway speaks first, and logs in at the endpoint in the client's
//! stead once user and virtual host say which pool it is.

use std::sync::Arc;

use amqp::{Credentials, Login, LoginError, MethodId, Progress, Start, StartOk, Tune, code, open_vhost};
use session::Opened;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::farewell;
use super::frames::{Frame, Frames, NoFrame};
use super::front::{Entered, Entry, begin};
use super::handshake;
use super::known::OFFER;
use super::reach::{Reached, reach};
use crate::io::Io;
use crate::shared::AmqpRoutes;
use crate::shared::RouteRuntime;
use crate::telemetry;

/// Mechanisms whose response tells the user and is the same each time.
const MECHANISMS: [&str; 2] = ["PLAIN", "AMQPLAIN"];

/// Why a handshake ends without a session: what the client gets.
enum End {
    /// Nothing: a close has no place yet, or the client is gone.
    Silence,
    /// A close of ours.
    Close(u16, String),
    /// The endpoint's own close.
    Endpoint(Frame),
}

impl End {
    fn client(code: u16, why: impl ToString) -> Self {
        telemetry::rejected("bad_handshake");
        Self::Close(code, why.to_string())
    }

    fn forced(why: impl std::fmt::Display) -> Self {
        Self::Close(code::CONNECTION_FORCED, format!("CONNECTION_FORCED - {why}"))
    }
}

/// What the client has asked for.
struct Asked {
    start_ok: Frame,
    tune: Tune,
    vhost: Box<[u8]>,
}

/// Serves a client of AMQP 0-9-1 that has sent its header.
pub async fn serve(mut entry: Entry, listener: &AmqpRoutes) {
    let mut from_client = Frames::new(&[]);
    let wait = entry.runtime.config.limits.close_linger;
    let end = match enter(&mut entry, listener, &mut from_client).await {
        Ok((entered, from_endpoint)) => {
            return begin(entry, entered, from_client.rest(), from_endpoint.rest());
        }
        Err(end) => end,
    };
    match end {
        End::Silence => {}
        End::Close(code, why) => {
            tracing::debug!(client = %entry.guest.peer.client, code, why, "handshake ends");
            farewell::close(&mut entry.io, code, &why, wait).await;
        }
        End::Endpoint(close) => farewell::say(&mut entry.io, close.bytes(), wait).await,
    }
}

async fn enter(
    entry: &mut Entry,
    listener: &AmqpRoutes,
    from_client: &mut Frames,
) -> Result<(Entered, Frames), End> {
    let asked = ask(entry, listener, from_client).await?;
    let start_ok =
        StartOk::parse(asked.start_ok.payload()).map_err(|error| End::client(error.code(), error))?;
    let Some(route) = listener.find(start_ok.user(), &asked.vhost) else {
        telemetry::rejected("no_route");
        let why = "NOT_ALLOWED - no route of this gateway is for this user and this virtual host";
        return Err(End::Close(code::NOT_ALLOWED, why.into()));
    };
    let permit = entry.permit(route).map_err(End::forced)?;
    let Some(credentials) = Credentials::new(&start_ok, asked.tune, &asked.vhost) else {
        let why = "ACCESS_REFUSED - the login is too long, or not one that this gateway can pass on";
        return Err(End::client(code::ACCESS_REFUSED, why));
    };
    let policy = route.pool.policy();
    let reached = reach(&route.pool, &policy, &entry.caller(&policy), entry.origin).await;
    let mut reached = reached.map_err(End::forced)?;
    let login = timeout(policy.amqp_session.prepare_timeout, log_in(route, &mut reached, &credentials)).await;
    let open_ok = match login {
        Ok(Ok(open_ok)) => open_ok,
        Ok(Err(Refused::Close(close))) => return Err(End::Endpoint(close)),
        Ok(Err(Refused::HungUp)) => {
            let why = "ACCESS_REFUSED - the endpoint has hung up on the login";
            return Err(End::Close(code::ACCESS_REFUSED, why.into()));
        }
        Ok(Err(Refused::Bounds(why))) => return Err(End::forced(format_args!("{why}; connect again"))),
        failed => {
            telemetry::upstream_failed(&route.pool.name);
            let endpoint = reached.ticket.endpoint.clone();
            reached.ticket.failed();
            let why = match failed {
                Ok(Err(Refused::Fault(why))) => why,
                _ => format!(
                    "did not answer within {:?} (amqp.prepare_timeout)",
                    policy.amqp_session.prepare_timeout
                ),
            };
            return Err(End::forced(format_args!("endpoint {endpoint} {why}; connect again")));
        }
    };
    send(entry, open_ok.bytes()).await?;
    let opened = Opened {
        tune: asked.tune,
        cluster: Start::parse(reached.start.payload())
            .ok()
            .and_then(|start| Some(start.cluster_name()?.into())),
        cancel_notify: start_ok.has_capability("consumer_cancel_notify"),
        blocked_notify: start_ok.has_capability("connection.blocked"),
        credentials: policy.amqp_session.seamless.then_some(credentials),
    };
    let Reached { stream, frames, ticket, took, .. } = reached;
    Ok((Entered { route: route.clone(), permit, stream, ticket, took, opened }, frames))
}

/// From the gateway's own `start` to the client's `open`.
async fn ask(entry: &mut Entry, listener: &AmqpRoutes, from_client: &mut Frames) -> Result<Asked, End> {
    let start = start(entry, listener).await?;
    send(entry, &start).await?;
    // Before `tune` there is no close.
    let silent = |_| {
        telemetry::rejected("bad_handshake");
        End::Silence
    };
    let start_ok = expect(entry, from_client, MethodId::CONNECTION_START_OK).await.map_err(silent)?;
    let parsed = StartOk::parse(start_ok.payload()).map_err(silent_fault)?;
    let offer = offer(listener, parsed.user());
    send(entry, &handshake::tune(offer)).await?;
    if !MECHANISMS.iter().any(|known| known.as_bytes() == parsed.mechanism) {
        let why = "COMMAND_INVALID - expected one of the mechanisms PLAIN and AMQPLAIN, which tell the user";
        return Err(End::client(code::COMMAND_INVALID, why));
    }
    let tune_ok = expect(entry, from_client, MethodId::CONNECTION_TUNE_OK).await?;
    let tune = Tune::parse(tune_ok.payload()).map_err(|error| End::client(error.code(), error))?;
    if !offer.allows(tune) {
        let why = format!(
            "NOT_ALLOWED - expected a frame_max from 4096 to {} and a channel_max up to {}, found {} and {}",
            offer.frame_max, offer.channel_max, tune.frame_max, tune.channel_max
        );
        return Err(End::client(code::NOT_ALLOWED, why));
    }
    let open = expect(entry, from_client, MethodId::CONNECTION_OPEN).await?;
    let vhost = open_vhost(open.payload()).map_err(|error| End::client(error.code(), error))?.into();
    Ok(Asked { start_ok, tune, vhost })
}

fn silent_fault(_: amqp::FrameError) -> End {
    telemetry::rejected("bad_handshake");
    End::Silence
}

/// The gateway's `start`: what an endpoint of the first route says, with the mechanisms that can be passed on.
async fn start(entry: &Entry, listener: &AmqpRoutes) -> Result<Vec<u8>, End> {
    let Some(first) = listener.routes.first() else { return Err(End::Silence) };
    let payload = match first.pool.known.start() {
        Some(payload) => payload,
        None => {
            let policy = first.pool.policy();
            let reached = reach(&first.pool, &policy, &entry.caller(&policy), None).await;
            let reached = reached.map_err(|error| {
                tracing::debug!(%error, "client is closed: no endpoint tells what to begin a handshake with");
                End::Silence
            })?;
            Arc::from(reached.start.payload())
        }
    };
    let theirs = Start::parse(&payload).map_err(|_| End::Silence)?;
    let offered: Vec<_> = theirs.mechanisms.split(|byte| *byte == b' ').collect();
    let ours = MECHANISMS.into_iter().filter(|known| offered.contains(&known.as_bytes()));
    let mechanisms = ours.collect::<Vec<_>>().join(" ");
    let mut out = Vec::with_capacity(payload.len() + 16);
    Start { mechanisms: mechanisms.as_bytes(), ..theirs }.write(&mut out);
    Ok(out)
}

/// What every endpoint allows that this user may get to.
fn offer(listener: &AmqpRoutes, user: Option<&[u8]>) -> Tune {
    let bounds = listener.of_user(user).map(|route| route.pool.known.bounds().unwrap_or(OFFER));
    bounds.reduce(Tune::within).unwrap_or(OFFER)
}

async fn send(entry: &mut Entry, bytes: &[u8]) -> Result<(), End> {
    let wait = entry.runtime.config.limits.head_timeout;
    let io = &mut entry.io;
    let written = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    match timeout(wait, written).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Silence),
    }
}

/// The client's next method, which must be `wanted`. Heartbeats are passed over.
async fn expect(entry: &mut Entry, from_client: &mut Frames, wanted: MethodId) -> Result<Frame, End> {
    let wait = entry.runtime.config.limits.head_timeout;
    let io = &mut entry.io;
    let next = async {
        loop {
            let frame = from_client.next(io).await?;
            if frame.method().is_some() {
                return Ok::<_, NoFrame>(frame);
            }
        }
    };
    let frame = match timeout(wait, next).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(NoFrame::Malformed(error))) => return Err(End::client(error.code(), error)),
        Ok(Err(NoFrame::Closed | NoFrame::Broken(_))) => return Err(End::Silence),
        Err(_) => {
            let why = format!("the handshake did not go on within {wait:?} (limits.head_timeout)");
            return Err(End::client(code::CONNECTION_FORCED, why));
        }
    };
    match frame.method() {
        Some(method) if method == wanted => Ok(frame),
        Some(MethodId::CONNECTION_CLOSE) => {
            close_ok(io).await;
            Err(End::Silence)
        }
        found => {
            let found = found.unwrap_or(MethodId(0));
            Err(End::client(code::COMMAND_INVALID, format!("expected method {wanted:?}, found {found:?}")))
        }
    }
}

async fn close_ok(io: &mut Io) {
    let mut out = Vec::new();
    amqp::write::connection_close_ok(&mut out);
    // It has left: nobody minds if this does not arrive.
    io.write_all(&out).await.ok();
    io.flush().await.ok();
}

/// Why an endpoint does not take a client.
enum Refused {
    /// It says so.
    Close(Frame),
    /// It says nothing, as RabbitMQ does to clients without the capability `authentication_failure_close`.
    HungUp,
    /// It allows less than was known. That is known now.
    Bounds(String),
    /// It does not work.
    Fault(String),
}

/// Logs in at the endpoint. Returns its `open-ok`.
async fn log_in(
    route: &RouteRuntime,
    reached: &mut Reached,
    credentials: &Credentials,
) -> Result<Frame, Refused> {
    let fault = |error: &dyn std::fmt::Display| Refused::Fault(error.to_string());
    let failed = |error: LoginError| match error {
        LoginError::Tune { .. } => Refused::Bounds(error.to_string()),
        _ => Refused::Fault(error.to_string()),
    };
    let mut login = Login::ExpectStart;
    let mut progress = login.handle_method(reached.start.payload(), credentials, None);
    while let Progress::Send(bytes) = progress.map_err(failed)? {
        reached.stream.write_all(&bytes).await.map_err(|error| fault(&error))?;
        let frame = loop {
            match reached.frames.next(&mut reached.stream).await {
                Ok(frame) if frame.method().is_none() => {}
                Ok(frame) => break frame,
                Err(NoFrame::Closed) if login == Login::ExpectTune => return Err(Refused::HungUp),
                Err(error) => return Err(fault(&error)),
            }
        };
        if frame.method() == Some(MethodId::CONNECTION_CLOSE) {
            let mut out = Vec::new();
            amqp::write::connection_close_ok(&mut out);
            // It has said all that matters.
            reached.stream.write_all(&out).await.ok();
            return Err(Refused::Close(frame));
        }
        if frame.method() == Some(MethodId::CONNECTION_TUNE)
            && let Ok(offered) = Tune::parse(frame.payload())
        {
            route.pool.known.learn_tune(&reached.ticket.endpoint, offered);
        }
        progress = login.handle_method(frame.payload(), credentials, None);
        if matches!(progress, Ok(Progress::Open)) {
            return Ok(frame);
        }
    }
    Err(Refused::Fault("ends the handshake out of turn".into()))
}
