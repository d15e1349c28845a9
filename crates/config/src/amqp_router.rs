//! Which route an AMQP connection takes: the first that its user and its virtual host match.
//!
//! Names are compared byte for byte. A user is known when the client logs in by PLAIN or AMQPLAIN; routes that want a
//! certain user are for nobody else.

use crate::AmqpRoute;

/// The routes of one listener.
#[derive(Clone, Debug, Default)]
pub struct AmqpRouter(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    user: Option<String>,
    vhost: Option<String>,
}

impl Rule {
    fn takes_user(&self, user: Option<&[u8]>) -> bool {
        self.user.as_ref().is_none_or(|wanted| user == Some(wanted.as_bytes()))
    }

    fn takes_vhost(&self, vhost: &[u8]) -> bool {
        self.vhost.as_ref().is_none_or(|wanted| vhost == wanted.as_bytes())
    }
}

impl AmqpRouter {
    /// Arranges `routes`; results are indexes into it.
    pub fn new(routes: &[AmqpRoute]) -> Self {
        let rule = |route: &AmqpRoute| Rule { user: route.user.clone(), vhost: route.vhost.clone() };
        Self(routes.iter().map(rule).collect())
    }

    /// The route for a connection of `user` (`None`: not known) to `vhost`.
    pub fn find(&self, user: Option<&[u8]>, vhost: &[u8]) -> Option<usize> {
        self.0.iter().position(|rule| rule.takes_user(user) && rule.takes_vhost(vhost))
    }

    /// The routes that are open to `user` before the virtual host is known, in their order.
    pub fn of_user<'a>(&'a self, user: Option<&'a [u8]>) -> impl Iterator<Item = usize> + 'a {
        self.0.iter().enumerate().filter(move |(_, rule)| rule.takes_user(user)).map(|(index, _)| index)
    }
}

/// The first of `earlier` that leaves nothing to `route`.
pub(crate) fn shadowed_by(route: &AmqpRoute, earlier: &[AmqpRoute]) -> Option<usize> {
    let covers = |first: &Option<String>, later: &Option<String>| first.is_none() || first == later;
    earlier.iter().position(|first| covers(&first.user, &route.user) && covers(&first.vhost, &route.vhost))
}

#[cfg(test)]
mod tests {
    use balance::victims::Preference;
    use proptest::prelude::*;

    use super::*;

    fn route(user: &str, vhost: &str) -> AmqpRoute {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        AmqpRoute {
            user: named(user),
            vhost: named(vhost),
            pool: "p".into(),
            connections_max: None,
            moves: Preference::Normal,
        }
    }

    #[test]
    fn the_first_match_of_user_and_vhost_wins() {
        let routes = [route("app", "/a"), route("app", ""), route("", "/b"), route("", "")];
        let router = AmqpRouter::new(&routes);
        let table: [(Option<&str>, &str, usize); 8] = [
            (Some("app"), "/a", 0),
            (Some("app"), "/b", 1),
            (Some("app"), "", 1),
            (Some("App"), "/a", 3),
            (Some("other"), "/b", 2),
            (Some("other"), "/", 3),
            (None, "/a", 3),
            (None, "/b", 2),
        ];
        for (user, vhost, expected) in table {
            let found = router.find(user.map(str::as_bytes), vhost.as_bytes());
            assert_eq!(found, Some(expected), "{user:?} {vhost}");
        }
        let of = |user: Option<&str>| router.of_user(user.map(str::as_bytes)).collect::<Vec<_>>();
        assert_eq!((of(Some("app")), of(None)), (vec![0, 1, 2, 3], vec![2, 3]));
    }

    #[test]
    fn a_connection_without_a_route_has_none() {
        let router = AmqpRouter::new(&[route("app", "/a"), route("", "/b")]);
        assert_eq!(router.find(Some(b"app"), b"/"), None);
        assert_eq!(router.find(None, b"/a"), None);
        assert_eq!(router.find(Some(b"\xff"), b"\xff"), None);
    }

    proptest! {
        /// Over all names that could tell two routes apart.
        #[test]
        fn a_route_is_shadowed_exactly_when_nothing_can_reach_it(
            names in prop::collection::vec((0usize..4, 0usize..4), 1..6),
        ) {
            let words = ["", "x", "y", "z"];
            let routes: Vec<_> = names.iter().map(|(user, vhost)| route(words[*user], words[*vhost])).collect();
            let router = AmqpRouter::new(&routes);
            let mut reached = vec![false; routes.len()];
            for user in [None, Some("x"), Some("y"), Some("z"), Some("nobody's")] {
                for vhost in ["x", "y", "z", "nobody's"] {
                    if let Some(index) = router.find(user.map(str::as_bytes), vhost.as_bytes()) {
                        reached[index] = true;
                    }
                }
            }
            for (index, route) in routes.iter().enumerate() {
                let shadowed = shadowed_by(route, &routes[..index]);
                // Several routes can cover one together only when all names are known.
                if shadowed.is_some() {
                    prop_assert!(!reached[index], "{index} of {routes:?}");
                } else {
                    let user = route.user.as_deref().or(Some("nobody's")).map(str::as_bytes);
                    let vhost = route.vhost.as_deref().unwrap_or("nobody's");
                    prop_assert_eq!(router.find(user, vhost.as_bytes()), Some(index));
                }
            }
        }
    }
}
