//! A request as the API reads it: who wants what, of which objects, in which form.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::failure::Failure;
use crate::path::{Objects, Target};
use crate::render::View;
use crate::select::Selection;

/// A request without its connection.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, ...
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    /// Header Accept.
    pub accept: String,
    /// Header Content-Type.
    pub content_type: String,
    /// Header User-Agent.
    pub user_agent: String,
    /// What it carries.
    pub body: Bytes,
    /// The time, RFC 3339: what new objects are stamped with.
    pub now: String,
}

/// A request for objects.
#[derive(Clone, Debug)]
pub struct Call {
    /// As Roles name it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// Of what.
    pub objects: Objects,
    /// In which form.
    pub view: View,
    query: Vec<(String, String)>,
}

impl Request {
    /// Reads a query string.
    pub fn parse_query(text: &str) -> Vec<(String, String)> {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(k, v)| (decode(k), decode(v)))
            .collect()
    }

    /// The body as JSON, or as YAML where that is allowed.
    ///
    /// # Errors
    /// 415 for another format, 400 when it cannot be read.
    pub fn object(&self) -> Result<Value, Failure> {
        let format = self.content_type.split(';').next().unwrap_or_default().trim();
        if format.ends_with("protobuf") || format.ends_with("cbor") {
            let message =
                format!("the body of the request was in an unknown format - {format}; expected JSON");
            return Err(Failure::new(415, "UnsupportedMediaType", message));
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        let unreadable = |e: String| Failure::bad_request(format!("couldn't read the object: {e}"));
        if format.ends_with("yaml") {
            let text = String::from_utf8_lossy(&self.body);
            return serde_saphyr::from_str(&text).map_err(|e| unreadable(e.to_string()));
        }
        serde_json::from_slice(&self.body).map_err(|e| unreadable(e.to_string()))
    }
}

impl Call {
    /// What a request for objects wants.
    ///
    /// # Errors
    /// 405 when there is no such verb for them.
    pub fn of(request: &Request, objects: Objects) -> Result<Self, Failure> {
        let view = View::of(&request.accept);
        let mut call = Self { verb: "get", objects, view, query: request.query.clone() };
        call.verb = match (request.method.as_str(), call.objects.name.is_some()) {
            ("GET" | "HEAD", true) => "get",
            ("GET" | "HEAD", false) if call.flag("watch") => "watch",
            ("GET" | "HEAD", false) => "list",
            ("POST", _) if call.objects.subresource == "eviction" => "create",
            ("POST", false) => "create",
            ("PUT", true) => "update",
            ("PATCH", true) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) => "deletecollection",
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return Err(Failure::new(405, "MethodNotAllowed", message));
            }
        };
        Ok(call)
    }

    /// A value of the query; empty when absent.
    pub fn option(&self, key: &str) -> &str {
        self.query.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }

    /// Whether a value of the query is true.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.option(key), "true" | "1" | "True")
    }

    /// A number of the query; none when absent or empty.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        let text = self.option(key);
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = |_| Failure::bad_request(format!("{key}: Invalid value: {text:?}: expected a number"));
        text.parse().map(Some).map_err(wrong)
    }

    /// `timeoutSeconds`, when it is above 0.
    ///
    /// # Errors
    /// 400 when it is no number.
    pub fn timeout(&self) -> Result<Option<Duration>, Failure> {
        Ok(self.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs))
    }

    /// Which objects of the collection.
    ///
    /// # Errors
    /// 400 when a selector cannot be read.
    pub fn selection(&self) -> Result<Selection, Failure> {
        let kind = self.objects.resource.kind;
        Selection::parse(kind, self.option("labelSelector"), self.option("fieldSelector"))
    }
}

impl TryFrom<&Request> for Target {
    type Error = Failure;

    fn try_from(request: &Request) -> Result<Self, Failure> {
        Self::parse(&request.path)
    }
}
