//! Routes, bounds on connections, and what ends a session by time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use crate::fixture::{Fixture, POOL, Setup, ready};
use crate::support::frames::{BINARY, CLOSE, TEXT, bare, closing, masked};
use crate::support::http::{GET, UPGRADE, header, response, status};
use crate::support::{Endpoint, Wire, wait_until};

#[test]
fn requests_go_where_host_and_path_say() {
    let endpoints = [Endpoint::bind(), Endpoint::bind(), Endpoint::bind(), Endpoint::bind()];
    let [exact, wild, path, any] = &endpoints;
    let routes = "- pool: exact\n  host: chat.example.com\n- pool: wild\n  host: '*.example.com'\n\
        - pool: path\n  path: /ws\n  host: other.org\n- pool: chat\n  path: /any\n";
    let list = |endpoint: &Endpoint| vec![ready(endpoint.address())];
    let setup = Setup::new().routes(routes).more_pool("exact").more_pool("wild").more_pool("path");
    let fixture = setup.start_with([
        ("exact", list(exact)),
        ("wild", list(wild)),
        ("path", list(path)),
        (POOL, list(any)),
    ]);
    let table = [
        ("chat.example.com", "/", Some(exact)),
        ("CHAT.example.com:8080", "/x/y?z", Some(exact)),
        ("a.example.com", "/ws", Some(wild)),
        ("a.b.example.com", "/", Some(wild)),
        ("other.org", "/ws", Some(path)),
        ("other.org", "/ws/deep?q=/any", Some(path)),
        ("other.org", "/wsx", None),
        ("other.org", "/", None),
        ("else.net", "/any/thing", Some(any)),
        ("else.net", "/", None),
    ];
    for (host, target, expected) in table {
        for request in [GET.replace("/health", target), UPGRADE.replace("/ws?room=1", target)] {
            let mut client = fixture.connect();
            client.send(request.replace("chat.example.com", host));
            match expected {
                None => assert_eq!(status(&client.message().0), 404, "{host} {target}"),
                Some(endpoint) => {
                    let mut upstream = endpoint.accept();
                    let head = upstream.head();
                    assert_eq!(header(&head, "host"), Some(host));
                    assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{head}");
                    upstream.send(response("200 OK", "Connection: close\r\n", ""));
                    assert_eq!(status(&client.message().0), 200);
                }
            }
        }
    }
}

/// Told to come back later, and properly ended.
fn expect_full(mut client: Wire, bound: &str) {
    let (head, body) = client.message();
    assert_eq!(status(&head), 503, "{head}");
    assert!(header(&head, "retry-after").is_some() && body.contains(bound), "{head}{body}");
    client.expect_fin();
}

#[test]
fn connections_beyond_the_total_are_told_to_come_back() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("connections_max: 2").start(&[&endpoint]);
    let first = fixture.open(&endpoint);
    let _second = fixture.open(&endpoint);
    expect_full(fixture.connect(), "connections_max");
    drop(first);
    wait_until("there is room", || fixture.status().connections == 1);
    let _third = fixture.open(&endpoint);
    expect_full(fixture.connect(), "connections_max");
}

#[test]
fn a_client_that_is_turned_away_amid_its_request_reads_why() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("connections_max: 1").start(&[&endpoint]);
    let _first = fixture.open(&endpoint);
    for _ in 0..50 {
        let mut client = fixture.connect();
        // It may come after the answer and even after the end.
        client.try_send(UPGRADE).ok();
        client.try_send(masked(BINARY, vec![7; 2000])).ok();
        assert_eq!(status(&client.message().0), 503);
    }
}

/// A client with an address of its own.
fn connect_from(fixture: &Fixture, last: u8) -> Wire {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
    socket.bind(&source.into()).expect("all of 127/8 is ours");
    socket.connect(&fixture.address().into()).expect("the gateway listens");
    Wire::new(TcpStream::from(socket))
}

#[test]
fn one_client_can_not_take_the_room_of_others() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("connections_per_client_max: 1").start(&[&endpoint]);
    let first = fixture.open(&endpoint);
    expect_full(fixture.connect(), "connections_per_client_max");
    let mut other = connect_from(&fixture, 2);
    other.send(UPGRADE);
    let (_upstream, head) = endpoint.accept_websocket();
    assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.2"));
    assert_eq!(status(&other.head()), 101);
    drop(first);
    wait_until("there is room", || fixture.status().connections == 1);
    let _again = fixture.open(&endpoint);
}

#[test]
fn a_full_route_leaves_the_others_alone() {
    let endpoint = Endpoint::bind();
    let routes = "- pool: chat\n  path: /ws\n  connections_max: 1\n- pool: chat\n";
    let fixture = Setup::new().routes(routes).start(&[&endpoint]);
    let first = fixture.open(&endpoint);
    let mut full = fixture.connect();
    full.send(UPGRADE);
    expect_full(full, "route_connections_max");
    let mut plain = fixture.connect();
    plain.send(GET);
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send(response("200 OK", "", ""));
    assert_eq!(status(&plain.message().0), 200);
    drop(first);
    wait_until("there is room", || fixture.pool().sessions == 0);
    let _again = fixture.open(&endpoint);
}

#[test]
fn an_idle_session_is_closed_and_a_busy_one_is_not() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("idle_timeout: 3s").start(&[&endpoint]);
    let (mut idle, mut idle_upstream) = fixture.open(&endpoint);
    let (mut busy, mut busy_upstream) = fixture.open(&endpoint);
    wait_until("the idle one is closed", || {
        busy.send(masked(TEXT, "a"));
        busy_upstream.expect(masked(TEXT, "a"));
        idle.has_something()
    });
    assert_eq!(idle.frame().close().0, 1001);
    idle.expect_fin();
    assert_eq!(idle_upstream.frame().close().0, 1001);
    idle_upstream.expect_fin();
    assert!(!busy.has_something());
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("write_stall_timeout: 100ms").start(&[&endpoint]);
    let (client, mut upstream) = fixture.open(&endpoint);
    let flood = bare(BINARY, vec![7; 1_000_000]);
    let floods = (0..200).take_while(|_| upstream.try_send(&flood).is_ok()).count();
    assert!(floods < 200 || upstream.has_something(), "the flood went somewhere");
    wait_until("it is cut off", || fixture.pool().sessions == 0);
    drop(client);
}

#[test]
fn an_endpoint_that_takes_nothing_is_cut_off_and_its_client_is_told() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("write_stall_timeout: 100ms").start(&[&endpoint]);
    let (mut client, upstream) = fixture.open(&endpoint);
    let mut sender = Wire::new(client.tcp().try_clone().expect("a descriptor is free"));
    let flood = masked(BINARY, vec![7; 1_000_000]);
    let flooding =
        std::thread::spawn(move || (0..200).take_while(|_| sender.try_send(&flood).is_ok()).count());
    assert_eq!(client.frame().close().0, 1001);
    client.try_send(masked(CLOSE, closing(1001, ""))).ok();
    drop(client);
    flooding.join().expect("it ends");
    drop(upstream);
}

#[test]
fn a_client_that_never_reads_a_download_does_not_hold_its_connection() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().limits("write_stall_timeout: 200ms").start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send("GET /huge HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    let floods = (0..1000).take_while(|_| upstream.try_send(vec![7; 1_000_000]).is_ok()).count();
    assert!(floods < 1000, "the gateway took everything");
    // The kernel gives up on the client, and the count is given back.
    wait_until("it is cut off", || fixture.status().connections == 0);
    drop(client);
}
