//! Configuration and endpoint files: any text is read, or every complaint about it is told.
//!
//! Held: nothing panics; a refusal has at least one problem and each has words; what was accepted can be
//! explained; the same text gives the same answer.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match config::parse(text, Path::new("/etc/evenkeel")) {
        Ok(checked) => assert!(!config::explain(&checked.config).is_empty()),
        Err(errors) => complaints(&errors),
    }
    if let Err(errors) = config::parse_endpoints(text) {
        complaints(&errors);
    }
});

fn complaints(errors: &config::Errors) {
    assert!(!errors.0.is_empty(), "refused without a reason");
    assert!(errors.0.iter().all(|problem| !problem.to_string().trim().is_empty()));
}
