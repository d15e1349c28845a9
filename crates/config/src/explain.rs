//! What a configuration means, as aligned text for `evenkeel check`: listeners, routes in the order in which they
//! match, pools with every setting in effect.

use std::cmp::Reverse;
use std::fmt::Write as _;

use balance::Policy;
use balance::victims::Preference;
use model::Endpoint;

use crate::rules::duration_text;
use crate::{
    AmqpRoute, CloseOrder, Config, ForeignQueues, MessageOrder, OnBadFrame, Pool, Protocol, Route, Source,
    TierBalance, WhenPinned,
};

/// Plain text, lines of at most about 100 columns, each ended by a newline.
pub fn explain(config: &Config) -> String {
    let mut text = String::new();
    section(&mut text, "listeners", config.listeners.iter().map(listener).collect());
    if !config.routes.is_empty() {
        section(&mut text, "routes, first match wins", routes(config));
    }
    for listener in config.listeners.iter().filter(|listener| listener.protocol == Protocol::Amqp) {
        let title = format!("routes of {}, first match wins", url(listener));
        section(&mut text, &title, listener.routes.iter().map(amqp_route).collect());
    }
    for (name, pool) in &config.pools {
        let protocol = config.protocol(name);
        let title = match protocol {
            Protocol::Http => format!("pool {name}"),
            Protocol::Amqp => format!("pool {name}, AMQP 0-9-1"),
        };
        section(&mut text, &title, pool_rows(pool, protocol));
    }
    section(&mut text, "process", process(config));
    text
}

type Row = (String, String);

fn section(text: &mut String, title: &str, rows: Vec<Row>) {
    if !text.is_empty() {
        text.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{title}");
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    for (left, right) in rows {
        let _ = writeln!(text, "  {left:width$}  {right}");
    }
}

fn row(key: &str, value: impl std::fmt::Display) -> Row {
    (key.to_owned(), value.to_string())
}

fn listener(listener: &crate::Listener) -> Row {
    match &listener.tls {
        None => row(&url(listener), "plain"),
        Some(tls) => row(
            &url(listener),
            format!("certificate {}, key {}", tls.certificate.display(), tls.key.display()),
        ),
    }
}

fn url(listener: &crate::Listener) -> String {
    let scheme = match (listener.protocol, &listener.tls) {
        (Protocol::Http, None) => "ws",
        (Protocol::Http, Some(_)) => "wss",
        (Protocol::Amqp, None) => "amqp",
        (Protocol::Amqp, Some(_)) => "amqps",
    };
    format!("{scheme}://{}", listener.address)
}

fn amqp_route(route: &AmqpRoute) -> Row {
    let named = |what: &str, name: &Option<String>| {
        name.as_ref().map_or_else(|| format!("any {what}"), |name| format!("{what} {name:?}"))
    };
    let left = format!("{}, {}", named("user", &route.user), named("vhost", &route.vhost));
    row(&left, target(&route.pool, route.connections_max, route.moves))
}

/// Where a route leads, and on what terms.
fn target(pool: &model::PoolName, connections_max: Option<usize>, moves: Preference) -> String {
    let bound = connections_max.map_or(String::new(), |n| format!(", at most {n} connections"));
    let moves = match moves {
        Preference::Prefer => ", sessions are moved first",
        Preference::Normal => "",
        Preference::Protect => ", sessions are moved only when their endpoint goes away",
    };
    format!("-> {pool}{bound}{moves}")
}

/// Exact hosts, then wildcards from the longest, then any host; in each, longest path first.
fn routes(config: &Config) -> Vec<Row> {
    let mut routes: Vec<&Route> = config.routes.iter().collect();
    routes.sort_by_key(|route| {
        let host = route.host.as_deref().unwrap_or("");
        let class = match &route.host {
            Some(host) if host.starts_with("*.") => 1,
            Some(_) => 0,
            None => 2,
        };
        // Only among wildcards does the length decide; the name keeps a host's routes together.
        let length = if class == 1 { host.len() } else { 0 };
        (class, Reverse(length), host.to_ascii_lowercase(), Reverse(route.path.trim_end_matches('/').len()))
    });
    let line = |route: &Route| {
        let left = format!("{}{}", route.host.as_deref().unwrap_or("(any host)"), route.path);
        row(&left, target(&route.pool, route.connections_max, route.moves))
    };
    routes.into_iter().map(line).collect()
}

fn pool_rows(pool: &Pool, protocol: Protocol) -> Vec<Row> {
    let mut rows = source_rows(pool);
    placement_rows(pool, &mut rows);
    rebalance_rows(pool, &mut rows);
    match protocol {
        Protocol::Http => http_rows(pool, &mut rows),
        Protocol::Amqp => amqp_rows(pool, &mut rows),
    }
    rows
}

fn source_rows(pool: &Pool) -> Vec<Row> {
    match pool.source() {
        Source::Fixed(list) => list.iter().map(endpoint_row).collect(),
        Source::File(file) => vec![row("endpoints_file", file.display())],
        Source::Kubernetes(kubernetes) => {
            let port =
                kubernetes.port.as_ref().map_or_else(|| "its only port".into(), |p| format!("port {p}"));
            let cost = if kubernetes.deletion_cost { ", its Pods are told their deletion cost" } else { "" };
            let service = in_namespace(&kubernetes.service, kubernetes.namespace.as_deref());
            vec![row("kubernetes", format!("{service}, {port}{cost}"))]
        }
        Source::Dns(dns) => {
            let records = dns
                .port
                .map_or_else(|| "SRV records".to_owned(), |port| format!("A and AAAA records, port {port}"));
            let refresh = duration_text(dns.refresh);
            vec![row("dns", format!("{records} of {}, at least every {refresh}", dns.name))]
        }
    }
}

fn endpoint_row(e: &Endpoint) -> Row {
    let state = format!("{:?}", e.state).to_lowercase();
    let zone = e.zone.as_ref().map_or_else(String::new, |zone| format!(", zone {zone}"));
    row("endpoint", format!("{} at {}, weight {}, {state}{zone}", e.id, e.address, e.weight.value()))
}

fn in_namespace(service: &str, namespace: Option<&str>) -> String {
    let namespace = namespace.map_or_else(|| "own namespace".into(), |name| format!("namespace {name}"));
    format!("Service {service} in {namespace}")
}

fn amqp_rows(pool: &Pool, rows: &mut Vec<Row>) {
    let amqp = pool.amqp.clone().unwrap_or_default();
    if amqp.seamless {
        let order = match amqp.order {
            MessageOrder::Strict => "order of messages is kept",
            MessageOrder::Relaxed => "order of messages is best effort",
        };
        let queues = match amqp.foreign_queues {
            ForeignQueues::Pin => "a consumer of a queue declared elsewhere pins its session",
            ForeignQueues::AssumePersistent => "queues declared elsewhere are taken to be persistent",
        };
        rows.push(row("move: migrate", format!("the client stays; {order}; {queues}")));
        let (prepare, saturate) = (duration_text(amqp.prepare_timeout), duration_text(amqp.saturate_timeout));
        let (settle, flush) = (duration_text(amqp.settle_timeout), duration_text(amqp.flush_timeout));
        let replay = duration_text(amqp.replay_timeout);
        let waits = format!(
            "prepare {prepare}, saturate {saturate}, settle {settle}, flush {flush}, replay {replay}"
        );
        rows.push(row("waits of it", waits));
        let (linger, most) = (duration_text(amqp.linger), duration_text(amqp.linger_max));
        rows.push(row("old connection", format!("closed {linger} after the last ack, {most} at most")));
        let pinned = match amqp.when_pinned {
            WhenPinned::Stay => "it stays, until its endpoint drains",
            WhenPinned::Close => "it is closed",
        };
        rows.push(row("can not migrate", pinned));
    } else {
        rows.push(row("move: close", "sessions do not migrate: no login is kept"));
    }
    let (settle, close) = (duration_text(amqp.settle_timeout), duration_text(amqp.close_timeout));
    let how = format!("320 to the client once it has settled, or after {settle}; CloseOk within {close}");
    rows.push(row("close", how));
    let proxy = if amqp.proxy_protocol { ", PROXY protocol v2" } else { "" };
    let dial = duration_text(pool.dial_timeout);
    rows.push(row("reaching one", format!("dial {dial}, {} tries{proxy}", pool.tries_max)));
    let probe = &amqp.probe;
    let probed = if probe.interval.is_zero() {
        "never".to_owned()
    } else {
        let (interval, timeout) = (duration_text(probe.interval), duration_text(probe.timeout));
        format!("every {interval}, answer within {timeout}, unready after {} failures", probe.failures)
    };
    rows.push(row("probe", probed));
}

fn http_rows(pool: &Pool, rows: &mut Vec<Row>) {
    move_rows(pool, rows);
    let bad_frame = match pool.websocket.on_bad_frame {
        OnBadFrame::Opaque => "pass on as it is and pin the session",
        OnBadFrame::Strict => "close both sides with 1002",
    };
    rows.push(row("bad frame", bad_frame));
    rows.push(row(
        "endpoint vanishes",
        format!("close the client with {}", pool.websocket.on_upstream_abort),
    ));
    let retry =
        if pool.websocket.retry_upgrade { "upgrades are retried" } else { "upgrades are not retried" };
    rows.push(row(
        "reaching one",
        format!(
            "dial {}, response {}, {} tries, {retry}",
            duration_text(pool.dial_timeout),
            duration_text(pool.response_timeout),
            pool.tries_max
        ),
    ));
}

fn placement_rows(pool: &Pool, rows: &mut Vec<Row>) {
    let placement = &pool.placement;
    let by = match pool.balance {
        Policy::ConsistentHash => {
            let key = pool.hash.as_ref().and_then(crate::HashKey::key);
            let key = key.map_or_else(|| "client address".to_owned(), |key| key.describe());
            format!(" by {key}, at most {} x the share", placement.hash_load_max)
        }
        Policy::LeastConnections | Policy::P2c | Policy::Random | Policy::RoundRobin => String::new(),
    };
    rows.push(row("balance", format!("{}{by}", pool.balance.as_str())));
    let most = placement.sessions_per_endpoint_max;
    let most = most.map_or_else(|| "no bound".to_owned(), |most| format!("at most {most} sessions"));
    let slow = if placement.slow_start_window.is_zero() {
        "no slow start".to_owned()
    } else {
        let window = duration_text(placement.slow_start_window);
        format!("{} arrivals a second in its first {window}", placement.slow_start_per_second)
    };
    rows.push(row("an endpoint", format!("{most}, {slow}")));
    if let Some(zone_aware) = &placement.zone_aware {
        let most = zone_aware.imbalance_max;
        rows.push(row(
            "zones",
            format!("the own one first, up to {most} x the least-loaded endpoint anywhere"),
        ));
    }
    if placement.ejection_failures > 0 {
        rows.push(row(
            "ejection",
            format!(
                "after {} failures in a row, for {} and more",
                placement.ejection_failures,
                duration_text(placement.ejection_time)
            ),
        ));
    } else {
        rows.push(row("ejection", "never"));
    }
    rows.push(row("panic", format!("below {:.0} % ready endpoints", placement.panic_threshold * 100.0)));
    let admission = &pool.admission;
    if let Some(rate) = admission.sessions_per_second {
        let burst = admission.burst.map_or_else(String::new, |burst| format!(", {burst} at once"));
        let wait = duration_text(admission.retry_after_max);
        rows.push(row(
            "admission",
            format!("{rate} new sessions a second in all replicas{burst}, others wait up to {wait}"),
        ));
    } else {
        rows.push(row("admission", "no bound"));
    }
}

fn rebalance_rows(pool: &Pool, rows: &mut Vec<Row>) {
    let limits = &pool.rebalance;
    // What the bound of the ring allows is no surplus.
    let least = if pool.balance == Policy::ConsistentHash { pool.placement.hash_load_max } else { 1.0 };
    if limits.enabled {
        rows.push(row(
            "rebalance",
            format!(
                "starts above {} x target, or as far below it, from {} sessions on; stops at {} x",
                limits.start_ratio.max(least),
                limits.min_surplus,
                limits.stop_ratio.max(least)
            ),
        ));
        let pace = limits.moves_per_second_max.map_or_else(
            || "2 % of the sessions, 10 to 500, moves a second".to_owned(),
            |pace| format!("{pace} moves a second"),
        );
        let adapts = if limits.adaptive_pace { ", slower when handshakes suffer" } else { "" };
        rows.push(row("pace", format!("{pace}, {} at once{adapts}", limits.concurrent_moves_max)));
        rows.push(row(
            "checks",
            format!(
                "{} after endpoint changes, every {}; endpoints are filled {} after they became ready",
                duration_text(limits.settle),
                duration_text(limits.interval),
                duration_text(limits.min_ready)
            ),
        ));
        if let Some(age) = limits.max_age {
            let jitter = limits.max_age_jitter * 100.0;
            rows.push(row("old sessions", format!("moved after {} +/- {jitter:.0} %", duration_text(age))));
        }
        if let Some(key) = pool.tenant.as_ref().and_then(crate::TenantKey::key) {
            let (share, window) = (limits.tenant_share_max * 100.0, duration_text(limits.tenant_window));
            rows.push(row(
                "tenants",
                format!("by {}, at most {share:.0} % of the moves in {window}", key.describe()),
            ));
        }
        rows.push(row(
            "left alone",
            format!(
                "{} after connecting, {} after a move",
                duration_text(limits.min_age),
                duration_text(limits.cooldown)
            ),
        ));
    } else {
        rows.push(row("rebalance", "off (draining endpoints are still emptied)"));
    }
    rows.push(row("draining", format!("empty after {}", duration_text(limits.drain_deadline))));
    let away = duration_text(limits.return_timeout);
    rows.push(row("returns", format!("expected for {away} after a move")));
    if limits.enabled && limits.min_return_ratio > 0.0 {
        rows.push(row(
            "return guard",
            format!(
                "stops the moves when less than {:.0} % return; begins with {} moves, tries again after {}",
                limits.min_return_ratio * 100.0,
                limits.probe_moves,
                duration_text(limits.guard_backoff)
            ),
        ));
    }
}

fn move_rows(pool: &Pool, rows: &mut Vec<Row>) {
    if let Some(notice) = &pool.moves.notice {
        let kind = if notice.text.is_some() { "text" } else { "binary" };
        let who = match notice.when_subprotocol.as_slice() {
            [] => String::new(),
            some => format!(", only {}", some.join(", ")),
        };
        let grace = duration_text(notice.grace);
        rows.push(row(
            "move: notice",
            format!("{kind}, grace {grace} +/- {:.0} %{who}", notice.jitter * 100.0),
        ));
    }
    let close = &pool.moves.close;
    let order = match close.order {
        CloseOrder::ClientFirst => "client first",
        CloseOrder::BackendFirst => "endpoint first",
    };
    rows.push(row(
        "move: close",
        format!(
            "{} {:?}, {order}, after {} of quiet or {}, reply within {}",
            close.code,
            close.reason,
            duration_text(close.quiet),
            duration_text(close.wait),
            duration_text(close.reply_timeout)
        ),
    ));
}

/// What has to do with clusters; nothing where nothing does.
fn cluster_rows(config: &Config) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(tier) = &config.tier {
        let levelled = match tier.balance {
            TierBalance::Off => "its replicas are not levelled".to_owned(),
            TierBalance::On => format!(
                "starts above {} x the mean of its replicas, from {} sessions on; stops at {} x; {} closes a second",
                tier.start_ratio, tier.min_surplus, tier.stop_ratio, tier.moves_per_second_max
            ),
        };
        rows.push(row("tier", levelled));
    }
    let by_zone = config.pools.values().any(|pool| pool.placement.zone_aware.is_some());
    match (&config.zone, &config.tier) {
        (Some(zone), _) => rows.push(row("zone", zone)),
        (None, Some(_)) => rows.push(row("zone", "what the tier's Service says of this replica")),
        (None, None) if by_zone => rows.push(row("zone", "not known: no endpoint is preferred")),
        (None, None) => {}
    }
    let watched = config.pools.values().any(|pool| pool.kubernetes.is_some());
    if watched || config.tier.is_some() {
        let events = if config.kubernetes.events { "Events on Services" } else { "no Events" };
        let grace = duration_text(config.kubernetes.empty_grace);
        let how = format!("{events}; a Service without EndpointSlices keeps its endpoints for {grace}");
        rows.push(row("kubernetes", how));
    }
    rows
}

fn process(config: &Config) -> Vec<Row> {
    let limits = &config.limits;
    let bound = |n: Option<usize>, none: &str| n.map_or_else(|| none.to_owned(), |n| n.to_string());
    let idle = limits.idle_timeout.map_or_else(|| "never".to_owned(), duration_text);
    let access = if config.log.access { ", a line for each session" } else { "" };
    let replicas = match (&config.tier, config.replicas) {
        (Some(tier), _) => {
            let service = in_namespace(&tier.service, tier.namespace.as_deref());
            format!("the ready endpoints of {service}; {} until they are known", config.replicas)
        }
        (None, 1) => "1: it has the tier's whole budgets".to_owned(),
        (None, more) => format!("{more}: each has its part of the tier's budgets"),
    };
    let token = config
        .admin
        .token_file
        .as_ref()
        .map_or_else(String::new, |file| format!(", changes with the token in {}", file.display()));
    let proxies: Vec<_> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    let mut rows = vec![
        row("workers", bound(config.workers, "one a CPU")),
        row("replicas", replicas),
        row("connections_max", bound(limits.connections_max, "what the file descriptors allow")),
        row("connections_per_client_max", bound(limits.connections_per_client_max, "no bound")),
        row(
            "request head",
            format!("{} bytes, {}", limits.head_bytes_max, duration_text(limits.head_timeout)),
        ),
        row("tls_handshake_timeout", duration_text(limits.tls_handshake_timeout)),
        row("write_stall_timeout", duration_text(limits.write_stall_timeout)),
        row("idle_timeout", idle),
        row("half_close_timeout", duration_text(limits.half_close_timeout)),
        row("close_linger", duration_text(limits.close_linger)),
        row("http_keep_alive_timeout", duration_text(limits.http_keep_alive_timeout)),
        row("trusted_proxies", if proxies.is_empty() { "none".to_owned() } else { proxies.join(", ") }),
        row("shutdown", config.shutdown.explain()),
        row("admin", format!("http://{}{token}", config.admin.address)),
        row(
            "log",
            format!("{:?} and above, as {:?}{access}", config.log.level, config.log.format).to_lowercase(),
        ),
    ];
    rows.extend(cluster_rows(config));
    rows
}
