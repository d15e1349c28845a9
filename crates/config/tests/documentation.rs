//! The documents against the parser: every key is told, no other, and the examples of `docs/configuration.md` work.

use std::path::Path;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    std::fs::read_to_string(path).expect("the document is part of the repository")
}

/// The n-th block of YAML.
fn example(n: usize) -> String {
    let document = document();
    let block = document.split("```yaml\n").nth(n + 1).expect("the document has this example");
    block.split("```").next().unwrap_or_default().to_owned()
}

#[test]
fn the_smallest_example_is_valid_without_a_warning() {
    let checked = config::parse(&example(0), Path::new("/etc/evenkeel")).expect("the example is valid");
    assert_eq!(checked.warnings, []);
}

#[test]
fn the_complete_example_is_valid_without_a_warning() {
    let checked = config::parse(&example(1), Path::new("/etc/evenkeel")).expect("the example is valid");
    assert_eq!(checked.warnings, []);
    let chat = &checked.config.pools["chat"];
    assert_eq!(chat.endpoints_file.as_deref(), Some(Path::new("/etc/evenkeel/endpoints/chat.yaml")));
}

#[test]
fn the_example_of_a_watched_file_is_valid() {
    assert_eq!(config::parse_endpoints(&example(2)).map(|list| list.len()), Ok(3));
}

#[test]
fn every_whole_configuration_in_the_documents_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(root.join("docs")).expect("the documents are part of the repository");
    let pages =
        docs.map(|entry| entry.expect("the folder can be read").path()).chain([root.join("README.md")]);
    let mut found = 0;
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(&page).expect("a page can be read");
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks.filter(|block| block.contains("listeners:") && block.contains("pools:")) {
            let outcome = config::parse(block, Path::new("/etc/evenkeel"));
            assert!(
                outcome.is_ok(),
                "{}: {}\n{block}",
                page.display(),
                outcome.expect_err("it is not valid")
            );
            found += 1;
        }
    }
    assert!(found >= 5, "only {found} were found");
}

#[test]
fn the_reference_tells_exactly_the_keys_that_the_parser_knows() {
    for section in config::reference::reference() {
        let text = with_unknown_key(&section.path);
        // The complaint about an unknown key lists the known ones.
        let errors = config::parse(&text, Path::new("/")).expect_err("zz is no key").to_string();
        let (_, known) = errors.split_once("known here: ").unwrap_or_else(|| panic!("{text}: {errors}"));
        let mut known: Vec<&str> = known.split(", ").collect();
        known.sort_unstable();
        let told: Vec<&str> =
            section.entries.iter().map(|entry| entry.path.rsplit('.').next().unwrap_or_default()).collect();
        assert_eq!(told, known, "{}", section.path);
    }
}

/// A file with the key `zz` in the mapping at `path`: `listeners[].tls` becomes `{listeners: [{tls: {zz: 1}}]}`.
fn with_unknown_key(path: &str) -> String {
    let parts = path.split('.').filter(|part| !part.is_empty());
    parts.rev().fold("{zz: 1}".to_owned(), |inner, part| match part.strip_suffix("[]") {
        Some(list) => format!("{{{list}: [{inner}]}}"),
        None => format!("{{{}: {inner}}}", part.replace("<name>", "a")),
    })
}
