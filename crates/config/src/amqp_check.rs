//! The checks on what is said of AMQP: routes that can be reached, one protocol a pool, and the bounds of its settings.

use std::collections::BTreeMap;
use std::time::Duration;

use model::PoolName;

use crate::amqp_router::shadowed_by;
use crate::check::{Check, HOUR, MINUTE, MS};
use crate::tree::Path;
use crate::{Amqp, Config, Listener, Pool, Protocol};

/// Longest name of a user or a virtual host: a short string.
const NAME_BYTES_MAX: usize = 255;

/// What of a pool is HTTP's alone, and what an AMQP pool has instead.
const FOR_HTTP: [(&[&str], &str); 7] = [
    (&["websocket"], "an AMQP pool has `amqp`"),
    (&["move"], "AMQP sessions migrate, or are closed with 320, as `amqp` says"),
    (&["response_timeout"], "an AMQP pool has `amqp.prepare_timeout`"),
    (&["tenant"], "an AMQP connection has no headers; leave it out"),
    (&["hash", "header"], "an AMQP connection has no headers; use `client_address`"),
    (&["hash", "cookie"], "an AMQP connection has no headers; use `client_address`"),
    (&["hash", "query"], "an AMQP connection has no query; use `client_address`"),
];

impl Check<'_> {
    /// The routes of one listener.
    pub(crate) fn amqp_listener(&mut self, config: &Config, listener: &Listener, path: &Path) {
        let path = path.key("routes");
        if listener.protocol == Protocol::Http {
            if !listener.routes.is_empty() {
                self.fail(
                    &path,
                    "these routes are for `protocol: amqp`; set it, or write them under the top-level `routes`",
                );
            }
            return;
        }
        if listener.routes.is_empty() {
            self.fail(&path, "found none, expected at least one, for example `routes: [{pool: rabbit}]`");
        }
        for (index, route) in listener.routes.iter().enumerate() {
            let here = path.index(index);
            self.known_pool(config, &route.pool, &here.key("pool"));
            self.at_least_one(&here.key("connections_max"), route.connections_max);
            for (key, name) in [("user", &route.user), ("vhost", &route.vhost)] {
                let bytes = name.as_ref().map_or(1, String::len);
                if !(1..=NAME_BYTES_MAX).contains(&bytes) {
                    let message =
                        format!("found {bytes} bytes, expected 1 to {NAME_BYTES_MAX}; leave it out for any");
                    self.fail(&here.key(key), message);
                }
            }
            if let Some(first) = shadowed_by(route, &listener.routes[..index]) {
                let message = format!(
                    "route {first} of this listener takes everything that matches; put this one before it"
                );
                self.fail(&here, message);
            }
        }
    }

    /// Each pool speaks one protocol.
    pub(crate) fn protocols(&mut self, config: &Config) {
        let root = Path::default();
        let mut by_http: BTreeMap<&PoolName, usize> = BTreeMap::new();
        for (index, route) in config.routes.iter().enumerate() {
            by_http.entry(&route.pool).or_insert(index);
        }
        let takes_http = config.listeners.iter().any(|listener| listener.protocol == Protocol::Http);
        if !takes_http && !config.listeners.is_empty() && !config.routes.is_empty() {
            let message =
                "no listener speaks HTTP, so nothing takes these routes; remove them, or add such a listener";
            self.fail(&root.key("routes"), message);
        }
        let listeners = config.listeners.iter().enumerate();
        for (place, listener) in listeners.filter(|(_, listener)| listener.protocol == Protocol::Amqp) {
            for (index, route) in listener.routes.iter().enumerate() {
                let Some(first) = by_http.get(&route.pool) else { continue };
                let here = root.key("listeners").index(place).key("routes").index(index).key("pool");
                let message = format!(
                    "pool `{}` speaks AMQP here and HTTP in routes[{first}]; give each its own pool",
                    route.pool
                );
                self.fail(&here, message);
            }
        }
    }

    /// The part of a pool that depends on what it speaks.
    pub(crate) fn amqp_pool(&mut self, pool: &Pool, protocol: Protocol, path: &Path) {
        let here = path.key("amqp");
        match protocol {
            Protocol::Http if pool.amqp.is_some() => {
                self.fail(
                    &here,
                    "no route of a listener with `protocol: amqp` leads to this pool; remove it",
                );
            }
            Protocol::Http => {}
            Protocol::Amqp => {
                for (keys, instead) in FOR_HTTP {
                    let key = keys.iter().fold(path.clone(), |path, key| path.key(key));
                    if self.is_written(&key) {
                        self.fail(&key, format!("this pool speaks AMQP, and the key is HTTP's; {instead}"));
                    }
                }
            }
        }
        if let Some(amqp) = &pool.amqp {
            self.amqp(amqp, &here);
        }
    }

    fn amqp(&mut self, amqp: &Amqp, path: &Path) {
        let waits = [
            ("prepare_timeout", amqp.prepare_timeout, MS, MINUTE),
            ("saturate_timeout", amqp.saturate_timeout, Duration::ZERO, Duration::from_secs(10)),
            ("settle_timeout", amqp.settle_timeout, Duration::ZERO, HOUR),
            ("flush_timeout", amqp.flush_timeout, MS, MINUTE),
            ("replay_timeout", amqp.replay_timeout, MS, MINUTE),
            ("linger", amqp.linger, Duration::ZERO, MINUTE),
            ("linger_max", amqp.linger_max, Duration::ZERO, MINUTE * 10),
            ("close_timeout", amqp.close_timeout, MS, MINUTE),
        ];
        for (key, value, least, most) in waits {
            self.duration(&path.key(key), value, least..=most);
        }
        if amqp.linger_max < amqp.linger {
            self.fail(&path.key("linger_max"), "it is shorter than `linger`; expected that or more");
        }
        if amqp.linger.is_zero() {
            let message =
                "a quorum queue loses acks that a close follows at once: such messages are delivered twice";
            self.warn(&path.key("linger"), message);
        }
        let probe = path.key("probe");
        // Zero is never.
        let interval = Some(amqp.probe.interval).filter(|interval| !interval.is_zero());
        self.duration(&probe.key("interval"), interval, MS * 100..=HOUR);
        self.duration(&probe.key("timeout"), amqp.probe.timeout, MS..=MINUTE);
        self.number(&probe.key("failures"), amqp.probe.failures, 1..=100);
    }
}
