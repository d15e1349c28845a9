//! The file of such a scenario: it has `amqp:` where others have `clients:` and `endpoints:`. See `loadtest/README.md`.

use std::time::Duration;

use model::units;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::amqp::AmqpExpect;
use crate::file::{ReconnectText, within};
use crate::reconnect::{Kind, Reconnect};
use crate::step::{Action, Step};

/// Most nodes of a cluster.
pub const NODES_MAX: u32 = 5;
/// Most connections: each costs a thread here, and what it costs a broker is more.
const CONNECTIONS_MAX: u32 = 400;
/// Bytes of a message that its number, time and origin take.
const BYTES_MIN: f64 = 32.0;
const BYTES_MAX: f64 = 8_388_608.0;

/// The whole file, checked.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpScenario {
    /// Short, of letters, digits and `-`: names the reports.
    pub name: String,
    /// What it shows, one or two sentences.
    #[serde(default)]
    pub description: String,
    /// Of backoff and of the node that a client without a gateway takes.
    #[serde(default = "one")]
    pub seed: u64,
    /// Who publishes and consumes, and where.
    pub amqp: Brokers,
    /// Keys of the gateway's pool, as they are.
    #[serde(default)]
    pub gateway: Map<String, Value>,
    /// What happens when, in order of time.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Length of the run, from the first connection to the last measurement.
    #[serde(with = "units::duration")]
    pub run_for: Duration,
    /// The second run, to compare with: the same without a gateway.
    #[serde(default)]
    pub baseline: DirectRun,
    /// What must come out of the run with evenkeel.
    #[serde(default)]
    pub expect: AmqpExpect,
}

/// Who publishes and consumes, and where.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brokers {
    /// Nodes at the start: `ek1`, `ek2`, ...
    pub nodes: u32,
    /// Queues with their publishers and consumers.
    pub groups: Vec<Group>,
    /// New connections a second at the start.
    #[serde(default = "fifty")]
    pub connect_per_second: f64,
    /// How clients come back. Default: what common libraries do, 1 s and up to 5 s.
    pub reconnect: Option<ReconnectText>,
    /// Time between two rehearsals: each moves every connection that may move. Default: none.
    #[serde(default, with = "units::optional_duration")]
    pub rehearse_every: Option<Duration>,
}

/// Queues that are alike. Each has one consumer with a connection of its own.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Names the queues: `NAME-1`, ...
    pub name: String,
    /// How many queues.
    pub queues: u32,
    /// What kind of queue.
    #[serde(rename = "type", default)]
    pub kind: QueueKind,
    /// Publishers of each queue, each with a connection of its own.
    #[serde(default = "one_publisher")]
    pub publishers: u32,
    /// Whether publishers ask for confirms.
    #[serde(default = "yes")]
    pub confirms: bool,
    /// Messages that a consumer may have without an acknowledgement.
    pub prefetch: u16,
    /// Bytes of a message.
    #[serde(default = "two_hundred")]
    pub bytes: usize,
    /// Publishers stay so many messages ahead of the consumer: the queue is never empty and never long.
    pub backlog: Option<u32>,
    /// Or: time between two messages of a publisher.
    #[serde(default, with = "units::optional_duration")]
    pub every: Option<Duration>,
    /// Time that a consumer takes for a message before it acknowledges. Default: none.
    #[serde(default, with = "units::optional_duration")]
    pub work: Option<Duration>,
}

/// Kind of a queue, `x-queue-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// On one node.
    #[default]
    Classic,
    /// Replicated.
    Quorum,
}

/// The run to compare with.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectRun {
    /// False: there is none.
    pub enabled: bool,
    /// Its length. Default: that of the run.
    #[serde(with = "units::optional_duration")]
    pub run_for: Option<Duration>,
}

impl Default for DirectRun {
    fn default() -> Self {
        Self { enabled: true, run_for: None }
    }
}

#[derive(Deserialize)]
struct Peek {
    amqp: Option<IgnoredAny>,
}

impl AmqpScenario {
    /// Whether a file is such a scenario. One that cannot be read is not.
    pub fn is_meant(text: &str) -> bool {
        serde_saphyr::from_str::<Peek>(text).is_ok_and(|peek| peek.amqp.is_some())
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// A text for the author of the file: the key, what is expected there, what was found.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Connections of all clients.
    pub fn connections(&self) -> u32 {
        self.amqp.groups.iter().map(|group| group.queues * (1 + group.publishers)).sum()
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err(format!("name is {:?}, expected letters, digits and '-'", self.name));
        }
        within("amqp.nodes", f64::from(self.amqp.nodes), 1.0, f64::from(NODES_MAX))?;
        within("amqp.connect_per_second", self.amqp.connect_per_second, 0.1, 1_000.0)?;
        if self.amqp.groups.is_empty() {
            return Err("amqp.groups is empty; expected at least one group of queues".into());
        }
        for (index, group) in self.amqp.groups.iter().enumerate() {
            group.check(&format!("amqp.groups[{index}]"))?;
            if self.amqp.groups[..index].iter().any(|other| other.name == group.name) {
                return Err(format!("amqp.groups[{index}].name is {:?}, as of one before it", group.name));
            }
        }
        let connections = f64::from(self.connections());
        within("the number of connections of all groups", connections, 1.0, f64::from(CONNECTIONS_MAX))?;
        if self.amqp.rehearse_every.is_some_and(|every| every < Duration::from_millis(50)) {
            return Err("amqp.rehearse_every is below 50ms; leave it out for none".into());
        }
        self.amqp.reconnect()?;
        if self.gateway.contains_key("endpoints") || self.gateway.contains_key("endpoints_file") {
            return Err("gateway names endpoints; the replay starts them and writes their list itself".into());
        }
        self.check_steps()
    }

    fn check_steps(&self) -> Result<(), String> {
        let (mut before, mut nodes) = (Duration::ZERO, self.amqp.nodes);
        for (index, step) in self.steps.iter().enumerate() {
            let key = format!("steps[{index}]");
            let action = step.action().map_err(|e| format!("{key} {e}"))?;
            if step.at < before {
                return Err(format!("{key}.at is earlier than the step before it; write steps in order"));
            }
            if step.at >= self.run_for {
                return Err(format!("{key}.at is {:?}, but run_for is {:?}", step.at, self.run_for));
            }
            before = step.at;
            match action {
                Action::Scale(count) if count > nodes && count <= NODES_MAX => nodes = count,
                Action::Scale(count) => {
                    let more = nodes + 1;
                    return Err(format!(
                        "{key}.scale is {count}, expected {more} to {NODES_MAX}: nodes are only added"
                    ));
                }
                Action::Restart(name) | Action::Kill(name) | Action::Revive(name) => {
                    let known = (1..=nodes).any(|number| name == format!("ek{number}"));
                    if !known {
                        return Err(format!("{key} names {name:?}, expected ek1 to ek{nodes}"));
                    }
                }
                other @ (Action::ScaleDeployment(_)
                | Action::Drain(_)
                | Action::Flap(_)
                | Action::Pause
                | Action::Resume) => {
                    return Err(format!(
                        "{key} is {other}, expected scale, restart, kill or revive with amqp"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Brokers {
    /// The reconnect rule, with defaults filled in.
    ///
    /// # Errors
    /// When numbers are given to a preset, or are out of bounds.
    pub fn reconnect(&self) -> Result<Reconnect, String> {
        let common = || ReconnectText {
            kind: Kind::Backoff,
            first: Some(Duration::from_secs(1)),
            factor: Some(1.5),
            max: Some(Duration::from_secs(5)),
            jitter: Some(0.3),
        };
        self.reconnect.clone().unwrap_or_else(common).rule("amqp.reconnect", false)
    }
}

impl Group {
    fn check(&self, key: &str) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err(format!("{key}.name is {:?}, expected letters, digits and '-'", self.name));
        }
        within(&format!("{key}.queues"), f64::from(self.queues), 1.0, 200.0)?;
        within(&format!("{key}.publishers"), f64::from(self.publishers), 1.0, 50.0)?;
        within(&format!("{key}.prefetch"), f64::from(self.prefetch), 1.0, 2_000.0)?;
        within(&format!("{key}.bytes"), self.bytes as f64, BYTES_MIN, BYTES_MAX)?;
        match (self.backlog, self.every) {
            (Some(backlog), None) => within(&format!("{key}.backlog"), f64::from(backlog), 1.0, 10_000.0),
            (None, Some(every)) if every >= Duration::from_millis(1) => Ok(()),
            (None, Some(every)) => Err(format!("{key}.every is {every:?}, expected at least 1ms")),
            (Some(_), Some(_)) => Err(format!("{key} has backlog and every; expected exactly one of them")),
            (None, None) => Err(format!("{key} has neither backlog nor every; expected exactly one of them")),
        }
    }
}

fn yes() -> bool {
    true
}

fn one() -> u64 {
    1
}

fn one_publisher() -> u32 {
    1
}

fn fifty() -> f64 {
    50.0
}

fn two_hundred() -> usize {
    200
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
name: small
amqp:
  nodes: 2
  groups:
    - {name: orders, queues: 3, prefetch: 20, backlog: 100}
run_for: 20s
";

    fn refusal(more: &str) -> String {
        AmqpScenario::parse(&format!("{SMALL}{more}")).unwrap_err()
    }

    fn with(from: &str, to: &str) -> String {
        AmqpScenario::parse(&SMALL.replace(from, to)).unwrap_err()
    }

    #[test]
    fn the_smallest_scenario_gets_its_defaults() {
        let scenario = AmqpScenario::parse(SMALL).unwrap();
        let group = &scenario.amqp.groups[0];
        assert_eq!((group.kind, group.confirms, group.bytes), (QueueKind::Classic, true, 200));
        assert_eq!((scenario.connections(), scenario.baseline.enabled), (6, true));
        assert_eq!(scenario.amqp.reconnect().unwrap().backoff.max_ms, 5_000.0);
    }

    #[test]
    fn a_file_is_told_by_its_section() {
        assert!(AmqpScenario::is_meant(SMALL));
        assert!(!AmqpScenario::is_meant(
            "name: a\nclients: {count: 1}\nendpoints: {count: 1}\nrun_for: 1s\n"
        ));
        assert!(!AmqpScenario::is_meant(": ["));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        assert!(refusal("clients: {count: 3}\n").contains("clients"));
        assert!(refusal("expect: {moves_min: 3}\n").contains("moves_min"));
        assert!(with("prefetch", "prefech").contains("prefech"));
    }

    #[test]
    fn a_group_has_a_backlog_or_a_rate() {
        assert!(with(", backlog: 100", "").contains("amqp.groups[0] has neither"));
        assert!(with("backlog: 100", "backlog: 100, every: 5ms").contains("exactly one"));
        assert!(with("backlog: 100", "every: 1us").contains("at least 1ms"));
        assert!(AmqpScenario::parse(&SMALL.replace("backlog: 100", "every: 5ms")).is_ok());
    }

    #[test]
    fn a_value_out_of_bounds_is_told_with_the_bounds() {
        assert!(with("nodes: 2", "nodes: 9").contains("amqp.nodes is 9, expected 1 to 5"));
        assert!(with("prefetch: 20", "prefetch: 0").contains("amqp.groups[0].prefetch is 0, expected 1"));
        assert!(with("queues: 3", "queues: 200, publishers: 2").contains("is 600, expected 1 to 400"));
        assert!(with("backlog: 100", "backlog: 100, bytes: 8").contains("bytes is 8, expected 32"));
    }

    #[test]
    fn a_cluster_grows_and_its_nodes_restart_and_nothing_else() {
        assert!(refusal("steps: [{at: 1s, scale: 2}]\n").contains("expected 3 to 5"));
        assert!(refusal("steps: [{at: 1s, restart: demo-1}]\n").contains("expected ek1 to ek2"));
        assert!(refusal("steps: [{at: 1s, pause: true}]\n").contains("is pause, expected scale"));
        let steps = "steps: [{at: 1s, scale: 3}, {at: 5s, restart: ek3}]\n";
        assert!(AmqpScenario::parse(&format!("{SMALL}{steps}")).is_ok());
    }
}
