//! The operator's commands against running gateways: what they print, what they change, how they exit.

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

#[path = "process/runner.rs"]
mod runner;

use serde_json::Value;

use runner::{Process, evenkeel, write};
use support::frames::{CLOSE, TEXT, bare, closing, masked};
use support::{Endpoint, Wire, accept_any, refusing_address, wait_until};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A pool `chat` with these endpoints; closes need no quiet time to speak of, and an endpoint that is back is used at once.
fn config(endpoints: &[&Endpoint], more: &str) -> String {
    let list: String = endpoints.iter().map(|e| format!("    - address: {}\n", e.address())).collect();
    format!(
        "listeners:\n- address: 127.0.0.1:0\nroutes:\n- pool: chat\npools:\n  chat:\n    endpoints:\n{list}    rebalance: {{min_ready: 0s}}\n    \
         move: {{close: {{quiet: 10ms}}}}\nlimits:\n  close_linger: 500ms\nadmin:\n  address: 127.0.0.1:0\n{more}"
    )
}

/// Runs a command against `process`: exit code, standard output, standard error.
fn ask(process: &Process, arguments: &[&str]) -> (Option<i32>, String, String) {
    evenkeel(&[arguments, &["--admin", &process.admin.to_string()]].concat())
}

/// What a command that is done prints for people.
fn done(process: &Process, arguments: &[&str]) -> String {
    let (code, out, err) = ask(process, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}: {out}");
    out
}

/// The answer of the only replica, for programs.
fn answer(process: &Process, arguments: &[&str]) -> Value {
    let out = done(process, &[arguments, &["--output", "json"]].concat());
    let mut list: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list[0]["admin"], process.admin.to_string());
    list[0]["answer"].take()
}

#[test]
fn status_and_plan_show_every_pool_and_endpoint_to_people_and_programs() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&[&endpoint], ""));
    let _pair = process.open(&endpoint);
    wait_until("the session is counted", || answer(&process, &["status"])["pools"]["chat"]["sessions"] == 1);
    let address = endpoint.address().to_string();
    let status = done(&process, &["status"]);
    let row = status.lines().find(|line| line.trim_start().starts_with(&address)).expect("a row");
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells, [&address, &address, "ready", "1", "1", "1.00", "0", "0", "0", "-"], "{status}");
    assert!(status.contains("\npool chat: ") && status.contains("takes new clients"), "{status}");
    for arguments in [&["plan"][..], &["plan", "chat"]] {
        let plan = done(&process, arguments);
        assert!(plan.starts_with("pool chat: ") && plan.contains("moves  none"), "{plan}");
        assert!(plan.contains(&address) && !plan.contains("FROM"), "{plan}");
        let plan = answer(&process, arguments);
        assert_eq!(plan["pools"]["chat"]["moves_total"], 0, "{plan}");
        assert_eq!(plan["pools"]["chat"]["endpoints"][0]["sessions"], 1, "{plan}");
    }
}

#[test]
fn each_call_is_done_logged_and_counted() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&[&endpoint], ""));
    let target = format!("chat/{}", endpoint.address());
    for (arguments, call, says) in [
        (vec!["pause"], "pause", "paused: chat"),
        (vec!["pause", "chat"], "pause", "paused: chat"),
        (vec!["resume"], "resume", "resumed: chat"),
        (vec!["resume", "chat"], "resume", "resumed: chat"),
        (vec!["rebalance", "chat"], "rebalance", "pool chat was asked to level"),
        (vec!["rebalance", "chat", "--dry-run"], "rebalance", "nothing was moved"),
        (vec!["rehearse", "chat"], "rehearse", "pool chat has no session here that can migrate"),
        (vec!["drain", &target], "drain", "leave within 30s"),
        (vec!["drain", &target, "--wait"], "drain", "nothing of this replica is left there"),
        (vec!["drain", &target, "--wait=10s"], "drain", "nothing of this replica is left there"),
        (vec!["drain", &target, "--deadline", "1m 30s"], "drain", "leave within 1m 30s"),
        (vec!["drain", &target, "--cancel"], "cancel_drain", "drains no longer"),
    ] {
        let out = done(&process, &arguments);
        assert!(out.contains(says), "{arguments:?}: {out}");
        let metric = format!(r#"evenkeel_admin_calls_total{{call="{call}",outcome="done"}}"#);
        process.wait_for_metric(&metric, 1);
    }
    let log = process.log();
    for call in ["pause", "resume", "rebalance", "rehearse", "drain", "cancel_drain"] {
        assert!(log.contains(&format!("an admin call is done call=\"{call}\"")), "{call}: {log}");
    }
    assert!(log.contains(&endpoint.address().to_string()), "{log}");
    let drain = answer(&process, &["drain", &target, "--deadline", "1m 30s"]);
    assert_eq!((&drain["draining"], &drain["deadline_s"]), (&Value::from(true), &Value::from(90.0)));
}

#[test]
fn what_is_not_there_exits_1_and_names_what_is() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&[&endpoint], ""));
    for arguments in [
        &["plan", "nope"][..],
        &["rebalance", "nope"],
        &["rebalance", "nope", "--dry-run"],
        &["rehearse", "nope"],
        &["pause", "nope"],
        &["resume", "nope"],
        &["drain", "nope/a"],
        &["drain", "nope/a", "--cancel"],
    ] {
        let (code, out, err) = ask(&process, arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
        assert!(err.contains("there is no pool nope; pools: chat"), "{arguments:?}: {err}");
    }
    for arguments in [&["drain", "chat/a:1/[x]"][..], &["drain", "chat/a:1/[x]", "--cancel"]] {
        let (code, out, err) = ask(&process, arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
        let known = format!("there is no endpoint a:1/[x]; there are: {}", endpoint.address());
        assert!(err.contains(&known), "{arguments:?}: {err}");
    }
    let failed = r#"evenkeel_admin_calls_total{call="drain",outcome="failed"}"#;
    process.wait_for_metric(failed, 2);
}

#[test]
fn one_command_reaches_all_replicas_and_exits_with_the_worst() {
    let endpoint = Endpoint::bind();
    let first = Process::start(&config(&[&endpoint], ""));
    let second = Process::start(&config(&[&endpoint], ""));
    let both = format!("{},http://{}", first.admin, second.admin);
    let (code, out, _) = evenkeel(&["pause", "chat", "--admin", &both]);
    assert_eq!(code, Some(0), "{out}");
    for process in [&first, &second] {
        assert!(out.contains(&format!("== {} ==\npaused: chat\n", process.admin)), "{out}");
        assert!(process.log().contains("an admin call is done"), "{}", process.log());
    }
    let nobody = refusing_address().to_string();
    let three = [first.admin.to_string(), nobody.clone(), second.admin.to_string()];
    let list = ["--admin", &three[0], "--admin", &three[1], "--admin", &three[2]];
    let (code, out, err) = evenkeel(&[&["status"][..], &list].concat());
    assert_eq!(code, Some(69), "{err}");
    assert_eq!(out.matches("pool chat: ").count(), 2, "those that answer are shown: {out}");
    assert!(
        err.contains(&format!("no gateway answers at {nobody}")) && err.contains("port-forward"),
        "{err}"
    );
    let (code, out, _) = evenkeel(&[&["pause", "nope", "--output", "json"][..], &list].concat());
    let list: Value = serde_json::from_str(&out).expect("it is JSON");
    let codes: Vec<_> = (0..3).map(|at| list[at]["exit_code"].as_u64()).collect();
    assert_eq!((code, codes), (Some(69), vec![Some(1), Some(69), Some(1)]), "{list}");
    assert!(list[0]["error"].as_str().is_some_and(|error| error.contains("no pool nope")), "{list}");
}

#[test]
fn a_name_reaches_the_replicas_behind_it_and_one_that_leads_nowhere_exits_69() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&[&endpoint], ""));
    let name = format!("localhost:{}", process.admin.port());
    let (code, out, err) = evenkeel(&["pause", "--replicas", &name]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(answer(&process, &["status"])["pools"]["chat"]["state"] == "paused", "{out}");
    let (code, _, err) = evenkeel(&["status", "--replicas", "replicas.invalid:9900"]);
    assert_eq!(code, Some(69));
    assert!(err.contains("replicas.invalid:9900 leads to no address"), "{err}");
    let (code, _, err) = evenkeel(&["status", "--replicas", &name, "--admin", &name]);
    assert_eq!(code, Some(64), "{err}");
}

#[test]
fn what_is_no_evenkeel_and_what_does_not_answer_exit_69() {
    let endpoint = Endpoint::bind();
    let address = endpoint.address().to_string();
    let (code, _, err) = evenkeel(&["status", "--admin", &address, "--timeout", "50ms"]);
    assert_eq!(code, Some(69), "{err}");
    assert!(err.contains("did not answer within 50ms") && err.contains("--timeout"), "{err}");
    let silent = endpoint.accept();
    drop(silent);
    for reply in ["SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""] {
        std::thread::scope(|scope| {
            let command = scope.spawn(|| evenkeel(&["status", "--admin", &address]));
            let mut wire = endpoint.accept();
            wire.head();
            wire.send(reply);
            drop(wire);
            let (code, out, err) = command.join().expect("it ends");
            assert_eq!((code, out.as_str()), (Some(69), ""), "{reply:?}: {err}");
            assert!(err.contains("is the address right"), "{reply:?}: {err}");
        });
    }
}

#[test]
fn with_a_token_file_only_its_token_changes_anything_and_it_can_be_rotated() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (theirs, ours) = (at("theirs"), at("ours"));
    write(&theirs, &format!("{SECRET}\n"));
    write(&ours, "another-token-of-the-right-size");
    let endpoint = Endpoint::bind();
    let text = config(&[&endpoint], &format!("  token_file: {}\n", theirs.display()));
    let process = Process::start(&text);
    done(&process, &["status"]);
    done(&process, &["plan"]);
    let (code, _, err) = ask(&process, &["pause"]);
    assert_eq!(code, Some(77), "{err}");
    assert!(err.contains("--token-file") && err.contains("admin.token_file"), "{err}");
    let token = ours.display().to_string();
    let with_token = ["pause", "--token-file", &token];
    let (code, _, err) = ask(&process, &with_token);
    assert_eq!(code, Some(77), "{err}");
    assert!(err.contains("not the token"), "{err}");
    write(&ours, SECRET);
    assert_eq!(ask(&process, &with_token).0, Some(0));
    let rotated = SECRET.replace('0', "f");
    write(&theirs, &rotated);
    wait_until("the old token is refused", || ask(&process, &with_token).0 == Some(77));
    write(&ours, &rotated);
    assert_eq!(ask(&process, &with_token).0, Some(0));
    let metrics = process.get("/metrics").1;
    assert!(metrics.contains(r#"evenkeel_admin_calls_total{call="pause",outcome="refused"} "#), "{metrics}");
    let log = process.log();
    assert!(log.contains("an admin call is refused") && log.contains("the admin token has changed"), "{log}");
    assert!(!log.contains(&SECRET[1..]) && !log.contains("another-token"), "no token is ever logged: {log}");
}

#[test]
fn a_token_file_that_can_not_be_used_keeps_the_gateway_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, token) = (folder.path().join("evenkeel.yaml"), folder.path().join("token"));
    let endpoint = Endpoint::bind();
    write(&file, &config(&[&endpoint], &format!("  token_file: {}\n", token.display())));
    let path = file.display().to_string();
    for (content, why) in [(None, "can not be read"), (Some("hunter2"), "holds 7 bytes, expected 16")] {
        if let Some(content) = content {
            write(&token, content);
        }
        let (code, _, err) = evenkeel(&["gateway", "--config", &path]);
        assert_eq!(code, Some(71), "{err}");
        assert!(err.contains("admin.token_file") && err.contains(why) && !err.contains("hunter2"), "{err}");
    }
}

#[test]
fn wrong_arguments_exit_64_and_say_what_was_expected() {
    for (arguments, why) in [
        (&["drain", "chat"][..], "POOL/ENDPOINT"),
        (&["drain", "/a"], "POOL/ENDPOINT"),
        (&["drain", "chat/a", "--deadline", "soon"], "--deadline"),
        (&["drain", "chat/a", "--deadline", "5s", "--cancel"], "cannot be used with"),
        (&["drain", "chat/a", "--wait", "--cancel"], "cannot be used with"),
        (&["drain", "chat/a", "--wait=soon"], "expected for example 30s"),
        (&["rehearse"], "<POOL>"),
        (&["status", "--admin", "here"], "expected HOST:PORT"),
        (&["status", "--admin", "https://a:1"], "plain HTTP"),
        (&["status", "--timeout", "0s"], "expected 1ms to 1h"),
        (&["status", "--output", "xml"], "human, json"),
        (&["rebalance"], "<POOL>"),
        (&["pause", "--token-file", "/nowhere/token"], "/nowhere/token"),
    ] {
        let (code, _, err) = evenkeel(arguments);
        assert_eq!(code, Some(64), "{arguments:?}: {err}");
        assert!(err.contains(why), "{arguments:?}: {err}");
    }
}

/// Sessions of one pool: client, endpoint, and on which endpoint.
struct Pair {
    client: Wire,
    upstream: Wire,
    at: usize,
}

/// Opens a session wherever the gateway places it.
fn open(process: &Process, endpoints: &[&Endpoint]) -> Pair {
    let mut client = process.connect();
    client.send(support::http::UPGRADE);
    let (at, mut upstream) = accept_any(endpoints);
    upstream.head();
    upstream.send(support::http::SWITCHING);
    assert_eq!(support::http::status(&client.head()), 101);
    Pair { client, upstream, at }
}

#[test]
fn drain_empties_an_endpoint_and_cancel_fills_it_again() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let endpoints = [&first, &second];
    let process = Process::start(&config(&endpoints, ""));
    let pairs: Vec<_> = (0..6).map(|_| open(&process, &endpoints)).collect();
    assert_eq!(pairs.iter().filter(|pair| pair.at == 0).count(), 3, "they are spread");
    let target = format!("chat/{}", first.address());
    done(&process, &["drain", &target, "--deadline", "5s"]);
    let mut stayed = Vec::new();
    for mut pair in pairs {
        if pair.at == 1 {
            stayed.push(pair);
            continue;
        }
        assert_eq!(pair.client.frame().close(), (1012, "rebalance"));
        let reply = masked(CLOSE, closing(1012, ""));
        pair.client.send(&reply);
        pair.upstream.expect(&reply);
        pair.client.expect_fin();
        drop(pair);
        let back = open(&process, &endpoints);
        assert_eq!(back.at, 1, "nothing is placed on a draining endpoint");
        stayed.push(back);
    }
    let sessions = |at: usize| -> Value {
        let status = answer(&process, &["status"]);
        let address = endpoints[at].address().to_string();
        let list = status["pools"]["chat"]["endpoints"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|e| e["id"] == address).map_or(Value::Null, |e| e["sessions"].clone())
    };
    wait_until("the endpoint is empty", || sessions(0) == 0 && sessions(1) == 6);
    for pair in &mut stayed {
        pair.client.send(masked(TEXT, "there?"));
        pair.upstream.expect(masked(TEXT, "there?"));
        pair.upstream.send(bare(TEXT, "here"));
        pair.client.expect(bare(TEXT, "here"));
    }
    done(&process, &["drain", &target, "--cancel"]);
    assert_eq!(open(&process, &endpoints).at, 0, "it takes new sessions again");
}

#[test]
fn a_drain_that_is_waited_for_ends_with_the_last_session_and_fails_when_one_stays() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&[&endpoint], ""));
    let mut pair = open(&process, &[&endpoint]);
    let target = format!("chat/{}", endpoint.address());
    // With nowhere to go it stays for as long as there is time.
    let (code, out, err) = ask(&process, &["drain", &target, "--deadline", "1d", "--wait=50ms"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains(&format!("1 connections are left on {target} after 50ms")), "{err}");
    let path = format!("/api/v1/pools/chat/endpoints/{}/drain", endpoint.address());
    assert!(process.get(&path).1.contains(r#""left":1"#));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| answer(&process, &["drain", &target, "--deadline", "1s", "--wait"]));
        assert_eq!(pair.client.frame().close(), (1012, "rebalance"));
        pair.client.send(masked(CLOSE, closing(1012, "")));
        pair.client.expect_fin();
        drop(pair);
        let answer = waits.join().expect("it ends");
        assert_eq!((&answer["left"], &answer["draining"]), (&Value::from(0), &Value::from(true)), "{answer}");
        assert!(answer["waited_s"].as_f64().is_some_and(|waited| waited > 0.0), "{answer}");
    });
}
