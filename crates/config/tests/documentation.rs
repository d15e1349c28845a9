//! `docs/configuration.md` against the schema: every key is told, and the examples work.

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
fn the_complete_example_is_valid_without_a_warning() {
    let checked = config::parse(&example(0), Path::new("/etc/evenkeel")).expect("the example is valid");
    assert_eq!(checked.warnings, []);
    let chat = &checked.config.pools["chat"];
    assert_eq!(chat.endpoints_file.as_deref(), Some(Path::new("/etc/evenkeel/endpoints/chat.yaml")));
}

#[test]
fn the_example_of_a_watched_file_is_valid() {
    assert_eq!(config::parse_endpoints(&example(1)).map(|list| list.len()), Ok(3));
}

#[test]
fn every_key_of_the_schema_has_a_row() {
    let levels = [
        ("", "{zz: 1}"),
        ("listeners[].", "{listeners: [{zz: 1}]}"),
        ("listeners[].tls.", "{listeners: [{tls: {zz: 1}}]}"),
        ("listeners[].routes[].", "{listeners: [{routes: [{zz: 1}]}]}"),
        ("routes[].", "{routes: [{zz: 1}]}"),
        ("pools.<name>.", "{pools: {a: {zz: 1}}}"),
        ("pools.<name>.endpoints[].", "{pools: {a: {endpoints: [{zz: 1}]}}}"),
        ("pools.<name>.kubernetes.", "{pools: {a: {kubernetes: {zz: 1}}}}"),
        ("pools.<name>.dns.", "{pools: {a: {dns: {zz: 1}}}}"),
        ("pools.<name>.hash.", "{pools: {a: {hash: {zz: 1}}}}"),
        ("pools.<name>.placement.", "{pools: {a: {placement: {zz: 1}}}}"),
        ("pools.<name>.placement.zone_aware.", "{pools: {a: {placement: {zone_aware: {zz: 1}}}}}"),
        ("pools.<name>.admission.", "{pools: {a: {admission: {zz: 1}}}}"),
        ("pools.<name>.tenant.", "{pools: {a: {tenant: {zz: 1}}}}"),
        ("pools.<name>.rebalance.", "{pools: {a: {rebalance: {zz: 1}}}}"),
        ("pools.<name>.move.", "{pools: {a: {move: {zz: 1}}}}"),
        ("pools.<name>.move.notice.", "{pools: {a: {move: {notice: {zz: 1}}}}}"),
        ("pools.<name>.move.close.", "{pools: {a: {move: {close: {zz: 1}}}}}"),
        ("pools.<name>.websocket.", "{pools: {a: {websocket: {zz: 1}}}}"),
        ("pools.<name>.amqp.", "{pools: {a: {amqp: {zz: 1}}}}"),
        ("pools.<name>.amqp.probe.", "{pools: {a: {amqp: {probe: {zz: 1}}}}}"),
        ("limits.", "{limits: {zz: 1}}"),
        ("shutdown.", "{shutdown: {zz: 1}}"),
        ("admin.", "{admin: {zz: 1}}"),
        ("tier.", "{tier: {zz: 1}}"),
        ("kubernetes.", "{kubernetes: {zz: 1}}"),
        ("log.", "{log: {zz: 1}}"),
    ];
    let document = document();
    let mut rows = 0;
    for (prefix, text) in levels {
        // The complaint about an unknown key lists the known ones.
        let errors = config::parse(text, Path::new("/")).expect_err("zz is no key").to_string();
        let (_, known) = errors.split_once("known here: ").unwrap_or_else(|| panic!("{text}: {errors}"));
        for key in known.split(", ") {
            let row = format!("\n| `{prefix}{key}` |");
            assert!(document.contains(&row), "no row for {prefix}{key}");
            rows += 1;
        }
    }
    assert_eq!(rows, document.matches("\n| `").count(), "each row is a key of the schema");
}
