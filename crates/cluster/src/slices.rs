//! From all EndpointSlices of a Service to one list of endpoints. No IO.
//!
//! A Service has as many slices as its endpoints need, each of one address family; the same Pod can stand in several
//! of them: once a family, and twice while the controller moves it from one slice to another.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use config::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint as Entry, EndpointPort, EndpointSlice};
use model::{Endpoint, EndpointId, EndpointState, Pod, Zone};

/// Most endpoints of one Service.
pub(crate) const ENDPOINTS_MAX: usize = 10_000;

/// All slices of a Service by name.
pub(crate) type Slices = BTreeMap<String, Arc<EndpointSlice>>;

/// Why no list can be made of slices that do name endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Misfit {
    /// None of the slices has the port.
    NoSuchPort { wanted: ServicePort, there: Vec<String> },
    /// No port is configured, and there are several.
    SeveralPorts { there: Vec<String> },
    /// No port is configured, and there is none.
    NoPort,
    /// More than [`ENDPOINTS_MAX`].
    TooMany { endpoints: usize },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPort { wanted, there } => {
                let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                write!(f, "it has no TCP port {wanted}; it has {there}: correct the pool's `kubernetes.port`")
            }
            Self::SeveralPorts { there } => {
                write!(
                    f,
                    "it has several TCP ports ({}): write one as the pool's `kubernetes.port`",
                    there.join(", ")
                )
            }
            Self::NoPort => {
                write!(
                    f,
                    "its EndpointSlices name no TCP port: write the pool's `kubernetes.port` as a number"
                )
            }
            Self::TooMany { endpoints } => {
                write!(
                    f,
                    "it has {endpoints} endpoints, at most {ENDPOINTS_MAX} are taken: use more Services"
                )
            }
        }
    }
}

/// One list of all that the slices say, ordered by id, every endpoint once. An empty list is a good one.
///
/// # Errors
/// [`Misfit`] when endpoints are there and none can be used: that is a mistake, not an empty Service.
pub(crate) fn merge(slices: &Slices, port: Option<&ServicePort>) -> Result<Vec<Endpoint>, Misfit> {
    let mut found: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
    let mut misfit = None;
    // IPv4 comes first: what a Pod is dialed by, when it has both.
    let of = |family: &'static str| slices.values().filter(move |slice| slice.address_type == family);
    for slice in of("IPv4").chain(of("IPv6")).filter(|slice| !slice.endpoints.is_empty()) {
        let port = match port_of(slice.ports.as_deref().unwrap_or_default(), port) {
            Ok(port) => port,
            Err(why) => {
                misfit.get_or_insert(why);
                continue;
            }
        };
        for entry in &slice.endpoints {
            let Some(endpoint) = endpoint(entry, port) else { continue };
            found
                .entry(endpoint.id.clone())
                .and_modify(|known| known.state = stronger(known.state, endpoint.state))
                .or_insert(endpoint);
        }
    }
    match misfit {
        Some(misfit) if found.is_empty() => Err(misfit),
        _ if found.len() > ENDPOINTS_MAX => Err(Misfit::TooMany { endpoints: found.len() }),
        _ => Ok(found.into_values().collect()),
    }
}

/// The number on which the Pods of a slice listen.
fn port_of(ports: &[EndpointPort], wanted: Option<&ServicePort>) -> Result<u16, Misfit> {
    let tcp: Vec<&EndpointPort> =
        ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|name| name == "TCP")).collect();
    let number = |port: &EndpointPort| port.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let there = || tcp.iter().map(|port| described(port)).collect();
    let matched = match wanted {
        Some(ServicePort::Name(name)) => {
            tcp.iter().find(|port| port.name.as_deref() == Some(name)).and_then(|port| number(port))
        }
        // A port without a number stands for all of them.
        Some(ServicePort::Number(n)) => {
            let stands = |port: &&EndpointPort| port.port.is_none() || number(port) == Some(*n);
            tcp.iter().copied().find(stands).map(|_| *n)
        }
        None if tcp.len() > 1 => return Err(Misfit::SeveralPorts { there: there() }),
        None => return tcp.first().and_then(|port| number(port)).ok_or(Misfit::NoPort),
    };
    match (matched, wanted) {
        (Some(number), _) => Ok(number),
        (None, Some(wanted)) => Err(Misfit::NoSuchPort { wanted: wanted.clone(), there: there() }),
        (None, None) => Err(Misfit::NoPort),
    }
}

/// `ws (8080)`.
fn described(port: &EndpointPort) -> String {
    let number = port.port.map_or_else(|| "any".to_owned(), |number| number.to_string());
    match port.name.as_deref() {
        None | Some("") => number,
        Some(name) => format!("{name} ({number})"),
    }
}

/// Nothing when it has no address that can be dialed.
fn endpoint(entry: &Entry, port: u16) -> Option<Endpoint> {
    // Only the first address has a meaning.
    let ip: IpAddr = entry.addresses.first()?.parse().ok()?;
    let address = SocketAddr::new(ip, port);
    let pod = entry.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let uid = pod.and_then(|pod| pod.uid.as_deref()).filter(|uid| !uid.is_empty());
    let id = uid.map_or_else(|| EndpointId::new(address.to_string()), EndpointId::from);
    let pod = pod.and_then(|target| {
        let (namespace, name) = (target.namespace.clone()?, target.name.clone()?);
        Some(Arc::new(Pod { namespace, name, node: entry.node_name.clone() }))
    });
    let zone = entry.zone.as_deref().filter(|zone| !zone.is_empty()).map(Zone::from);
    Some(Endpoint { state: state(entry), zone, pod, ..Endpoint::new(id, address) })
}

/// The conditions as we have them. An absent `ready` means true, an absent `terminating` false. `serving` makes no
/// difference: a terminating endpoint is drained either way, and one that is neither ready nor terminating keeps what
/// it has.
fn state(entry: &Entry) -> EndpointState {
    let conditions = entry.conditions.as_ref();
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    match (terminating, ready) {
        (true, _) => EndpointState::Terminating,
        (false, true) => EndpointState::Ready,
        (false, false) => EndpointState::Unready,
    }
}

/// Of what two entries say of the same Pod. Termination is never taken back; of the rest one may be out of date, and
/// a session on an endpoint that is not ready fails by itself.
fn stronger(a: EndpointState, b: EndpointState) -> EndpointState {
    use EndpointState::{Ready, Terminating, Unready};
    match (a, b) {
        (Terminating, _) | (_, Terminating) => Terminating,
        (Ready, _) | (_, Ready) => Ready,
        (Unready, Unready) => Unready,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slices(list: &[Value]) -> Slices {
        list.iter()
            .enumerate()
            .map(|(n, value)| {
                let slice = serde_json::from_value(value.clone()).expect("it is an EndpointSlice");
                (format!("slice-{n}"), Arc::new(slice))
            })
            .collect()
    }

    fn slice(family: &str, ports: &Value, endpoints: &Value) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"},
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    }

    fn ws() -> Value {
        json!([{"name": "ws", "port": 8080, "protocol": "TCP"}])
    }

    fn pod(uid: &str, address: &str, conditions: &Value) -> Value {
        json!({
            "addresses": [address], "conditions": conditions, "nodeName": "node-1", "zone": "eu-1a",
            "targetRef": {"kind": "Pod", "namespace": "chat", "name": format!("pod-{uid}"), "uid": uid},
        })
    }

    fn told(slices: &Slices, port: Option<ServicePort>) -> Vec<String> {
        let list = merge(slices, port.as_ref()).expect("the slices fit");
        list.iter().map(|e| format!("{} {} {:?}", e.id, e.address, e.state)).collect()
    }

    #[test]
    fn conditions_have_the_meaning_that_kubernetes_gives_them() {
        let table = [
            (json!(null), "Ready"),
            (json!({}), "Ready"),
            (json!({"ready": true, "serving": true, "terminating": false}), "Ready"),
            (json!({"ready": false, "serving": false, "terminating": false}), "Unready"),
            (json!({"ready": false}), "Unready"),
            (json!({"ready": false, "serving": true, "terminating": true}), "Terminating"),
            (json!({"ready": false, "serving": false, "terminating": true}), "Terminating"),
            // publishNotReadyAddresses says ready of everything.
            (json!({"ready": true, "serving": false, "terminating": true}), "Terminating"),
        ];
        for (conditions, expected) in table {
            let slices = slices(&[slice("IPv4", &ws(), &json!([pod("a", "10.0.0.1", &conditions)]))]);
            assert_eq!(told(&slices, None), [format!("a 10.0.0.1:8080 {expected}")], "{conditions}");
        }
    }

    #[test]
    fn node_zone_and_pod_are_kept_and_the_id_is_the_uid() {
        let slices = slices(&[slice("IPv4", &ws(), &json!([pod("a", "10.0.0.1", &json!({}))]))]);
        let list = merge(&slices, None).expect("the slices fit");
        let pod = list[0].pod.clone().expect("a Pod is behind it");
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.node.as_deref()),
            ("chat", "pod-a", Some("node-1"))
        );
        assert_eq!(list[0].zone, Some(Zone::from("eu-1a")));
    }

    #[test]
    fn an_endpoint_without_a_pod_is_named_by_its_address() {
        let bare = json!([{"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "VirtualMachine", "uid": "x"}}]);
        let slices = slices(&[slice("IPv4", &ws(), &bare)]);
        assert_eq!(
            told(&slices, None),
            ["10.0.0.1:8080 10.0.0.1:8080 Ready", "10.0.0.2:8080 10.0.0.2:8080 Ready"]
        );
    }

    #[test]
    fn many_slices_are_one_list_ordered_by_id() {
        let of = |n: u8| {
            let uid = format!("uid-{:03}", 200 - n);
            slice("IPv4", &ws(), &json!([pod(&uid, &format!("10.0.0.{n}"), &json!({}))]))
        };
        let slices = slices(&(1..=150).map(of).collect::<Vec<_>>());
        let list = merge(&slices, None).expect("the slices fit");
        assert_eq!(list.len(), 150);
        assert!(list.is_sorted_by(|a, b| a.id < b.id));
    }

    #[test]
    fn a_dual_stack_pod_is_one_endpoint_dialed_by_ipv4() {
        let six =
            slice("IPv6", &ws(), &json!([pod("a", "fd00::1", &json!({})), pod("b", "fd00::2", &json!({}))]));
        let four = slice("IPv4", &ws(), &json!([pod("a", "10.0.0.1", &json!({}))]));
        assert_eq!(told(&slices(&[six, four]), None), ["a 10.0.0.1:8080 Ready", "b [fd00::2]:8080 Ready"]);
    }

    #[test]
    fn a_pod_in_two_slices_terminates_when_one_says_so() {
        let at = |conditions: Value| slice("IPv4", &ws(), &json!([pod("a", "10.0.0.1", &conditions)]));
        let (ready, unready) = (at(json!({"ready": true})), at(json!({"ready": false})));
        let leaving = at(json!({"ready": false, "terminating": true}));
        assert_eq!(told(&slices(&[ready.clone(), leaving.clone()]), None), ["a 10.0.0.1:8080 Terminating"]);
        assert_eq!(told(&slices(&[leaving, ready.clone()]), None), ["a 10.0.0.1:8080 Terminating"]);
        assert_eq!(told(&slices(&[unready, ready]), None), ["a 10.0.0.1:8080 Ready"]);
    }

    #[test]
    fn a_port_is_found_by_name_by_number_or_because_it_is_the_only_one() {
        let one = json!([pod("a", "10.0.0.1", &json!({}))]);
        let two = json!([{"name": "ws", "port": 8080}, {"name": "admin", "port": 9900, "protocol": "TCP"},
            {"name": "voice", "port": 5000, "protocol": "UDP"}]);
        let both = slices(&[slice("IPv4", &two, &one)]);
        let name = |text: &str| Some(ServicePort::Name(text.into()));
        assert_eq!(told(&both, name("admin")), ["a 10.0.0.1:9900 Ready"]);
        assert_eq!(told(&both, Some(ServicePort::Number(8080))), ["a 10.0.0.1:8080 Ready"]);
        let misfit =
            |port: Option<ServicePort>| merge(&both, port.as_ref()).expect_err("no such port").to_string();
        assert!(misfit(None).contains("several TCP ports (ws (8080), admin (9900))"), "{}", misfit(None));
        assert!(misfit(name("http")).contains("no TCP port http; it has ws (8080), admin (9900)"));
        assert!(misfit(name("voice")).contains("no TCP port voice"));
        assert!(misfit(Some(ServicePort::Number(80))).contains("no TCP port 80"));
        let unnamed = slices(&[slice("IPv4", &json!([{"name": "", "port": 8080}]), &one)]);
        assert_eq!(told(&unnamed, None), ["a 10.0.0.1:8080 Ready"]);
        let any = slices(&[slice("IPv4", &json!([{"name": ""}]), &one)]);
        assert_eq!(told(&any, Some(ServicePort::Number(7000))), ["a 10.0.0.1:7000 Ready"]);
        assert_eq!(merge(&any, None), Err(Misfit::NoPort));
        let portless = slices(&[slice("IPv4", &json!(null), &one)]);
        assert_eq!(merge(&portless, None), Err(Misfit::NoPort));
    }

    #[test]
    fn pods_may_listen_on_different_numbers_behind_one_name() {
        let at = |number: u16, uid: &str| {
            let ports = json!([{"name": "ws", "port": number}]);
            slice("IPv4", &ports, &json!([pod(uid, "10.0.0.1", &json!({}))]))
        };
        let slices = slices(&[at(8080, "a"), at(9090, "b")]);
        assert_eq!(
            told(&slices, Some(ServicePort::Name("ws".into()))),
            ["a 10.0.0.1:8080 Ready", "b 10.0.0.1:9090 Ready"]
        );
    }

    #[test]
    fn a_slice_that_lacks_the_port_does_not_spoil_the_others() {
        let old =
            slice("IPv4", &json!([{"name": "http", "port": 80}]), &json!([pod("a", "10.0.0.1", &json!({}))]));
        let new = slice("IPv4", &ws(), &json!([pod("b", "10.0.0.2", &json!({}))]));
        let port = Some(ServicePort::Name("ws".into()));
        assert_eq!(told(&slices(&[old, new]), port), ["b 10.0.0.2:8080 Ready"]);
    }

    #[test]
    fn slices_without_endpoints_are_an_empty_list_whatever_their_ports() {
        for endpoints in [json!([]), json!(null)] {
            let slices = slices(&[slice("IPv4", &json!([]), &endpoints)]);
            assert_eq!(merge(&slices, Some(&ServicePort::Name("ws".into()))), Ok(vec![]));
        }
        assert_eq!(merge(&Slices::new(), None), Ok(vec![]));
    }

    #[test]
    fn what_can_not_be_dialed_is_left_out() {
        let odd = json!([{"addresses": []}, {"addresses": ["pod.example.com"]}, {"addresses": ["10.0.0.1"]}]);
        let names = slice("FQDN", &ws(), &json!([{"addresses": ["pod.example.com"]}]));
        let port_zero = slice("IPv4", &json!([{"name": "ws", "port": 0}]), &odd);
        assert_eq!(told(&slices(&[slice("IPv4", &ws(), &odd), names]), None).len(), 1);
        assert!(merge(&slices(&[port_zero]), None).is_err());
    }

    #[test]
    fn more_endpoints_than_can_be_had_are_refused_whole() {
        let of = |n: usize| {
            let list: Vec<_> = (0..1000)
                .map(|i| pod(&format!("{n}-{i}"), &format!("10.{n}.{}.{}", i / 250, i % 250), &json!({})))
                .collect();
            slice("IPv4", &ws(), &json!(list))
        };
        let ten: Vec<_> = (0..10).map(of).collect();
        assert_eq!(merge(&slices(&ten), None).map(|list| list.len()), Ok(ENDPOINTS_MAX));
        let eleven: Vec<_> = (0..11).map(of).collect();
        assert_eq!(merge(&slices(&eleven), None), Err(Misfit::TooMany { endpoints: 11_000 }));
    }
}
