//! Tests of the crate's public face: tables of bad input, properties against plain parsers and against amq-protocol.
//!
//! `reference` is a plain parser of frames, `grammar` the layout of every method as the XML definition has it, `oracle`
//! compares what we read with what amq-protocol reads, `told` is what the scanner tells of a stream, `streams` makes legal, broken and arbitrary byte streams.

mod allocations;
mod content;
mod credentials;
mod forced;
mod grammar;
mod login;
mod methods;
mod oracle;
mod reference;
mod scanner;
mod streams;
mod told;
mod written;

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
