//! The typed tree of `evenkeel.yaml`: every key, its unit and its default. Unknown keys are errors.
//!
//! Field names are the keys. Defaults of what `balance` decides live there (`balance::Limits`); all others are
//! here. Nothing is validated in this file: see `validate`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use balance::victims::Preference;
use balance::{Admission, Limits as RebalanceLimits, Placement, Policy};
use ipnet::IpNet;
use model::{EndpointId, EndpointState, PoolName, Weight, Zone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Amqp, AmqpRoute, DnsPool, Kubernetes, KubernetesPool, Shutdown, Tier, units};

/// The whole file.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect. At least one.
    pub listeners: Vec<Listener>,
    /// Which requests go to which pool: exact host before wildcard before any host, then the longest path. An unmatched
    /// request is answered 404. At least one when a listener speaks HTTP.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Interchangeable endpoints by name.
    pub pools: BTreeMap<PoolName, Pool>,
    /// Bounds of the whole process.
    #[serde(default)]
    pub limits: Limits,
    /// Peers whose X-Forwarded-* and X-Request-Id are kept and appended to; from others they are replaced.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// What happens on SIGTERM.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// The operator's port: health, metrics, status.
    #[serde(default)]
    pub admin: Admin,
    /// Relay threads. Default: one a CPU that this process may use.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Ready gateway replicas, this one included, that share the budgets of the whole tier (`moves_per_second_max`,
    /// `probe_moves`, `sessions_per_second`, `burst`, `slow_start_per_second`). Takes effect on a reload. With `tier` it counts
    /// only until the replicas are known.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Where this replica runs: 1 to 63 of `a-z A-Z 0-9 - _ .`. Default: what its own entry in the Service of `tier` says, if
    /// anything.
    #[serde(default)]
    pub zone: Option<Zone>,
    /// The gateway's own replicas, found through Kubernetes. Default: `replicas` counts.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// How the gateway behaves towards the Kubernetes API.
    #[serde(default)]
    pub kubernetes: Kubernetes,
    /// What is logged, to standard error.
    #[serde(default)]
    pub log: Log,
}

/// One address that clients connect to.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `0.0.0.0:8080`, `"[::]:8080"` (IPv6 and, unless `ipv6_only`, IPv4), port 0 for one that the system picks.
    #[schemars(extend("x-type" = "address"))]
    pub address: SocketAddr,
    /// On an IPv6 address: refuse IPv4 clients.
    #[serde(default)]
    pub ipv6_only: bool,
    /// Present: `wss://` and `https://`, or `amqps://`. Absent: `ws://` and `http://`, or `amqp://`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// What clients speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// With `protocol: amqp`, and only then: which connections go to which pool. The first match wins; an unmatched one is
    /// refused.
    #[serde(default)]
    pub routes: Vec<AmqpRoute>,
}

/// What clients speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// WebSocket and plain HTTP/1.1.
    #[default]
    Http,
    /// AMQP 0-9-1.
    Amqp,
}

/// Files of a TLS listener, read again when they change.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the certificate, then its chain. Read again when it changes.
    #[schemars(extend("x-type" = "path"))]
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1 private key. Read again when it changes.
    #[schemars(extend("x-type" = "path"))]
    pub key: PathBuf,
}

/// Which requests go to which pool.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `chat.example.com`, or `"*.example.com"` for every name below it. Without port, in any case. Default: any host.
    #[serde(default)]
    pub host: Option<String>,
    /// Path prefix, by whole segments: `/ws` matches `/ws` and `/ws/a`, not `/wsx`.
    #[serde(default = "root_path")]
    pub path: String,
    /// Where it goes.
    pub pool: PoolName,
    /// Most connections at once through this route. Default: no bound.
    #[serde(default)]
    pub connections_max: Option<usize>,
    /// Whether its sessions are moved before or after others.
    #[serde(default)]
    pub moves: Preference,
}

/// Interchangeable endpoints, how sessions are placed on them, and how they are moved.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// A fixed list, at most 10,000. Exactly one of `endpoints`, `endpoints_file`, `kubernetes` and `dns` is present.
    #[serde(default)]
    pub endpoints: Option<Vec<StaticEndpoint>>,
    /// File with such a list, YAML or JSON, at most 1 MiB, looked at every 500 ms. An unusable file keeps the last good list.
    /// Replace it by renaming.
    #[serde(default)]
    #[schemars(extend("x-type" = "path"))]
    pub endpoints_file: Option<PathBuf>,
    /// A Service whose EndpointSlices are watched: an endpoint is a Pod, whatever its address.
    #[serde(default)]
    pub kubernetes: Option<KubernetesPool>,
    /// A name whose addresses are the endpoints.
    #[serde(default)]
    pub dns: Option<DnsPool>,
    /// How a new session's endpoint is picked.
    #[serde(default)]
    pub balance: Policy,
    /// What `consistent_hash` goes by: exactly one of its keys. A request without it goes by the client's address. Default:
    /// the client's address.
    #[serde(default)]
    pub hash: Option<HashKey>,
    /// Which endpoints may be picked.
    #[serde(default)]
    pub placement: Placement,
    /// How many new sessions are let in. Clients that were moved always are; plain requests do not count.
    #[serde(default)]
    pub admission: Admission,
    /// When and how fast sessions are moved.
    #[serde(default)]
    pub rebalance: RebalanceLimits,
    /// Whose session it is, for `rebalance.tenant_share_max`: exactly one of its keys. A request without it is nobody's.
    /// Default: nobody's.
    #[serde(default)]
    pub tenant: Option<TenantKey>,
    /// By what means a session is moved, gentlest first.
    #[serde(default, rename = "move")]
    pub moves: Move,
    /// WebSocket details.
    #[serde(default)]
    pub websocket: WebSocket,
    /// AMQP details, of pools to which an AMQP listener leads. Such pools have no `websocket`, `move`, `response_timeout` or
    /// `tenant`, and `hash` knows only `client_address`. Default: all of its defaults.
    #[serde(default)]
    pub amqp: Option<Amqp>,
    /// Longest wait for a TCP connection to an endpoint.
    #[serde(default = "units::secs::<3>", with = "units::duration")]
    pub dial_timeout: Duration,
    /// Longest wait for an endpoint's response head.
    #[serde(default = "units::secs::<10>", with = "units::duration")]
    pub response_timeout: Duration,
    /// Endpoints tried for one request before it is answered 502.
    #[serde(default = "three")]
    pub tries_max: u8,
}

/// What `consistent_hash` goes by: exactly one of the four is present. A request without it goes by the client's
/// address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HashKey {
    /// Name of a header, in any case. Its first value counts.
    pub header: Option<String>,
    /// Name of a cookie.
    pub cookie: Option<String>,
    /// Name of a query parameter. Name and value count as they are written, without decoding.
    pub query: Option<String>,
    /// The address that the connection comes from; behind a proxy that is the proxy's: use `header: X-Forwarded-For` there.
    pub client_address: bool,
}

/// Whose session it is: exactly one of the three is present. A request without it is nobody's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantKey {
    /// Name of a header, in any case. Its first value counts.
    pub header: Option<String>,
    /// Name of a cookie.
    pub cookie: Option<String>,
    /// Name of a query parameter. Name and value count as they are written, without decoding.
    pub query: Option<String>,
}

/// An endpoint as it is written in a list.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticEndpoint {
    /// Where the endpoint listens: IP address and port.
    #[schemars(extend("x-type" = "address"))]
    pub address: SocketAddr,
    /// Identity that outlives an address: 1 to 253 bytes. Default: the address.
    #[serde(default)]
    pub id: Option<EndpointId>,
    /// Share of the load, relative to the others.
    #[serde(default)]
    pub weight: Weight,
    /// What it may get.
    #[serde(default)]
    pub state: EndpointState,
    /// Where it runs, for `placement.zone_aware`: 1 to 63 of `a-z A-Z 0-9 - _ .`. Default: not known.
    #[serde(default)]
    pub zone: Option<Zone>,
}

/// The ladder of a move, gentlest first. The first rung that a session allows is taken.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Move {
    /// Present: the client is told first and has a grace time in which it leaves by itself.
    pub notice: Option<Notice>,
    /// The close that ends the session.
    pub close: Close,
}

/// A message that asks the client to come back on a new connection.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// Sent as a Text message, 1 byte to 16 KiB; `{{grace_ms}}` and `{{reason}}` are filled in. Exactly one of `text` and
    /// `binary` is present.
    #[serde(default)]
    pub text: Option<String>,
    /// Sent as a Binary message, 1 byte to 16 KiB.
    #[serde(default)]
    pub binary: Option<units::Base64>,
    /// How long the client has before it is closed.
    #[serde(default = "units::secs::<30>", with = "units::duration")]
    pub grace: Duration,
    /// The grace of each session is spread by up to this share either way.
    #[serde(default = "fifth")]
    pub jitter: f64,
    /// Only sessions with one of these subprotocols get the notice. Default: all.
    #[serde(default)]
    pub when_subprotocol: Vec<String>,
}

/// The polite close at a quiet moment.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Close {
    /// Close code (RFC 6455 section 7.4). Codes that keep clients from coming back are warned about or refused.
    pub code: u16,
    /// Close reason, at most 123 bytes.
    pub reason: String,
    /// Who gets the Close frame first, and so which direction can lose a message.
    pub order: CloseOrder,
    /// Both directions must be at a message boundary and silent for this long.
    #[serde(with = "units::duration")]
    pub quiet: Duration,
    /// Longest wait for such a moment; then the close is sent at the next end of a message, looked for as long again,
    /// then at the next frame boundary.
    #[serde(with = "units::duration")]
    pub wait: Duration,
    /// Longest wait for the peer's own Close frame.
    #[serde(with = "units::duration")]
    pub reply_timeout: Duration,
}

impl Default for Close {
    fn default() -> Self {
        Self {
            code: 1012,
            reason: "rebalance".into(),
            order: CloseOrder::ClientFirst,
            quiet: Duration::from_millis(100),
            wait: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(5),
        }
    }
}

/// Who gets the Close frame first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloseOrder {
    /// Every message of the client is delivered; what the endpoint sends after the Close is counted and dropped.
    #[default]
    ClientFirst,
    /// Every message of the endpoint is delivered; what the client sends after the Close is counted and dropped.
    BackendFirst,
}

/// WebSocket details of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocket {
    /// What a malformed frame does.
    pub on_bad_frame: OnBadFrame,
    /// Close code for the client when the endpoint vanishes without a Close frame.
    pub on_upstream_abort: u16,
    /// Another endpoint is tried when one dies after the upgrade request was sent, before any byte of its answer.
    pub retry_upgrade: bool,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { on_bad_frame: OnBadFrame::Opaque, on_upstream_abort: 1012, retry_upgrade: true }
    }
}

/// What a malformed frame does to its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadFrame {
    /// The bytes pass as they are from then on; the peer judges them; the session is pinned.
    #[default]
    Opaque,
    /// Both peers get Close 1002.
    Strict,
}

/// Bounds of the whole process.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ProcessLimits")]
pub struct Limits {
    /// Client connections at once. Default: what the file descriptors allow, (limit - 200) / 2.
    pub connections_max: Option<usize>,
    /// Client connections at once from one address. Default: no bound.
    pub connections_per_client_max: Option<usize>,
    /// Longest request or response head, in bytes.
    pub head_bytes_max: usize,
    /// Longest wait for a complete request head.
    #[serde(with = "units::duration")]
    pub head_timeout: Duration,
    /// Longest wait for a TLS handshake.
    #[serde(with = "units::duration")]
    pub tls_handshake_timeout: Duration,
    /// A peer that takes no byte for this long is cut off.
    #[serde(with = "units::duration")]
    pub write_stall_timeout: Duration,
    /// A session without a byte in either direction for this long is closed. Default: never.
    #[serde(with = "units::optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// After the peer ended its side without a Close frame, the other direction has this long.
    #[serde(with = "units::duration")]
    pub half_close_timeout: Duration,
    /// After both Close frames, or after our FIN, a peer has this long to close.
    #[serde(with = "units::duration")]
    pub close_linger: Duration,
    /// Idle keep-alive connections of plain HTTP, to clients and to endpoints.
    #[serde(with = "units::duration")]
    pub http_keep_alive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: None,
            connections_per_client_max: None,
            head_bytes_max: 16 * 1024,
            head_timeout: Duration::from_secs(10),
            tls_handshake_timeout: Duration::from_secs(10),
            write_stall_timeout: Duration::from_secs(60),
            idle_timeout: None,
            half_close_timeout: Duration::from_secs(5),
            close_linger: Duration::from_secs(2),
            http_keep_alive_timeout: Duration::from_secs(60),
        }
    }
}

/// The operator's port: health, metrics, status.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Anything but loopback is warned about: nobody who only looks is asked who they are. Port 0 for one that the system picks.
    #[schemars(extend("x-type" = "address"))]
    pub address: SocketAddr,
    /// File with the token of calls that change something: 16 to 4096 bytes. Read again when it changes. Without it such calls
    /// are taken on a loopback address only.
    #[schemars(extend("x-type" = "path"))]
    pub token_file: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900), token_file: None }
    }
}

/// What is logged, to standard error.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Least severe level that is logged.
    pub level: Level,
    /// Form of a line.
    pub format: Format,
    /// One line per ended session (duration, bytes, close code, endpoint).
    pub access: bool,
}

/// Least severe level that is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl Config {
    /// What is spoken with the endpoints of `pool`: what the listener speaks whose routes lead there.
    pub fn protocol(&self, pool: &PoolName) -> Protocol {
        let by_amqp = |listener: &Listener| {
            listener.protocol == Protocol::Amqp && listener.routes.iter().any(|route| route.pool == *pool)
        };
        if self.listeners.iter().any(by_amqp) { Protocol::Amqp } else { Protocol::Http }
    }
}

fn root_path() -> String {
    "/".into()
}

fn one() -> u32 {
    1
}

fn three() -> u8 {
    3
}

fn fifth() -> f64 {
    0.2
}
