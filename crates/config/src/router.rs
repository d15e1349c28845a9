//! Which route a request takes: the most specific host, then the longest path prefix.
//!
//! An exact host goes before a wildcard, the longest wildcard before a shorter one, and any host comes last. When
//! no path of the more specific host matches, the less specific ones are asked too. Hosts are compared without
//! case and port; paths byte for byte, by whole segments, without decoding.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::Route;

/// Routes, arranged for look-up. Look-up does not allocate unless the host has upper case.
#[derive(Clone, Debug, Default)]
pub struct Router {
    exact: BTreeMap<String, Paths>,
    /// By what follows the star: `.example.com`.
    wildcard: BTreeMap<String, Paths>,
    any: Paths,
}

/// Path prefixes without a closing slash, longest first, with the route's index.
#[derive(Clone, Debug, Default)]
struct Paths(Vec<(String, usize)>);

impl Router {
    /// Arranges `routes`; results are indexes into it. Of two equal routes the first counts.
    pub fn new(routes: &[Route]) -> Self {
        let mut router = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let host = route.host.as_ref().map(|host| host.to_ascii_lowercase());
            let paths = match host.as_deref().map(|host| (host, host.strip_prefix('*'))) {
                None => &mut router.any,
                Some((_, Some(suffix))) => router.wildcard.entry(suffix.to_owned()).or_default(),
                Some((host, None)) => router.exact.entry(host.to_owned()).or_default(),
            };
            paths.0.push((route.path.trim_end_matches('/').to_owned(), index));
        }
        let all = router.exact.values_mut().chain(router.wildcard.values_mut()).chain([&mut router.any]);
        for paths in all {
            paths.0.sort_by_key(|(prefix, index)| (usize::MAX - prefix.len(), *index));
        }
        router
    }

    /// The index of the route for a request with this Host (or `:authority`) and this target; a query is ignored.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<usize> {
        let path = path.split(['?', '#']).next().unwrap_or(path);
        let host = host.map(normal_host);
        let exact = host.as_deref().and_then(|host| self.exact.get(host)?.find(path));
        exact.or_else(|| self.find_wildcard(host.as_deref()?, path)).or_else(|| self.any.find(path))
    }

    fn find_wildcard(&self, host: &str, path: &str) -> Option<usize> {
        if self.wildcard.is_empty() {
            return None;
        }
        // From the first dot on: the longest suffix first. A name needs at least one character before it.
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        dots.map(|(at, _)| &host[at..]).find_map(|suffix| self.wildcard.get(suffix)?.find(path))
    }
}

impl Paths {
    fn find(&self, path: &str) -> Option<usize> {
        let matches = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.iter().find(|(prefix, _)| prefix.is_empty() || matches(prefix)).map(|(_, index)| *index)
    }
}

/// One look-up without a [`Router`] kept: for tests and `check`.
pub fn match_route(routes: &[Route], host: Option<&str>, path: &str) -> Option<usize> {
    Router::new(routes).find(host, path)
}

/// Lower case, without port and closing dot.
fn normal_host(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => &host[..address.len() + 2],
        None => host.split(':').next().unwrap_or(host),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use balance::victims::Preference;

    use super::*;

    fn route(host: &str, path: &str) -> Route {
        let host = (!host.is_empty()).then(|| host.to_owned());
        Route { host, path: path.into(), pool: "p".into(), connections_max: None, moves: Preference::Normal }
    }

    #[test]
    fn the_most_specific_host_then_the_longest_path_wins() {
        let routes = [
            route("", "/"),
            route("", "/ws"),
            route("*.example.com", "/"),
            route("*.eu.example.com", "/"),
            route("Chat.example.com", "/ws/"),
            route("chat.example.com", "/ws/admin"),
        ];
        let table: [(Option<&str>, &str, usize); 16] = [
            (None, "/", 0),
            (None, "/ws", 1),
            (None, "/ws/a?x=/y", 1),
            (None, "/ws?x", 1),
            (None, "/wsx", 0),
            (Some("other.org"), "/ws/", 1),
            (Some("a.example.com"), "/ws", 2),
            (Some("a.b.example.com"), "/", 2),
            (Some("a.eu.example.com"), "/", 3),
            (Some("eu.example.com"), "/", 2),
            (Some("example.com"), "/", 0),
            (Some(".example.com"), "/", 0),
            (Some("CHAT.example.COM:8080"), "/ws/a", 4),
            (Some("chat.example.com."), "/ws/admin/x", 5),
            (Some("chat.example.com"), "/wsx", 2),
            (Some("[::1]:8080"), "/ws", 1),
        ];
        for (host, path, expected) in table {
            assert_eq!(match_route(&routes, host, path), Some(expected), "{host:?} {path}");
        }
    }

    #[test]
    fn a_request_without_a_route_has_none() {
        let routes = [route("a.org", "/ws"), route("[::1]", "/")];
        for (host, path) in [(None, "/ws"), (Some("b.org"), "/ws"), (Some("a.org"), "/"), (Some(""), "")] {
            assert_eq!(match_route(&routes, host, path), None, "{host:?} {path}");
        }
        assert_eq!(match_route(&routes, Some("[::1]:80"), "/x"), Some(1));
    }
}
