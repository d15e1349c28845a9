//! Where the connections of an AMQP listener lead.

use crate::shared::{AmqpRoutes, RouteRuntime};

impl AmqpRoutes {
    /// The one route that everybody takes, if there is just one: then the handshake is the endpoint's own.
    pub fn only(&self) -> Option<&RouteRuntime> {
        match (self.config.as_slice(), self.routes.as_slice()) {
            ([written], [route]) if written.user.is_none() && written.vhost.is_none() => Some(route),
            _ => None,
        }
    }

    /// The route of clients that tell neither user nor virtual host: the first that wants neither, else the first.
    pub fn nameless(&self) -> Option<&RouteRuntime> {
        let open = self.config.iter().position(|route| route.user.is_none() && route.vhost.is_none());
        self.routes.get(open.unwrap_or_default())
    }

    /// The route for a connection of `user` to `vhost`.
    pub fn find(&self, user: Option<&[u8]>, vhost: &[u8]) -> Option<&RouteRuntime> {
        self.routes.get(self.router.find(user, vhost)?)
    }

    /// The routes that `user` may take.
    pub fn of_user<'a>(&'a self, user: Option<&'a [u8]>) -> impl Iterator<Item = &'a RouteRuntime> {
        self.router.of_user(user).filter_map(|place| self.routes.get(place))
    }
}
