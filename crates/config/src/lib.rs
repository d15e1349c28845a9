//! The configuration schema, its defaults and its validation: text in, [`Config`] out.

pub mod schema;
pub mod units;

pub use schema::*;
