//! A scenario file: who connects, what happens when, and what must come out. See `loadtest/README.md`.
//!
//! Text in, [`Scenario`] out; unknown keys are errors and every message names the key. What stands under
//! `gateway:` is not judged here: it is passed to the gateway as it is, and the gateway judges it.

use std::time::Duration;

use model::units;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::expect::Expect;
use crate::reconnect::{Backoff, Kind, Reconnect};
use crate::step::{Action, DeploymentScale, Step};

/// What the program that plays a scenario can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Most clients.
    pub clients_max: u32,
    /// Most endpoints at a time.
    pub endpoints_max: u32,
}

/// The whole file, checked.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short, of letters, digits and `-`: names the reports.
    pub name: String,
    /// What it shows, one or two sentences.
    #[serde(default)]
    pub description: String,
    /// Of message phases, backoff and order.
    #[serde(default = "one")]
    pub seed: u64,
    /// Who connects.
    pub clients: Clients,
    /// Who serves.
    pub endpoints: Endpoints,
    /// Keys of the gateway's pool, as they are: `rebalance`, `move`, `placement`, `admission`, `balance`, ...
    #[serde(default)]
    pub gateway: Map<String, Value>,
    /// What only a simulator can do, as it is: the simulator judges it, and real sockets do without.
    #[serde(default)]
    pub sim: Map<String, Value>,
    /// What happens when, in order of time.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Length of the run, from the first connection to the last measurement.
    #[serde(with = "units::duration")]
    pub run_for: Duration,
    /// The second run, to compare with. Default: policy random.
    #[serde(default)]
    pub baseline: Baseline,
    /// What must come out of the run with evenkeel.
    #[serde(default)]
    pub expect: Expect,
}

/// Who connects, how often they speak, how they come back.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// How many.
    pub count: u32,
    /// New connections a second at the start.
    #[serde(default = "thousand")]
    pub connect_per_second: f64,
    /// Time between two messages of a client. Default: they are silent.
    #[serde(default, with = "units::optional_duration")]
    pub message_every: Option<Duration>,
    /// Bytes of a message.
    #[serde(default = "sixty_four")]
    pub message_bytes: usize,
    /// Time between two messages that an endpoint sends by itself in a session. Default: it only answers.
    #[serde(default, with = "units::optional_duration")]
    pub push_every: Option<Duration>,
    /// Addresses that they come from, in turn: as many as clients, and the gateway can tell all of them apart.
    #[serde(default = "one_address")]
    pub addresses: u32,
    /// How they come back.
    #[serde(default)]
    pub reconnect: ReconnectText,
    /// After a 503 with Retry-After they wait that long at least. A library in a browser cannot see the header.
    #[serde(default = "yes")]
    pub honour_retry_after: bool,
}

/// `reconnect:` as it is written.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconnectText {
    /// Library or rule.
    #[serde(default)]
    pub kind: Kind,
    /// With `backoff`: delay of the first attempt.
    #[serde(default, with = "units::optional_duration")]
    pub first: Option<Duration>,
    /// With `backoff`: growth a time, 1.0 to 10.0. Default 2.
    pub factor: Option<f64>,
    /// With `backoff`: longest delay. Default 10 s.
    #[serde(default, with = "units::optional_duration")]
    pub max: Option<Duration>,
    /// With `backoff`: share of variation either way, 0.0 to 1.0. Default 0.2.
    pub jitter: Option<f64>,
}

/// Who serves.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// How many at the start: `demo-1`, `demo-2`, ...
    pub count: u32,
}

/// The run to compare with.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Baseline {
    /// False: there is none.
    pub enabled: bool,
    /// Placement policy; rebalancing is off.
    pub policy: String,
    /// Its length. Default: that of the run.
    #[serde(with = "units::optional_duration")]
    pub run_for: Option<Duration>,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { enabled: true, policy: "random".into(), run_for: None }
    }
}

impl Scenario {
    /// Reads and checks a scenario that is to be played within `bounds`.
    ///
    /// # Errors
    /// A text for the author of the file: the key, what is expected there, what was found.
    pub fn parse(text: &str, bounds: Bounds) -> Result<Self, String> {
        let scenario: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        scenario.check(bounds)?;
        Ok(scenario)
    }

    fn check(&self, bounds: Bounds) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err(format!("name is {:?}, expected letters, digits and '-'", self.name));
        }
        within("clients.count", f64::from(self.clients.count), 1.0, f64::from(bounds.clients_max))?;
        within("clients.connect_per_second", self.clients.connect_per_second, 0.1, 100_000.0)?;
        within("clients.addresses", f64::from(self.clients.addresses), 1.0, f64::from(bounds.clients_max))?;
        within("clients.message_bytes", self.clients.message_bytes as f64, 1.0, 1_048_576.0)?;
        within("endpoints.count", f64::from(self.endpoints.count), 1.0, f64::from(bounds.endpoints_max))?;
        for (key, every) in
            [("message_every", self.clients.message_every), ("push_every", self.clients.push_every)]
        {
            if every.is_some_and(|every| every < Duration::from_millis(1)) {
                return Err(format!("clients.{key} is below 1ms; leave it out for none"));
            }
        }
        self.clients.reconnect()?;
        self.check_steps(bounds)?;
        if self.gateway.contains_key("endpoints") || self.gateway.contains_key("endpoints_file") {
            return Err("gateway names endpoints; the replay starts them and writes their list itself".into());
        }
        Ok(())
    }

    fn check_steps(&self, bounds: Bounds) -> Result<(), String> {
        let mut before = Duration::ZERO;
        for (index, step) in self.steps.iter().enumerate() {
            let key = format!("steps[{index}]");
            let action = step.action().map_err(|e| format!("{key} {e}"))?;
            if step.at < before {
                return Err(format!("{key}.at is earlier than the step before it; write steps in order"));
            }
            if step.at >= self.run_for {
                return Err(format!("{key}.at is {:?}, but run_for is {:?}", step.at, self.run_for));
            }
            match action {
                Action::Scale(count) => {
                    within(&format!("{key}.scale"), f64::from(count), 1.0, f64::from(bounds.endpoints_max))?;
                }
                Action::ScaleDeployment(scale) => {
                    let most = f64::from(bounds.endpoints_max);
                    within(&format!("{key}.scale.replicas"), f64::from(scale.replicas), 1.0, most)?;
                }
                Action::Flap(flap) => flap.check(step.at, self.run_for).map_err(|e| format!("{key}.{e}"))?,
                Action::Drain(_)
                | Action::Kill(_)
                | Action::Revive(_)
                | Action::Restart(_)
                | Action::Pause
                | Action::Resume => {}
            }
            before = step.at;
        }
        self.check_deployments()?;
        match self.first_of_each() {
            (Some(cluster), Some(own)) => Err(format!(
                "{cluster} is a cluster's and {own} is not; a scenario has steps of one kind, since its endpoints are of one"
            )),
            _ => Ok(()),
        }
    }

    fn check_deployments(&self) -> Result<(), String> {
        let mut first: Option<DeploymentScale> = None;
        for (index, step) in self.steps.iter().enumerate() {
            let Ok(Action::ScaleDeployment(scale)) = step.action() else { continue };
            let first = first.get_or_insert_with(|| scale.clone());
            if (&first.namespace, &first.deployment) != (&scale.namespace, &scale.deployment) {
                return Err(format!(
                    "steps[{index}].scale is of {}, expected {} as in the step before: the endpoints of one pool are \
                     one Deployment's",
                    scale.deployment, first.deployment
                ));
            }
        }
        Ok(())
    }

    /// The first step that a cluster takes, and the first that the program takes which plays it.
    fn first_of_each(&self) -> (Option<String>, Option<String>) {
        let (mut cluster, mut own) = (None, None);
        for (index, step) in self.steps.iter().enumerate() {
            let Ok(action) = step.action() else { continue };
            let shown = || format!("steps[{index}] ({action})");
            match (action.is_of_cluster(), action.is_of_gateway()) {
                (true, _) => cluster = cluster.or_else(|| Some(shown())),
                (false, false) => own = own.or_else(|| Some(shown())),
                (false, true) => {}
            }
        }
        (cluster, own)
    }

    /// The first step that only a cluster can take, in words.
    pub fn first_of_cluster(&self) -> Option<String> {
        self.first_of_each().0
    }

    /// The first step for which whoever plays it must have endpoints of its own, in words.
    pub fn first_of_own(&self) -> Option<String> {
        self.first_of_each().1
    }
}

impl Clients {
    /// The reconnect rule, with defaults filled in.
    ///
    /// # Errors
    /// When numbers are given to a preset, or are out of bounds.
    pub fn reconnect(&self) -> Result<Reconnect, String> {
        self.reconnect.rule("clients.reconnect", self.honour_retry_after)
    }
}

impl ReconnectText {
    /// The rule, with defaults filled in; `key` is where it stands in the file.
    ///
    /// # Errors
    /// When numbers are given to a preset, or are out of bounds.
    pub fn rule(&self, key: &str, honour_retry_after: bool) -> Result<Reconnect, String> {
        let Self { kind, first, factor, max, jitter } = self.clone();
        let own = first.is_some() || factor.is_some() || max.is_some() || jitter.is_some();
        if kind != Kind::Backoff {
            if own {
                return Err(format!("{key} has numbers of its own; they need `kind: backoff`"));
            }
            return Ok(Reconnect { kind, honour_retry_after, ..Reconnect::default() });
        }
        let Some(first) = first else {
            return Err(format!("{key}.first is missing; `kind: backoff` needs it, for example 1s"));
        };
        let (factor, jitter) = (factor.unwrap_or(2.0), jitter.unwrap_or(0.2));
        within(&format!("{key}.factor"), factor, 1.0, 10.0)?;
        within(&format!("{key}.jitter"), jitter, 0.0, 1.0)?;
        let max = max.unwrap_or(Duration::from_secs(10));
        if max < first {
            return Err(format!("{key}.max is {max:?}, expected at least first ({first:?})"));
        }
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let backoff = Backoff { first_ms: ms(first), factor, max_ms: ms(max), jitter };
        Ok(Reconnect { kind, backoff, honour_retry_after })
    }
}

pub(crate) fn within(key: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} is {value}, expected {least} to {most}"))
}

fn yes() -> bool {
    true
}

fn one() -> u64 {
    1
}

fn one_address() -> u32 {
    1
}

fn thousand() -> f64 {
    1000.0
}

fn sixty_four() -> usize {
    64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
name: small
clients: {count: 10}
endpoints: {count: 2}
run_for: 5s
";

    fn parse(text: &str) -> Result<Scenario, String> {
        Scenario::parse(text, Bounds { clients_max: 9_800, endpoints_max: 200 })
    }

    fn refusal(more: &str) -> String {
        parse(&format!("{SMALL}{more}")).unwrap_err()
    }

    #[test]
    fn the_smallest_scenario_gets_its_defaults() {
        let scenario = parse(SMALL).unwrap();
        assert_eq!(scenario.clients.connect_per_second, 1000.0);
        assert_eq!(scenario.clients.message_every, None);
        assert!(scenario.baseline.enabled && scenario.clients.honour_retry_after);
        assert_eq!(scenario.clients.reconnect().unwrap().kind, Kind::Immediate);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        assert!(refusal("expct: {}\n").contains("expct"));
        assert!(refusal("expect: {imbalance: 1}\n").contains("imbalance"));
        assert!(refusal("steps: [{at: 1s, scael: 3}]\n").contains("scael"));
    }

    #[test]
    fn steps_stand_in_order_and_within_the_run() {
        assert!(refusal("steps: [{at: 1s}]\n").contains("steps[0] does nothing"));
        assert!(refusal("steps: [{at: 2s, scale: 3}, {at: 1s, scale: 2}]\n").contains("steps[1].at"));
        assert!(refusal("steps: [{at: 9s, scale: 3}]\n").contains("run_for"));
        assert!(refusal("steps: [{at: 1s, scale: 0}]\n").contains("steps[0].scale is 0"));
        let late = refusal("steps: [{at: 1s, flap: demo-1, every: 1s, until: 6s}]\n");
        assert!(late.contains("steps[0].until is 6s, expected"), "{late}");
    }

    #[test]
    fn steps_are_a_clusters_or_ones_own() {
        let cluster = "steps: [{at: 1s, scale: {deployment: demo, replicas: 3}}, {at: 2s, pause: true}]\n";
        let scenario = parse(&format!("{SMALL}{cluster}")).unwrap();
        assert_eq!(scenario.first_of_cluster().as_deref(), Some("steps[0] (scale demo to 3)"));
        assert_eq!(scenario.first_of_own(), None);
        let mixed =
            refusal("steps: [{at: 1s, scale: {deployment: demo, replicas: 3}}, {at: 2s, scale: 2}]\n");
        assert!(mixed.contains("steps[1] (scale to 2) is not"), "{mixed}");
        let two = "steps: [{at: 1s, scale: {deployment: a, replicas: 3}}, {at: 2s, scale: {deployment: b, replicas: 3}}]\n";
        assert!(refusal(two).contains("steps[1].scale is of b, expected a"), "{}", refusal(two));
        let none = refusal("steps: [{at: 1s, scale: {deployment: demo, replicas: 0}}]\n");
        assert!(none.contains("steps[0].scale.replicas is 0, expected 1"), "{none}");
    }

    #[test]
    fn a_value_out_of_bounds_is_told_with_the_bounds() {
        let text = SMALL.replace("count: 10", "count: 100000");
        assert!(parse(&text).unwrap_err().contains("expected 1 to 9800"));
        assert!(parse(&SMALL.replace("small", "../x")).unwrap_err().contains("name is"));
        assert!(parse(&SMALL.replace("5s", "5")).unwrap_err().contains("not a duration"));
        let text = SMALL.replace("count: 10", "count: 10, addresses: 0");
        assert!(parse(&text).unwrap_err().contains("clients.addresses is 0, expected 1"));
        assert!(refusal("gateway: {endpoints_file: x}\n").contains("names endpoints"));
    }

    #[test]
    fn own_reconnect_numbers_need_the_kind_backoff() {
        let with =
            |text: &str| parse(&SMALL.replace("count: 10", &format!("count: 10, reconnect: {{{text}}}")));
        assert!(with("kind: partysocket, first: 1s").unwrap_err().contains("kind: backoff"));
        assert!(with("kind: backoff").unwrap_err().contains("first is missing"));
        assert!(with("kind: backoff, first: 20s").unwrap_err().contains("max is"));
        let rule = with("kind: backoff, first: 1s, jitter: 0").unwrap().clients.reconnect().unwrap();
        assert_eq!(rule.backoff, Backoff { first_ms: 1000.0, factor: 2.0, max_ms: 10_000.0, jitter: 0.0 });
    }
}
