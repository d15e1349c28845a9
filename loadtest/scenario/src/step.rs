//! A step of a scenario: as it is written, and what it does.
//!
//! When steps may stand where is the file's business; how endpoints come and go is that of the program that plays it.

use std::fmt;
use std::time::Duration;

use model::units;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Shortest time between two changes of a flapping endpoint: a list is read that often at best.
const FLAP_EVERY_MIN: Duration = Duration::from_millis(100);

/// One event; exactly one of the kinds is present.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, from the first connection.
    #[serde(with = "units::duration")]
    pub at: Duration,
    /// A number: start endpoints, or drain and stop those with the highest numbers, until there are so many. Or a
    /// Deployment of a cluster, and how many replicas it gets.
    pub scale: Option<Scale>,
    /// Drain these and stop them.
    pub drain: Option<Vec<String>>,
    /// End this one without a word (SIGKILL); it leaves the list 1 s later.
    pub kill: Option<String>,
    /// Start a killed one again under its old name.
    pub revive: Option<String>,
    /// Drain this one, stop it, start it again as `<name>-r2`.
    pub restart: Option<String>,
    /// Let this one leave the list and rejoin it, in turn, while its process lives.
    pub flap: Option<String>,
    /// An operator's command: move nothing for balance.
    pub pause: Option<bool>,
    /// An operator's command: end the pause, and the return guard's stop.
    pub resume: Option<bool>,
    /// With `scale` down, `drain` and `restart`: an endpoint that still has sessions is stopped then.
    #[serde(default = "units::secs::<30>", with = "units::duration")]
    pub deadline: Duration,
    /// With `flap`: time between leaving and rejoining, and the other way round. At least 100 ms.
    #[serde(default, with = "units::optional_duration")]
    pub every: Option<Duration>,
    /// With `flap`: when it is there for good, from the first connection.
    #[serde(default, with = "units::optional_duration")]
    pub until: Option<Duration>,
    /// With `flap`: in what way it leaves.
    pub how: Option<How>,
}

/// `scale:` as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Endpoints of the program that plays it.
    Endpoints(u32),
    /// Pods of a cluster.
    Deployment(DeploymentScale),
}

/// Replicas of a Deployment.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentScale {
    /// Its name.
    pub deployment: String,
    /// How many it gets.
    pub replicas: u32,
    /// Where it is. Default: the namespace of the kubeconfig, or of the Pod that plays.
    pub namespace: Option<String>,
}

/// What a step does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// See `scale` of a step.
    Scale(u32),
    /// See `scale` of a step.
    ScaleDeployment(DeploymentScale),
    /// See `drain` of a step.
    Drain(Vec<String>),
    /// See `kill` of a step.
    Kill(String),
    /// See `revive` of a step.
    Revive(String),
    /// See `restart` of a step.
    Restart(String),
    /// See `flap` of a step.
    Flap(Flap),
    /// See `pause` of a step.
    Pause,
    /// See `resume` of a step.
    Resume,
}

/// An endpoint that leaves and rejoins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flap {
    /// Who.
    pub endpoint: String,
    /// It leaves at once, rejoins after this, leaves again after this, and so on.
    pub every: Duration,
    /// From then on it is there. From the first connection.
    pub until: Duration,
    /// In what way it leaves.
    pub how: How,
}

/// How a flapping endpoint leaves. Its process runs on and keeps its sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It vanishes from the list.
    #[default]
    Remove,
    /// It is listed as unready.
    Unready,
    /// It is listed as draining.
    Drain,
}

impl Step {
    /// What it does.
    ///
    /// # Errors
    /// When it names no kind, or more than one, or keys of another kind.
    pub fn action(&self) -> Result<Action, String> {
        const KINDS: &str = "scale, drain, kill, revive, restart, flap, pause, resume";
        let kinds = [
            self.scale.clone().map(Action::from),
            self.drain.clone().map(Action::Drain),
            self.kill.clone().map(Action::Kill),
            self.revive.clone().map(Action::Revive),
            self.restart.clone().map(Action::Restart),
            self.flap()?.map(Action::Flap),
            command("pause", self.pause, Action::Pause)?,
            command("resume", self.resume, Action::Resume)?,
        ];
        let mut found = kinds.into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(action), None) => Ok(action),
            (None, _) => Err(format!("does nothing; expected one of {KINDS}")),
            (Some(_), Some(_)) => Err(format!("does two things; expected exactly one of {KINDS}")),
        }
    }

    fn flap(&self) -> Result<Option<Flap>, String> {
        let Some(endpoint) = self.flap.clone() else {
            return match (self.every, self.until, self.how) {
                (None, None, None) => Ok(None),
                _ => Err("has every, until or how, which belong to flap".into()),
            };
        };
        let (Some(every), Some(until)) = (self.every, self.until) else {
            return Err(
                "flaps without every and until; expected both, for example every: 5s, until: 65s".into()
            );
        };
        Ok(Some(Flap { endpoint, every, until, how: self.how.unwrap_or_default() }))
    }
}

impl Action {
    /// It is done by a cluster, through its API.
    pub fn is_of_cluster(&self) -> bool {
        matches!(self, Self::ScaleDeployment(_))
    }

    /// It is done by the gateway, wherever that runs.
    pub fn is_of_gateway(&self) -> bool {
        matches!(self, Self::Pause | Self::Resume)
    }
}

impl From<Scale> for Action {
    fn from(scale: Scale) -> Self {
        match scale {
            Scale::Endpoints(count) => Self::Scale(count),
            Scale::Deployment(scale) => Self::ScaleDeployment(scale),
        }
    }
}

/// A number or a mapping; errors within the mapping name its keys.
impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Scale;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of endpoints, or {deployment: NAME, replicas: N}")
            }

            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Scale, E> {
                let count =
                    u32::try_from(count).map_err(|_| E::custom(format!("scale is {count}, too many")))?;
                Ok(Scale::Endpoints(count))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Scale, E> {
                let count =
                    u64::try_from(count).map_err(|_| E::custom(format!("scale is {count}, below 0")))?;
                self.visit_u64(count)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scale, A::Error> {
                DeploymentScale::deserialize(MapAccessDeserializer::new(map)).map(Scale::Deployment)
            }
        }
        from.deserialize_any(Either)
    }
}

impl Flap {
    /// Whether it is there at `t` after the step at `at`, both from the first connection.
    pub fn present(&self, at: Duration, t: Duration) -> bool {
        let turns = t.saturating_sub(at).as_nanos() / self.every.as_nanos().max(1);
        t >= self.until || turns % 2 == 1
    }

    pub(crate) fn check(&self, at: Duration, run_for: Duration) -> Result<(), String> {
        if self.every < FLAP_EVERY_MIN {
            return Err(format!("every is {:?}, expected at least {FLAP_EVERY_MIN:?}", self.every));
        }
        if self.until <= at || self.until > run_for {
            return Err(format!(
                "until is {:?}, expected after at ({at:?}) and by run_for ({run_for:?})",
                self.until
            ));
        }
        Ok(())
    }
}

/// In words, for reports and progress.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale(count) => write!(f, "scale to {count}"),
            Self::ScaleDeployment(scale) => {
                let namespace = scale.namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
                write!(f, "scale {namespace}{} to {}", scale.deployment, scale.replicas)
            }
            Self::Drain(names) => write!(f, "drain {}", names.join(", ")),
            Self::Kill(name) => write!(f, "kill {name}"),
            Self::Revive(name) => write!(f, "revive {name}"),
            Self::Restart(name) => write!(f, "restart {name}"),
            Self::Flap(flap) => write!(f, "flap {} every {:?}", flap.endpoint, flap.every),
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
        }
    }
}

fn command(key: &str, given: Option<bool>, action: Action) -> Result<Option<Action>, String> {
    match given {
        Some(true) => Ok(Some(action)),
        Some(false) => Err(format!("has {key}: false; expected {key}: true, or nothing")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(text: &str) -> Result<Action, String> {
        serde_saphyr::from_str::<Step>(&format!("{{at: 1s, {text}}}")).unwrap().action()
    }

    #[test]
    fn a_step_does_exactly_one_thing() {
        assert_eq!(action("scale: 3"), Ok(Action::Scale(3)));
        let deployment = DeploymentScale { deployment: "demo".into(), replicas: 5, namespace: None };
        let scale = Ok(Action::ScaleDeployment(deployment));
        assert_eq!(action("scale: {deployment: demo, replicas: 5}"), scale);
        assert_eq!(action("revive: demo-1"), Ok(Action::Revive("demo-1".into())));
        assert_eq!(action("pause: true"), Ok(Action::Pause));
        assert_eq!(action("resume: true"), Ok(Action::Resume));
        assert!(action("deadline: 3s").unwrap_err().contains("does nothing"));
        assert!(action("scale: 3, kill: demo-1").unwrap_err().contains("two things"));
        assert!(action("pause: true, resume: true").unwrap_err().contains("two things"));
        assert!(action("pause: false").unwrap_err().contains("expected pause: true"));
    }

    #[test]
    fn a_wrong_scale_names_what_is_wrong_with_it() {
        let refusal = |text: &str| {
            serde_saphyr::from_str::<Step>(&format!("{{at: 1s, scale: {text}}}")).unwrap_err().to_string()
        };
        assert!(refusal("{deployment: demo, replcas: 5}").contains("replcas"));
        assert!(refusal("{deployment: demo}").contains("replicas"));
        assert!(refusal("many").contains("a number of endpoints, or"), "{}", refusal("many"));
        assert!(refusal("-1").contains("below 0"), "{}", refusal("-1"));
    }

    #[test]
    fn keys_of_a_flap_stand_with_a_flap_only() {
        let (every, until) = (Duration::from_secs(5), Duration::from_secs(60));
        let flap = |how| Flap { endpoint: "demo-3".into(), every, until, how };
        assert_eq!(action("flap: demo-3, every: 5s, until: 60s"), Ok(Action::Flap(flap(How::Remove))));
        let unready = action("flap: demo-3, every: 5s, until: 60s, how: unready");
        assert_eq!(unready, Ok(Action::Flap(flap(How::Unready))));
        assert!(action("flap: demo-3, every: 5s").unwrap_err().contains("expected both"));
        assert!(action("scale: 3, every: 5s").unwrap_err().contains("belong to flap"));
        assert!(flap(How::Drain).check(until, until).unwrap_err().contains("until is 60s"));
        assert!(flap(How::Drain).check(every, every).is_err());
        let fast = Flap { every: Duration::from_millis(1), ..flap(How::Drain) };
        assert!(fast.check(every, until).unwrap_err().contains("at least 100ms"));
    }

    #[test]
    fn a_flapping_endpoint_leaves_first_and_is_there_in_the_end() {
        let secs = Duration::from_secs_f64;
        let flap = Flap { endpoint: "a".into(), every: secs(5.0), until: secs(22.0), how: How::Remove };
        let seen: Vec<bool> = [10.0, 14.9, 15.0, 19.9, 20.0, 21.9, 22.0, 90.0]
            .map(|t| flap.present(secs(10.0), secs(t)))
            .into();
        assert_eq!(seen, [false, false, true, true, false, false, true, true]);
    }
}
