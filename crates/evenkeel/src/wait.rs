//! `evenkeel drain --wait`: looks at what is left at an endpoint until that is nothing.

use std::str::FromStr;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Address, Call, ClientError, ask};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// What the last closes take after the deadline.
const GRACE: Duration = Duration::from_secs(5);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a drain is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until its deadline, and a little longer.
    Deadline,
    /// For so long.
    For(Duration),
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "deadline" {
            return Ok(Self::Deadline);
        }
        match humantime::parse_duration(text) {
            Ok(time) if time <= WAIT_MAX => Ok(Self::For(time)),
            Ok(_) => Err("expected at most 1d".into()),
            Err(error) => Err(format!("{error}; expected for example 30s, 10m or deadline")),
        }
    }
}

/// Waits until nothing is left at the endpoint of `path`, whose drain was answered with `answer`. Adds to it how long that
/// took. `timeout`: of each look.
///
/// # Errors
/// [`ClientError`]: also when something is left in the end.
pub async fn for_drain(
    address: &Address,
    path: &str,
    mut answer: Value,
    wait: Wait,
    timeout: Duration,
) -> Result<Value, ClientError> {
    let wait = match wait {
        Wait::For(time) => time,
        Wait::Deadline => {
            let deadline = answer["deadline_s"].as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok());
            deadline.unwrap_or_default().min(WAIT_MAX) + GRACE
        }
    };
    let call = Call { method: Method::GET, path: format!("/api/v1/{path}") };
    let start = Instant::now();
    loop {
        let look = ask(address, &call, None, timeout).await?;
        let Some(left) = look["left"].as_u64() else {
            let what = "its answer does not say what is left";
            return Err(ClientError::Strange(address.clone(), what.into()));
        };
        if left == 0 {
            answer["left"] = 0.into();
            answer["waited_s"] = start.elapsed().as_secs_f64().into();
            return Ok(answer);
        }
        if start.elapsed() >= wait {
            let waited = humantime::format_duration(wait);
            let what = format!(
                "{left} connections are left on {}/{} after {waited}; the drain goes on, and `evenkeel status` shows it",
                crate::tables::printable(look["pool"].as_str().unwrap_or_default()),
                crate::tables::printable(look["endpoint"].as_str().unwrap_or_default()),
            );
            return Err(ClientError::Refused(address.clone(), what));
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_time_or_the_deadline() {
        assert_eq!("deadline".parse(), Ok(Wait::Deadline));
        assert_eq!("1m 30s".parse(), Ok(Wait::For(Duration::from_secs(90))));
        for (text, why) in [("2days", "at most 1d"), ("soon", "for example 30s"), ("", "for example 30s")] {
            let error = text.parse::<Wait>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
