//! A demo endpoint as a Pod: told to stop by a signal, it serves its sessions until they are moved.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Killed when the test is over, whatever came of it.
struct Endpoint(Child);

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: demo\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_standalone_endpoint_serves_on_after_sigterm_until_its_sessions_are_gone() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
    command.args(["endpoint", "--name", "demo-0", "--address", "127.0.0.1:0", "--standalone"]);
    let mut endpoint = Endpoint(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(endpoint.0.stdout.take().unwrap()).lines();
    let listening = said.next().unwrap().unwrap();
    let port = listening.rsplit(':').next().unwrap().trim_matches(|c: char| !c.is_ascii_digit());
    let mut session = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    session.write_all(UPGRADE.as_bytes()).unwrap();
    let mut head = [0; 12];
    session.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    kill_process(Pid::from_child(&endpoint.0), Signal::TERM).unwrap();
    // Another client finds the door open, as one of a gateway that does not know yet.
    TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    assert!(endpoint.0.try_wait().unwrap().is_none());
    drop(session);
    assert!(said.all(|line| line.is_ok()));
    assert!(endpoint.0.wait().unwrap().success());
}
