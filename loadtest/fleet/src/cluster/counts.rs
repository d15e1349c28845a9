//! What all gateways of a tier say of a pool, as one: sessions by endpoint, and endpoints that come and go.
//!
//! Without IO: status objects in, samples and changes out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use scenario::series::{Change, Sample, State};
use serde_json::{Value, json};

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pool: Option<String>,
    states: BTreeMap<String, State>,
    /// Everything that became of endpoints, in order of time.
    pub changes: Vec<Change>,
}

impl Counts {
    /// Of this pool; none: of the only one.
    pub fn of(pool: Option<String>) -> Self {
        Self { pool, ..Self::default() }
    }

    /// Takes what all gateways said at `t`, seconds since the first connection.
    ///
    /// # Errors
    /// When one has no such pool, or several and none is named.
    pub fn look(&mut self, t: f64, statuses: &[Value]) -> anyhow::Result<Sample> {
        let mut open: BTreeMap<String, u32> = BTreeMap::new();
        let mut said: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for status in statuses {
            let endpoints = self.pool_in(status)?["endpoints"].as_array();
            for endpoint in endpoints.into_iter().flatten() {
                let name = name_of(endpoint).context("an endpoint in a gateway's status has no id")?;
                let sessions = endpoint["sessions"].as_u64().unwrap_or(0);
                *open.entry(name.clone()).or_default() += u32::try_from(sessions).unwrap_or(u32::MAX);
                said.entry(name).or_default().insert(endpoint["state"].as_str().unwrap_or_default());
            }
        }
        self.note(t, &said);
        Ok(Sample { t, open })
    }

    /// Endpoints that are ready.
    pub fn ready(&self) -> usize {
        self.states.values().filter(|state| **state == State::Ready).count()
    }

    /// Whether an endpoint is ready.
    pub fn is_ready(&self, name: &str) -> bool {
        self.states.get(name) == Some(&State::Ready)
    }

    fn note(&mut self, t: f64, said: &BTreeMap<String, BTreeSet<&str>>) {
        let gone = self.states.keys().filter(|name| !said.contains_key(*name)).cloned();
        let mut turned: Vec<(String, State)> = gone.map(|name| (name, State::Gone)).collect();
        turned.extend(said.iter().map(|(name, words)| (name.clone(), state_of(words))));
        for (endpoint, state) in turned {
            if self.states.get(&endpoint) == Some(&state) {
                continue;
            }
            match state {
                State::Gone => drop(self.states.remove(&endpoint)),
                State::Ready | State::Draining | State::Unready => {
                    self.states.insert(endpoint.clone(), state);
                }
            }
            self.changes.push(Change { t, endpoint, state });
        }
    }

    fn pool_in<'a>(&self, status: &'a Value) -> anyhow::Result<&'a Value> {
        let Some(pools) = status["pools"].as_object() else {
            bail!("a gateway's status names no pools; is --status its admin port?");
        };
        let known = || pools.keys().cloned().collect::<Vec<_>>().join(", ");
        match &self.pool {
            Some(name) => {
                pools.get(name).with_context(|| format!("a gateway has no pool {name}; it has {}", known()))
            }
            None if pools.len() == 1 => pools.values().next().context("a gateway has no pool"),
            None => bail!("a gateway has the pools {}; name the one that is meant with --pool", known()),
        }
    }
}

/// What all gateways say together, as one status: for what a report wants to know of it.
pub fn together(statuses: &[Value]) -> Value {
    let mut stops: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, pool) in statuses.iter().filter_map(|status| status["pools"].as_object()).flatten() {
        *stops.entry(name).or_default() += pool["guard"]["stops"].as_u64().unwrap_or(0);
    }
    let pools: BTreeMap<&str, Value> =
        stops.into_iter().map(|(name, stops)| (name, json!({"guard": {"stops": stops}}))).collect();
    json!({"pools": pools, "replicas": statuses})
}

/// A Pod's name says more than its uid.
fn name_of(endpoint: &Value) -> Option<String> {
    let pod = endpoint["pod"]["name"].as_str().or(endpoint["pod"].as_str());
    pod.or(endpoint["id"].as_str()).map(str::to_owned)
}

/// Replicas learn of a change one after the other. One that leaves is leaving for all, one that comes is there for the
/// first that knows.
fn state_of(words: &BTreeSet<&str>) -> State {
    if words.contains("draining") {
        State::Draining
    } else if words.contains("ready") {
        State::Ready
    } else {
        State::Unready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(endpoints: &[(&str, &str, u32)]) -> Value {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(id, state, sessions)| json!({"id": id, "state": state, "sessions": sessions}))
            .collect();
        json!({"ready": true, "pools": {"demo": {"endpoints": endpoints, "guard": {"stops": 1}}}})
    }

    #[test]
    fn sessions_of_all_gateways_are_added_up_and_endpoints_come_and_go_once() {
        let mut counts = Counts::of(None);
        let first = [status(&[("a", "ready", 3), ("b", "ready", 2)]), status(&[("a", "ready", 4)])];
        assert_eq!(counts.look(1.0, &first).unwrap().open, [("a".into(), 7), ("b".into(), 2)].into());
        assert_eq!((counts.ready(), counts.is_ready("b")), (2, true));
        let second = [status(&[("a", "draining", 3), ("b", "ready", 2)]), status(&[("a", "ready", 4)])];
        counts.look(2.0, &second).unwrap();
        counts.look(3.0, &[status(&[("b", "ready", 9)])]).unwrap();
        let seen: Vec<_> = counts.changes.iter().map(|c| (c.t, c.endpoint.as_str(), c.state)).collect();
        assert_eq!(
            seen,
            [
                (1.0, "a", State::Ready),
                (1.0, "b", State::Ready),
                (2.0, "a", State::Draining),
                (3.0, "a", State::Gone)
            ]
        );
    }

    #[test]
    fn the_pool_is_the_only_one_or_the_one_that_is_named() {
        let two = json!({"pools": {"demo": {"endpoints": []}, "other": {"endpoints": []}}});
        let error = Counts::of(None).look(0.0, std::slice::from_ref(&two)).unwrap_err().to_string();
        assert!(error.contains("demo, other") && error.contains("--pool"), "{error}");
        assert!(Counts::of(Some("demo".into())).look(0.0, std::slice::from_ref(&two)).is_ok());
        let error = Counts::of(Some("chat".into())).look(0.0, &[two]).unwrap_err().to_string();
        assert!(error.contains("no pool chat"), "{error}");
        assert!(Counts::of(None).look(0.0, &[json!({})]).is_err());
    }

    #[test]
    fn the_guards_stops_of_all_gateways_are_added_up() {
        let one = status(&[]);
        let all = together(&[one.clone(), one]);
        assert_eq!(all["pools"]["demo"]["guard"]["stops"], 2);
    }
}
