//! The checks on how a pool's sessions are placed, let in and moved: `hash`, `tenant`, `placement`, `admission`,
//! `rebalance`, and what does not go together.

use std::time::Duration;

use balance::{Admission, Limits, Placement, Policy};

use crate::check::{Check, DAY, HOUR, MINUTE, MS};
use crate::rules;
use crate::rules::duration_text;
use crate::tree::Path;
use crate::{HashKey, Pool, TenantKey};

impl Check<'_> {
    /// Everything of a pool that `balance` decides by.
    pub(crate) fn balancing(&mut self, pool: &Pool, path: &Path) {
        if let Some(hash) = &pool.hash {
            self.hash(hash, pool.balance, &path.key("hash"));
        }
        if let Some(TenantKey { header, cookie, query }) = &pool.tenant {
            self.key(&path.key("tenant"), [header, cookie, query], None);
        }
        self.placement(&pool.placement, &path.key("placement"));
        self.admission(&pool.admission, &path.key("admission"));
        let rebalance = path.key("rebalance");
        self.levels(&pool.rebalance, &rebalance);
        self.times(&pool.rebalance, &rebalance);
        self.paces(&pool.rebalance, &rebalance);
        self.together(pool, path);
    }

    fn hash(&mut self, hash: &HashKey, policy: Policy, path: &Path) {
        let HashKey { header, cookie, query, client_address } = hash;
        self.key(path, [header, cookie, query], Some(*client_address));
        if policy != Policy::ConsistentHash {
            let message = format!(
                "has no effect with `balance: {}`; use `balance: consistent_hash`, or remove it",
                policy.as_str()
            );
            self.warn(path, message);
        }
    }

    /// Exactly one of header, cookie, query and, where it is allowed, the client's address.
    fn key(&mut self, path: &Path, names: [&Option<String>; 3], address: Option<bool>) {
        let [header, cookie, query] = names;
        let count = names.iter().filter(|name| name.is_some()).count() + usize::from(address == Some(true));
        if count != 1 {
            let more = if address.is_some() { ", `client_address: true`" } else { "" };
            let found = if count == 0 { "none".into() } else { format!("{count}") };
            self.fail(
                path,
                format!("found {found} of `header`, `cookie`, `query`{more}, expected exactly one"),
            );
        }
        if let Some(name) = header {
            self.rule(&path.key("header"), rules::token(name, "header", "X-User-Id"));
        }
        if let Some(name) = cookie {
            self.rule(&path.key("cookie"), rules::token(name, "cookie", "session_id"));
        }
        if let Some(name) = query {
            self.rule(&path.key("query"), rules::query_name(name));
        }
    }

    fn placement(&mut self, placement: &Placement, path: &Path) {
        self.number(&path.key("panic_threshold"), placement.panic_threshold, 0.0..=1.0);
        let most = placement.sessions_per_endpoint_max;
        self.number(&path.key("sessions_per_endpoint_max"), most, 1..=10_000_000);
        self.duration(&path.key("slow_start_window"), placement.slow_start_window, Duration::ZERO..=HOUR);
        let arrivals = placement.slow_start_per_second;
        self.number(&path.key("slow_start_per_second"), arrivals, 0.001..=100_000.0);
        self.number(&path.key("hash_load_max"), placement.hash_load_max, 1.0..=10.0);
        if let Some(zone_aware) = &placement.zone_aware {
            let bound = path.key("zone_aware").key("imbalance_max");
            self.number(&bound, zone_aware.imbalance_max, 1.0..=10.0);
        }
        self.number(&path.key("ejection_failures"), placement.ejection_failures, 0..=1000);
        self.duration(&path.key("ejection_time"), placement.ejection_time, MS * 100..=HOUR);
    }

    fn admission(&mut self, admission: &Admission, path: &Path) {
        self.number(&path.key("sessions_per_second"), admission.sessions_per_second, 0.001..=1_000_000.0);
        self.number(&path.key("burst"), admission.burst, 0..=1_000_000);
        self.duration(&path.key("retry_after_max"), admission.retry_after_max, MS * 1000..=HOUR);
        match (admission.sessions_per_second, admission.burst) {
            (Some(_), Some(0)) => {
                let message = "with 0 one client is let in at a time, and others of the same moment are sent away; \
                               use more, or leave the key out for one second's worth";
                self.warn(&path.key("burst"), message);
            }
            (None, Some(_)) => {
                self.warn(&path.key("burst"), "has no effect without `sessions_per_second`; add that too");
            }
            (Some(_), _) | (None, None) => {}
        }
    }

    // ---- rebalance ----

    /// How uneven is too uneven.
    fn levels(&mut self, limits: &Limits, path: &Path) {
        self.number(&path.key("start_ratio"), limits.start_ratio, 1.0..=10.0);
        // A start ratio that is wrong itself is told once.
        let most = limits.start_ratio.clamp(1.0, 10.0);
        self.range(&path.key("stop_ratio"), "1", "start_ratio".to_owned());
        if !(1.0..=most).contains(&limits.stop_ratio) {
            let message = format!("found {}, expected 1 to `start_ratio` ({most})", limits.stop_ratio);
            self.fail(&path.key("stop_ratio"), message);
        }
        self.number(&path.key("min_surplus"), limits.min_surplus, 1..=1_000_000);
        self.number(&path.key("min_return_ratio"), limits.min_return_ratio, 0.0..=1.0);
        self.number(&path.key("max_age_jitter"), limits.max_age_jitter, 0.0..=1.0);
        self.number(&path.key("tenant_share_max"), limits.tenant_share_max, 0.01..=1.0);
    }

    fn times(&mut self, limits: &Limits, path: &Path) {
        let zero = Duration::ZERO;
        let times = [
            ("settle", limits.settle, zero, MINUTE * 10),
            ("min_ready", limits.min_ready, zero, HOUR),
            ("interval", limits.interval, MS * 100, DAY),
            ("min_age", limits.min_age, zero, DAY),
            ("cooldown", limits.cooldown, zero, DAY),
            ("drain_deadline", limits.drain_deadline, MS * 100, DAY),
            ("return_timeout", limits.return_timeout, MS * 100, HOUR),
            ("guard_backoff", limits.guard_backoff, MS * 100, DAY),
            ("tenant_window", limits.tenant_window, MS * 100, DAY),
        ];
        for (key, value, least, most) in times {
            self.duration(&path.key(key), value, least..=most);
        }
        self.duration(&path.key("max_age"), limits.max_age, MS * 100..=DAY * 365);
    }

    fn paces(&mut self, limits: &Limits, path: &Path) {
        self.number(&path.key("moves_per_second_max"), limits.moves_per_second_max, 0.001..=100_000.0);
        self.number(&path.key("concurrent_moves_max"), limits.concurrent_moves_max, 1..=1_000_000);
        self.number(&path.key("probe_moves"), limits.probe_moves, 1..=1000);
    }

    // ---- what does not go together ----

    fn together(&mut self, pool: &Pool, path: &Path) {
        let (limits, rebalance) = (&pool.rebalance, path.key("rebalance"));
        if pool.balance == Policy::ConsistentHash && limits.enabled {
            self.ratios_beside_hash(pool, &rebalance);
        }
        let (longer, time) = match limits.max_age {
            Some(age) if age < limits.min_age => ("min_age", limits.min_age),
            Some(age) if age < limits.cooldown => ("cooldown", limits.cooldown),
            Some(_) | None => ("", Duration::ZERO),
        };
        if !longer.is_empty() {
            let message = format!(
                "is shorter than `{longer}` ({}), before which a session is not moved; raise it, or lower that",
                duration_text(time)
            );
            self.warn(&rebalance.key("max_age"), message);
        }
        match &pool.tenant {
            None if limits.tenant_share_max < 1.0 => {
                let message = "has no effect without the pool's `tenant`: nothing tells whose a session is";
                self.warn(&rebalance.key("tenant_share_max"), message);
            }
            Some(_) if limits.tenant_share_max >= 1.0 => {
                let message =
                    "has no effect while `rebalance.tenant_share_max` is 1; lower that, or remove this";
                self.warn(&path.key("tenant"), message);
            }
            None | Some(_) => {}
        }
    }

    /// The bound of the ring allows some imbalance: a ratio below it, if it was written, will not be kept.
    fn ratios_beside_hash(&mut self, pool: &Pool, rebalance: &Path) {
        let (load, limits, usual) = (pool.placement.hash_load_max, &pool.rebalance, Limits::default());
        let ratios = [
            ("start_ratio", limits.start_ratio, usual.start_ratio),
            ("stop_ratio", limits.stop_ratio, usual.stop_ratio),
        ];
        for (key, ratio, usual) in ratios {
            if ratio < load && ratio != usual {
                let message = format!(
                    "{ratio} is below `placement.hash_load_max` ({load}), which counts instead with \
                     `balance: consistent_hash`; raise this, or lower that"
                );
                self.warn(&rebalance.key(key), message);
            }
        }
    }
}
