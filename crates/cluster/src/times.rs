//! How long the API is waited for.

use std::time::Duration;

/// The waits of everything that is asked of the API. The defaults are what runs in production; tests shorten them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Times {
    /// Longest wait for a TCP connection.
    pub connect: Duration,
    /// Longest wait for a page of a list.
    pub list: Duration,
    /// Longest wait for the head of a watch's answer.
    pub establish: Duration,
    /// What the API is asked to end a watch after, in whole seconds. A watch is how a silent loss of the connection is
    /// found, so it bounds how long that goes unnoticed.
    pub watch: Duration,
    /// How much longer than that a watch is listened to before it is given up.
    pub watch_slack: Duration,
    /// First wait after a request that failed; doubled each time.
    pub retry_min: Duration,
    /// Longest wait after a request that failed.
    pub retry_max: Duration,
    /// Longest wait after a watch that was cut.
    pub cut_max: Duration,
    /// A watch that lived this long was a good one: the next cut counts as the first.
    pub good_watch: Duration,
    /// Failures that last this long make what is known stale.
    pub stale_after: Duration,
    /// Least time between two log lines about the same failure.
    pub tell_every: Duration,
    /// When EndpointSlices come back after there were none, they are taken once none has changed for this long.
    pub quiet: Duration,
    /// Longest wait for the Pods' annotations before a Service's first endpoints are told without them.
    pub notes: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            list: Duration::from_secs(30),
            establish: Duration::from_secs(10),
            watch: Duration::from_secs(60),
            watch_slack: Duration::from_secs(10),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
            cut_max: Duration::from_secs(1),
            good_watch: Duration::from_secs(1),
            stale_after: Duration::from_secs(10),
            tell_every: Duration::from_secs(60),
            quiet: Duration::from_secs(2),
            notes: Duration::from_secs(2),
        }
    }
}
