//! One AMQP client: it connects, does its part as publisher or consumer, and comes back as its library would.

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use scenario::rng::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::amqp::board::{Board, kind};
use crate::amqp::{consumer, publisher};
use crate::protocol::Phase;

/// Longest wait for a connection with its channel.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Longest wait for the broker to agree to a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at whether a connection stands.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It publishes, and is this one of the queue's publishers.
    Publish(usize),
    /// It consumes.
    Consume,
}

/// How one connection's work ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// As it should: there is nothing more to do.
    Done,
    /// By an error, in words that are the same for all of its kind.
    Lost(String),
}

/// One of the clients.
pub struct Client {
    /// What all of them share.
    pub board: Rc<Board>,
    /// How far the run has come.
    pub phase: watch::Receiver<Phase>,
    /// Index of its queue.
    pub queue: usize,
    /// What it does.
    pub role: Role,
    /// Of choice and backoff.
    pub rng: Rng,
}

impl Client {
    /// Connects at `first` and works, with as many connections as it takes, until there is nothing more to do.
    pub async fn live(mut self, first: Instant) {
        sleep_until(first).await;
        let (mut attempt, mut lost_at) = (0, None::<Instant>);
        while !self.is_over() {
            match timeout(CONNECT_WITHIN, self.connect()).await {
                Ok(Ok((connection, channel))) => {
                    attempt = 0;
                    if let Some(lost_at) = lost_at.take() {
                        let ms = lost_at.elapsed().as_secs_f64() * 1000.0;
                        self.board.away_ms.borrow_mut().push(ms);
                    }
                    match self.work(&connection, &channel).await {
                        End::Done => return self.leave(&connection, &channel).await,
                        End::Lost(kind) => self.board.notice(kind),
                    }
                    lost_at = Some(Instant::now());
                }
                Ok(Err(kind)) => self.board.notice(format!("connect: {kind}")),
                Err(_) => self.board.notice("connect: no answer within 15 s".into()),
            }
            let Some(delay) = self.board.plan.reconnect.delay(attempt, &mut self.rng) else {
                return;
            };
            attempt += 1;
            let mut phase = self.phase.clone();
            tokio::select! {
                () = sleep(delay) => {}
                _ = phase.wait_for(|phase| *phase == Phase::Finish) => {}
            }
        }
    }

    /// Whether it has nothing to connect for.
    fn is_over(&self) -> bool {
        let phase = *self.phase.borrow();
        phase == Phase::Finish || phase == Phase::Quiet && self.role != Role::Consume
    }

    async fn connect(&mut self) -> Result<(Connection, Channel), String> {
        let target = self.board.target(&mut self.rng).ok_or("no node is ready")?;
        let name = format!("{:?} {}", self.role, self.board.queues[self.queue].name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let uri = format!("amqp://guest:guest@{target}/%2f?heartbeat=20");
        let connection = Connection::connect(&uri, properties).await.map_err(|e| kind(&e))?;
        let channel = connection.create_channel().await.map_err(|e| kind(&e))?;
        Ok((connection, channel))
    }

    async fn work(&mut self, connection: &Connection, channel: &Channel) -> End {
        self.board.connected.set(self.board.connected.get() + 1);
        let mut events = connection.events_listener();
        let blocked = async {
            while let Some(event) = events.next().await {
                if matches!(event, Event::ConnectionBlocked(_)) {
                    self.board.notice("blocked by the broker".into());
                }
            }
            std::future::pending().await
        };
        let part = async {
            match self.role {
                Role::Publish(index) => publisher::work(self, channel, index).await,
                Role::Consume => consumer::work(self, channel).await,
            }
        };
        let end = tokio::select! {
            end = part => end,
            () = blocked => End::Done,
            () = silent_end(connection) => End::Lost("the connection ended without a word".into()),
        };
        self.board.connected.set(self.board.connected.get() - 1);
        end
    }

    async fn leave(&self, connection: &Connection, channel: &Channel) {
        // One after the other: the library closes a dropped channel by itself, and the two closes would race.
        let leave = async {
            channel.close(200, "done".into()).await?;
            connection.close(200, "done".into()).await
        };
        match timeout(CLOSE_WITHIN, leave).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.board.notice(format!("close: {}", kind(&error))),
            Err(_) => self.board.notice("close: no answer within 5 s".into()),
        }
    }
}

/// Returns when the connection has ended and the library tells nobody who waits: for a confirm, say.
async fn silent_end(connection: &Connection) {
    let mut looks = 0;
    // Who waits for something that fails is told first, with the reason.
    while looks < 4 {
        sleep(LOOK_EVERY).await;
        looks = if connection.status().connected() { 0 } else { looks + 1 };
    }
}
