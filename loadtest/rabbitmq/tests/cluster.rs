//! One real cluster: what stops, starts, is killed, paused and added is what was asked for, and nothing stays behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rabbitmq::{Cluster, Options, Record};

/// Whether a node greets within 2 s.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect(address) else {
        return false;
    };
    let limited = socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok();
    limited && socket.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && socket.read_exact(&mut [0; 11]).is_ok()
}

fn running(cluster: &Cluster, by: usize) -> usize {
    let text = cluster.ctl(by, &["eval", "length(rabbit_nodes:all_running())."]).expect("the node answers");
    text.trim().parse().expect("a number")
}

#[test]
fn nodes_come_and_go_as_told_and_none_stays_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::up(folder.path(), &Options { nodes: 1, ..Options::default() }).unwrap();
    let added = cluster.add_node().unwrap();
    assert_eq!((added, running(&cluster, 0)), (1, 2));
    let address = cluster.nodes()[1].address();

    cluster.pause(1).unwrap();
    assert!(!greets(address));
    cluster.resume(1).unwrap();
    assert!(greets(address));

    cluster.kill_node(1).unwrap();
    assert!(!greets(address) && greets(cluster.nodes()[0].address()));
    assert_eq!(cluster.nodes()[1].pid(), None);
    cluster.start_node(1).unwrap();
    assert!(greets(address), "it is back at its old address");
    assert_eq!(running(&cluster, 1), 2);

    cluster.stop_node(1).unwrap();
    assert!(cluster.ctl(1, &["status"]).unwrap_err().to_string().contains("ek2@localhost"));

    let record = Record::load(folder.path()).unwrap().unwrap();
    assert_eq!(record, cluster.record());
    drop(cluster);
    for pid in record.nodes.iter().map(|node| node.pid).chain([record.epmd_pid]).filter(|pid| *pid != 0) {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
    assert_eq!(rabbitmq::down(folder.path()).unwrap(), 0);
}
