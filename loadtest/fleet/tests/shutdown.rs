//! A small shutdown through the whole program. How even its pace is, and how long it takes, is judged by
//! `fleet shutdown` itself, on a machine that has nothing else to do.

use std::process::Command;

#[test]
fn a_gateway_that_stops_closes_every_session_politely_and_exits_0() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .current_dir(folder.path())
        .args(["shutdown", "--sessions", "60", "--grace", "12s", "--propagation", "1s", "--endpoints", "2"])
        .output()
        .expect("the program was built for this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("60 of 60 sessions were closed with 1012 and answered"), "{output:?}");
    assert!(text.contains("60 x 1012 rebalance"), "{output:?}");
    assert!(text.contains("exit code 0"), "{output:?}");
}
