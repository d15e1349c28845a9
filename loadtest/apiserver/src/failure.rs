//! Every refusal as the API tells it: an HTTP status and a `Status` object with reason, message and details.
//!
//! The wordings are those of kube-apiserver, because clients (kubectl, and people) read them.

use std::fmt;

use serde_json::{Value, json};

use crate::resource::Resource;

/// Why a request is refused.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// HTTP status.
    pub code: u16,
    /// `NotFound`, `Forbidden`, ...
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about: name, group, kind, causes.
    pub details: Value,
    /// Seconds for the header Retry-After.
    pub retry_after: Option<u32>,
}

impl Failure {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: json!({}), retry_after: None }
    }

    /// The request itself makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// There is no such object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// There is no such path.
    pub fn no_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// An object of that name is there.
    pub fn exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// The object has changed since it was read.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// An object or an option breaks a rule.
    pub fn invalid(kind: &str, name: &str, field: &str, why: &str) -> Self {
        let message = format!("{kind} {name:?} is invalid: {field}: {why}");
        let causes = json!([{"reason": "FieldValueInvalid", "message": why, "field": field}]);
        let details = json!({"name": name, "kind": kind, "causes": causes});
        Self { details, ..Self::new(422, "Invalid", message) }
    }

    /// The history does not reach back so far.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// The page that is asked for is no longer kept.
    pub fn continue_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You must \
                       start a new list without the continue parameter.";
        Self::new(410, "Expired", message)
    }

    /// The client knows more than this server.
    pub fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        let details = json!({"causes": causes, "retryAfterSeconds": 1});
        Self { details, retry_after: Some(1), ..Self::new(504, "Timeout", message) }
    }

    /// With the object it is about.
    pub fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        self
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
