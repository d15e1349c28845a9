//! How durations are written in configuration and scenario files: `5s`, `100ms`, `1m 30s`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A default of `N` seconds.
pub const fn secs<const N: u64>() -> Duration {
    Duration::from_secs(N)
}

/// A duration with its unit, such as `100ms`, `5s`, `1m 30s`.
pub mod duration {
    use super::*;

    /// # Errors
    /// When the text is not a number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|e| {
            D::Error::custom(format!(
                "{text:?} is not a duration ({e}); expected for example 100ms, 5s or 10m"
            ))
        })
    }
}

/// A duration, or nothing.
pub mod optional_duration {
    use super::*;

    /// # Errors
    /// When the text is not a number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Inner(#[serde(with = "super::duration")] Duration);
        Ok(Option::<Inner>::deserialize(from)?.map(|inner| inner.0))
    }
}
