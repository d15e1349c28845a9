//! The checks on content: which parts are checked and in what order. The rules of single values are in `rules`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use model::PoolName;
use ws::{Verdict, verdict};

use crate::error::did_you_mean;
use crate::rules;
use crate::tree::{Path, Tree};
use crate::{Admin, Close, Config, Errors, Limits, Notice, Pool, Problem, Protocol, Warning};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Checks everything and collects all complaints, in the file's order.
pub(crate) fn check(config: &Config, tree: &Tree) -> Result<Vec<Warning>, Errors> {
    let mut check = checked(config, tree);
    check.problems.sort();
    check.warnings.sort();
    if check.problems.is_empty() { Ok(check.warnings) } else { Err(Errors(check.problems)) }
}

/// The range of every number and time of `config`, as the checks hold it: the reference is written from these.
pub(crate) fn ranges(config: &Config, tree: &Tree) -> Vec<Range> {
    checked(config, tree).ranges
}

/// From where to where a value may be, both included, as they are written.
pub(crate) struct Range {
    pub(crate) path: Path,
    pub(crate) least: String,
    /// None: no bound of its own.
    pub(crate) most: Option<String>,
}

fn checked<'a>(config: &Config, tree: &'a Tree) -> Check<'a> {
    let mut check = Check { tree, problems: Vec::new(), warnings: Vec::new(), ranges: Vec::new() };
    let root = Path::default();
    check.listeners(config, &root.key("listeners"));
    check.routes(config, &root.key("routes"));
    check.protocols(config);
    check.pools(config, &root.key("pools"));
    check.limits(&config.limits, &root.key("limits"));
    config.shutdown.check(&mut check, &root.key("shutdown"));
    check.admin(&config.admin, &root.key("admin"));
    check.number(&root.key("workers"), config.workers, 1..=1024);
    check.number(&root.key("replicas"), config.replicas, 1..=1000);
    check.cluster(config, &root);
    check
}

pub(crate) struct Check<'a> {
    tree: &'a Tree,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    ranges: Vec<Range>,
}

impl Check<'_> {
    /// Notes a range for the reference.
    pub(crate) fn range(&mut self, path: &Path, least: impl Into<String>, most: impl Into<Option<String>>) {
        self.ranges.push(Range { path: path.clone(), least: least.into(), most: most.into() });
    }

    pub(crate) fn fail(&mut self, path: &Path, message: impl Into<String>) {
        self.problems.push(Problem::new(self.tree.place(path), path, message));
    }

    pub(crate) fn warn(&mut self, path: &Path, message: impl Into<String>) {
        self.warnings.push(Problem::new(self.tree.place(path), path, message));
    }

    pub(crate) fn number<N: PartialOrd + std::fmt::Display>(
        &mut self,
        path: &Path,
        value: impl Into<Option<N>>,
        allowed: RangeInclusive<N>,
    ) {
        self.range(path, allowed.start().to_string(), allowed.end().to_string());
        if let Some(value) = value.into()
            && !allowed.contains(&value)
        {
            self.fail(path, format!("found {value}, expected {} to {}", allowed.start(), allowed.end()));
        }
    }

    /// For checks that complain by themselves.
    pub(crate) fn parts(&mut self) -> (&Tree, &mut Vec<Problem>) {
        (self.tree, &mut self.problems)
    }

    pub(crate) fn is_written(&self, path: &Path) -> bool {
        self.tree.is_written(path)
    }

    pub(crate) fn at_least_one(&mut self, path: &Path, value: Option<usize>) {
        self.range(path, "1", None);
        if value == Some(0) {
            self.fail(path, "found 0, expected 1 or more; leave the key out for no bound of its own");
        }
    }

    pub(crate) fn duration(
        &mut self,
        path: &Path,
        value: impl Into<Option<Duration>>,
        allowed: RangeInclusive<Duration>,
    ) {
        let words = |d: &Duration| rules::duration_text(*d);
        let (least, most) = (words(allowed.start()), words(allowed.end()));
        if let Some(value) = value.into()
            && !allowed.contains(&value)
        {
            self.fail(path, format!("found {}, expected {least} to {most}", words(&value)));
        }
        self.range(path, least, most);
    }

    pub(crate) fn rule(&mut self, path: &Path, outcome: Result<(), String>) {
        if let Err(message) = outcome {
            self.fail(path, message);
        }
    }

    fn close_code(&mut self, path: &Path, code: u16) {
        match verdict(code) {
            Verdict::Fine => {}
            Verdict::Warn(why) => self.warn(path, format!("found {code}: {why}")),
            Verdict::Refuse(why) => self.fail(path, format!("found {code}: {why}")),
        }
    }

    // ---- listeners and routes ----

    fn listeners(&mut self, config: &Config, path: &Path) {
        if config.listeners.is_empty() {
            self.fail(path, "found none, expected at least one, for example `- address: 0.0.0.0:8080`");
        }
        let mut seen = BTreeMap::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let here = path.index(index);
            // Port 0 is another port each time.
            if listener.address.port() != 0
                && let Some(first) = seen.insert(listener.address, index)
            {
                let message = format!("`{}` is already listener {first}; remove one", listener.address);
                self.fail(&here.key("address"), message);
            }
            if listener.ipv6_only && listener.address.is_ipv4() {
                let message = format!("`{}` is IPv4; remove the key, or listen on [::]", listener.address);
                self.fail(&here.key("ipv6_only"), message);
            }
            self.amqp_listener(config, listener, &here);
            let Some(tls) = &listener.tls else { continue };
            for (key, file) in [("certificate", &tls.certificate), ("key", &tls.key)] {
                if file.as_os_str().is_empty() {
                    self.fail(&here.key("tls").key(key), "found nothing, expected the path of a PEM file");
                }
            }
        }
    }

    fn routes(&mut self, config: &Config, path: &Path) {
        let takes_http = config.listeners.iter().any(|listener| listener.protocol == Protocol::Http);
        if config.routes.is_empty() && (takes_http || config.listeners.is_empty()) {
            self.fail(path, "found none, expected at least one, for example `- pool: chat`");
        }
        let mut seen = BTreeMap::new();
        for (index, route) in config.routes.iter().enumerate() {
            let here = path.index(index);
            self.known_pool(config, &route.pool, &here.key("pool"));
            if let Some(host) = &route.host {
                self.rule(&here.key("host"), rules::host(host));
            }
            self.rule(&here.key("path"), rules::path(&route.path));
            let host = route.host.as_ref().map(|host| host.to_ascii_lowercase());
            if let Some(first) = seen.insert((host, route.path.trim_end_matches('/')), index) {
                self.fail(&here, format!("same host and path as route {first}; remove one"));
            }
            self.at_least_one(&here.key("connections_max"), route.connections_max);
        }
    }

    pub(crate) fn known_pool(&mut self, config: &Config, pool: &PoolName, path: &Path) {
        if config.pools.contains_key(pool) {
            return;
        }
        let pools: Vec<&str> = config.pools.keys().map(PoolName::as_str).collect();
        let known = if pools.is_empty() { "none".into() } else { pools.join(", ") };
        let hint = did_you_mean(pool.as_str(), &pools);
        self.fail(path, format!("there is no pool `{pool}`{hint}; pools: {known}"));
    }

    // ---- pools ----

    fn pools(&mut self, config: &Config, path: &Path) {
        for (name, pool) in &config.pools {
            let here = path.key(name.as_str());
            self.rule(&here, rules::pool_name(name.as_str()));
            let protocol = config.protocol(name);
            if protocol == Protocol::Http && !config.routes.iter().any(|route| route.pool == *name) {
                self.warn(&here, "no route leads to this pool; add one, or remove the pool");
            }
            self.pool(pool, &here);
            self.amqp_pool(pool, protocol, &here);
        }
    }

    fn pool(&mut self, pool: &Pool, path: &Path) {
        self.source(pool, path);
        self.balancing(pool, path);
        let moves = path.key("move");
        if let Some(notice) = &pool.moves.notice {
            self.notice(notice, &moves.key("notice"));
            if notice.grace > pool.rebalance.drain_deadline {
                let message = "the grace is longer than `rebalance.drain_deadline`: \
                               on a draining endpoint it is cut short";
                self.warn(&moves.key("notice").key("grace"), message);
            }
        }
        self.close(&pool.moves.close, &moves.key("close"));
        let abort = path.key("websocket").key("on_upstream_abort");
        self.close_code(&abort, pool.websocket.on_upstream_abort);
        self.duration(&path.key("dial_timeout"), pool.dial_timeout, MS..=MINUTE);
        self.duration(&path.key("response_timeout"), pool.response_timeout, MS..=HOUR);
        self.number(&path.key("tries_max"), pool.tries_max, 1..=10);
    }

    fn notice(&mut self, notice: &Notice, path: &Path) {
        match (&notice.text, &notice.binary) {
            (Some(text), None) => self.rule(&path.key("text"), rules::notice_bytes(text.as_bytes())),
            (None, Some(binary)) => self.rule(&path.key("binary"), rules::notice_bytes(&binary.0)),
            (Some(_), Some(_)) => {
                self.fail(&path.key("binary"), "there is `text` as well; keep one of the two")
            }
            (None, None) => {
                self.fail(path, "found neither `text` nor `binary`, expected exactly one of them")
            }
        }
        self.duration(&path.key("grace"), notice.grace, MS..=HOUR);
        self.number(&path.key("jitter"), notice.jitter, 0.0..=1.0);
        for (index, token) in notice.when_subprotocol.iter().enumerate() {
            self.rule(
                &path.key("when_subprotocol").index(index),
                rules::token(token, "subprotocol", "graphql-transport-ws"),
            );
        }
    }

    fn close(&mut self, close: &Close, path: &Path) {
        self.close_code(&path.key("code"), close.code);
        self.rule(&path.key("reason"), rules::close_reason(&close.reason));
        self.duration(&path.key("quiet"), close.quiet, Duration::ZERO..=MINUTE);
        self.duration(&path.key("wait"), close.wait, Duration::ZERO..=HOUR);
        self.duration(&path.key("reply_timeout"), close.reply_timeout, MS..=MINUTE * 10);
    }

    // ---- the process ----

    fn admin(&mut self, admin: &Admin, path: &Path) {
        if admin.token_file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
            self.fail(&path.key("token_file"), "found nothing, expected the path of a file with the token");
        }
        if admin.address.ip().is_loopback() {
            return;
        }
        let who = match admin.token_file {
            Some(_) => "only calls that change something need the token",
            None => "asks nobody who they are: without `token_file` calls that change something are refused",
        };
        let message = format!(
            "`{}` can be reached from other machines and {who}; use 127.0.0.1, or let a network policy guard it",
            admin.address
        );
        self.warn(&path.key("address"), message);
    }

    fn limits(&mut self, limits: &Limits, path: &Path) {
        self.at_least_one(&path.key("connections_max"), limits.connections_max);
        self.at_least_one(&path.key("connections_per_client_max"), limits.connections_per_client_max);
        self.number(&path.key("head_bytes_max"), limits.head_bytes_max, 1024..=65_536);
        let waits = [
            ("head_timeout", limits.head_timeout, MINUTE * 10),
            ("tls_handshake_timeout", limits.tls_handshake_timeout, MINUTE * 10),
            ("write_stall_timeout", limits.write_stall_timeout, DAY),
            ("half_close_timeout", limits.half_close_timeout, HOUR),
            ("close_linger", limits.close_linger, MINUTE),
            ("http_keep_alive_timeout", limits.http_keep_alive_timeout, DAY),
        ];
        for (key, value, most) in waits {
            self.duration(&path.key(key), value, MS..=most);
        }
        self.duration(&path.key("idle_timeout"), limits.idle_timeout, MS..=DAY * 30);
    }
}
