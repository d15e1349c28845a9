//! One request to one admin port, with a deadline and a bound on the answer.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};

/// Most bytes of an answer: some hundred thousand endpoints.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes that are read of a token file.
const TOKEN_FILE_BYTES_MAX: u64 = 8192;

/// Where an admin port listens: `host:port`, or `http://host:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address(Authority);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?}: expected HOST:PORT or http://HOST:PORT, such as 127.0.0.1:9900");
        if text.starts_with("https://") {
            return Err(format!("{text:?}: the admin port speaks plain HTTP; {}", expected()));
        }
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let authority =
            Authority::from_str(bare.strip_suffix('/').unwrap_or(bare)).map_err(|_| expected())?;
        let is_whole = !authority.host().is_empty() && !authority.as_str().contains('@');
        if is_whole && authority.port_u16().is_some() { Ok(Self(authority)) } else { Err(expected()) }
    }
}

impl Address {
    /// The host without the brackets of an IPv6 address.
    fn host_and_port(&self) -> (&str, u16) {
        let host = self.0.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (host, self.0.port_u16().unwrap_or_default())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// GET only looks; the others need the token, where one is configured.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
}

/// The `Authorization` of calls that change something. Its Debug is a mask.
#[derive(Clone, Debug)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// The token in `file`, without the blanks around it.
    ///
    /// # Errors
    /// What is wrong with the file; never its content.
    pub fn read(file: &Path) -> Result<Self, String> {
        let named = |what: String| format!("--token-file {}: {what}", file.display());
        let mut text = String::new();
        File::open(file)
            .and_then(|file| file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| named(format!("it can not be read: {error}")))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(named("expected the token of admin.token_file, one line of visible ASCII".into()));
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| named("the token can not be sent in a header".into()))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no gateway answers at {0}: is it running, and is admin.address reachable from here? \
         (in Kubernetes: kubectl port-forward POD 9900, then --admin 127.0.0.1:9900)"
    )]
    NobodyThere(Address),
    /// A name that leads nowhere.
    #[error(
        "{0} leads to no address: {1}; in Kubernetes, is it the gateway's headless Service, and is a replica ready?"
    )]
    NoReplica(Address, String),
    /// No way to it, or it broke.
    #[error("{0} can not be reached: {1}; is the address right, and is admin.address reachable from here?")]
    Unreachable(Address, String),
    /// It takes too long.
    #[error("{0} did not answer within {1:?}; try again, or give --timeout more time")]
    TooSlow(Address, Duration),
    /// Another kind of server.
    #[error("{0} answers, but not as an evenkeel admin port does: {1}; is the address right?")]
    Strange(Address, String),
    /// It wants a token.
    #[error("{0}: {1}; name the file that holds it with --token-file")]
    Unauthorized(Address, String),
    /// It does not let us.
    #[error("{0}: {1}")]
    Forbidden(Address, String),
    /// It can not do this.
    #[error("{0}: {1}")]
    Refused(Address, String),
}

/// The addresses that a name leads to, each once. A replica with addresses of both families is taken by its IPv4 address.
/// Waits at most `timeout`.
///
/// # Errors
/// [`ClientError::NoReplica`] or [`ClientError::TooSlow`].
pub async fn all_behind(name: &Address, timeout: Duration) -> Result<Vec<Address>, ClientError> {
    let found = match tokio::time::timeout(timeout, lookup_host(name.host_and_port())).await {
        Ok(Ok(found)) => one_family(found),
        Ok(Err(error)) => return Err(ClientError::NoReplica(name.clone(), error.to_string())),
        Err(_) => return Err(ClientError::TooSlow(name.clone(), timeout)),
    };
    let addresses: Vec<Address> = found.iter().filter_map(|found| found.to_string().parse().ok()).collect();
    if addresses.is_empty() {
        return Err(ClientError::NoReplica(name.clone(), "the answer is empty".into()));
    }
    Ok(addresses)
}

fn one_family(found: impl Iterator<Item = SocketAddr>) -> BTreeSet<SocketAddr> {
    let (v4, v6): (BTreeSet<_>, BTreeSet<_>) = found.partition(SocketAddr::is_ipv4);
    if v4.is_empty() { v6 } else { v4 }
}

/// Asks, and waits at most `timeout` for the whole answer. `bearer` goes only with what changes something.
///
/// # Errors
/// [`ClientError`].
pub async fn ask(
    address: &Address,
    call: &Call,
    bearer: Option<&Bearer>,
    timeout: Duration,
) -> Result<Value, ClientError> {
    ask_at_most(address, call, bearer, timeout, ANSWER_BYTES_MAX).await
}

/// The same, and takes an answer of at most so many bytes.
///
/// # Errors
/// [`ClientError`].
pub async fn ask_at_most(
    address: &Address,
    call: &Call,
    bearer: Option<&Bearer>,
    timeout: Duration,
    bytes_max: usize,
) -> Result<Value, ClientError> {
    match tokio::time::timeout(timeout, exchange(address, call, bearer, bytes_max)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::TooSlow(address.clone(), timeout)),
    }
}

async fn exchange(
    address: &Address,
    call: &Call,
    bearer: Option<&Bearer>,
    bytes_max: usize,
) -> Result<Value, ClientError> {
    let broke = |error: &dyn fmt::Display| ClientError::Unreachable(address.clone(), error.to_string());
    let strange = |error: &dyn fmt::Display| ClientError::Strange(address.clone(), error.to_string());
    let stream = TcpStream::connect(address.host_and_port()).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => ClientError::NobodyThere(address.clone()),
        _ => broke(&error),
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(&error))?;
    let request = request(address, call, bearer).map_err(|error| strange(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| strange(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                strange(&format!("it sends more than {bytes_max} bytes"))
            } else {
                broke(&error)
            }
        })?;
        judge(address, status, &body.to_bytes())
    };
    tokio::pin!(answer, connection);
    // The connection ends once the answer is whole, or breaks, which the answer then says.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

fn request(
    address: &Address,
    call: &Call,
    bearer: Option<&Bearer>,
) -> hyper::http::Result<Request<Empty<Bytes>>> {
    let mut request =
        Request::builder().method(&call.method).uri(&call.path).header(HOST, address.0.as_str());
    if let (Some(Bearer(value)), true) = (bearer, call.method != Method::GET) {
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new())
}

fn judge(address: &Address, status: StatusCode, body: &[u8]) -> Result<Value, ClientError> {
    let value = serde_json::from_slice::<Value>(body);
    if status.is_success() {
        let strange =
            |error| ClientError::Strange(address.clone(), format!("its answer is no JSON ({error})"));
        return value.map_err(strange);
    }
    let said = value.ok().and_then(|value| value["error"].as_str().map(crate::tables::printable));
    let Some(said) = said else {
        return Err(ClientError::Strange(
            address.clone(),
            format!("its answer is {status}, without an error in JSON"),
        ));
    };
    Err(match status {
        StatusCode::UNAUTHORIZED => ClientError::Unauthorized(address.clone(), said),
        StatusCode::FORBIDDEN => ClientError::Forbidden(address.clone(), said),
        _ => ClientError::Refused(address.clone(), said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_with_or_without_http() {
        for (text, expected) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://evenkeel-0.chat:9900/", "evenkeel-0.chat:9900"),
            ("[::1]:9900", "[::1]:9900"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
        for text in
            ["", "a", ":9900", "a:", "a:x", "a:70000", "http://a:1/x", "u@a:1", "a b:1", "https://a:1"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("expected HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn of_a_replica_with_two_families_one_address_is_taken() {
        let taken = |found: &[&str]| {
            let found = found.iter().map(|text| text.parse::<SocketAddr>().unwrap());
            one_family(found).iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        let both = ["[fd00::1]:1", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:1"];
        assert_eq!(taken(&both), ["10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(taken(&["[fd00::2]:1", "[fd00::1]:1"]), ["[fd00::1]:1", "[fd00::2]:1"]);
        assert!(taken(&[]).is_empty());
    }

    #[test]
    fn a_status_tells_who_has_to_act() {
        let address: Address = "a:1".parse().unwrap();
        let judged =
            |status: u16, body: &str| judge(&address, StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(judged(200, r#"{"a":1}"#).unwrap()["a"], 1);
        let error = |status, body| judged(status, body).unwrap_err().to_string();
        assert!(error(401, r#"{"error":"no"}"#).contains("--token-file"));
        assert_eq!(error(404, "{\"error\":\"no \\u001b[2J\"}"), "a:1: no \\u{1b}[2J");
        for (status, body) in [(200, "hello"), (404, "hello"), (500, r#"{"e":1}"#), (302, "")] {
            assert!(error(status, body).contains("not as an evenkeel admin port"), "{status} {body}");
        }
    }

    #[test]
    fn a_token_is_trimmed_masked_and_a_bad_file_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, " hunter2hunter2hunter2\n").unwrap();
        let bearer = Bearer::read(&file).unwrap();
        assert_eq!(bearer.0, "Bearer hunter2hunter2hunter2");
        assert!(!format!("{bearer:?}").contains("hunter2"));
        for content in ["", "\n", "hunter2 hunter2", "hunter2\u{e4}"] {
            std::fs::write(&file, content).unwrap();
            let error = Bearer::read(&file).unwrap_err();
            assert!(error.contains("/token: expected") && !error.contains("hunter2"), "{error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(Bearer::read(&file).unwrap_err().contains("can not be read"));
    }

    #[test]
    fn the_token_goes_only_with_what_changes_something() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hunter2hunter2hunter2").unwrap();
        let (address, bearer) = ("a:1".parse().unwrap(), Bearer::read(&file).unwrap());
        for (method, expected) in [(Method::GET, false), (Method::POST, true), (Method::DELETE, true)] {
            let call = Call { method, path: "/a".into() };
            let request = request(&address, &call, Some(&bearer)).unwrap();
            assert_eq!(request.headers().contains_key(AUTHORIZATION), expected, "{call:?}");
        }
    }
}
