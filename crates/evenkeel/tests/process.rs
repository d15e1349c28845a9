//! The process around the gateway: signals, reloads, files, exit codes.
//!
//! Not here: what the gateway does with bytes, which its own crate tests in one process.

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

#[path = "process/runner.rs"]
mod runner;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use runner::{Process, evenkeel, write};
use support::frames::{CLOSE, TEXT, bare, closing, masked};
use support::http::{UPGRADE, status};
use support::{Endpoint, Wire, wait_until};

/// A configuration with `endpoint`, whose route begins with `path`.
fn config(endpoint: &Endpoint, path: &str, more: &str) -> String {
    format!(
        "listeners:\n- address: 127.0.0.1:0\nadmin:\n  address: 127.0.0.1:0\nroutes:\n- pool: chat\n  path: {path}\n\
         pools:\n  chat:\n    endpoints:\n    - address: {}\n    move:\n      close:\n        quiet: 10ms\n\
         limits:\n  close_linger: 500ms\n  half_close_timeout: 500ms\nshutdown:\n  grace: 4s\n  propagation: 0s\n{more}",
        endpoint.address()
    )
}

/// The client's and the endpoint's part in being closed.
fn follow_close(mut client: Wire, mut upstream: Wire) -> Instant {
    assert_eq!(client.frame().close(), (1012, "rebalance"));
    let closed = Instant::now();
    let reply = masked(CLOSE, closing(1012, ""));
    client.send(&reply);
    upstream.expect(&reply);
    client.expect_fin();
    upstream.send(bare(CLOSE, closing(1012, "")));
    drop(client);
    upstream.expect_fin();
    closed
}

/// The session of these two goes on.
fn expect_alive(client: &mut Wire, upstream: &mut Wire) {
    client.send(masked(TEXT, "there?"));
    upstream.expect(masked(TEXT, "there?"));
    upstream.send(bare(TEXT, "here"));
    client.expect(bare(TEXT, "here"));
}

/// What a new client is answered; an endpoint that is asked agrees.
fn answer(process: &Process, endpoint: &Endpoint) -> u16 {
    let mut client = process.connect();
    client.send(UPGRADE);
    wait_until("an answer", || {
        if let Some(mut upstream) = endpoint.try_accept() {
            upstream.head();
            upstream.send(support::http::SWITCHING);
        }
        client.has_something()
    });
    status(&client.head())
}

#[test]
fn sigterm_takes_nobody_new_closes_sessions_at_an_even_pace_and_exits_0() {
    let endpoint = Endpoint::bind();
    let mut process = Process::start(&config(&endpoint, "/", ""));
    assert_eq!(process.get("/readyz").0, 200);
    let pairs: Vec<_> = (0..8).map(|_| process.open(&endpoint)).collect();
    process.signal(Signal::TERM);
    wait_until("it is not ready", || process.get("/readyz").0 == 503);
    assert_eq!(process.get("/livez").0, 200);
    wait_until("nobody listens", || TcpStream::connect(process.address).is_err());
    let mut closes: Vec<Instant> = std::thread::scope(|scope| {
        let follow = |(client, upstream)| scope.spawn(move || follow_close(client, upstream));
        let threads: Vec<_> = pairs.into_iter().map(follow).collect();
        threads.into_iter().map(|thread| thread.join().expect("it was closed politely")).collect()
    });
    closes.sort();
    let spread = closes[7].duration_since(closes[0]);
    assert!(spread > Duration::from_millis(600) && spread < Duration::from_secs(9), "{spread:?}");
    assert_eq!(process.exit_code(), Some(0));
    assert!(process.log().contains("gateway is down"), "{}", process.log());
}

#[test]
fn a_second_signal_does_not_wait_for_the_rest() {
    let endpoint = Endpoint::bind();
    let text = config(&endpoint, "/", "").replace("grace: 4s", "grace: 1h");
    let mut process = Process::start(&text);
    let _pair = process.open(&endpoint);
    process.signal(Signal::INT);
    wait_until("it drains", || process.get("/readyz").0 == 503);
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn sighup_and_a_changed_file_reload_and_touch_no_session() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&endpoint, "/ws", ""));
    let (mut client, mut upstream) = process.open(&endpoint);
    assert_eq!(answer(&process, &endpoint), 101);
    process.configure(&config(&endpoint, "/other", ""));
    process.signal(Signal::HUP);
    wait_until("the new routes are in force", || answer(&process, &endpoint) == 404);
    expect_alive(&mut client, &mut upstream);
    process.configure(&config(&endpoint, "/ws", ""));
    wait_until("the file was noticed", || answer(&process, &endpoint) == 101);
    expect_alive(&mut client, &mut upstream);
    process.wait_for_metric(r#"evenkeel_reloads_total{what="config",outcome="ok"}"#, 2);
}

#[test]
fn a_bad_new_configuration_keeps_the_old_one() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&endpoint, "/ws", ""));
    let (mut client, mut upstream) = process.open(&endpoint);
    process.configure(&config(&endpoint, "/other", "limitz: {}\n"));
    process.signal(Signal::HUP);
    let failed = r#"evenkeel_reloads_total{what="config",outcome="failed"}"#;
    process.wait_for_metric(failed, 1);
    assert!(process.log().contains("limitz"), "{}", process.log());
    // Valid, and more than this process can keep.
    process.configure(
        &config(&endpoint, "/other", "").replace("limits:\n", "limits:\n  connections_max: 900000000\n"),
    );
    process.signal(Signal::HUP);
    process.wait_for_metric(failed, 2);
    assert_eq!(answer(&process, &endpoint), 101, "the old routes stay");
    expect_alive(&mut client, &mut upstream);
    assert_eq!(process.get("/readyz").0, 200);
    // The way back leads over a good file.
    process.configure(&config(&endpoint, "/other", ""));
    process.signal(Signal::HUP);
    wait_until("the new routes are in force", || answer(&process, &endpoint) == 404);
}

#[test]
fn a_changed_endpoints_file_drains_the_old_endpoint_into_the_new() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let list = tempfile::tempdir().expect("a folder");
    let file = list.path().join("endpoints.yaml");
    write(&file, &format!("- address: {}\n", first.address()));
    let fixed = format!("endpoints:\n    - address: {}", first.address());
    let followed = format!("endpoints_file: {}", file.display());
    let process = Process::start(&config(&first, "/", "").replace(&fixed, &followed));
    let (client, mut upstream) = process.open(&first);
    write(
        &file,
        &format!("- address: {}\n  state: draining\n- address: {}\n", first.address(), second.address()),
    );
    let mut client = client;
    assert_eq!(client.frame().close(), (1012, "rebalance"));
    // What the endpoint says now can not be delivered any more, and is counted.
    upstream.send(bare(TEXT, "too late"));
    let (mut again, mut again_upstream) = process.open(&second);
    client.send(masked(CLOSE, closing(1012, "")));
    client.expect_fin();
    drop((client, upstream));
    expect_alive(&mut again, &mut again_upstream);
    let lost = r#"evenkeel_undeliverable_messages_total{pool="chat",direction="to_downstream"}"#;
    process.wait_for_metric(lost, 1);
    process.wait_for_metric(r#"evenkeel_moves_total{pool="chat",outcome="moved"}"#, 1);
}

#[test]
fn whom_the_planner_refuses_and_what_it_is_about_is_in_the_metrics() {
    let endpoint = Endpoint::bind();
    let full = "    placement: {sessions_per_endpoint_max: 1}\n    move:";
    let process = Process::start(&config(&endpoint, "/", "").replace("    move:", full));
    let _pair = process.open(&endpoint);
    assert_eq!(answer(&process, &endpoint), 503);
    process.wait_for_metric(r#"evenkeel_refused_sessions_total{pool="chat",reason="endpoints_full"}"#, 1);
    process.wait_for_metric(r#"evenkeel_admitted_sessions_total{pool="chat"}"#, 1);
    process.wait_for_metric(r#"evenkeel_pool_state{pool="chat",state="level"}"#, 1);
    // What has not happened yet is told as well: a first event must not hide in a rate.
    process.wait_for_metric(r#"evenkeel_plans_total{pool="chat",trigger="drift"}"#, 0);
    process.wait_for_metric(r#"evenkeel_pace_lowered_total{pool="chat",cause="handshake_latency"}"#, 0);
    process.wait_for_metric(r#"evenkeel_ejections_total{pool="chat"}"#, 0);
}

#[test]
fn a_changed_certificate_is_noticed_and_a_bad_one_is_not_taken() {
    let endpoint = Endpoint::bind();
    let folder = tempfile::tempdir().expect("a folder");
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        write(&folder.path().join("key.pem"), &made.signing_key.serialize_pem());
        write(&folder.path().join("certificate.pem"), &made.cert.pem());
    };
    renew();
    let at = |file: &str| folder.path().join(file).display().to_string();
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", at("certificate.pem"), at("key.pem"));
    let text = config(&endpoint, "/", "").replacen("127.0.0.1:0\n", &format!("127.0.0.1:0\n{tls}"), 1);
    let process = Process::start(&text);
    renew();
    process.signal(Signal::HUP);
    process.wait_for_metric(r#"evenkeel_reloads_total{what="certificate",outcome="ok"}"#, 1);
    write(&folder.path().join("certificate.pem"), "not a certificate");
    process.signal(Signal::HUP);
    process.wait_for_metric(r#"evenkeel_reloads_total{what="certificate",outcome="failed"}"#, 1);
    assert_eq!(process.get("/readyz").0, 200);
}

#[test]
fn counts_return_to_zero_in_the_status() {
    let endpoint = Endpoint::bind();
    let process = Process::start(&config(&endpoint, "/", ""));
    let pairs: Vec<_> = (0..4).map(|_| process.open(&endpoint)).collect();
    let status = || -> serde_json::Value {
        serde_json::from_str(&process.get("/api/v1/status").1).expect("the status is JSON")
    };
    wait_until("four are counted", || status()["pools"]["chat"]["sessions"] == 4);
    assert_eq!(status()["connections"], 4);
    drop(pairs);
    wait_until("none is left", || {
        let status = status();
        status["connections"] == 0 && status["pools"]["chat"]["endpoints"][0]["sessions"] == 0
    });
}

#[test]
fn check_explains_a_valid_configuration_and_points_at_what_is_wrong() {
    let endpoint = Endpoint::bind();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("evenkeel.yaml");
    write(&file, &config(&endpoint, "/ws", ""));
    let path = file.display().to_string();
    let (code, out, _) = evenkeel(&["check", "--config", &path]);
    assert_eq!(code, Some(0));
    assert!(out.contains("chat") && out.contains("valid, 0 warnings"), "{out}");
    write(&file, &config(&endpoint, "/ws", "").replace("grace", "graze"));
    for command in ["check", "gateway"] {
        let (code, _, err) = evenkeel(&[command, "--config", &path]);
        assert_eq!(code, Some(78), "{err}");
        assert!(err.contains("graze") && err.contains("evenkeel.yaml"), "{err}");
    }
    let (code, _, err) = evenkeel(&["check", "--config", "/nowhere/evenkeel.yaml"]);
    assert!(code == Some(78) && err.contains("/nowhere/evenkeel.yaml"), "{code:?} {err}");
}

#[test]
fn exit_codes_tell_usage_from_what_the_system_refuses() {
    let endpoint = Endpoint::bind();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("evenkeel.yaml");
    let path = file.display().to_string();
    let (code, _, err) = evenkeel(&["gatewey"]);
    assert_eq!(code, Some(64), "{err}");
    assert_eq!(evenkeel(&["--version"]).0, Some(0));
    let text = config(&endpoint, "/", "");
    let taken = text.replacen("127.0.0.1:0", &endpoint.address().to_string(), 1);
    let greedy = text.replace("limits:\n", "limits:\n  connections_max: 900000000\n");
    let missing =
        text.replacen("127.0.0.1:0\n", "127.0.0.1:0\n  tls: { certificate: no.pem, key: no.pem }\n", 1);
    for (text, why) in [(taken, "another process"), (greedy, "file descriptors"), (missing, "no.pem")] {
        write(&file, &text);
        let (code, _, err) = evenkeel(&["gateway", "--config", &path]);
        assert_eq!(code, Some(71), "{err}");
        assert!(err.contains(why), "{err}");
    }
}

#[test]
fn a_process_that_keeps_logins_makes_no_core_dump() {
    let listeners = |pool: &str| {
        format!(
            "listeners:\n- address: 127.0.0.1:0\n  protocol: amqp\n  routes:\n  - pool: rabbit\nadmin:\n  address: 127.0.0.1:0\n\
             pools:\n  rabbit:\n    endpoints: []\n    amqp:\n      {pool}\n"
        )
    };
    let core_of = |keys: &str| {
        let process = Process::start(&listeners(keys));
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).expect("it runs");
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("Linux tells");
        line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = rustix::process::getrlimit(rustix::process::Resource::Core);
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    assert_eq!(core_of("seamless: true"), ["0", "0"]);
    assert_eq!(core_of("seamless: false"), [shown(ours.current), shown(ours.maximum)]);
}
