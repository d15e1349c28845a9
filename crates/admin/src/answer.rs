//! What a call is answered when it is not done: a status and `{"error": "..."}`.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::access::Denied;
use crate::control::Unknown;

/// A refusal, or a mistake of the caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Whose fault it is.
    pub status: StatusCode,
    /// What was expected, what was found, what to do.
    pub text: String,
}

impl Failure {
    /// With this status.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// A request that can not be read.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// A request that can be read and makes no sense.
    pub fn senseless(text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }
}

impl From<Unknown> for Failure {
    fn from(unknown: Unknown) -> Self {
        Self::new(StatusCode::NOT_FOUND, unknown.0)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::TokenMissing | Denied::TokenWrong => StatusCode::UNAUTHORIZED,
            Denied::WebPage | Denied::Host | Denied::NoToken => StatusCode::FORBIDDEN,
            Denied::Unusable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, denied.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({"error": self.text}));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"evenkeel\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
