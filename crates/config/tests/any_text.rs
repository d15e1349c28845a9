//! No text makes the reader panic, and every complaint points into the text.

use std::path::Path;

use proptest::prelude::*;

const GOOD: &str = "\
listeners: [{address: \"127.0.0.1:8080\"}]
routes: [{host: a.b, path: /ws, pool: chat}]
pools:
  chat:
    endpoints: [{address: \"10.0.0.1:80\", weight: 2}]
    rebalance: {settle: 1s, start_ratio: 1.2}
    move: {notice: {text: \"x\", grace: 5s}}
";

fn complaints_point_into(text: &str) -> Result<(), TestCaseError> {
    let whole = config::parse(text, Path::new("/")).err();
    for errors in whole.into_iter().chain(config::parse_endpoints(text).err()) {
        prop_assert!(!errors.0.is_empty());
        for problem in &errors.0 {
            let lines = text.lines().count() as u64 + 1;
            prop_assert!((1..=lines).contains(&problem.line), "{problem}");
            prop_assert!(problem.column >= 1, "{problem}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_a_place(text in "\\PC{0,200}") {
        complaints_point_into(&text)?;
    }

    #[test]
    fn a_good_file_with_a_wound_gives_a_configuration_or_a_place(
        at in 0usize..GOOD.len(),
        removed in 0usize..20,
        put in "[a-z0-9:{}\\[\\]\"'\n *&!|>-]{0,8}",
    ) {
        let end = (at + removed).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        complaints_point_into(&text)?;
    }
}
