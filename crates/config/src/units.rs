//! How values with units are written: `5s`, `100ms`, `10m`, base64.

use base64::Engine;
pub use model::units::{duration, optional_duration, secs};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error};

/// Bytes written as base64 (RFC 4648 section 4).
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(transparent)]
pub struct Base64(#[schemars(with = "String", extend("contentEncoding" = "base64"))] pub Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&text)
            .map_err(|e| D::Error::custom(format!("not base64 ({e}); expected for example aGVsbG8=")))?;
        Ok(Self(bytes))
    }
}
