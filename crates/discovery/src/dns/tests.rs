//! The follower against a name server of ours on loopback, which answers what a test tells it to, over UDP and TCP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::DnsPool;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{Server, follow};
use crate::sources::{News, Reporter, Update};

/// Far above the time between two rounds, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);
/// What fits into a UDP answer of ours.
const UDP_BYTES_MAX: usize = 512;

/// How a question for one name and type is answered.
#[derive(Clone)]
enum Reply {
    Records(Vec<RData>),
    Code(ResponseCode),
    Silence,
}

type Zone = Arc<Mutex<BTreeMap<(String, RecordType), Reply>>>;

/// A running name server, and the follower that asks it. Both end with it.
struct Rig {
    zone: Zone,
    news: mpsc::Receiver<Update>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Rig {
    /// Follows `pool` by a server of which nothing is known yet but `zone`.
    async fn start(pool: DnsPool, zone: &[(&str, RecordType, Reply)]) -> Self {
        let known: Zone = Arc::default();
        let (address, tasks) = serve(known.clone()).await;
        let (tx, news) = mpsc::channel(64);
        let mut rig = Self { zone: known, news, tasks };
        zone.iter().for_each(|(name, kind, reply)| rig.set(name, *kind, reply.clone()));
        let follower = tokio::spawn(follow(pool, Server::At(address), Reporter::alone(tx)));
        rig.tasks.push(follower.abort_handle());
        rig
    }

    fn set(&self, name: &str, kind: RecordType, reply: Reply) {
        self.zone.lock().unwrap().insert((name.to_owned(), kind), reply);
    }

    /// The next news.
    async fn next(&mut self) -> News {
        let next = tokio::time::timeout(PATIENCE, self.news.recv()).await;
        next.expect("there are news in time").expect("the follower lives").news
    }

    /// The next list, as addresses with their weights.
    async fn list(&mut self) -> Vec<(String, u16)> {
        match self.next().await {
            News::List(list) => list.into_iter().map(|e| (e.address.to_string(), e.weight.value())).collect(),
            News::Stale(stale) => panic!("expected a list, found that stale is {stale}"),
        }
    }

    async fn expect_stale(&mut self, expected: bool) {
        match self.next().await {
            News::Stale(stale) => assert_eq!(stale, expected),
            News::List(list) => panic!("expected that stale is {expected}, found the list {list:?}"),
        }
    }
}

/// Answers over UDP and TCP on one port of loopback.
async fn serve(zone: Zone) -> (SocketAddr, Vec<AbortHandle>) {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Somebody else may have the same port of TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let of_tcp = zone.clone();
    let by_udp = async move {
        let mut buffer = [0; 4096];
        loop {
            let (count, from) = udp.recv_from(&mut buffer).await.unwrap();
            let Some(answer) = answer(&zone, &buffer[..count]) else { continue };
            let mut bytes = answer.to_vec().unwrap();
            if bytes.len() > UDP_BYTES_MAX {
                bytes = answer.truncate().to_vec().unwrap();
            }
            udp.send_to(&bytes, from).await.unwrap();
        }
    };
    let by_tcp = async move {
        loop {
            let (mut socket, _) = tcp.accept().await.unwrap();
            let zone = of_tcp.clone();
            tokio::spawn(async move {
                while let Ok(count) = socket.read_u16().await {
                    let mut question = vec![0; count.into()];
                    socket.read_exact(&mut question).await.unwrap();
                    let Some(answer) = answer(&zone, &question) else { continue };
                    let bytes = answer.to_vec().unwrap();
                    socket.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
                    socket.write_all(&bytes).await.unwrap();
                }
            });
        }
    };
    (address, vec![tokio::spawn(by_udp).abort_handle(), tokio::spawn(by_tcp).abort_handle()])
}

/// `None`: silence.
fn answer(zone: &Zone, question: &[u8]) -> Option<Message> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.id, question.op_code);
    answer.add_query(query.clone());
    let name = query.name().to_ascii().to_lowercase();
    let zone = zone.lock().unwrap();
    match zone.get(&(name.clone(), query.query_type())) {
        Some(Reply::Records(list)) => {
            let record = |data: &RData| Record::from_rdata(query.name().clone(), 0, data.clone());
            answer.add_answers(list.iter().map(record));
        }
        Some(Reply::Code(code)) => answer.metadata.response_code = *code,
        Some(Reply::Silence) => return None,
        None if zone.keys().any(|(known, _)| *known == name) => {}
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(answer)
}

fn pool(name: &str, port: Option<u16>) -> DnsPool {
    DnsPool { name: name.into(), port, refresh: Duration::from_secs(1) }
}

fn at(addresses: &[&str]) -> Reply {
    Reply::Records(addresses.iter().map(|address| RData::from(address.parse::<IpAddr>().unwrap())).collect())
}

fn srv(priority: u16, weight: u16, port: u16, host: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(host).unwrap()))
}

fn weighed(list: &[(&str, u16)]) -> Vec<(String, u16)> {
    list.iter().map(|(address, weight)| ((*address).to_owned(), *weight)).collect()
}

#[tokio::test]
async fn the_addresses_of_a_name_are_followed_as_they_come_and_go() {
    let zone = [
        ("chat.test.", RecordType::A, at(&["10.0.0.1", "10.0.0.2"])),
        ("chat.test.", RecordType::AAAA, at(&["fd00::1"])),
    ];
    let mut rig = Rig::start(pool("chat.test.", Some(80)), &zone).await;
    assert_eq!(rig.list().await, weighed(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("[fd00::1]:80", 1)]));
    rig.expect_stale(false).await;
    rig.set("chat.test.", RecordType::A, at(&["10.0.0.2", "10.0.0.3"]));
    rig.set("chat.test.", RecordType::AAAA, at(&[]));
    // Two changes of a zone are not one: what is between them may be seen.
    let last = weighed(&[("10.0.0.2:80", 1), ("10.0.0.3:80", 1)]);
    while rig.list().await != last {}
}

#[tokio::test]
async fn whatever_is_no_list_keeps_the_last_good_one() {
    let zone = [("chat.test.", RecordType::A, at(&["10.0.0.1"]))];
    let mut rig = Rig::start(pool("chat.test.", Some(80)), &zone).await;
    assert_eq!(rig.list().await, weighed(&[("10.0.0.1:80", 1)]));
    rig.expect_stale(false).await;
    let bad = [
        Reply::Code(ResponseCode::ServFail),
        Reply::Code(ResponseCode::NXDomain),
        Reply::Code(ResponseCode::Refused),
        at(&[]),
        Reply::Silence,
    ];
    for reply in bad {
        rig.set("chat.test.", RecordType::A, reply);
        rig.expect_stale(true).await;
        rig.set("chat.test.", RecordType::A, at(&["10.0.0.1"]));
        // No list in between: nothing has changed.
        rig.expect_stale(false).await;
    }
}

#[tokio::test]
async fn srv_records_give_ports_and_weights_of_the_lowest_priority() {
    let records = vec![
        srv(10, 25, 8080, "a.chat.test."),
        srv(10, 75, 8081, "b.chat.test."),
        srv(20, 1, 9999, "spare.chat.test."),
    ];
    let zone = [
        ("_ws._tcp.chat.test.", RecordType::SRV, Reply::Records(records)),
        ("a.chat.test.", RecordType::A, at(&["10.0.0.1"])),
        ("b.chat.test.", RecordType::A, at(&["10.0.0.2"])),
        ("b.chat.test.", RecordType::AAAA, at(&["fd00::2"])),
        ("spare.chat.test.", RecordType::A, at(&["10.0.0.9"])),
    ];
    let mut rig = Rig::start(pool("_ws._tcp.chat.test.", None), &zone).await;
    let expected = weighed(&[("10.0.0.1:8080", 1), ("10.0.0.2:8081", 3), ("[fd00::2]:8081", 3)]);
    assert_eq!(rig.list().await, expected);
    rig.expect_stale(false).await;
    // A host that can not be resolved for a while keeps its address.
    rig.set("a.chat.test.", RecordType::A, Reply::Code(ResponseCode::ServFail));
    rig.expect_stale(true).await;
    let only = vec![srv(10, 25, 8080, "b.chat.test.")];
    rig.set("_ws._tcp.chat.test.", RecordType::SRV, Reply::Records(only));
    assert_eq!(rig.list().await, weighed(&[("10.0.0.2:8080", 1), ("[fd00::2]:8080", 1)]));
    rig.expect_stale(false).await;
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_asked_for_again_over_tcp() {
    let many: Vec<String> = (0..200).map(|n| format!("10.0.1.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut rig = Rig::start(pool("chat.test.", Some(80)), &[("chat.test.", RecordType::A, at(&many))]).await;
    assert_eq!(rig.list().await.len(), 200);
    rig.expect_stale(false).await;
}

#[tokio::test]
async fn a_name_that_never_was_there_is_stale_and_no_list() {
    let mut rig = Rig::start(pool("chat.test.", Some(80)), &[]).await;
    rig.expect_stale(true).await;
    rig.set("chat.test.", RecordType::AAAA, at(&["fd00::1"]));
    assert_eq!(rig.list().await, weighed(&[("[fd00::1]:80", 1)]));
    rig.expect_stale(false).await;
}
