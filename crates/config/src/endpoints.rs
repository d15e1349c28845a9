//! Where a pool's endpoints come from; endpoint lists, in the configuration and in watched files of the same form.

use std::collections::BTreeMap;

use model::{Endpoint, EndpointId};

use crate::parse::read;
use crate::tree::{Path, Tree};
use crate::{DnsPool, Errors, KubernetesPool, Pool, Problem, StaticEndpoint, rules};

/// Most endpoints in one list.
pub(crate) const ENDPOINTS_MAX: usize = 10_000;

/// Reads a watched endpoint list, YAML or JSON: at most 1 MiB and 10,000 endpoints. Ordered by id.
///
/// An empty text is an error, because that is what half-written files look like; an empty list is `[]`.
///
/// # Errors
/// [`Errors`]: the first mistake of form, or all duplicates.
pub fn parse_endpoints(text: &str) -> Result<Vec<Endpoint>, Errors> {
    let (list, tree) = read::<Vec<StaticEndpoint>>(text)?;
    let mut problems = Vec::new();
    check_list(&list, &Path::default(), &tree, &mut problems);
    if problems.is_empty() { Ok(resolve(&list)) } else { Err(Errors(problems)) }
}

/// Where a pool's endpoints come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Source<'a> {
    /// They are written in the configuration itself: ordered by id.
    Fixed(Vec<Endpoint>),
    /// A watched file.
    File(&'a std::path::Path),
    /// A Service whose EndpointSlices are watched.
    Kubernetes(&'a KubernetesPool),
    /// A name that is resolved again and again.
    Dns(&'a DnsPool),
}

impl Pool {
    /// Where its endpoints come from. A checked configuration names one source; without any there is no endpoint.
    pub fn source(&self) -> Source<'_> {
        if let Some(file) = &self.endpoints_file {
            Source::File(file)
        } else if let Some(kubernetes) = &self.kubernetes {
            Source::Kubernetes(kubernetes)
        } else if let Some(dns) = &self.dns {
            Source::Dns(dns)
        } else {
            Source::Fixed(self.fixed_endpoints())
        }
    }

    /// The endpoints that are written in the configuration itself, ordered by id.
    pub fn fixed_endpoints(&self) -> Vec<Endpoint> {
        resolve(self.endpoints.as_deref().unwrap_or_default())
    }
}

fn resolve(list: &[StaticEndpoint]) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = list
        .iter()
        .map(|e| Endpoint {
            weight: e.weight,
            state: e.state,
            zone: e.zone.clone(),
            ..Endpoint::new(id(e), e.address)
        })
        .collect();
    endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    endpoints
}

fn id(endpoint: &StaticEndpoint) -> EndpointId {
    endpoint.id.clone().unwrap_or_else(|| EndpointId::new(endpoint.address.to_string()))
}

/// Each id and each address once, none of them void, and not too many.
pub(crate) fn check_list(list: &[StaticEndpoint], path: &Path, tree: &Tree, problems: &mut Vec<Problem>) {
    let mut complain =
        |path: &Path, message: String| problems.push(Problem::new(tree.place(path), path, message));
    if list.len() > ENDPOINTS_MAX {
        complain(
            path,
            format!("{} endpoints, at most {ENDPOINTS_MAX} are allowed; use more pools", list.len()),
        );
        return;
    }
    let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for (index, endpoint) in list.iter().enumerate() {
        let here = path.index(index);
        if endpoint.address.port() == 0 {
            let message = format!("`{}` has port 0, expected 1 to 65535", endpoint.address);
            complain(&here.key("address"), message);
        }
        if endpoint.id.as_ref().is_some_and(|id| id.as_str().is_empty() || id.as_str().len() > 253) {
            complain(&here.key("id"), "an id has 1 to 253 bytes; leave it out to use the address".into());
        }
        if let Some(zone) = &endpoint.zone
            && let Err(message) = rules::zone(zone.as_str())
        {
            complain(&here.key("zone"), message);
        }
        if let Some(first) = addresses.insert(endpoint.address, index) {
            let message =
                format!("`{}` is already number {first} of this list; remove one", endpoint.address);
            complain(&here.key("address"), message);
        } else if let Some(first) = ids.insert(id(endpoint), index) {
            let message = format!("`{}` is already the id of number {first} of this list", id(endpoint));
            complain(&here.key("id"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::EndpointState;

    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_list_ordered_by_id() {
        let yaml =
            "- {address: 10.0.0.2:80, id: b, weight: 3}\n- address: '[::1]:80'\n  id: a\n  state: draining\n";
        let json = r#"[{"address": "10.0.0.2:80", "id": "b", "weight": 3},
            {"address": "[::1]:80", "id": "a", "state": "draining"}]"#;
        let list = parse_endpoints(yaml).expect("the list is valid");
        assert_eq!(list, parse_endpoints(json).expect("the list is valid"));
        assert_eq!(list[0].id.as_str(), "a");
        assert_eq!((list[0].state, list[1].weight.value()), (EndpointState::Terminating, 3));
    }

    #[test]
    fn an_endpoint_without_an_id_is_named_by_its_address() {
        let list = parse_endpoints("- address: 10.0.0.2:80").expect("the list is valid");
        assert_eq!(list[0].id.as_str(), "10.0.0.2:80");
    }

    #[test]
    fn half_written_files_are_errors_and_an_empty_list_is_not() {
        for text in ["", "\n", "# nothing yet\n", "- {address: 10.0.0.2:80", "[{\"address\": \"10.0", "null"]
        {
            assert!(parse_endpoints(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_endpoints("[]"), Ok(vec![]));
    }

    #[test]
    fn every_duplicate_is_told_with_its_line() {
        let text =
            "- {address: 10.0.0.1:80, id: a}\n- {address: 10.0.0.1:80}\n- {address: 10.0.0.2:80, id: a}\n";
        let errors = parse_endpoints(text).expect_err("two duplicates");
        let lines: Vec<_> = errors.0.iter().map(|p| (p.line, p.path.as_str())).collect();
        assert_eq!(lines, [(2, "[1].address"), (3, "[2].id")]);
    }

    #[test]
    fn ten_thousand_endpoints_are_read_and_one_more_is_refused() {
        let list = |n: usize| -> String {
            (0..n).map(|i| format!("- address: 10.0.{}.{}:80\n", i / 250, i % 250)).collect()
        };
        assert_eq!(parse_endpoints(&list(10_000)).map(|l| l.len()), Ok(10_000));
        assert!(parse_endpoints(&list(10_001)).is_err());
        assert!(parse_endpoints(&" ".repeat(1024 * 1024 + 1)).is_err(), "too many bytes");
    }
}
