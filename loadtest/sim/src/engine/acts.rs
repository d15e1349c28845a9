//! Steps of a scenario file: `scenario::Action`, by the endpoints' names, as `fleet` takes them.

use std::time::Duration;

use model::{EndpointState, Time};
use scenario::series::State;
use scenario::{Action, How};

use super::Sim;
use super::event::Event;
use crate::spec::Op;

/// A killed endpoint leaves the list this much later.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);
/// A process takes this long to start.
const STARTS_WITHIN: Duration = Duration::from_millis(100);

impl Sim {
    /// Takes step `number`. A name that is not there is passed over: the file does not know what will be.
    pub(super) fn act(&mut self, number: u32, action: &Action, deadline: Duration) {
        match action {
            Action::Scale(count) => self.scale(*count as usize, deadline),
            Action::ScaleDeployment(scale) => self.scale(scale.replicas as usize, deadline),
            Action::Drain(names) => {
                for node in names.iter().filter_map(|name| self.named(name)).collect::<Vec<u16>>() {
                    self.drain(node, deadline, None);
                }
            }
            Action::Kill(name) => {
                if let Some(node) = self.named(name) {
                    self.stop(node);
                    self.queue.push(self.now + FORGOTTEN_AFTER, Event::Forget(node));
                }
            }
            Action::Revive(name) => {
                if let Some(node) = self.named(name) {
                    let record = &mut self.nodes[usize::from(node)];
                    (record.alive, record.listed) = (true, true);
                    self.note(node, State::Ready);
                    self.publish();
                }
            }
            Action::Restart(name) => {
                if let Some(node) = self.named(name) {
                    self.drain(node, deadline, Some(STARTS_WITHIN));
                }
            }
            Action::Flap(_) => self.flap(number),
            Action::Pause => self.each_planner(balance::Planner::pause),
            Action::Resume => self.each_planner(balance::Planner::resume),
        }
    }

    fn scale(&mut self, count: usize, deadline: Duration) {
        let ready: Vec<u16> =
            (0..self.nodes.len() as u16).filter(|node| self.nodes[usize::from(*node)].is_ready()).collect();
        for _ in ready.len()..count {
            let name = format!("demo-{}", self.nodes.len() + 1);
            self.start_node(&name);
        }
        for node in ready.iter().skip(count) {
            self.drain(*node, deadline, None);
        }
        self.publish();
    }

    /// A flapping endpoint leaves or rejoins, and does so again until it is there for good.
    pub(super) fn flap(&mut self, number: u32) {
        let step = &self.spec.steps[number as usize];
        let Op::Act { action: Action::Flap(flap), .. } = &step.op else { return };
        let (at, flap) = (step.at, flap.clone());
        let Some(node) = self.named(&flap.endpoint) else { return };
        let since = self.now.since(Time::ZERO);
        let present = flap.present(at, since);
        let state = |away| if present { EndpointState::Ready } else { away };
        match flap.how {
            How::Remove => self.set_listed(node, present),
            How::Unready => self.set_state(node, state(EndpointState::Unready)),
            How::Drain => self.set_state(node, state(EndpointState::Terminating)),
        }
        if since < flap.until {
            let next = (since + flap.every).min(flap.until);
            self.queue.push(Time::ZERO + next, Event::Flap(number));
        }
    }

    /// The newest endpoint of this name.
    fn named(&self, name: &str) -> Option<u16> {
        self.nodes.iter().rposition(|node| node.name == name).map(|number| number as u16)
    }

    fn each_planner(&mut self, command: impl Fn(&mut balance::Planner, Time)) {
        for replica in self.replicas.iter_mut().filter(|replica| replica.alive) {
            command(&mut replica.planner, self.now);
        }
    }
}
