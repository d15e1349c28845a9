//! A consumer's work on one connection: it declares its queue, takes messages, works on each, acknowledges it.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer, Error};
use scenario::amqp::QueueKind;
use tokio::time::{Instant, sleep};

use crate::amqp::board::{Queue, kind};
use crate::amqp::client::{Client, End};
use crate::amqp::payload;
use crate::amqp::plan::GroupPlan;
use crate::protocol::Phase;

/// Consumes until everything has been consumed or the connection ends.
pub async fn work(client: &Client, channel: &Channel) -> End {
    let queue = &client.board.queues[client.queue];
    let group = client.board.group(queue);
    let mut consumer = match begin(channel, queue, group).await {
        Ok(consumer) => consumer,
        Err(error) => return End::Lost(kind(&error)),
    };
    queue.declared.set(true);
    queue.bell.notify_waiters();
    let work = group.work_us.map(Duration::from_micros);
    let mut phase = client.phase.clone();
    loop {
        let next = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Finish) => return end(channel, &consumer).await,
            next = consumer.next() => next,
        };
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return End::Lost(kind(&error)),
            None => return End::Lost("the broker cancelled the consumer".into()),
        };
        if *client.phase.borrow() == Phase::Run {
            queue.gap.set(queue.gap.get().seen(Instant::now()));
        }
        let stream = note(client, queue, group, &delivery);
        if let Some(work) = work {
            sleep(work).await;
        }
        if let Err(error) = delivery.acker.ack(BasicAckOptions::default()).await {
            return End::Lost(kind(&error));
        }
        if let Some(stream) = stream {
            queue.streams.borrow_mut()[stream].ack();
        }
        queue.bell.notify_waiters();
    }
}

async fn end(channel: &Channel, consumer: &Consumer) -> End {
    match channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await {
        Ok(()) => End::Done,
        Err(error) => End::Lost(kind(&error)),
    }
}

async fn begin(channel: &Channel, queue: &Queue, group: &GroupPlan) -> Result<Consumer, Error> {
    let kind = match group.kind {
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.name.as_str().into(), durable, arguments).await?;
    channel.basic_qos(group.prefetch, BasicQosOptions::default()).await?;
    let tag = format!("consumer of {}", queue.name);
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.name.as_str().into(), tag.into(), options, FieldTable::default()).await
}

/// Notes a delivery in its stream; answers which. `None`: it is not what was published here.
fn note(client: &Client, queue: &Queue, group: &GroupPlan, delivery: &Delivery) -> Option<usize> {
    let label = payload::read(&delivery.data, group.bytes);
    let label = label.filter(|label| label.queue as usize == client.queue);
    let mut streams = queue.streams.borrow_mut();
    let found = label.and_then(|label| Some((label, streams.get_mut(label.publisher as usize)?)));
    let Some((label, stream)) = found else {
        queue.damaged.set(queue.damaged.get() + 1);
        return None;
    };
    stream.deliver(label.number, delivery.redelivered);
    Some(label.publisher as usize)
}
