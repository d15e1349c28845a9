//! The handshake of a listener with one route for everybody: the endpoint's own, relayed frame by frame.

use std::time::Duration;

use amqp::{MethodId, code};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::farewell;
use super::frames::{Frame, Frames, NoFrame};
use super::front::{Entered, Entry, begin};
use super::handshake::{From, Handshake, Passed};
use super::known::{Known, UNBOUNDED};
use super::reach::{Reached, reach};
use crate::io::Io;
use crate::pool::Ticket;
use crate::shared::RouteRuntime;
use crate::telemetry;

/// Why a handshake ends without a session.
enum End {
    /// A close has passed, or the endpoint has hung up, as it does on a login that it refuses.
    Closed,
    /// The client's fault, with the reply code.
    Client(String, u16),
    /// The endpoint's fault.
    Endpoint(String),
}

/// Relays the handshake, then begins the session.
pub async fn serve(mut entry: Entry, route: RouteRuntime) {
    let permit = match entry.permit(&route) {
        Ok(permit) => permit,
        Err(why) => return entry.turn_away(&why),
    };
    let policy = route.pool.policy();
    let caller = entry.caller(&policy);
    let reached = match reach(&route.pool, &policy, &caller, entry.origin).await {
        Ok(reached) => reached,
        Err(error) => return entry.turn_away(&error.to_string()),
    };
    let Reached { stream, frames, start, ticket, took } = reached;
    let mut talk = Talk {
        handshake: Handshake::new(),
        from_client: Frames::new(&[]),
        from_endpoint: frames,
        stream,
        client_time: entry.runtime.config.limits.head_timeout,
        endpoint_time: policy.amqp_session.prepare_timeout,
    };
    let wait = policy.amqp_session.close_timeout;
    match talk.run(&mut entry.io, start, &ticket, &route.pool.known).await {
        Ok(()) => {
            let Some(opened) = talk.handshake.opened(policy.amqp_session.seamless) else { return };
            let entered = Entered { route, permit, stream: talk.stream, ticket, took, opened };
            begin(entry, entered, talk.from_client.rest(), talk.from_endpoint.rest());
        }
        Err(End::Closed) => talk.see_off(entry.io, wait).await,
        Err(End::Client(why, code)) => {
            telemetry::rejected("bad_handshake");
            tracing::debug!(client = %entry.guest.peer.client, why, "handshake ends: the client's fault");
            drop(ticket);
            talk.close(&mut entry.io, code, &why, wait).await;
        }
        Err(End::Endpoint(why)) => {
            telemetry::upstream_failed(&route.pool.name);
            tracing::debug!(pool = %route.pool.name, endpoint = %ticket.endpoint, why, "handshake ends: the endpoint's fault");
            ticket.failed();
            let why = format!("CONNECTION_FORCED - the endpoint {why}; connect again");
            talk.close(&mut entry.io, code::CONNECTION_FORCED, &why, wait).await;
        }
    }
}

/// Both sides of a handshake.
struct Talk {
    handshake: Handshake,
    from_client: Frames,
    from_endpoint: Frames,
    stream: TcpStream,
    /// How long the client has for each step.
    client_time: Duration,
    /// How long the endpoint has.
    endpoint_time: Duration,
}

impl Talk {
    /// Until it is open, or ends.
    async fn run(&mut self, io: &mut Io, start: Frame, ticket: &Ticket, known: &Known) -> Result<(), End> {
        let (mut from, mut frame) = (From::Endpoint, start);
        let mut deadline = None;
        loop {
            let awaited = self.handshake.awaits();
            let passed = self.handshake.handle(from, &frame, known.bounds().unwrap_or(UNBOUNDED));
            let passed = passed.map_err(|fault| match from {
                From::Client => End::Client(fault.to_string(), fault.code()),
                From::Endpoint => End::Endpoint(format!("blundered in the handshake: {fault}")),
            })?;
            if let (Some(MethodId::CONNECTION_TUNE), Some(offered)) =
                (frame.method(), self.handshake.offered())
            {
                known.learn_tune(&ticket.endpoint, offered);
            }
            self.pass(io, from, &frame, passed).await?;
            match self.handshake.awaits() {
                None if self.handshake.is_open() => return Ok(()),
                None => return Err(End::Closed),
                now if now != awaited => deadline = None,
                // A heartbeat is no step.
                Some(_) => {}
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.time());
            (from, frame) = self.next(io, deadline).await?;
        }
    }

    fn time(&self) -> Duration {
        match self.handshake.awaits() {
            Some(From::Client) => self.client_time,
            Some(From::Endpoint) | None => self.endpoint_time,
        }
    }

    /// Sends on what `from` has sent.
    async fn pass(&mut self, io: &mut Io, from: From, frame: &Frame, passed: Passed) -> Result<(), End> {
        let bytes = match &passed {
            Passed::AsIs => frame.bytes(),
            Passed::Instead(bytes) => bytes,
        };
        match from {
            From::Client => {
                let written = timeout(self.endpoint_time, self.stream.write_all(bytes)).await;
                written.map_err(|_| End::Endpoint("takes nothing".into()))?.map_err(|_| End::Closed)
            }
            From::Endpoint => {
                let written = timeout(self.client_time, async {
                    io.write_all(bytes).await?;
                    io.flush().await
                });
                match written.await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) | Err(_) => Err(End::Closed),
                }
            }
        }
    }

    /// The next frame of either side.
    async fn next(&mut self, io: &mut Io, deadline: Instant) -> Result<(From, Frame), End> {
        let came = tokio::select! {
            frame = self.from_client.next(io), if self.handshake.hears_client() => (From::Client, frame),
            frame = self.from_endpoint.next(&mut self.stream) => (From::Endpoint, frame),
            () = sleep_until(deadline) => return Err(match self.handshake.awaits() {
                Some(From::Client) => End::Client(
                    format!("the handshake did not go on within {:?} (limits.head_timeout)", self.client_time),
                    code::CONNECTION_FORCED,
                ),
                Some(From::Endpoint) | None => {
                    End::Endpoint(format!("did not answer within {:?} (amqp.prepare_timeout)", self.endpoint_time))
                }
            }),
        };
        match came {
            (from, Ok(frame)) => Ok((from, frame)),
            // Whoever hangs up amid a handshake has its reasons, a refused login among them: the other is hung up on too.
            (_, Err(NoFrame::Closed)) | (From::Client, Err(NoFrame::Broken(_))) => Err(End::Closed),
            (From::Client, Err(NoFrame::Malformed(error))) => {
                Err(End::Client(error.to_string(), error.code()))
            }
            (From::Endpoint, Err(error)) => Err(End::Endpoint(error.to_string())),
        }
    }

    /// A close is out, or one side has hung up: what both still say passes, `wait` at most.
    async fn see_off(mut self, mut io: Io, wait: Duration) {
        let rests = async {
            self.stream.write_all(self.from_client.rest()).await?;
            io.write_all(self.from_endpoint.rest()).await?;
            io.flush().await?;
            copy_bidirectional(&mut io, &mut self.stream).await
        };
        timeout(wait, rests).await.ok();
    }

    /// Closes the client, with a reason where that has a place.
    async fn close(self, io: &mut Io, code: u16, why: &str, wait: Duration) {
        let may_close = self.handshake.may_close();
        drop(self);
        if may_close {
            farewell::close(io, code, why, wait).await;
        }
    }
}
