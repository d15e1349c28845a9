//! How durations are written in configuration and scenario files: `5s`, `100ms`, `1m 30s`.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// A default of `N` seconds.
pub const fn secs<const N: u64>() -> Duration {
    Duration::from_secs(N)
}

/// A duration with its unit, such as `100ms`, `5s`, `1m 30s`. For serde's `with`; a type, so that it has a schema too.
#[expect(non_camel_case_types, reason = "serde's `with` is given a module's name everywhere else")]
#[derive(Debug)]
pub enum duration {}

impl duration {
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

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*duration))
    }
}

impl JsonSchema for duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "x-type": "duration",
            "description": "A number with its unit, or several: 100ms, 5s, 1m 30s, 2h.",
            "pattern": "^ *([0-9]+ *[a-zA-Z\u{b5}]+ *)+$|^0$",
        })
    }
}

/// A duration, or nothing.
#[expect(non_camel_case_types, reason = "as `duration`")]
#[derive(Debug)]
pub enum optional_duration {}

impl optional_duration {
    /// # Errors
    /// When the text is not a number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Inner(#[serde(with = "duration")] Duration);
        Ok(Option::<Inner>::deserialize(from)?.map(|inner| inner.0))
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(some) => duration::serialize(some, to),
            None => to.serialize_none(),
        }
    }
}

impl JsonSchema for optional_duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OptionalDuration".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<duration>::json_schema(generator)
    }
}
