//! `cargo xtask purity`: which crate may import which, and what the pure crates must not know.
//!
//! The arrows are those of ARCHITECTURE.md; change both in one commit. The text rules repeat what
//! the `clippy.toml` of each says, because clippy does not see every spelling (a grouped import, a type alias).

use std::path::Path;

use crate::metadata::Packages;
use crate::source::{Source, has_word};
use crate::tree::{File, text_files};

/// Crate -> our crates that it may be compiled with.
const ARROWS: [(&str, &[&str]); 17] = [
    ("model", &[]),
    ("ws", &[]),
    ("amqp", &[]),
    ("session", &["amqp", "model", "ws"]),
    ("balance", &["model"]),
    ("config", &["balance", "model", "ws"]),
    ("cluster", &["config", "model"]),
    ("discovery", &["cluster", "config", "model"]),
    ("gateway", &["amqp", "balance", "config", "model", "session", "ws"]),
    ("admin", &["config", "model"]),
    ("evenkeel", &["admin", "cluster", "config", "discovery", "gateway", "model"]),
    ("scenario", &["model"]),
    ("apiserver", &[]),
    ("rabbitmq", &[]),
    ("fleet", &["amqp", "apiserver", "config", "evenkeel", "model", "rabbitmq", "scenario"]),
    ("sim", &["balance", "config", "model", "scenario", "session", "ws"]),
    ("xtask", &["config", "rabbitmq"]),
];

/// Crates without clock, random source, socket, thread, environment, file or hash order.
const PURE: [&str; 7] = ["model", "ws", "amqp", "session", "balance", "config", "scenario"];

/// Parts of other crates that are held to the same: text rules only, by the beginning of the path.
const PURE_PARTS: [&str; 9] = [
    "crates/cluster/src/contact.rs",
    "crates/cluster/src/notes.rs",
    "crates/cluster/src/slices.rs",
    "crates/cluster/src/view.rs",
    "loadtest/sim/src/cases",
    "loadtest/sim/src/engine",
    "loadtest/sim/src/pool.rs",
    "loadtest/sim/src/rivals.rs",
    "loadtest/sim/src/spec.rs",
];

/// Where crates are.
const FOLDERS: [&str; 2] = ["crates", "loadtest"];

/// Packages through which time, entropy or IO would come in.
const IMPURE_PACKAGES: [&str; 14] = [
    "tokio",
    "mio",
    "async-std",
    "smol",
    "getrandom",
    "socket2",
    "rustix",
    "hyper",
    "rustls",
    "chrono",
    "time",
    "notify",
    "tempfile",
    "crossbeam-channel",
];

/// What must not be named, and why.
const IMPURE_WORDS: [(&str, &str); 16] = [
    ("Instant", "time is an argument: model::Time"),
    ("SystemTime", "time is an argument: model::Time"),
    ("TcpStream", "sockets belong to the gateway"),
    ("TcpListener", "sockets belong to the gateway"),
    ("UdpSocket", "sockets belong to the gateway"),
    ("UnixStream", "sockets belong to the gateway"),
    ("ToSocketAddrs", "it resolves names, which waits"),
    ("std::thread", "what waits belongs to a shell"),
    ("std::fs", "text is an argument; reading files belongs to a shell"),
    ("std::env", "settings are arguments"),
    ("std::process", "a pure crate neither starts nor ends processes"),
    ("thread_rng", "a seed is an argument"),
    ("RandomState", "iteration order is part of the result"),
    ("HashMap", "iteration order is part of the result: BTreeMap"),
    ("HashSet", "iteration order is part of the result: BTreeSet"),
    ("tokio", "what waits belongs to a shell"),
];

/// All findings; empty when the arrows and the pure crates hold.
///
/// # Errors
/// When cargo or a file cannot be read.
pub fn run(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = judge_packages(&Packages::load(root)?);
    for file in text_files(root)? {
        findings.extend(judge_file(&file));
    }
    Ok(findings)
}

fn judge_packages(packages: &Packages) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages.own() {
        let name = package.name.as_str();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            findings
                .push(format!("{name}: a new crate needs its arrows in ARCHITECTURE.md and in xtask purity"));
            continue;
        };
        for to in packages.direct_own(package) {
            if !allowed.contains(&to.as_str()) {
                findings.push(format!("{name} -> {to}: expected only {allowed:?}; see ARCHITECTURE.md"));
            }
        }
        if PURE.contains(&name) {
            let all = packages.transitive(package);
            let impure = IMPURE_PACKAGES.iter().filter(|impure| all.contains(**impure));
            findings.extend(impure.map(|impure| format!("{name}: a pure crate is compiled with {impure}")));
        }
    }
    findings
}

fn judge_file(file: &File) -> Vec<String> {
    let within = |name: &str, folder: &str| file.path.starts_with(&format!("{folder}/{name}/src/"));
    let pure = PURE.iter().any(|name| FOLDERS.iter().any(|folder| within(name, folder)));
    let part = PURE_PARTS.iter().any(|part| file.path.starts_with(part));
    if !(pure || part) || !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let source = Source::new(&file.text);
    let mut findings = Vec::new();
    for (line, code) in source.core_lines() {
        for (word, why) in IMPURE_WORDS.iter().filter(|(word, _)| has_word(code, word)) {
            findings.push(format!("{}:{}: {word} in a pure crate; {why}", file.path, line + 1));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Package;

    fn packages(list: &[(&str, &[&str])]) -> Packages {
        let ours =
            list.iter().filter(|(name, _)| ARROWS.iter().any(|(own, _)| own == name) || *name == "new");
        Packages {
            ours: ours.map(|(name, _)| (*name).into()).collect(),
            by_id: list
                .iter()
                .map(|(name, normal)| {
                    let normal = normal.iter().map(|n| (*n).into()).collect();
                    ((*name).into(), Package { name: (*name).into(), normal, ..Package::default() })
                })
                .collect(),
        }
    }

    fn in_file(path: &str, text: &str) -> Vec<String> {
        judge_file(&File { path: path.into(), text: text.into() })
    }

    #[test]
    fn the_arrows_of_the_architecture_are_allowed_and_no_other() {
        assert!(
            judge_packages(&packages(&[("session", &["model", "ws"]), ("model", &[]), ("ws", &[])]))
                .is_empty()
        );
        let found = judge_packages(&packages(&[("discovery", &["gateway"]), ("gateway", &[])]));
        assert!(found.len() == 1 && found[0].starts_with("discovery -> gateway"), "{found:?}");
        assert!(judge_packages(&packages(&[("new", &[])]))[0].contains("needs its arrows"));
    }

    #[test]
    fn a_pure_crate_does_not_reach_tokio_by_a_detour() {
        let list: &[(&str, &[&str])] = &[("ws", &["helper"]), ("helper", &["tokio"]), ("tokio", &[])];
        assert_eq!(judge_packages(&packages(list)), ["ws: a pure crate is compiled with tokio"]);
        let list: &[(&str, &[&str])] = &[("gateway", &["tokio"]), ("tokio", &[])];
        assert!(judge_packages(&packages(list)).is_empty());
    }

    #[test]
    fn clocks_sockets_and_hash_order_are_found_in_pure_crates_only() {
        let text = "//! Header.\nuse std::{collections::HashMap, time::Instant};\n";
        assert_eq!(in_file("crates/ws/src/a.rs", text).len(), 2);
        assert_eq!(in_file("loadtest/scenario/src/a.rs", text).len(), 2);
        assert_eq!(in_file("loadtest/sim/src/engine/a.rs", text).len(), 2);
        assert!(in_file("crates/gateway/src/a.rs", text).is_empty());
        assert!(in_file("loadtest/sim/src/runner.rs", text).is_empty());
    }

    #[test]
    fn addresses_comments_and_tests_are_free() {
        let text = "//! No Instant here.\nuse std::net::SocketAddr;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert!(in_file("crates/config/src/a.rs", text).is_empty());
    }
}
