//! The calls that change something, and the plan: what each takes, and what it answers.
//!
//! Every call that changes something passes [`guarded`], which asks who it is, tells the log and counts.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, RawPathParamsRejection};
use axum::extract::{Path, RawPathParams, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use model::{EndpointId, PoolName, units};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access;
use crate::answer::Failure;
use crate::patience::Patience;
use crate::query;
use crate::server::{Peer, Port};

/// Shortest deadline of a drain, as in the configuration, and shortest wait for its end.
const DURATION_MIN: Duration = Duration::from_millis(100);
/// Longest deadline of a drain, as in the configuration.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest wait for the end of a drain: it keeps a connection.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Pause between two looks at what is left.
const LOOK: Duration = Duration::from_millis(100);

type Answer = Result<Json<Value>, Failure>;
type Names<T> = Result<Path<T>, PathRejection>;

/// A call by the name that it has in the log and in the metric.
#[derive(Clone)]
pub struct Gate {
    /// Who is asked.
    pub port: Port,
    /// The name.
    pub call: &'static str,
}

/// Lets a call pass that may change something, and tells of it either way.
pub async fn guarded(
    State(gate): State<Gate>,
    Extension(Peer(peer)): Extension<Peer>,
    names: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let call = gate.call;
    let named = |key: &str| {
        let mut names = names.iter().flatten();
        names.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    let (pool, endpoint) = (named("pool"), named("endpoint"));
    let (pool, endpoint) = (pool.as_deref(), endpoint.as_deref());
    let query = request.uri().query().map(str::to_owned);
    if let Err(denied) = access::judge(&gate.port.access(Instant::now()), request.headers()) {
        count(call, "refused");
        tracing::warn!(call, pool, endpoint, %peer, reason = ?denied, "an admin call is refused");
        return Failure::from(denied).into_response();
    }
    let response = next.run(request).await;
    let status = response.status();
    if status.is_success() {
        count(call, "done");
        tracing::info!(call, pool, endpoint, query, %peer, "an admin call is done");
    } else {
        // Without the query: a caller that misunderstands where the token goes may have put it there.
        count(call, "failed");
        tracing::warn!(call, pool, endpoint, %peer, status = status.as_u16(), "an admin call failed");
    }
    response
}

fn count(call: &'static str, outcome: &'static str) {
    metrics::counter!("evenkeel_admin_calls_total", "call" => call, "outcome" => outcome).increment(1);
}

/// Tells the recorder what the metric means.
pub fn describe() {
    metrics::describe_counter!(
        "evenkeel_admin_calls_total",
        "Calls that would change something, by what became of them"
    );
}

/// `GET /api/v1/plan`: what would be moved now.
pub async fn plan(State(port): State<Port>, RawQuery(query): RawQuery) -> Answer {
    let pool = query::parse(query.as_deref(), &["pool"])?.remove("pool").map(PoolName::new);
    Ok(Json(json!({"pools": port.control.plan(pool.as_ref())?})))
}

/// `POST /api/v1/pools/{pool}/rebalance`: levels now, and says what that takes.
pub async fn rebalance(State(port): State<Port>, names: Names<String>, RawQuery(query): RawQuery) -> Answer {
    let pool = PoolName::new(path(names)?);
    let query = query::parse(query.as_deref(), &["dry_run"])?;
    let dry_run = query::flag(query.get("dry_run"), "dry_run")?;
    let mut plans = port.control.plan(Some(&pool))?;
    if !dry_run {
        port.control.rebalance(&pool)?;
    }
    let plan = plans.get_mut(pool.as_str()).map(Value::take);
    Ok(Json(json!({"pool": pool, "dry_run": dry_run, "plan": plan})))
}

/// `POST /api/v1/pools/{pool}/rehearse`: every session that can migrate does so once.
pub async fn rehearse(State(port): State<Port>, names: Names<String>, RawQuery(query): RawQuery) -> Answer {
    let pool = PoolName::new(path(names)?);
    query::parse(query.as_deref(), &[])?;
    let told = port.control.rehearse(&pool)?;
    Ok(Json(json!({"pool": pool, "told": told})))
}

/// `POST /api/v1/pools/{pool}/pause`.
pub async fn pause(State(port): State<Port>, names: Names<String>, query: RawQuery) -> Answer {
    let pool = PoolName::new(path(names)?);
    paused(&port, Some(&pool), &query)
}

/// `POST /api/v1/pause`: of all pools.
pub async fn pause_all(State(port): State<Port>, query: RawQuery) -> Answer {
    paused(&port, None, &query)
}

fn paused(port: &Port, pool: Option<&PoolName>, RawQuery(query): &RawQuery) -> Answer {
    query::parse(query.as_deref(), &[])?;
    Ok(Json(json!({"paused": port.control.pause(pool)?})))
}

/// `POST /api/v1/pools/{pool}/resume`.
pub async fn resume(State(port): State<Port>, names: Names<String>, query: RawQuery) -> Answer {
    let pool = PoolName::new(path(names)?);
    resumed(&port, Some(&pool), &query)
}

/// `POST /api/v1/resume`: of all pools.
pub async fn resume_all(State(port): State<Port>, query: RawQuery) -> Answer {
    resumed(&port, None, &query)
}

fn resumed(port: &Port, pool: Option<&PoolName>, RawQuery(query): &RawQuery) -> Answer {
    query::parse(query.as_deref(), &[])?;
    Ok(Json(json!({"resumed": port.control.resume(pool)?})))
}

/// `POST .../drain`: empties an endpoint, and waits for that if asked to.
pub async fn drain(
    State(port): State<Port>,
    Extension(patience): Extension<Patience>,
    names: Names<(String, String)>,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let (pool, endpoint) = pool_and_endpoint(names)?;
    let mut query = query::parse(query.as_deref(), &["deadline", "wait"])?;
    let wait = query.remove("wait").map(|text| duration("wait", &text, WAIT_MAX)).transpose()?;
    let deadline = deadline(query.remove("deadline"), body)?;
    let deadline = port.control.drain(&pool, &endpoint, deadline)?.as_secs_f64();
    let mut answer = json!({"pool": pool, "endpoint": endpoint, "draining": true, "deadline_s": deadline});
    let Some(wait) = wait else { return Ok(Json(answer).into_response()) };
    patience.put_off(wait);
    let left = wait_until_empty(&port, &pool, &endpoint, wait).await?;
    answer["left"] = left.into();
    if left == 0 {
        return Ok(Json(answer).into_response());
    }
    let waited = humantime::format_duration(wait);
    let text = format!("{left} connections are left on {pool}/{endpoint} after {waited}; the drain goes on");
    answer["error"] = text.into();
    Ok((StatusCode::GATEWAY_TIMEOUT, Json(answer)).into_response())
}

/// Looks again and again until nothing is left or the time is up. Returns what is left.
async fn wait_until_empty(
    port: &Port,
    pool: &PoolName,
    endpoint: &EndpointId,
    wait: Duration,
) -> Result<u64, Failure> {
    let end = tokio::time::Instant::now() + wait;
    loop {
        let left = port.control.left(pool, endpoint)?;
        if left == 0 || tokio::time::Instant::now() >= end {
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `GET .../drain`: what is still at an endpoint, whether it is being drained or not.
pub async fn left(
    State(port): State<Port>,
    names: Names<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::parse(query.as_deref(), &[])?;
    let (pool, endpoint) = pool_and_endpoint(names)?;
    let left = port.control.left(&pool, &endpoint)?;
    Ok(Json(json!({"pool": pool, "endpoint": endpoint, "left": left})))
}

/// `DELETE .../drain`: takes it back.
pub async fn cancel_drain(
    State(port): State<Port>,
    names: Names<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    query::parse(query.as_deref(), &[])?;
    let (pool, endpoint) = pool_and_endpoint(names)?;
    port.control.cancel_drain(&pool, &endpoint)?;
    Ok(Json(json!({"pool": pool, "endpoint": endpoint, "draining": false})))
}

fn pool_and_endpoint(names: Names<(String, String)>) -> Result<(PoolName, EndpointId), Failure> {
    let (pool, endpoint) = path(names)?;
    Ok((PoolName::new(pool), EndpointId::new(endpoint)))
}

fn path<T>(names: Names<T>) -> Result<T, Failure> {
    names.map(|Path(names)| names).map_err(|_| {
        Failure::bad("a name in the path is not UTF-8 when decoded; percent-encode it byte by byte")
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DrainBody {
    #[serde(with = "units::optional_duration")]
    deadline: Option<Duration>,
}

/// From the query or from the body; `None`: as configured.
fn deadline(query: Option<String>, body: Result<Bytes, BytesRejection>) -> Result<Option<Duration>, Failure> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            r#"the body has more than 16 KiB; expected {"deadline": "30s"} or none"#,
        ),
        _ => Failure::bad(r#"the body ended early; expected {"deadline": "30s"} or none"#),
    })?;
    let of_query = query.map(|text| duration("deadline", &text, DEADLINE_MAX)).transpose()?;
    let of_body = if body.trim_ascii().is_empty() { None } else { parse_body(&body)?.deadline };
    let deadline = match (of_query, of_body) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad("deadline is in the query and in the body; expected in one of them"));
        }
        (of_query, of_body) => of_query.or(of_body),
    };
    deadline.map(|deadline| in_range("deadline", deadline, DEADLINE_MAX)).transpose()
}

/// The value of `key`, from 100 ms to `most`.
fn duration(key: &str, text: &str, most: Duration) -> Result<Duration, Failure> {
    let parsed = humantime::parse_duration(text).map_err(|error| {
        Failure::senseless(format!(
            "{key}: {text:?} is not a duration ({error}); expected for example 100ms, 30s or 10m"
        ))
    })?;
    in_range(key, parsed, most)
}

fn in_range(key: &str, value: Duration, most: Duration) -> Result<Duration, Failure> {
    if (DURATION_MIN..=most).contains(&value) {
        return Ok(value);
    }
    let (found, most) = (humantime::format_duration(value), humantime::format_duration(most));
    Err(Failure::senseless(format!("{key} is {found}, expected 100ms to {most}")))
}

fn parse_body(body: &[u8]) -> Result<DrainBody, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let text = format!(r#"body: {error}; expected for example {{"deadline": "30s"}}"#);
        if error.is_data() { Failure::senseless(text) } else { Failure::bad(text) }
    })
}
