//! What a test has scripted for requests to come: refusals by number, and the habits of older servers.

use crate::failure::Failure;

/// How a watch learns that history does not reach back to where it wants to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expired {
    /// As an ERROR event within a 200, as a server with a watch cache does.
    #[default]
    Event,
    /// As an answer 410, as one without does.
    Response,
}

/// An answer in place of the real one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// 429 with Retry-After, seconds.
    TooManyRequests(u32),
    /// 500
    InternalError,
    /// 503 with Retry-After 1
    Unavailable,
    /// 410, whatever was asked.
    Expired,
    /// 401, as after a token has expired.
    Unauthorized,
}

/// Everything that is scripted.
#[derive(Debug)]
pub struct Script {
    /// Whether `sendInitialEvents` is known; servers before 1.27 or without the feature refuse it.
    pub streaming_lists: bool,
    /// How a watch learns that it is too late.
    pub expired: Expired,
    refusals: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    verb: String,
    resource: String,
    left: u32,
    refusal: Refusal,
}

impl Default for Script {
    fn default() -> Self {
        Self { streaming_lists: true, expired: Expired::default(), refusals: Vec::new() }
    }
}

impl Script {
    /// Refuses the next `times` requests of a verb on a resource; `*` is any.
    pub fn refuse_next(&mut self, times: u32, verb: &str, resource: &str, refusal: Refusal) {
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        self.refusals.push(Planned { verb, resource, left: times, refusal });
    }

    /// Forgets the refusals that are left.
    pub fn refuse_no_more(&mut self) {
        self.refusals.clear();
    }

    /// Whether a request may pass.
    ///
    /// # Errors
    /// The refusal that is scripted for it.
    pub fn check(&mut self, verb: &str, resource: &str) -> Result<(), Failure> {
        let meant = |planned: &Planned| {
            let fits = |pattern: &str, found: &str| pattern == "*" || pattern == found;
            planned.left > 0 && fits(&planned.verb, verb) && fits(&planned.resource, resource)
        };
        let Some(planned) = self.refusals.iter_mut().find(|planned| meant(planned)) else {
            return Ok(());
        };
        planned.left -= 1;
        Err(planned.refusal.failure())
    }
}

impl Refusal {
    fn failure(self) -> Failure {
        match self {
            Self::TooManyRequests(seconds) => {
                let message = "too many requests, please try again later";
                let failure = Failure::new(429, "TooManyRequests", message);
                Failure { retry_after: Some(seconds), ..failure }
            }
            Self::InternalError => {
                Failure::new(500, "InternalError", "Internal error occurred: etcdserver: leader changed")
            }
            Self::Unavailable => {
                let message = "the server is currently unable to handle the request";
                Failure { retry_after: Some(1), ..Failure::new(503, "ServiceUnavailable", message) }
            }
            Self::Expired => Failure::expired(1, 2),
            Self::Unauthorized => Failure::new(401, "Unauthorized", "Unauthorized"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_given_as_often_as_scripted_and_to_whom_it_is_meant_for() {
        let mut script = Script::default();
        script.refuse_next(2, "list", "pods", Refusal::TooManyRequests(3));
        assert!(script.check("watch", "pods").is_ok() && script.check("list", "services").is_ok());
        assert_eq!(script.check("list", "pods").map_err(|e| (e.code, e.retry_after)), Err((429, Some(3))));
        assert!(script.check("list", "pods").is_err());
        assert!(script.check("list", "pods").is_ok());
        script.refuse_next(9, "*", "*", Refusal::InternalError);
        assert_eq!(script.check("get", "leases").map_err(|e| e.code), Err(500));
        script.refuse_no_more();
        assert!(script.check("get", "leases").is_ok());
    }
}
