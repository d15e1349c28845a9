//! A publisher's work on one connection: numbered messages at a rate, or as many as its consumer takes.
//!
//! A message whose confirm does not come is not published again: its fate is told instead.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Error, PublisherConfirm};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::amqp::board::{Queue, kind};
use crate::amqp::client::{Client, End};
use crate::amqp::payload::{self, Label};
use crate::protocol::Phase;

/// Most messages that wait for their confirm.
const UNCONFIRMED_MAX: usize = 1_000;
/// Longest wait for the last confirms.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(20);

type Published = (u64, Instant, PublisherConfirm);

/// Publishes until the run gets quiet or the connection ends.
pub async fn work(client: &Client, channel: &Channel, index: usize) -> End {
    let queue = &client.board.queues[client.queue];
    let group = client.board.group(queue);
    queue.streams.borrow_mut()[index].begin_anew();
    if group.confirms
        && let Err(error) = channel.confirm_select(ConfirmSelectOptions::default()).await
    {
        return End::Lost(kind(&error));
    }
    let (published, mut confirms) = mpsc::channel(UNCONFIRMED_MAX);
    let end = both(client, channel, queue, index, (published, &mut confirms)).await;
    if let End::Lost(_) = end {
        // Confirms that came before the end still count; the others fail at once.
        while let Ok((number, at, confirm)) = confirms.try_recv() {
            if let Ok(confirmation) = confirm.await {
                settle(client, queue, index, (number, at), &confirmation);
            }
        }
    }
    end
}

/// Publishes, and notes confirms beside it.
async fn both(
    client: &Client,
    channel: &Channel,
    queue: &Queue,
    index: usize,
    (published, confirms): (mpsc::Sender<Published>, &mut mpsc::Receiver<Published>),
) -> End {
    let mut confirmed = std::pin::pin!(confirm(client, queue, index, confirms));
    let end = tokio::select! {
        end = publish(client, channel, queue, index, published) => end,
        Err(error) = &mut confirmed => return End::Lost(kind(&error)),
    };
    if let End::Lost(_) = end {
        return end;
    }
    match timeout(CONFIRMS_WITHIN, confirmed).await {
        Ok(Ok(())) => end,
        Ok(Err(error)) => End::Lost(kind(&error)),
        Err(_) => End::Lost("confirms did not come within 20 s".into()),
    }
}

async fn publish(
    client: &Client,
    channel: &Channel,
    queue: &Queue,
    index: usize,
    published: mpsc::Sender<Published>,
) -> End {
    let group = client.board.group(queue);
    let mut phase = client.phase.clone();
    let mut ticks = group.every_us.map(Duration::from_micros).map(ticks);
    loop {
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Quiet) => return End::Done,
            () = turn(queue, index, group.backlog, ticks.as_mut()) => {}
        }
        let number = queue.streams.borrow_mut()[index].publish();
        let label = Label { queue: client.queue as u32, publisher: index as u32, number };
        let message = payload::write(label, group.bytes);
        // Mandatory: a message for which there is no queue comes back instead of vanishing.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = ("".into(), queue.name.as_str().into());
        let properties = BasicProperties::default().with_delivery_mode(2);
        match channel.basic_publish(exchange, key, options, &message, properties).await {
            Ok(confirm) if group.confirms => {
                if published.send((number, Instant::now(), confirm)).await.is_err() {
                    // The reader of confirms has ended, and tells why.
                    std::future::pending::<()>().await;
                }
            }
            Ok(_) => {}
            Err(error) => {
                queue.streams.borrow_mut()[index].fail(number);
                return End::Lost(kind(&error));
            }
        }
    }
}

/// Waits until it is time for the next message.
async fn turn(queue: &Queue, index: usize, backlog: Option<u32>, ticks: Option<&mut Interval>) {
    loop {
        let rung = queue.bell.notified();
        let ahead = queue.streams.borrow()[index].backlog();
        if queue.declared.get() && backlog.is_none_or(|most| ahead < u64::from(most)) {
            break;
        }
        rung.await;
    }
    if let Some(ticks) = ticks {
        ticks.tick().await;
    }
}

/// Notes confirms as they come, until there is no further message.
async fn confirm(
    client: &Client,
    queue: &Queue,
    index: usize,
    published: &mut mpsc::Receiver<Published>,
) -> Result<(), Error> {
    while let Some((number, at, confirm)) = published.recv().await {
        let confirmation = confirm.await?;
        settle(client, queue, index, (number, at), &confirmation);
    }
    Ok(())
}

fn settle(
    client: &Client,
    queue: &Queue,
    index: usize,
    (number, at): (u64, Instant),
    confirmation: &Confirmation,
) {
    let stream = &mut queue.streams.borrow_mut()[index];
    match confirmation {
        Confirmation::Ack(None) => {
            stream.confirm(number);
            client.board.confirmed_after(at.elapsed());
        }
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => stream.give_back(number),
        Confirmation::Nack(None) => stream.refuse(number),
        Confirmation::NotRequested => {}
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
