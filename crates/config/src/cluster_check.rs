//! The checks on what is said of clusters: where a pool's endpoints come from, the own zone, the own tier.

use std::time::Duration;

use balance::Policy;

use crate::check::{Check, DAY, HOUR, MS};
use crate::endpoints::check_list;
use crate::rules;
use crate::tree::Path;
use crate::{Config, DnsPool, KubernetesPool, Pool, ServicePort, Tier, TierBalance};

/// The keys that say where a pool's endpoints come from; exactly one of them is present.
const SOURCES: &str = "`endpoints`, `endpoints_file`, `kubernetes`, `dns`";

impl Check<'_> {
    /// Where a pool's endpoints come from.
    pub(crate) fn source(&mut self, pool: &Pool, path: &Path) {
        let written = [
            ("endpoints", pool.endpoints.is_some()),
            ("endpoints_file", pool.endpoints_file.is_some()),
            ("kubernetes", pool.kubernetes.is_some()),
            ("dns", pool.dns.is_some()),
        ];
        let mut present = written.iter().filter(|(_, there)| *there).map(|(key, _)| *key);
        let Some(first) = present.next() else {
            self.fail(path, format!("found none of {SOURCES}, expected exactly one of them"));
            return;
        };
        for more in present {
            self.fail(&path.key(more), format!("there is `{first}` as well; keep one of the two"));
        }
        if let Some(list) = &pool.endpoints {
            self.endpoint_list(list, &path.key("endpoints"));
        }
        if pool.endpoints_file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
            self.fail(&path.key("endpoints_file"), "found nothing, expected the path of a file");
        }
        if let Some(kubernetes) = &pool.kubernetes {
            self.kubernetes_pool(kubernetes, &path.key("kubernetes"));
        }
        if let Some(dns) = &pool.dns {
            self.dns_pool(dns, &path.key("dns"));
        }
    }

    /// The keys of the whole process that have to do with clusters.
    pub(crate) fn cluster(&mut self, config: &Config, root: &Path) {
        if let Some(zone) = &config.zone {
            self.rule(&root.key("zone"), rules::zone(zone.as_str()));
        }
        let known = config.zone.is_some() || config.tier.is_some();
        for (name, pool) in config.pools.iter().filter(|(_, pool)| pool.placement.zone_aware.is_some()) {
            let path = root.key("pools").key(name.as_str()).key("placement").key("zone_aware");
            if !known {
                let message =
                    "has no effect: the own zone is not known; write the top-level `zone`, or `tier`";
                self.warn(&path, message);
            }
            if !matches!(pool.balance, Policy::LeastConnections | Policy::P2c) {
                let message = "has no effect: only `balance: least_connections` and `p2c` look at loads; take one of them";
                self.warn(&path, message);
            }
        }
        if let Some(tier) = &config.tier {
            self.tier(tier, &root.key("tier"));
        }
        let grace = root.key("kubernetes").key("empty_grace");
        self.duration(&grace, config.kubernetes.empty_grace, Duration::ZERO..=DAY);
    }

    fn endpoint_list(&mut self, list: &[crate::StaticEndpoint], path: &Path) {
        let (tree, problems) = self.parts();
        check_list(list, path, tree, problems);
        if list.is_empty() {
            self.warn(path, "the list is empty: every request is answered 503 until an endpoint is added");
        }
    }

    fn kubernetes_pool(&mut self, pool: &KubernetesPool, path: &Path) {
        self.service(&pool.service, pool.namespace.as_deref(), path);
        if let Some(port) = &pool.port {
            self.service_port(port, &path.key("port"));
        }
    }

    fn service(&mut self, service: &str, namespace: Option<&str>, path: &Path) {
        self.rule(&path.key("service"), rules::object_name(service, "Service"));
        if let Some(namespace) = namespace {
            self.rule(&path.key("namespace"), rules::object_name(namespace, "namespace"));
        }
    }

    fn service_port(&mut self, port: &ServicePort, path: &Path) {
        match port {
            ServicePort::Name(name) => self.rule(path, rules::port_name(name)),
            ServicePort::Number(number) => self.number(path, *number, 1..=u16::MAX),
        }
    }

    fn dns_pool(&mut self, dns: &DnsPool, path: &Path) {
        self.rule(&path.key("name"), rules::dns_name(&dns.name));
        self.number(&path.key("port"), dns.port, 1..=u16::MAX);
        self.duration(&path.key("refresh"), dns.refresh, MS * 1000..=HOUR);
    }

    fn tier(&mut self, tier: &Tier, path: &Path) {
        self.service(&tier.service, tier.namespace.as_deref(), path);
        self.service_port(&tier.port, &path.key("port"));
        self.number(&path.key("start_ratio"), tier.start_ratio, 1.0..=10.0);
        // A start ratio that is wrong itself is told once.
        let most = tier.start_ratio.clamp(1.0, 10.0);
        self.range(&path.key("stop_ratio"), "1", "start_ratio".to_owned());
        if !(1.0..=most).contains(&tier.stop_ratio) {
            let message = format!("found {}, expected 1 to `start_ratio` ({most})", tier.stop_ratio);
            self.fail(&path.key("stop_ratio"), message);
        }
        self.number(&path.key("min_surplus"), tier.min_surplus, 1..=1_000_000);
        self.number(&path.key("moves_per_second_max"), tier.moves_per_second_max, 0.001..=100_000.0);
        self.duration(&path.key("min_ready"), tier.min_ready, Duration::ZERO..=HOUR);
        if tier.balance == TierBalance::On {
            return;
        }
        for key in ["start_ratio", "stop_ratio", "min_surplus", "moves_per_second_max", "min_ready"] {
            if self.is_written(&path.key(key)) {
                self.warn(&path.key(key), "has no effect without `balance: on`; add that, or remove it");
            }
        }
    }
}
