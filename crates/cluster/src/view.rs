//! What is believed of one Service: a value that is fed with what is seen, and says what holds. No IO.
//!
//! `handle_*` take news with the present moment, `poll_timeout` says when [`View::handle_timeout`] is due, `found`
//! and `complaints` say what is believed now. Decision 024 has the reasons.
//!
//! - EndpointSlices that are there are believed, also when they list no endpoint.
//! - No slice at all, where there were some, is doubted: a Service that exists keeps at least an empty one. The last
//!   list stays until slices are back, or until the grace is over.
//! - Slices that came back are taken when all former endpoints are there again, or when nothing has changed for a
//!   moment: controllers write them one by one.
//! - Slices without the port that is wanted are a mistake: the last list stays.
//! - A Pod's annotations hold for as long as its endpoint is listed, also when the Pod is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::{Endpoint, EndpointId, EndpointState, Time};

use crate::notes::Notes;
use crate::reflect::Seen;
use crate::service::{Found, PodNotes, Target};
use crate::slices::{Misfit, Slices, merge};
use crate::times::Times;

/// Slices that come back and do not settle are taken after so many times the quiet moment.
const UNQUIET: u32 = 5;

#[derive(Debug)]
pub(crate) struct View {
    target: Target,
    times: Times,
    slices: Seen<Arc<EndpointSlice>>,
    /// Annotations by UID; of Pods that are no longer seen only while they are endpoints.
    notes: BTreeMap<EndpointId, Notes>,
    /// When the first slices were seen, as long as the annotations are waited for.
    waiting: Option<Time>,
    /// There is nothing more to wait for.
    noted: bool,
    doubt: Option<Doubt>,
    /// The slices that are believed.
    believed: Option<Arc<Slices>>,
    endpoints: Option<Vec<Endpoint>>,
    misfit: Option<Misfit>,
    nonsense: Vec<String>,
}

/// All slices are gone, or have been.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Time,
    /// When slices were seen again for the first and for the last time.
    back: Option<(Time, Time)>,
}

impl View {
    pub(crate) fn new(target: Target, times: Times) -> Self {
        let noted = target.notes == PodNotes::Ignore;
        Self {
            target,
            times,
            slices: Seen::default(),
            notes: BTreeMap::new(),
            waiting: None,
            noted,
            doubt: None,
            believed: None,
            endpoints: None,
            misfit: None,
            nonsense: Vec::new(),
        }
    }

    // ---- in ----

    pub(crate) fn handle_slices(&mut self, now: Time, seen: Seen<Arc<EndpointSlice>>) {
        let same = match (&self.slices.objects, &seen.objects) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.slices = seen;
        if let Some(objects) = self.slices.objects.clone().filter(|_| !same) {
            self.believe(now, objects);
        }
        self.settle(now);
    }

    pub(crate) fn handle_notes(&mut self, now: Time, seen: Seen<Notes>) {
        self.noted |= seen.objects.is_some() || seen.trouble.is_some();
        if let Some(pods) = seen.objects {
            let fresh = pods.values().map(|notes| (EndpointId::from(notes.uid.as_str()), notes.clone()));
            let fresh: BTreeMap<_, _> = fresh.collect();
            let listed = self.endpoints.iter().flatten().map(|endpoint| &endpoint.id);
            let kept = listed.filter(|id| !fresh.contains_key(*id));
            let kept: Vec<_> =
                kept.filter_map(|id| Some((id.clone(), self.notes.get(id)?.clone()))).collect();
            self.notes = fresh;
            self.notes.extend(kept);
        }
        self.settle(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Time) {
        self.settle(now);
    }

    /// Decides what of newly seen slices is believed.
    fn believe(&mut self, now: Time, objects: Arc<Slices>) {
        let had_some = self.believed.as_ref().is_some_and(|slices| !slices.is_empty());
        match &mut self.doubt {
            Some(doubt) if objects.is_empty() => doubt.back = None,
            Some(doubt) => {
                let first = doubt.back.map_or(now, |(first, _)| first);
                doubt.back = Some((first, now));
            }
            None if objects.is_empty() && had_some => self.doubt = Some(Doubt { since: now, back: None }),
            // A Service that never had one may not exist: that is no list, not even an empty one.
            None if objects.is_empty() => {}
            None => self.believed = Some(objects),
        }
    }

    /// Ends what has lasted long enough, and draws the conclusions.
    fn settle(&mut self, now: Time) {
        if let Some(doubt) = self.doubt
            && (self.is_whole_again() || now >= self.doubted_until(doubt))
        {
            self.doubt = None;
            self.believed.clone_from(&self.slices.objects);
        }
        if self.believed.is_some() && !self.noted {
            let since = *self.waiting.get_or_insert(now);
            self.noted = now - since >= self.times.notes;
        }
        if self.noted {
            self.conclude();
        }
    }

    /// Slices came back with all endpoints that were there before.
    fn is_whole_again(&self) -> bool {
        let Some(objects) = self.slices.objects.as_ref().filter(|objects| !objects.is_empty()) else {
            return false;
        };
        let Ok(list) = merge(objects, self.target.port.as_ref()) else { return false };
        let mut former = self.endpoints.iter().flatten();
        former.all(|endpoint| list.binary_search_by(|other| other.id.cmp(&endpoint.id)).is_ok())
    }

    fn doubted_until(&self, doubt: Doubt) -> Time {
        match doubt.back {
            None => doubt.since + self.target.empty_grace,
            Some((first, last)) => {
                (last + self.times.quiet).min(first + self.times.quiet.saturating_mul(UNQUIET))
            }
        }
    }

    fn conclude(&mut self) {
        let Some(believed) = &self.believed else { return };
        match merge(believed, self.target.port.as_ref()) {
            Ok(mut list) => {
                self.nonsense.clear();
                for endpoint in &mut list {
                    if let Some(notes) = self.notes.get(&endpoint.id) {
                        apply(endpoint, notes, &mut self.nonsense);
                    }
                }
                (self.endpoints, self.misfit) = (Some(list), None);
            }
            Err(misfit) => self.misfit = Some(misfit),
        }
    }

    // ---- out ----

    /// When something has lasted long enough.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let doubted = self.doubt.map(|doubt| self.doubted_until(doubt));
        let waiting = self.waiting.filter(|_| !self.noted).map(|since| since + self.times.notes);
        [doubted, waiting].into_iter().flatten().min()
    }

    /// What holds now.
    pub(crate) fn found(&self) -> Found {
        let stale = match &self.slices.trouble {
            Some(trouble) => Some(trouble.to_string()),
            None => self.fault(),
        };
        Found { endpoints: self.endpoints.clone(), stale }
    }

    /// What is wrong with the Service or its Pods, in words for the log.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.fault().into_iter().chain(self.nonsense.iter().cloned()).collect()
    }

    /// What is wrong with the Service.
    fn fault(&self) -> Option<String> {
        let service = self.name();
        let kept = self.endpoints.as_ref().map_or(0, Vec::len);
        if self.doubt.is_some() {
            let grace = minutes(self.target.empty_grace);
            return Some(format!(
                "{service} has no EndpointSlice any more: its {kept} endpoints stay until there is one again, but no \
                 longer than {grace} (kubernetes.empty_grace); does the Service still exist, with a selector?"
            ));
        }
        if let Some(misfit) = &self.misfit {
            return Some(format!(
                "{service} can not be used: {misfit}; the last good list ({kept} endpoints) stays"
            ));
        }
        let never = self.slices.objects.is_some() && self.believed.is_none();
        never.then(|| {
            format!(
                "{service} has no EndpointSlice: does the Service exist under this name, with a selector?"
            )
        })
    }

    /// The Service, in words.
    pub(crate) fn name(&self) -> String {
        let namespace = self.target.namespace.as_deref().unwrap_or("the own namespace");
        format!("Service {} in {namespace}", self.target.service)
    }
}

/// Gives an endpoint what its Pod's annotations say.
fn apply(endpoint: &mut Endpoint, notes: &Notes, nonsense: &mut Vec<String>) {
    let (weight, odd_weight) = notes.weight();
    let (drain, odd_drain) = notes.drain();
    endpoint.weight = weight;
    if drain {
        endpoint.state = EndpointState::Terminating;
    }
    let pod = endpoint.pod.as_ref().map_or("?", |pod| pod.name.as_str());
    nonsense.extend([odd_weight, odd_drain].into_iter().flatten().map(|text| format!("Pod {pod}: {text}")));
}

fn minutes(grace: Duration) -> String {
    match grace.as_secs() {
        seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::trouble::Trouble;

    const GRACE: Duration = Duration::from_secs(600);

    fn target(notes: PodNotes) -> Target {
        Target {
            service: "rooms".into(),
            namespace: Some("games".into()),
            port: None,
            notes,
            empty_grace: GRACE,
        }
    }

    /// A view without annotations.
    fn plain() -> View {
        View::new(target(PodNotes::Ignore), Times::default())
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn slice(name: &str, port: &str, pods: &[&str]) -> (String, Arc<EndpointSlice>) {
        let entry = |pod: &&str| {
            let (namespace, name) = ("games", format!("pod-{pod}"));
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": name, "uid": pod}})
        };
        let value = json!({"metadata": {"name": name}, "addressType": "IPv4",
            "ports": [{"name": port, "port": 8080}], "endpoints": pods.iter().map(entry).collect::<Vec<_>>()});
        (name.into(), Arc::new(serde_json::from_value(value).expect("it is an EndpointSlice")))
    }

    fn seen<T, const N: usize>(objects: [(String, T); N]) -> Seen<T> {
        Seen { objects: Some(Arc::new(objects.into_iter().collect())), trouble: None }
    }

    fn notes(uid: &str, weight: Option<&str>, drain: Option<&str>) -> (String, Notes) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        (format!("pod-{uid}"), Notes { uid: uid.into(), weight: own(weight), drain: own(drain) })
    }

    fn ids(view: &View) -> Option<Vec<String>> {
        Some(view.found().endpoints?.iter().map(|endpoint| endpoint.id.to_string()).collect())
    }

    fn full() -> Seen<Arc<EndpointSlice>> {
        seen([slice("s1", "ws", &["a", "b"]), slice("s2", "ws", &["c"])])
    }

    #[test]
    fn nothing_is_known_before_the_first_list_and_that_is_no_fault_yet() {
        let view = plain();
        assert_eq!(view.found(), Found::default());
        assert_eq!(view.poll_timeout(), None);
    }

    #[test]
    fn a_service_that_never_had_a_slice_is_not_an_empty_list() {
        let mut view = plain();
        view.handle_slices(at(1), seen([]));
        let found = view.found();
        assert_eq!(found.endpoints, None);
        assert!(found.stale.is_some_and(|text| text.contains("Service rooms in games has no EndpointSlice")));
    }

    #[test]
    fn a_slice_that_lists_nothing_is_believed_at_once() {
        let mut view = plain();
        view.handle_slices(at(1), full());
        view.handle_slices(at(2), seen([slice("s1", "ws", &[])]));
        assert_eq!(view.found(), Found { endpoints: Some(vec![]), stale: None });
    }

    #[test]
    fn endpoints_stay_while_all_slices_are_gone_and_go_when_the_grace_is_over() {
        let mut view = plain();
        view.handle_slices(at(1), full());
        let before = view.found();
        view.handle_slices(at(10), seen([]));
        assert_eq!(view.found().endpoints, before.endpoints);
        assert!(view.found().stale.is_some_and(|text| text.contains("no longer than 10 min")));
        assert_eq!(view.poll_timeout(), Some(at(610)));
        view.handle_timeout(at(609));
        assert_eq!(view.found().endpoints, before.endpoints);
        view.handle_timeout(at(610));
        assert_eq!(view.found(), Found { endpoints: Some(vec![]), stale: None });
        assert_eq!(view.poll_timeout(), None);
    }

    #[test]
    fn slices_that_come_back_one_by_one_cost_no_endpoint() {
        let mut view = plain();
        view.handle_slices(at(1), full());
        let before = view.found();
        view.handle_slices(at(10), seen([]));
        view.handle_slices(at(20), seen([slice("s9", "ws", &["c"])]));
        assert_eq!(view.found().endpoints, before.endpoints, "half of them is not the whole");
        view.handle_slices(at(21), seen([slice("s9", "ws", &["c"]), slice("s8", "ws", &["a", "b"])]));
        assert_eq!(view.found(), before);
        assert_eq!(view.poll_timeout(), None);
    }

    #[test]
    fn slices_that_come_back_with_fewer_endpoints_are_believed_when_they_are_quiet() {
        let mut view = plain();
        view.handle_slices(at(1), full());
        view.handle_slices(at(10), seen([]));
        view.handle_slices(at(20), seen([slice("s9", "ws", &[])]));
        view.handle_slices(at(21), seen([slice("s9", "ws", &["c"])]));
        assert_eq!(view.poll_timeout(), Some(at(23)));
        view.handle_timeout(at(23));
        assert_eq!(ids(&view), Some(vec!["c".into()]));
        assert_eq!(view.found().stale, None);
    }

    #[test]
    fn slices_that_never_settle_are_believed_in_the_end() {
        let mut view = plain();
        view.handle_slices(at(1), full());
        view.handle_slices(at(10), seen([]));
        for second in 20..29 {
            view.handle_slices(at(second), seen([slice("s9", "ws", &["c"])]));
        }
        assert_eq!(view.poll_timeout(), Some(at(30)));
        view.handle_slices(at(30), seen([slice("s9", "ws", &["c"])]));
        assert_eq!(ids(&view), Some(vec!["c".into()]));
    }

    #[test]
    fn a_port_that_is_no_longer_there_empties_no_pool() {
        let mut view = plain();
        view.target.port = Some(config::ServicePort::Name("ws".into()));
        view.handle_slices(at(1), full());
        view.handle_slices(at(2), seen([slice("s1", "http", &["a"])]));
        assert_eq!(ids(&view).map(|ids| ids.len()), Some(3));
        let stale = view.found().stale.expect("it is a fault");
        assert!(stale.contains("no TCP port ws; it has http (8080)"), "{stale}");
        view.handle_slices(at(3), seen([slice("s1", "ws", &["a"])]));
        assert_eq!((ids(&view), view.found().stale), (Some(vec!["a".into()]), None));
    }

    #[test]
    fn an_api_that_is_away_changes_nothing_but_the_staleness() {
        let mut view = plain();
        let known = full();
        view.handle_slices(at(1), known.clone());
        let before = view.found();
        let trouble = Some(Arc::new(Trouble::NotConfigured { cause: "x".into() }));
        view.handle_slices(at(2), Seen { trouble, ..known.clone() });
        assert_eq!(view.found().endpoints, before.endpoints);
        assert!(view.found().stale.is_some());
        view.handle_slices(at(3), known);
        assert_eq!(view.found(), before);
    }

    #[test]
    fn the_first_endpoints_wait_for_their_annotations_but_not_for_long() {
        let mut view = View::new(target(PodNotes::Read), Times::default());
        view.handle_slices(at(1), full());
        assert_eq!(view.found().endpoints, None);
        assert_eq!(view.poll_timeout(), Some(at(3)));
        view.handle_timeout(at(3));
        assert_eq!(ids(&view).map(|ids| ids.len()), Some(3));
        assert_eq!(view.poll_timeout(), None);
    }

    #[test]
    fn annotations_weigh_and_drain_and_nonsense_is_told() {
        let mut view = View::new(target(PodNotes::Read), Times::default());
        view.handle_slices(at(1), full());
        let list = [notes("a", Some("5"), None), notes("b", None, Some("true")), notes("c", Some("x"), None)];
        view.handle_notes(at(1), seen(list));
        let list = view.found().endpoints.expect("they are known");
        let told: Vec<_> = list.iter().map(|e| (e.weight.value(), e.state)).collect();
        use EndpointState::{Ready, Terminating};
        assert_eq!(told, [(5, Ready), (1, Terminating), (1, Ready)]);
        assert_eq!(view.complaints().len(), 1);
        assert!(view.complaints()[0].contains("Pod pod-c: annotation evenkeel.dev/weight is \"x\""));
        assert_eq!(view.found().stale, None);
    }

    #[test]
    fn forbidden_pods_leave_the_endpoints_usable() {
        let mut view = View::new(target(PodNotes::Read), Times::default());
        view.handle_slices(at(1), full());
        let trouble = Some(Arc::new(Trouble::NotConfigured { cause: "x".into() }));
        view.handle_notes(at(1), Seen { objects: None, trouble });
        assert_eq!((ids(&view).map(|ids| ids.len()), view.found().stale), (Some(3), None));
    }

    #[test]
    fn annotations_outlive_a_list_of_pods_that_is_empty_but_not_their_endpoint() {
        let mut view = View::new(target(PodNotes::Read), Times::default());
        view.handle_slices(at(1), full());
        view.handle_notes(at(1), seen([notes("a", Some("5"), Some("true"))]));
        let before = view.found();
        view.handle_notes(at(2), seen([]));
        assert_eq!(view.found(), before);
        view.handle_slices(at(3), seen([slice("s1", "ws", &["b"])]));
        view.handle_notes(at(4), seen([]));
        view.handle_slices(at(5), full());
        let weight = view.found().endpoints.map(|list| list[0].weight.value());
        assert_eq!(weight, Some(1));
    }
}
