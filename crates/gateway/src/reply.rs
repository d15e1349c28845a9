//! What the gateway answers itself: errors that say whose fault, what was expected and what to do.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::entropy;
use crate::http::Body;
use crate::io::Io;

/// Retry-After of a 502 or 503 is spread over this many seconds, so that clients do not come back at once.
const RETRY_AFTER_SECS_MAX: u8 = 5;
/// After an error answer the client may go on sending for this long; closing earlier could lose it the answer.
const LINGER: Duration = Duration::from_secs(2);
/// And this many bytes.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// An answer of our own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// For the person who reads it.
    pub message: String,
    headers: Vec<(&'static str, String)>,
}

impl Reply {
    /// An answer with `message` as its text.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let mut headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        if matches!(status, 502..=504) {
            let [byte] = entropy::bytes();
            headers.push(("retry-after", (1 + byte % RETRY_AFTER_SECS_MAX).to_string()));
        }
        Self { status, message: message.into(), headers }
    }

    /// Adds headers.
    pub fn with(mut self, headers: &[(&'static str, &'static str)]) -> Self {
        self.headers.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        self
    }

    /// Says when to come back, instead of what [`Self::new`] says.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.headers.retain(|(name, _)| *name != "retry-after");
        self.headers.push(("retry-after", whole_seconds(wait).to_string()));
        self
    }

    /// The answer as bytes; the connection ends behind it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let reason = self.code().canonical_reason().unwrap_or_default();
        let text = self.text();
        let mut head = format!("HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\n", self.status, text.len());
        let closes = !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection"));
        if closes {
            head.push_str("connection: close\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.push_str(&text);
        head.into_bytes()
    }

    /// The answer for hyper.
    pub fn into_response(self) -> Response<Body> {
        let text = Bytes::from(self.text());
        let mut response = Response::new(Full::new(text).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = self.code();
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// Sends the answer and ends the connection so that the client can read it.
    pub async fn send(self, io: &mut Io) {
        let send = async {
            io.write_all(&self.to_bytes()).await?;
            io.shutdown().await?;
            let mut ignored = [0; 4096];
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match io.read(&mut ignored).await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
            std::io::Result::Ok(())
        };
        // A peer that does not take the answer has gone; there is nobody left to tell.
        let _ = tokio::time::timeout(LINGER, send).await;
    }

    fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn text(&self) -> String {
        format!("evenkeel: {}\n", self.message)
    }
}

/// Rounded up, and at least 1: who comes back at once is refused again.
pub fn whole_seconds(wait: Duration) -> u64 {
    let part = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(part).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_once_in_whole_seconds() {
        for (wait, told) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")] {
            let reply = Reply::new(503, "later").retry_after(Duration::from_millis(wait));
            let text = String::from_utf8(reply.to_bytes()).unwrap();
            assert_eq!(text.matches("retry-after").count(), 1, "{text}");
            assert!(text.contains(&format!("retry-after: {told}\r\n")), "{wait} ms: {text}");
        }
    }

    #[test]
    fn an_unavailable_pool_tells_when_to_come_back() {
        let text = String::from_utf8(Reply::new(503, "no endpoint").to_bytes()).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
        assert!(text.contains("retry-after: ") && text.contains("connection: close"), "{text}");
        assert!(text.ends_with("\r\n\r\nevenkeel: no endpoint\n"), "{text}");
    }

    #[test]
    fn an_upgrade_required_keeps_its_connection_header() {
        let reply = Reply::new(426, "x").with(&[("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]);
        let text = String::from_utf8(reply.to_bytes()).unwrap();
        assert!(text.contains("Connection: Upgrade") && !text.contains("connection: close"), "{text}");
    }
}
