//! One run of an AMQP scenario, from the first broker to the last account.
//!
//! With a gateway all clients connect to it; without one each connects to a node by chance, as behind a Service, and
//! again when its node goes. Nothing else differs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use scenario::amqp::{Account, AmqpScenario, AmqpSummary};
use scenario::series::{Change, Sample, State};
use scenario::{Mark, Run, Summary, Timeline};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use crate::amqp::metrics::{self, Migrations};
use crate::amqp::nodes::{Happened, Nodes, POOL, connections};
use crate::amqp::plan::{AmqpOutcome, AmqpPlan, AmqpSample};
use crate::child::{Child, What, Who};
use crate::gateway::{Admin, Gateway};
use crate::progress::Progress;
use crate::protocol::{Answer, Order};
use crate::recording::cost;
use crate::usage::{self, Usage};

/// How often connections are counted.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for the clients' account: their queues drain first.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(100);
/// Longest wait for a step that is not done when the run is over.
const STEP_WITHIN: Duration = Duration::from_secs(120);
/// Connections at a node before those that moved away have ended: the gateway lets them linger.
const LINGER: Duration = Duration::from_millis(1_500);

/// Which run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `evenkeel` or `direct`.
    pub label: String,
    /// How long, from the first connection.
    pub length: Duration,
    /// Keys of the gateway's pool; `None`: clients connect to the nodes.
    pub pool: Option<Map<String, Value>>,
    /// Takes configuration, list, logs and the brokers' data.
    pub folder: PathBuf,
    /// No progress is shown.
    pub quiet: bool,
}

struct Play<'a> {
    scenario: &'a AmqpScenario,
    setup: &'a Setup,
    nodes: Nodes,
    happened: mpsc::UnboundedReceiver<Happened>,
    events: mpsc::UnboundedReceiver<(Who, What)>,
    clients: Child,
    gateway: Option<Gateway>,
    progress: Progress,
    began: Instant,
    timeline: Timeline,
    latest: AmqpSample,
    outcome: Option<AmqpOutcome>,
    done: bool,
    /// A step goes on.
    busy: bool,
    rehearsals: Rehearsals,
    faults: Vec<String>,
}

/// Rehearsals that were ordered, and the last refusal.
#[derive(Default)]
struct Rehearsals {
    answers: Option<mpsc::UnboundedReceiver<anyhow::Result<()>>>,
    ordered: u64,
    refused: Option<String>,
}

/// Runs the scenario once.
///
/// # Errors
/// When a process cannot be started or ends too early, or a step cannot be taken. What merely ends badly is a fault
/// in the summary.
pub async fn run(scenario: &AmqpScenario, setup: &Setup) -> anyhow::Result<Run> {
    std::fs::create_dir_all(&setup.folder)
        .with_context(|| format!("cannot create {}", setup.folder.display()))?;
    let progress = Progress::new(setup.quiet, &setup.label, setup.length);
    progress.say(&format!("{:>9}          {} nodes start", setup.label, scenario.amqp.nodes));
    let (tx, happened) = mpsc::unbounded_channel();
    let list = setup.folder.join("endpoints.yaml");
    let nodes = Nodes::start(&setup.folder.join("cluster"), &list, scenario.amqp.nodes, tx).await?;
    let gateway = match &setup.pool {
        Some(pool) => Some(Gateway::configured(&setup.folder, &config(pool, &list)).await?),
        None => None,
    };
    let idle = gateway.as_ref().and_then(|gateway| usage::of(gateway.pid()?).ok());
    let (tx, events) = mpsc::unbounded_channel();
    let log = setup.folder.join("clients.log");
    let clients = Child::spawn(Who::Clients, &["amqp-clients".into()], &tx, log)?;
    let mut play = Play {
        scenario,
        setup,
        nodes,
        happened,
        events,
        clients,
        gateway,
        progress,
        began: Instant::now(),
        timeline: Timeline {
            label: setup.label.clone(),
            length_s: setup.length.as_secs_f64(),
            clients: Some(scenario.connections()),
            ..Timeline::default()
        },
        latest: AmqpSample::default(),
        outcome: None,
        done: false,
        busy: false,
        rehearsals: Rehearsals::default(),
        faults: Vec::new(),
    };
    play.begin().await?;
    play.play().await?;
    play.wind_up(idle).await
}

impl Play<'_> {
    async fn begin(&mut self) -> anyhow::Result<()> {
        let plan = AmqpPlan::of(self.scenario, self.targets()).map_err(anyhow::Error::msg)?;
        self.clients.order(&Order::StartAmqp(plan)).await;
        self.began = Instant::now();
        for name in self.nodes.states.keys() {
            self.timeline.series.changes.push(Change { t: 0.0, endpoint: name.clone(), state: State::Ready });
        }
        if let (Some(every), Some(admin)) = (self.scenario.amqp.rehearse_every, self.admin()) {
            self.rehearsals.answers = Some(rehearse(admin, every));
        }
        Ok(())
    }

    fn admin(&self) -> Option<Admin> {
        self.gateway.as_ref().map(|gateway| gateway.admin)
    }

    fn targets(&self) -> Vec<SocketAddr> {
        match &self.gateway {
            Some(gateway) => vec![gateway.listener],
            None => self.nodes.ready(),
        }
    }

    /// The timed part.
    async fn play(&mut self) -> anyhow::Result<()> {
        let end = self.began + self.setup.length;
        let mut next_step = 0;
        let mut every = interval(SAMPLE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                Some((_, what)) = self.events.recv() => self.hear(what)?,
                Some(happened) = self.happened.recv() => self.note(happened).await?,
                _ = every.tick() => {
                    let now = Instant::now();
                    self.step(now, &mut next_step)?;
                    self.sample(now);
                    if let Some(death) = self.gateway.as_mut().and_then(Gateway::died) {
                        bail!(death);
                    }
                }
            }
        }
        if next_step < self.scenario.steps.len() {
            self.faults.push("the run was over before its last step was taken".into());
        }
        Ok(())
    }

    /// Takes the next step when it is time for it and the one before is done.
    fn step(&mut self, now: Instant, next: &mut usize) -> anyhow::Result<()> {
        let Some(step) = self.scenario.steps.get(*next).filter(|_| !self.busy) else {
            return Ok(());
        };
        if now < self.began + step.at {
            return Ok(());
        }
        *next += 1;
        let action = step.action().map_err(anyhow::Error::msg)?;
        let t = (now - self.began).as_secs_f64();
        self.progress.say(&format!("          {t:5.1} s  {action}"));
        self.timeline.steps.push(Mark { t, action: action.clone() });
        self.busy = true;
        self.nodes.act(action, step.deadline, self.admin());
        Ok(())
    }

    async fn note(&mut self, happened: Happened) -> anyhow::Result<()> {
        let t = self.began.elapsed().as_secs_f64();
        let (name, state) = match happened {
            Happened::Done(outcome) => {
                self.busy = false;
                return outcome;
            }
            Happened::Added(name, address) => {
                self.nodes.add(&name, address)?;
                (name, State::Ready)
            }
            Happened::State(name, state) => {
                self.nodes.note(&name, state)?;
                (name, state)
            }
        };
        self.progress
            .say(&format!("          {t:5.1} s    {name} is {}", format!("{state:?}").to_lowercase()));
        self.timeline.series.changes.push(Change { t, endpoint: name, state });
        if self.gateway.is_none() {
            let targets = self.targets();
            self.clients.order(&Order::Targets(targets)).await;
        }
        Ok(())
    }

    fn hear(&mut self, what: What) -> anyhow::Result<()> {
        match what {
            What::Said(Answer::Amqp(sample)) => self.latest = sample,
            What::Said(Answer::AmqpOutcome(outcome)) => self.outcome = Some(outcome),
            What::Said(Answer::Done) => self.done = true,
            What::Said(_) => {}
            What::Gone if self.done => {}
            What::Gone => {
                bail!("the clients' process ended by itself; it said:\n{}", self.clients.last_words())
            }
        }
        Ok(())
    }

    /// Connections at each node, by the kernel.
    fn sample(&mut self, now: Instant) {
        let t = now - self.began;
        while let Some(answer) = self.rehearsals.answers.as_mut().and_then(|answers| answers.try_recv().ok())
        {
            self.rehearsals.ordered += 1;
            if let Err(error) = answer {
                self.rehearsals.refused = Some(format!("{error:#}"));
            }
        }
        // Without the table there is nothing to show, and the report says so by its zeros.
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let open = connections(&table, &self.nodes.ports());
        let AmqpSample { connected, away, sent, consumed, errors } = self.latest;
        let each: Vec<String> = open.iter().map(|(name, open)| format!("{name} {open}")).collect();
        let text = format!(
            "{connected} connected, {away} away, {sent} published, {consumed} consumed, {errors} errors | {}",
            each.join("  ")
        );
        self.progress.show(now, &self.setup.label, t, &text);
        self.timeline.series.samples.push(Sample { t: t.as_secs_f64(), open });
    }

    /// After the last measurement: publishers stop, queues drain, clients leave and give their account.
    async fn wind_up(mut self, idle: Option<Usage>) -> anyhow::Result<Run> {
        self.finish_step().await?;
        self.rehearsals.answers = None;
        let end = self.gateway.as_ref().and_then(|gateway| usage::of(gateway.pid()?).ok());
        let (migrations, status) = self.ask_gateway().await;
        // The kernel counts one that has just moved twice; the clients know better how many they are.
        let connected = self.latest.connected;
        self.clients.order(&Order::Finish).await;
        let until = tokio::time::Instant::now() + ACCOUNT_WITHIN;
        while !self.done {
            let event = timeout_at(until, self.events.recv()).await;
            let event = event.context("the clients' account was not there within 100 s")?;
            self.hear(event.context("the clients' process is gone")?.1)?;
        }
        let left = self.nodes.messages().await;
        let left = left.map_err(|e| self.faults.push(format!("queues were not counted: {e:#}"))).ok();
        if let Some(refused) = self.rehearsals.refused.take() {
            self.faults.push(format!("a rehearsal was refused: {refused}"));
        }
        if let Some(gateway) = self.gateway.take() {
            self.faults.extend(gateway.stop().await.err());
        }
        let length = self.setup.length.as_secs_f64();
        self.timeline.series.samples.retain(|sample| sample.t <= length);
        self.timeline.series.changes.retain(|change| change.t <= length);
        let outcome = self.outcome.take().unwrap_or_default();
        let summary = Summary::of(&self.timeline);
        let usage = idle.zip(end);
        let summary = Summary {
            connected,
            gateway: usage.map(|(idle, end)| cost(idle, end, connected)),
            gateway_status: status,
            verified: true,
            amqp: Some(amqp(outcome, migrations, self.rehearsals.ordered, left)),
            faults: self.faults.clone(),
            ..summary
        };
        Ok(Run { summary, series: self.timeline.series })
    }

    /// A node that is being restarted is needed for its queues.
    async fn finish_step(&mut self) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + STEP_WITHIN;
        while self.busy {
            self.faults.push("the last step was not done when the run was over".into());
            let happened = timeout_at(until, self.happened.recv()).await;
            let happened = happened.context("the last step did not end")?.context("nobody takes steps")?;
            self.note(happened).await?;
        }
        self.faults.dedup();
        Ok(())
    }

    async fn ask_gateway(&mut self) -> (Option<Migrations>, Option<Value>) {
        let Some(gateway) = &self.gateway else {
            return (None, None);
        };
        // Moves that are on their way are counted when they are done.
        tokio::time::sleep(LINGER).await;
        let (metrics, status) = (gateway.admin.metrics().await, gateway.status().await);
        let mut or_fault = |e: anyhow::Error| self.faults.push(format!("the gateway was not asked: {e:#}"));
        let metrics = metrics.map(|text| metrics::migrations(&text)).map_err(&mut or_fault).ok();
        (metrics, status.map_err(or_fault).ok())
    }
}

/// Orders a rehearsal at each tick; one that takes longer makes the next ones wait. It ends with its receiver.
fn rehearse(admin: Admin, every: Duration) -> mpsc::UnboundedReceiver<anyhow::Result<()>> {
    let (answers, rx) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let path = format!("/api/v1/pools/{POOL}/rehearse");
        while !answers.is_closed() {
            ticks.tick().await;
            let answer = admin.call("POST", &path).await.map(|_| ());
            if answers.send(answer).is_err() {
                return;
            }
        }
    });
    rx
}

fn amqp(
    outcome: AmqpOutcome,
    migrations: Option<Migrations>,
    rehearsals: u64,
    left: Option<u64>,
) -> AmqpSummary {
    let mut total = Account::default();
    for group in &outcome.groups {
        total += group.account;
    }
    let AmqpOutcome { groups, errors, reconnects, reconnect, confirm, gap } = outcome;
    let (migrations, aborts, freeze) = match migrations {
        Some(Migrations { outcomes, aborts, freeze }) => (Some(outcomes), aborts, freeze),
        None => Default::default(),
    };
    AmqpSummary {
        groups,
        total,
        errors,
        reconnects,
        reconnect,
        confirm,
        gap,
        left_in_queues: left,
        migrations,
        aborts,
        rehearsals,
        freeze,
    }
}

fn config(pool: &Map<String, Value>, list: &std::path::Path) -> Value {
    let mut pool = pool.clone();
    let list = std::path::absolute(list).unwrap_or_else(|_| list.to_owned());
    pool.insert("endpoints_file".into(), list.to_string_lossy().into());
    json!({
        "listeners": [{"address": "127.0.0.1:0", "protocol": "amqp", "routes": [{"pool": POOL}]}],
        "pools": {POOL: pool},
        "admin": {"address": "127.0.0.1:0"},
        "shutdown": {"grace": "4s", "propagation": "0s"},
        "log": {"level": "info"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pools_keys_reach_the_gateway_as_they_are() {
        let pool: Map<String, Value> =
            serde_json::from_str(r#"{"amqp": {"order": "relaxed"}, "balance": "random"}"#).unwrap();
        let config = config(&pool, std::path::Path::new("list.yaml"));
        for (key, value) in &pool {
            assert_eq!(config["pools"][POOL][key], *value, "{key}");
        }
        assert_eq!(config["listeners"][0]["routes"][0]["pool"], POOL);
    }
}
