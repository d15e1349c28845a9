//! The client lapin, without its automatic recovery, on an event loop in a thread of its own; the orders are those of the
//! scripts in `clients`.
//!
//! Not here: any judgement, and calls of single methods (a test that wants those uses lapin itself).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Event};
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Deserialize, Debug)]
#[serde(default)]
struct Order {
    name: String,
    role: String,
    queue: String,
    connection: Option<String>,
    port: u16,
    vhost: String,
    frame_max: Option<u32>,
    confirms: bool,
    outstanding: u64,
    backlog: u64,
    fill: u64,
    sizes: Vec<usize>,
    channels: usize,
    mandatory: bool,
    key: Option<String>,
    prefetch: u16,
    ack: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            name: String::new(),
            role: String::new(),
            queue: String::new(),
            connection: None,
            port: 0,
            vhost: "/".into(),
            frame_max: None,
            confirms: true,
            outstanding: 20,
            backlog: 0,
            fill: 0,
            sizes: vec![64],
            channels: 1,
            mandatory: false,
            key: None,
            prefetch: 20,
            ack: "single".into(),
            kind: "classic".into(),
        }
    }
}

/// Messages of a queue that were published here, consumed, and acknowledged.
#[derive(Default)]
struct Backlog {
    published: AtomicU64,
    /// Confirmed, or published where nobody asks for confirms.
    arrived: AtomicU64,
    consumed: AtomicU64,
    settled: AtomicU64,
    /// Nobody publishes any more.
    ending: AtomicBool,
}

impl Backlog {
    fn open(&self) -> u64 {
        self.published.load(Ordering::Relaxed).saturating_sub(self.settled.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Backlogs(Mutex<BTreeMap<String, Arc<Backlog>>>);

impl Backlogs {
    fn of(&self, queue: &str) -> Arc<Backlog> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(queue.to_owned()).or_default())
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(queue, backlog)| (queue.clone(), backlog.consumed.load(Ordering::Relaxed))).collect()
    }
}

/// A job and what it saw.
struct Job {
    order: Order,
    backlog: Arc<Backlog>,
    stopping: AtomicBool,
    waiting: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    sent: BTreeMap<String, u64>,
    outcomes: Vec<(String, u64, &'static str)>,
    consumed: Vec<(String, u64, u8, u8)>,
    problems: Vec<String>,
}

impl Job {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, text: impl ToString) {
        self.seen().problems.push(text.to_string());
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        let open = self.backlog.open();
        let waits = self.order.confirms && self.waiting.load(Ordering::Relaxed) >= self.order.outstanding;
        !self.stopping() && !waits && (self.order.backlog == 0 || open < self.order.backlog)
    }

    fn next_message(&self, channel: usize) -> (String, u64, Vec<u8>) {
        let label = format!("{}.{channel}", self.order.name);
        let mut seen = self.seen();
        let sent = seen.sent.entry(label.clone()).or_default();
        let number = *sent;
        *sent += 1;
        self.backlog.published.fetch_add(1, Ordering::Relaxed);
        match self.order.confirms {
            true => self.waiting.fetch_add(1, Ordering::Relaxed),
            false => self.backlog.arrived.fetch_add(1, Ordering::Relaxed),
        };
        let size = self.order.sizes[number as usize % self.order.sizes.len()];
        let data = body(&label, number, size);
        (label, number, data)
    }

    fn outcome(&self, label: &str, number: u64, what: &'static str) {
        self.seen().outcomes.push((label.to_owned(), number, what));
        if what != "return" {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.backlog.arrived.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn took(&self, data: &[u8], redelivered: bool) {
        let (label, number, good) = read(data);
        self.seen().consumed.push((label, number, redelivered.into(), good.into()));
        self.backlog.consumed.fetch_add(1, Ordering::Relaxed);
        if self.order.ack == "none" {
            self.backlog.settled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of so many unacknowledged messages may be acknowledged now; they then count as that.
    fn ripe(&self, unsettled: usize) -> usize {
        let mut many = if self.order.ack == "none" { 0 } else { unsettled as u64 };
        if self.order.fill > 0 && !self.backlog.ending.load(Ordering::Relaxed) {
            let (arrived, settled) = (&self.backlog.arrived, &self.backlog.settled);
            let ready = arrived.load(Ordering::Relaxed).saturating_sub(settled.load(Ordering::Relaxed));
            many = many.min(ready.saturating_sub(self.order.fill));
        }
        self.backlog.settled.fetch_add(many, Ordering::Relaxed);
        many as usize
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if self.order.role == "publish" {
            self.backlog.ending.store(true, Ordering::Relaxed);
        }
    }

    fn record(&self) -> Value {
        let (seen, order) = (self.seen(), &self.order);
        let mut record = json!({"name": order.name, "queue": order.queue, "problems": seen.problems});
        if order.role == "publish" {
            record["sent"] = json!(seen.sent);
            record["confirmed"] = order.confirms.into();
            record["outcomes"] = json!(seen.outcomes);
        } else {
            record["consumed"] = json!(seen.consumed);
        }
        json!({ "record": record })
    }
}

fn digest(data: &[u8]) -> String {
    Sha1::digest(data).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Who sent it as which, the digest of the rest, the rest.
fn body(publisher: &str, number: u64, size: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let rest: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    let mut data = format!("{publisher} {number} {}\n", digest(&rest)).into_bytes();
    data.extend(rest);
    data
}

fn read(data: &[u8]) -> (String, u64, bool) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let head = String::from_utf8_lossy(&data[..end]);
    let mut words = head.split(' ');
    let publisher = words.next().unwrap_or_default().to_owned();
    let number = words.next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    let good = words.next() == Some(&digest(data.get(end + 1..).unwrap_or_default()));
    (publisher, number, good)
}

/// Starts the thread; what it says goes to `lines`.
pub fn start(lines: Sender<Value>) -> UnboundedSender<Value> {
    let (orders, incoming) = unbounded_channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(obey(incoming, lines));
    });
    orders
}

async fn obey(mut orders: UnboundedReceiver<Value>, lines: Sender<Value>) {
    let backlogs = Backlogs::default();
    let mut jobs: BTreeMap<String, Arc<Job>> = BTreeMap::new();
    while let Some(order) = orders.recv().await {
        let result = match order["do"].as_str() {
            Some("start") => {
                let given: Vec<Order> = serde_json::from_value(order["jobs"].clone()).expect("jobs of ours");
                let mut groups: BTreeMap<String, Vec<Arc<Job>>> = BTreeMap::new();
                for order in given {
                    let backlog = backlogs.of(&order.queue);
                    let connection = order.connection.clone().unwrap_or_else(|| order.name.clone());
                    let (stopping, waiting, seen) = Default::default();
                    let job = Arc::new(Job { order, backlog, stopping, waiting, seen });
                    jobs.insert(job.order.name.clone(), Arc::clone(&job));
                    groups.entry(connection).or_default().push(job);
                }
                let started = groups.into_values().map(|group| begin(group, lines.clone()));
                let started = futures_util::future::join_all(started).await;
                started.into_iter().all(|started| started).into()
            }
            Some("stop") => {
                let names: Vec<String> =
                    serde_json::from_value(order["jobs"].clone()).expect("names of jobs");
                names.iter().for_each(|name| jobs[name].stop());
                Value::Null
            }
            Some("count") => json!(backlogs.counts()),
            _ => panic!("lapin does not know the order {order}"),
        };
        if lines.send(json!({"id": order["id"], "result": result})).is_err() {
            return;
        }
    }
}

/// Opens the connection of these jobs and lets them run; false when that failed.
async fn begin(jobs: Vec<Arc<Job>>, lines: Sender<Value>) -> bool {
    match open(&jobs).await {
        Ok((connection, channels)) => {
            tokio::spawn(run(jobs, connection, channels, lines));
            true
        }
        Err(error) => {
            for job in &jobs {
                job.problem(&error);
                let _ = lines.send(job.record());
            }
            false
        }
    }
}

type Channels = Vec<(Vec<Channel>, Option<Consumer>)>;

async fn open(jobs: &[Arc<Job>]) -> lapin::Result<(Connection, Channels)> {
    let order = &jobs[0].order;
    let vhost = order.vhost.replace('/', "%2f");
    let frame_max = order.frame_max.map_or(String::new(), |bytes| format!("?frame_max={bytes}"));
    let uri = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}{frame_max}", order.port);
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
    let mut channels = Vec::new();
    for job in jobs {
        let mut own = Vec::new();
        for _ in 0..job.order.channels {
            own.push(prepare(&connection, job).await?);
        }
        let consumer = match job.order.role.as_str() {
            "consume" => {
                own[0].basic_qos(job.order.prefetch, BasicQosOptions::default()).await?;
                let options = BasicConsumeOptions { no_ack: job.order.ack == "none", ..Default::default() };
                let queue = job.order.queue.as_str().into();
                Some(own[0].basic_consume(queue, "".into(), options, FieldTable::default()).await?)
            }
            _ => None,
        };
        channels.push((own, consumer));
    }
    Ok((connection, channels))
}

async fn prepare(connection: &Connection, job: &Job) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(job.order.kind.as_str().into()));
    let queue = job.order.queue.as_str().into();
    channel.queue_declare(queue, QueueDeclareOptions::durable(), arguments).await?;
    if job.order.role == "publish" && job.order.confirms {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    Ok(channel)
}

async fn run(jobs: Vec<Arc<Job>>, connection: Connection, channels: Channels, lines: Sender<Value>) {
    let mut events = Box::pin(connection.events_listener());
    let watched = jobs.clone();
    let watch = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if !matches!(event, Event::Connected) {
                watched.iter().for_each(|job| job.problem(format!("{event:?}")));
            }
        }
    });
    let mut running = Vec::new();
    for (job, (own, consumer)) in jobs.iter().zip(channels) {
        let job = Arc::clone(job);
        running.push(tokio::spawn(async move {
            match consumer {
                Some(consumer) => consume(&job, &own[0], consumer).await,
                None => publish(&job, own).await,
            }
        }));
    }
    for task in running {
        task.await.expect("a job does not panic");
    }
    watch.abort();
    if let Err(error) = connection.close(200, "done".into()).await {
        jobs.iter().for_each(|job| job.problem(format!("close: {error}")));
    }
    for job in &jobs {
        let _ = lines.send(job.record());
    }
}

async fn publish(job: &Arc<Job>, channels: Vec<Channel>) {
    let options = BasicPublishOptions { mandatory: job.order.mandatory, ..Default::default() };
    let key = job.order.key.as_ref().unwrap_or(&job.order.queue).as_str();
    let mut turn = 0;
    let mut look = tokio::time::interval(Duration::from_millis(2));
    while !job.stopping() {
        if !job.has_room() {
            look.tick().await;
            continue;
        }
        turn = (turn + 1) % channels.len();
        let (label, number, data) = job.next_message(turn);
        let properties = BasicProperties::default().with_delivery_mode(2);
        match channels[turn].basic_publish("".into(), key.into(), options, &data, properties).await {
            Err(error) => return job.problem(format!("publish {label} {number}: {error}")),
            Ok(confirm) if job.order.confirms => {
                let job = Arc::clone(job);
                tokio::spawn(async move {
                    match confirm.await {
                        Ok(Confirmation::Ack(returned)) => {
                            if returned.is_some() {
                                job.outcome(&label, number, "return");
                            }
                            job.outcome(&label, number, "ack");
                        }
                        Ok(_) => job.outcome(&label, number, "nack"),
                        Err(error) => job.problem(format!("confirm of {label} {number}: {error}")),
                    }
                });
            }
            Ok(_) => {}
        }
        tokio::task::yield_now().await;
    }
    let end = tokio::time::Instant::now() + PATIENCE;
    while job.waiting.load(Ordering::Relaxed) > 0 {
        if tokio::time::Instant::now() >= end {
            return job.problem("not all messages were confirmed in time");
        }
        look.tick().await;
    }
}

async fn consume(job: &Arc<Job>, channel: &Channel, mut consumer: Consumer) {
    let every = usize::from(job.order.prefetch / 2).max(1);
    let multiple = job.order.ack == "multiple";
    let mut unsettled = VecDeque::new();
    while !job.stopping() {
        let mut is_due = !multiple;
        match tokio::time::timeout(Duration::from_millis(5), consumer.next()).await {
            Ok(Some(Ok(delivery))) => {
                job.took(&delivery.data, delivery.redelivered);
                unsettled.push_back(delivery.acker);
            }
            Ok(Some(Err(error))) => return job.problem(format!("consumer: {error}")),
            Ok(None) => return job.problem("consumer cancelled"),
            Err(_) => is_due = true,
        }
        if !is_due && unsettled.len() < every {
            continue;
        }
        let mut ripe: Vec<_> = unsettled.drain(..job.ripe(unsettled.len())).collect();
        if multiple {
            ripe.drain(..ripe.len().saturating_sub(1));
        }
        for acker in ripe {
            if let Err(error) = acker.ack(BasicAckOptions { multiple }).await {
                return job.problem(format!("ack: {error}"));
            }
        }
    }
    if let Err(error) = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await {
        job.problem(format!("cancel: {error}"));
    }
}
