//! Tests of the crate's public face: tables of bad input, and properties against plain parsers.
//!
//! `reference` is the independent parser, `streams` makes legal, broken and arbitrary byte streams.

mod heads;
mod inject;
mod reference;
mod scanner;
mod streams;
mod upgrade;

use proptest::test_runner::{Config, FileFailurePersistence};

/// At least 2,000 cases a property. proptest puts `PROPTEST_CASES` into the default; its own 256 are too few.
fn cases() -> Config {
    let default = Config::default();
    Config {
        cases: if default.cases == 256 { 2000 } else { default.cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..default
    }
}
