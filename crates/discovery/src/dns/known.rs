//! From answers to endpoints: which SRV records count, what an answer that is missing leaves in force, when to ask again.
//!
//! Pure. How questions are asked is in `ask`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::{Endpoint, EndpointId, Weight};

/// Least time between two rounds of questions, whatever a TTL says.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Most endpoints of a pool: what an endpoint list may hold as well.
const ENDPOINTS_MAX: usize = 10_000;
/// Heaviest weight of an endpoint.
const WEIGHT_MAX: u32 = 1000;

/// An SRV record (RFC 2782).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Srv {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

/// A host that is dialed at a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: Weight,
}

/// What became of one question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found<T> {
    /// Records, and for how long they hold.
    Records(Vec<T>, Duration),
    /// The server says that there is none: the name does not exist (`NXDOMAIN`), or has no such record.
    Nothing(&'static str),
    /// There was no answer to believe, and why.
    Failed(String),
}

/// What was found of a host: its IPv4 and its IPv6 addresses.
pub(crate) type Addresses = [Found<IpAddr>; 2];

/// Targets of the lowest priority. The weights of SRV records may be larger than ours: they are brought into our range, and
/// to their lowest terms, so that a server which writes 33 each for three and 25 each for four changes no weight.
pub(crate) fn targets(records: &[Srv]) -> Vec<Target> {
    // A host `.` says that there is no such service.
    let real = records.iter().filter(|record| !matches!(record.host.as_str(), "." | ""));
    let lowest = real.clone().map(|record| record.priority).min();
    let chosen: BTreeSet<&Srv> = real.filter(|record| Some(record.priority) == lowest).collect();
    // Weight 0 is for those that should get next to nothing.
    let heavy = |record: &&Srv| u32::from(record.weight.max(1));
    let most = chosen.iter().map(heavy).max().unwrap_or(1).max(WEIGHT_MAX);
    let scaled = |record: &&Srv| (heavy(record) * WEIGHT_MAX / most).max(1);
    let common = chosen.iter().map(scaled).fold(0, gcd).max(1);
    let weight =
        |record: &&Srv| u16::try_from(scaled(record) / common).ok().and_then(|w| Weight::new(w).ok());
    let target = |record: &&Srv| Target {
        host: record.host.clone(),
        port: record.port,
        weight: weight(record).unwrap_or_default(),
    };
    chosen.iter().map(target).collect()
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The last good answers of a pool.
#[derive(Default, Debug)]
pub(crate) struct Known {
    targets: Vec<Target>,
    /// By host: its addresses of each family.
    hosts: BTreeMap<String, [Vec<IpAddr>; 2]>,
    ttl: Option<Duration>,
    failures: u32,
}

/// What a round of questions has brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    /// The list from now on. `None`: the last good one stays.
    pub(crate) list: Option<Vec<Endpoint>>,
    /// What is wrong. Then the list, if there is one, is not all new.
    pub(crate) fault: Option<String>,
}

impl Known {
    /// Takes the targets that were found, and the addresses of their hosts. What failed keeps its last good answer.
    pub(crate) fn take(&mut self, targets: Found<Target>, hosts: &BTreeMap<String, Addresses>) -> Round {
        self.ttl = None;
        let mut fault = None;
        match targets {
            Found::Records(list, ttl) if !list.is_empty() => {
                self.targets = list;
                self.note_ttl(ttl);
            }
            Found::Records(..) => fault = Some("the SRV records name no host".to_owned()),
            Found::Nothing(why) => fault = Some(why.to_owned()),
            Found::Failed(why) => fault = Some(why),
        }
        if fault.is_none() {
            let named: BTreeSet<&str> = self.targets.iter().map(|target| target.host.as_str()).collect();
            self.hosts.retain(|host, _| named.contains(host.as_str()));
            for (host, found) in hosts {
                let wrong = self.take_host(host, found);
                fault = fault.or(wrong);
            }
        }
        let list = self.endpoints();
        if list.is_empty() && fault.is_none() {
            fault = Some("there is no address".to_owned());
        }
        self.failures = if fault.is_some() { self.failures.saturating_add(1) } else { 0 };
        // Nothing at all is no list: who was there before stays.
        Round { list: (!list.is_empty()).then_some(list), fault }
    }

    /// The time until the next round: as long as the answers hold, within a second and `refresh`. After a failure a second,
    /// doubled each time.
    pub(crate) fn next_round(&self, refresh: Duration) -> Duration {
        let wanted = match self.failures {
            0 => self.ttl.unwrap_or(refresh),
            failures => ROUND_MIN * (1 << (failures - 1).min(16)),
        };
        wanted.clamp(ROUND_MIN, refresh.max(ROUND_MIN))
    }

    /// Answers what is wrong with it.
    fn take_host(&mut self, host: &str, found: &Addresses) -> Option<String> {
        let has_other = |family: usize| matches!(found[1 - family], Found::Records(..));
        let mut wrong = None;
        for (family, found) in found.iter().enumerate() {
            let known = &mut self.hosts.entry(host.to_owned()).or_default()[family];
            match found {
                Found::Records(list, _) => known.clone_from(list),
                // A name that exists for one family can not be missing for the other.
                Found::Nothing("NXDOMAIN") if has_other(family) => {
                    wrong = Some(format!("{host}: NXDOMAIN for one address family, addresses of the other"));
                }
                Found::Nothing(_) if has_other(family) => known.clear(),
                Found::Nothing(why) => wrong = wrong.or_else(|| Some(format!("{host}: {why}"))),
                Found::Failed(why) => wrong = Some(format!("{host}: {why}")),
            }
        }
        for found in found {
            if let Found::Records(_, ttl) = found {
                self.note_ttl(*ttl);
            }
        }
        wrong
    }

    fn note_ttl(&mut self, ttl: Duration) {
        self.ttl = Some(self.ttl.map_or(ttl, |known| known.min(ttl)));
    }

    /// Every address is an endpoint; of an address that is named twice the heavier counts.
    fn endpoints(&self) -> Vec<Endpoint> {
        let mut weights: BTreeMap<SocketAddr, Weight> = BTreeMap::new();
        for target in &self.targets {
            let addresses = self.hosts.get(&target.host).into_iter().flatten().flatten();
            for address in addresses {
                let weight = weights.entry(SocketAddr::new(*address, target.port)).or_default();
                *weight = target.weight.max(*weight);
            }
        }
        let endpoint = |(address, weight): (SocketAddr, Weight)| Endpoint {
            weight,
            ..Endpoint::new(EndpointId::new(address.to_string()), address)
        };
        let mut list: Vec<Endpoint> = weights.into_iter().take(ENDPOINTS_MAX).map(endpoint).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn srv(priority: u16, weight: u16, host: &str) -> Srv {
        Srv { priority, weight, port: 80, host: host.into() }
    }

    fn weights(records: &[Srv]) -> Vec<(String, u16)> {
        targets(records).into_iter().map(|target| (target.host, target.weight.value())).collect()
    }

    fn weighed(list: &[(&str, u16)]) -> Vec<(String, u16)> {
        list.iter().map(|(host, weight)| ((*host).to_owned(), *weight)).collect()
    }

    fn at(list: &[&str]) -> Found<IpAddr> {
        Found::Records(list.iter().map(|address| address.parse().unwrap()).collect(), HOUR)
    }

    const NO_RECORD: Found<IpAddr> = Found::Nothing("no such record");
    const NXDOMAIN: Found<IpAddr> = Found::Nothing("NXDOMAIN");

    fn failed() -> Found<IpAddr> {
        Found::Failed("SERVFAIL".into())
    }

    fn one() -> Found<Target> {
        Found::Records(vec![Target { host: "a.".into(), port: 80, weight: Weight::ONE }], HOUR)
    }

    fn found(v4: Found<IpAddr>, v6: Found<IpAddr>) -> BTreeMap<String, Addresses> {
        BTreeMap::from([("a.".to_owned(), [v4, v6])])
    }

    fn ids(round: &Round) -> Vec<String> {
        round.list.iter().flatten().map(|endpoint| endpoint.id.to_string()).collect()
    }

    #[test]
    fn only_the_lowest_priority_counts() {
        let records = [srv(20, 1, "c."), srv(10, 1, "a."), srv(10, 1, "b."), srv(30, 1, "d.")];
        assert_eq!(weights(&records), weighed(&[("a.", 1), ("b.", 1)]));
        assert_eq!(weights(&[srv(0, 0, ".")]), [], "the service is decidedly not available");
        assert_eq!(weights(&[]), []);
    }

    #[test]
    fn weights_keep_their_proportions_within_our_range() {
        assert_eq!(weights(&[srv(0, 33, "a."), srv(0, 33, "b.")]), weighed(&[("a.", 1), ("b.", 1)]));
        assert_eq!(weights(&[srv(0, 20, "a."), srv(0, 30, "b.")]), weighed(&[("a.", 2), ("b.", 3)]));
        assert_eq!(weights(&[srv(0, 0, "a."), srv(0, 100, "b.")]), weighed(&[("a.", 1), ("b.", 100)]));
        assert_eq!(weights(&[srv(0, 65_535, "a."), srv(0, 1, "b.")]), weighed(&[("a.", 1000), ("b.", 1)]));
    }

    #[test]
    fn all_addresses_of_both_families_are_endpoints() {
        let mut known = Known::default();
        let round = known.take(one(), &found(at(&["10.0.0.1", "10.0.0.2"]), at(&["fd00::1"])));
        assert_eq!(ids(&round), ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
        assert_eq!(round.fault, None);
        // One that vanishes from a good answer is gone.
        let round = known.take(one(), &found(at(&["10.0.0.2"]), NO_RECORD));
        assert_eq!((ids(&round), round.fault), (vec!["10.0.0.2:80".to_owned()], None));
    }

    #[test]
    fn an_answer_that_is_missing_keeps_what_was_known() {
        let cases = [
            (failed(), failed(), "SERVFAIL"),
            (NXDOMAIN, NXDOMAIN, "NXDOMAIN"),
            (NO_RECORD, NO_RECORD, "no such record"),
            (at(&["10.0.0.1"]), failed(), "SERVFAIL"),
            (at(&["10.0.0.1"]), NXDOMAIN, "NXDOMAIN for one"),
            (NO_RECORD, failed(), "SERVFAIL"),
            (failed(), at(&["fd00::1"]), "SERVFAIL"),
        ];
        for (v4, v6, expected) in cases {
            let mut known = Known::default();
            let before = known.take(one(), &found(at(&["10.0.0.1"]), at(&["fd00::1"])));
            let round = known.take(one(), &found(v4.clone(), v6.clone()));
            assert_eq!(ids(&round), ids(&before), "{v4:?} {v6:?}");
            assert!(round.fault.as_ref().is_some_and(|fault| fault.contains(expected)), "{round:?}");
        }
    }

    #[test]
    fn one_family_is_enough_to_begin_with_and_nothing_is_no_list() {
        let mut known = Known::default();
        assert_eq!(known.take(one(), &found(NXDOMAIN, NXDOMAIN)).list, None);
        assert_eq!(known.take(Found::Failed("timeout".into()), &BTreeMap::new()).list, None);
        let round = known.take(one(), &found(at(&["10.0.0.1"]), failed()));
        assert_eq!(ids(&round), ["10.0.0.1:80"]);
        assert!(round.fault.is_some());
    }

    #[test]
    fn hosts_of_srv_records_come_and_go_and_a_failed_one_stays() {
        let target = |host: &str| Target { host: host.into(), port: 80, weight: Weight::ONE };
        let both = || Found::Records(vec![target("a."), target("b.")], HOUR);
        let mut known = Known::default();
        let mut hosts = found(at(&["10.0.0.1"]), NO_RECORD);
        hosts.insert("b.".into(), [at(&["10.0.0.2"]), NO_RECORD]);
        assert_eq!(ids(&known.take(both(), &hosts)), ["10.0.0.1:80", "10.0.0.2:80"]);
        hosts.insert("b.".into(), [failed(), failed()]);
        assert_eq!(ids(&known.take(both(), &hosts)), ["10.0.0.1:80", "10.0.0.2:80"]);
        let only = found(at(&["10.0.0.1"]), NO_RECORD);
        assert_eq!(ids(&known.take(one(), &only)), ["10.0.0.1:80"]);
        let none = known.take(Found::Records(Vec::new(), HOUR), &BTreeMap::new());
        assert_eq!(ids(&none), ["10.0.0.1:80"]);
        assert_eq!(none.fault.as_deref(), Some("the SRV records name no host"));
    }

    #[test]
    fn rounds_follow_the_shortest_ttl_within_a_second_and_the_refresh() {
        let seconds = Duration::from_secs;
        let refresh = seconds(30);
        for (ttl, next) in [(5, 5), (0, 1), (600, 30)] {
            let mut known = Known::default();
            let v4 = Found::Records(vec!["10.0.0.1".parse().unwrap()], seconds(ttl));
            known.take(one(), &found(v4, NO_RECORD));
            assert_eq!(known.next_round(refresh), seconds(next));
        }
        let mut known = Known::default();
        let waits: Vec<u64> = (0..7)
            .map(|_| {
                known.take(Found::Failed("timeout".into()), &BTreeMap::new());
                known.next_round(refresh).as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        known.take(one(), &found(at(&["10.0.0.1"]), NO_RECORD));
        assert_eq!(known.next_round(refresh), refresh);
    }
}
