//! The demo endpoints of a run: started, listed for the gateway, drained, killed, restarted.
//!
//! The list is a file that the gateway watches, replaced as a whole. An endpoint's life is that of a Pod: it is
//! listed as ready once it listens, as draining before it stops, and a killed one leaves the list 1 s late.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use scenario::series::{Change, State};
use scenario::{Action, Flap, How};

use crate::child::{Child, Events, What, Who};
use crate::protocol::{Answer, Order};

/// How long the list still shows a killed endpoint, about what Kubernetes takes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);
/// A drained endpoint is not stopped before this: its count of open sessions is told every 200 ms.
const DRAIN_AT_LEAST: Duration = Duration::from_millis(600);

/// All endpoints of a run, living and dead.
pub struct Demo {
    folder: PathBuf,
    list: PathBuf,
    push_every: Option<Duration>,
    events: Events,
    endpoints: BTreeMap<String, Endpoint>,
    numbers: u32,
    addresses: u8,
    /// Set when the first client connects; times before it are 0.
    pub began: Option<Instant>,
    /// Starts, drains and stops so far.
    pub changes: Vec<Change>,
    /// Names that were killed, and when, seconds since the first connection.
    pub killed: BTreeMap<String, f64>,
    flaps: Vec<(Duration, Flap)>,
}

struct Endpoint {
    child: Child,
    number: u32,
    address: Option<SocketAddr>,
    stage: Stage,
    open: u32,
    /// Its process was seen to have ended.
    ended: bool,
}

enum Stage {
    Starting,
    Ready,
    /// Flapping, and not there at the moment.
    Away(How),
    Draining {
        since: Instant,
        deadline: Instant,
        successor: Option<String>,
    },
    Stopping {
        successor: Option<String>,
    },
    Killed {
        at: Instant,
        revive: bool,
    },
    Gone,
}

impl Demo {
    /// No endpoint yet. `list` is the file for the gateway, `folder` takes the logs.
    pub fn new(folder: &Path, list: &Path, push_every: Option<Duration>, events: Events) -> Self {
        Self {
            folder: folder.to_owned(),
            list: list.to_owned(),
            push_every,
            events,
            endpoints: BTreeMap::new(),
            numbers: 0,
            addresses: 0,
            began: None,
            changes: Vec::new(),
            killed: BTreeMap::new(),
            flaps: Vec::new(),
        }
    }

    /// Starts the next `count` endpoints. They are listed when they listen.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start(&mut self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            self.numbers += 1;
            self.start_as(&format!("demo-{}", self.numbers), self.numbers)?;
        }
        Ok(())
    }

    /// Whether every endpoint that was started listens.
    pub fn settled(&self) -> bool {
        !self.endpoints.values().any(|endpoint| matches!(endpoint.stage, Stage::Starting))
    }

    /// Does what a step says; what takes time goes on in [`Demo::tick`].
    ///
    /// # Errors
    /// When the step names an endpoint that is not ready, or a process cannot be started.
    pub fn act(&mut self, now: Instant, action: &Action, deadline: Duration) -> anyhow::Result<()> {
        match action {
            Action::Scale(count) => {
                let mut ready = self.ready_by_number();
                match (*count as usize).checked_sub(ready.len()) {
                    Some(missing) => self.start(missing as u32)?,
                    None => {
                        for name in ready.split_off(*count as usize) {
                            self.drain(now, &name, deadline, None)?;
                        }
                    }
                }
            }
            Action::Drain(names) => {
                for name in names {
                    self.drain(now, name, deadline, None)?;
                }
            }
            Action::Kill(name) => {
                let endpoint = self.ready(name)?;
                endpoint.child.kill();
                endpoint.stage = Stage::Killed { at: now, revive: false };
                endpoint.open = 0;
                self.killed.insert(name.clone(), self.since_began(now).as_secs_f64());
                self.note(now, name, State::Gone);
            }
            Action::Revive(name) => self.revive(name)?,
            Action::Flap(flap) => {
                self.ready(&flap.endpoint)?;
                self.flaps.push((self.since_began(now), flap.clone()));
                self.flap(now);
            }
            Action::Restart(name) => self.drain(now, name, deadline, Some(successor(name)))?,
            // Not about endpoints of ours.
            Action::ScaleDeployment(_) | Action::Pause | Action::Resume => {}
        }
        self.write_list()
    }

    /// Takes what an endpoint's process said or did.
    ///
    /// # Errors
    /// When an endpoint ends that should not have, or its successor cannot be started.
    pub fn handle(&mut self, now: Instant, name: &str, what: &What) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(name) else {
            return Ok(());
        };
        match what {
            What::Said(Answer::Listening(address)) => {
                endpoint.address = Some(*address);
                endpoint.stage = Stage::Ready;
                self.note(now, name, State::Ready);
                self.write_list()
            }
            What::Said(Answer::Open(open)) => {
                endpoint.open = *open;
                Ok(())
            }
            What::Said(
                Answer::Clients(_)
                | Answer::ClientSessions(_)
                | Answer::EndpointSessions(_)
                | Answer::Amqp(_)
                | Answer::AmqpOutcome(_)
                | Answer::Done,
            ) => Ok(()),
            What::Gone => self.gone(now, name),
        }
    }

    /// Whatever time brings: drained endpoints are stopped, killed ones leave the list, flapping ones come and go.
    ///
    /// # Errors
    /// When the list cannot be written, or an endpoint not be started.
    pub async fn tick(&mut self, now: Instant) -> anyhow::Result<()> {
        let mut changed = self.flap(now);
        let mut revived = Vec::new();
        for (name, endpoint) in &mut self.endpoints {
            match &mut endpoint.stage {
                Stage::Draining { since, deadline, successor } => {
                    let empty = endpoint.open == 0 && now >= *since + DRAIN_AT_LEAST;
                    if empty || now >= *deadline {
                        let successor = successor.take();
                        endpoint.stage = Stage::Stopping { successor };
                        endpoint.child.order(&Order::Finish).await;
                    }
                }
                Stage::Killed { at, revive } if endpoint.ended && now >= *at + FORGOTTEN_AFTER => {
                    if *revive {
                        revived.push((name.clone(), endpoint.number));
                    }
                    endpoint.stage = Stage::Gone;
                    changed = true;
                }
                Stage::Starting
                | Stage::Ready
                | Stage::Away(_)
                | Stage::Stopping { .. }
                | Stage::Killed { .. }
                | Stage::Gone => {}
            }
        }
        for (name, number) in revived {
            self.start_as(&name, number)?;
        }
        if changed { self.write_list() } else { Ok(()) }
    }

    /// Endpoints that listen, and where, by name.
    pub fn listening(&self) -> Vec<(String, SocketAddr)> {
        let ready = self.endpoints.iter().filter(|(_, endpoint)| matches!(endpoint.stage, Stage::Ready));
        ready.filter_map(|(name, endpoint)| Some((name.clone(), endpoint.address?))).collect()
    }

    /// Whether `name` takes new sessions.
    pub fn is_ready(&self, name: &str) -> bool {
        self.endpoints.get(name).is_some_and(|endpoint| matches!(endpoint.stage, Stage::Ready))
    }

    /// Notes endpoints that are not ours, known only by what clients see, as ready from `t` on.
    pub fn discover<'a>(&mut self, t: f64, names: impl Iterator<Item = &'a String>) {
        for name in names {
            if !self.changes.iter().any(|change| change.endpoint == *name) {
                self.changes.push(Change { t, endpoint: name.clone(), state: State::Ready });
            }
        }
    }

    /// Sends an order to every endpoint that lives. After [`Order::Finish`] none has a successor.
    pub async fn order(&mut self, order: &Order) {
        for endpoint in self.endpoints.values_mut() {
            let living = !matches!(endpoint.stage, Stage::Killed { .. } | Stage::Gone);
            if living && *order == Order::Finish {
                endpoint.stage = Stage::Stopping { successor: None };
            }
            if living {
                endpoint.child.order(order).await;
            }
        }
    }

    /// Endpoints that have neither reported nor been killed, with their last words.
    pub fn unfinished(&self) -> Vec<&str> {
        let living = |stage: &Stage| !matches!(stage, Stage::Killed { .. } | Stage::Gone);
        self.endpoints.iter().filter(|(_, e)| living(&e.stage)).map(|(name, _)| name.as_str()).collect()
    }

    /// Sessions that the endpoints said were still open when they ended.
    pub fn left_open(&self) -> u32 {
        let told = self.endpoints.values().filter(|endpoint| matches!(endpoint.stage, Stage::Gone));
        told.map(|endpoint| endpoint.open).sum()
    }

    fn start_as(&mut self, name: &str, number: u32) -> anyhow::Result<()> {
        self.addresses = self.addresses.checked_add(1).context("more than 240 endpoints in one run")?;
        // 127.0.0.0/8 is all loopback on Linux; an address each gives each its own source port range.
        let address = Ipv4Addr::new(127, 0, 0, self.addresses.saturating_add(10));
        let mut args: Vec<OsString> = vec!["endpoint".into(), "--name".into(), name.into()];
        args.extend(["--address".into(), format!("{address}:0").into()]);
        if let Some(every) = self.push_every {
            args.extend(["--push-every-ms".into(), every.as_millis().to_string().into()]);
        }
        let log = self.folder.join(format!("{name}.log"));
        let child = Child::spawn(Who::Endpoint(name.into()), &args, &self.events, log)?;
        let endpoint =
            Endpoint { child, number, address: None, stage: Stage::Starting, open: 0, ended: false };
        self.endpoints.insert(name.into(), endpoint);
        Ok(())
    }

    fn gone(&mut self, now: Instant, name: &str) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(name) else {
            return Ok(());
        };
        let number = endpoint.number;
        endpoint.ended = true;
        match &mut endpoint.stage {
            Stage::Stopping { successor } => {
                let successor = successor.take();
                endpoint.stage = Stage::Gone;
                self.note(now, name, State::Gone);
                if let Some(successor) = successor {
                    self.start_as(&successor, number)?;
                }
                self.write_list()
            }
            Stage::Killed { .. } | Stage::Gone => Ok(()),
            Stage::Starting | Stage::Ready | Stage::Away(_) | Stage::Draining { .. } => {
                bail!("endpoint {name} ended by itself; it said:\n{}", endpoint.child.last_words())
            }
        }
    }

    /// A killed endpoint again, under its old name and at another address; once it has left the list.
    fn revive(&mut self, name: &str) -> anyhow::Result<()> {
        let killed = self.killed.contains_key(name);
        match self.endpoints.get_mut(name) {
            Some(Endpoint { stage: Stage::Killed { revive, .. }, .. }) => {
                *revive = true;
                Ok(())
            }
            Some(Endpoint { stage: Stage::Gone, number, .. }) if killed => {
                let number = *number;
                self.start_as(name, number)
            }
            Some(_) | None => {
                bail!("a step revives endpoint {name}, which is not dead then by a step `kill`")
            }
        }
    }

    /// Lets flapping endpoints come and go; whether the list has to change.
    fn flap(&mut self, now: Instant) -> bool {
        let t = self.since_began(now);
        let mut turned = Vec::new();
        for (at, flap) in &self.flaps {
            let (name, how) = (&flap.endpoint, flap.how);
            let Some(endpoint) = self.endpoints.get_mut(name) else { continue };
            // Whatever another step has made of it meanwhile is no business of the flap.
            let (stage, state) = match (&endpoint.stage, flap.present(*at, t), how) {
                (Stage::Away(_), true, _) => (Stage::Ready, State::Ready),
                (Stage::Ready, false, How::Drain) => (Stage::Away(how), State::Draining),
                (Stage::Ready, false, How::Remove | How::Unready) => (Stage::Away(how), State::Unready),
                _ => continue,
            };
            endpoint.stage = stage;
            turned.push((name.clone(), state));
        }
        for (name, state) in &turned {
            self.note(now, name, *state);
        }
        !turned.is_empty()
    }

    fn drain(
        &mut self,
        now: Instant,
        name: &str,
        deadline: Duration,
        successor: Option<String>,
    ) -> anyhow::Result<()> {
        let endpoint = self.ready(name)?;
        endpoint.stage = Stage::Draining { since: now, deadline: now + deadline, successor };
        self.note(now, name, State::Draining);
        Ok(())
    }

    fn ready(&mut self, name: &str) -> anyhow::Result<&mut Endpoint> {
        let known = self.ready_by_number().join(", ");
        match self.endpoints.get_mut(name) {
            Some(endpoint) if matches!(endpoint.stage, Stage::Ready) => Ok(endpoint),
            Some(_) | None => {
                bail!("a step names endpoint {name}, which is not ready then; ready are {known}")
            }
        }
    }

    fn ready_by_number(&self) -> Vec<String> {
        let mut ready: Vec<(u32, &String)> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| matches!(endpoint.stage, Stage::Ready))
            .map(|(name, endpoint)| (endpoint.number, name))
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, name)| name.clone()).collect()
    }

    fn note(&mut self, now: Instant, name: &str, state: State) {
        let t = self.since_began(now).as_secs_f64();
        self.changes.push(Change { t, endpoint: name.into(), state });
    }

    fn since_began(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    fn write_list(&self) -> anyhow::Result<()> {
        let mut text = String::from("# Written by fleet at each step.\n");
        for (name, endpoint) in &self.endpoints {
            let state = match endpoint.stage {
                Stage::Ready | Stage::Killed { .. } => "ready",
                Stage::Away(How::Unready) => "unready",
                Stage::Draining { .. } | Stage::Stopping { .. } | Stage::Away(How::Drain) => "draining",
                Stage::Starting | Stage::Gone | Stage::Away(How::Remove) => continue,
            };
            let Some(address) = endpoint.address else { continue };
            writeln!(text, "- {{address: \"{address}\", id: {name}, state: {state}}}")?;
        }
        if text.lines().count() == 1 {
            text.push_str("[]\n");
        }
        replace(&self.list, &text)
    }
}

/// `demo-1` is followed by `demo-1-r2`, that by `demo-1-r3`: another identity in the same place.
fn successor(name: &str) -> String {
    let generation = name.rsplit_once("-r").and_then(|(base, n)| Some((base, n.parse::<u32>().ok()?)));
    let (base, n) = generation.unwrap_or((name, 1));
    format!("{base}-r{}", n + 1)
}

/// Replaces a file as a whole: whoever reads it sees the old or the new text.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text)
        .and_then(|()| fs::rename(&next, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_endpoint_is_somebody_else() {
        assert_eq!(successor("demo-1"), "demo-1-r2");
        assert_eq!(successor("demo-1-r2"), "demo-1-r3");
        assert_eq!(successor("demo-rest"), "demo-rest-r2");
    }
}
