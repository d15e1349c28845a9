//! Plain HTTP on the same port: bodies that stream, connections that are kept, and the way to a WebSocket later on.

use crate::fixture::{Setup, wait_for_sessions};
use crate::support::frames::{TEXT, bare, masked};
use crate::support::http::{GET, SWITCHING, UPGRADE, header, headers, more, response, status, upgrade_with};
use crate::support::{Endpoint, accept_any, refusing_address};

#[test]
fn bodies_of_known_length_pass_in_both_directions() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send("POST /negotiate?v=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let mut upstream = endpoint.accept();
    let (head, body) = upstream.message();
    assert!(head.starts_with("POST /negotiate?v=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!((header(&head, "host"), body.as_str()), (Some("a"), "hello"));
    upstream.send(response("201 Created", "Content-Type: text/plain\r\n", "made"));
    let (head, body) = client.message();
    assert_eq!((status(&head), body.as_str()), (201, "made"));
    assert_eq!(header(&head, "content-type"), Some("text/plain"));
}

#[test]
fn an_unfinished_upload_reaches_the_endpoint_before_its_end() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    let mut upstream = endpoint.accept();
    let head = upstream.head();
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
    upstream.expect("3\r\none\r\n");
    client.send("3\r\ntwo\r\n");
    upstream.expect("3\r\ntwo\r\n");
    client.send("0\r\n\r\n");
    upstream.expect("0\r\n\r\n");
    upstream.send(response("200 OK", "", "both"));
    assert_eq!(client.message().1, "both");
    client.send("PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nthr");
    let head = upstream.head();
    assert_eq!(header(&head, "content-length"), Some("6"), "{head}");
    upstream.expect("thr");
    client.send("ee!");
    upstream.expect("ee!");
    upstream.send(response("200 OK", "", ""));
    assert_eq!(status(&client.message().0), 200);
}

#[test]
fn an_unfinished_download_reaches_the_client_before_its_end() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(status(&client.head()), 200);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        upstream.send(&chunk);
        client.expect(&chunk);
    }
    // A client that leaves amid the stream ends it at the endpoint, too.
    drop(client);
    let mut bytes = 0;
    while upstream.try_send("3\r\nabc\r\n").is_ok() && bytes < 100_000_000 {
        bytes += 8;
    }
    assert!(bytes < 100_000_000, "nobody told the endpoint");
}

#[test]
fn connections_are_kept_on_both_sides() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(GET);
    let mut upstream = endpoint.accept();
    for n in 0..5 {
        assert!(upstream.head().starts_with("GET /health "));
        upstream.send(response("200 OK", "", &n.to_string()));
        let (head, body) = client.message();
        assert_eq!((status(&head), body), (200, n.to_string()));
        client.send(GET);
    }
    upstream.head();
    upstream.send(response("200 OK", "Connection: close\r\n", ""));
    drop(upstream);
    assert_eq!(status(&client.message().0), 200);
    client.send(GET);
    let mut fresh = endpoint.accept();
    fresh.head();
    fresh.send(response("200 OK", "", ""));
    assert_eq!(status(&client.message().0), 200);
    client.send(more(GET, "Connection: close\r\n"));
    fresh.head();
    fresh.send(response("200 OK", "", ""));
    let (head, _) = client.message();
    assert_eq!(header(&head, "connection"), Some("close"), "{head}");
    client.expect_fin();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(["/1", "/2", "/3"].map(|path| GET.replace("/health", path)).concat());
    for path in ["/1", "/2", "/3"] {
        let mut upstream = endpoint.accept();
        let head = upstream.head();
        assert!(head.starts_with(&format!("GET {path} ")), "{path}: {head}");
        upstream.send(response("200 OK", "Connection: close\r\n", path));
        assert_eq!(client.message().1, path);
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send("PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(status(&client.head()), 100);
    client.send("hello");
    upstream.expect("hello");
    upstream.send(response("200 OK", "", "taken"));
    assert_eq!(client.message().1, "taken");
}

#[test]
fn answers_without_a_body_do_not_wait_for_one() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(GET.replace("GET", "HEAD"));
    let mut upstream = endpoint.accept();
    assert!(upstream.head().starts_with("HEAD /health "));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    let head = client.head();
    assert_eq!((status(&head), header(&head, "content-length")), (200, Some("1234")), "{head}");
    for answer in ["204 No Content", "304 Not Modified"] {
        client.send(GET);
        upstream.head();
        upstream.send(format!("HTTP/1.1 {answer}\r\nETag: \"x\"\r\n\r\n"));
        let head = client.head();
        assert_eq!(status(&head).to_string(), answer[..3]);
        assert!(header(&head, "content-length").is_none_or(|length| length == "0"), "{head}");
    }
    client.send(GET);
    upstream.head();
    upstream.send(response("200 OK", "", "end"));
    assert_eq!(client.message().1, "end");
}

#[test]
fn an_upgrade_may_be_a_later_request_of_a_kept_connection() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(GET);
    let mut plain = endpoint.accept();
    plain.head();
    plain.send(response("200 OK", "", "sid"));
    assert_eq!(client.message().1, "sid");
    client.send([UPGRADE.as_bytes(), &masked(TEXT, "early")].concat());
    let mut upstream = endpoint.accept();
    let asked = upstream.head();
    assert_eq!(header(&asked, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="), "{asked}");
    assert_eq!(header(&asked, "connection"), Some("Upgrade"), "{asked}");
    upstream.send([SWITCHING.as_bytes(), &bare(TEXT, "welcome")].concat());
    let head = client.head();
    assert_eq!(status(&head), 101, "{head}");
    assert_eq!(header(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(header(&head, "x-request-id").is_some(), "{head}");
    client.expect(bare(TEXT, "welcome"));
    upstream.expect(masked(TEXT, "early"));
    wait_for_sessions(&fixture, 1);
    client.send(masked(TEXT, "later"));
    upstream.expect(masked(TEXT, "later"));
}

#[test]
fn a_later_upgrade_obeys_the_same_rules() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let refused =
        [(UPGRADE.replace("Version: 13", "Version: 8"), 426), (UPGRADE.replace("GET", "POST"), 405)];
    let mut client = fixture.connect();
    client.send(GET);
    let mut plain = endpoint.accept();
    plain.head();
    plain.send(response("200 OK", "", ""));
    client.message();
    for (request, expected) in refused {
        client.send(request);
        assert_eq!(status(&client.message().0), expected);
    }
    client.send(UPGRADE);
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send(SWITCHING.replace(accept, ""));
    assert_eq!(status(&client.message().0), 502);
    drop(upstream);
    client.send(UPGRADE);
    let mut upstream = endpoint.accept();
    upstream.head();
    upstream.send(response("401 Unauthorized", "Set-Cookie: a=1\r\n", "who?"));
    let (head, body) = client.message();
    assert_eq!((status(&head), body.as_str()), (401, "who?"));
    assert_eq!(header(&head, "set-cookie"), Some("a=1"));
}

#[test]
fn an_upgrade_that_was_refused_may_be_asked_for_again_on_the_same_connection() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    for n in 0..3 {
        client.send(UPGRADE);
        let mut upstream = endpoint.accept();
        upstream.head();
        upstream.send(response("401 Unauthorized", "", &n.to_string()));
        assert_eq!(client.message().1, n.to_string());
    }
    client.send(upgrade_with("Cookie: token=1\r\n"));
    let (mut upstream, asked) = endpoint.accept_websocket();
    assert_eq!(header(&asked, "cookie"), Some("token=1"));
    assert_eq!(status(&client.head()), 101);
    client.send(masked(TEXT, "in"));
    upstream.expect(masked(TEXT, "in"));
}

#[test]
fn a_connection_that_the_endpoint_gave_up_is_not_used_again() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    for _ in 0..30 {
        client.send(GET);
        let mut upstream = endpoint.accept();
        upstream.head();
        upstream.send(response("200 OK", "", "fine"));
        // The end comes with the answer, without being announced.
        drop(upstream);
        assert_eq!(client.message().1, "fine");
    }
}

#[test]
fn a_refused_connection_goes_to_the_next_endpoint() {
    let endpoint = Endpoint::bind();
    let addresses = [refusing_address(), endpoint.address(), refusing_address()];
    let fixture = Setup::new().start_at(&addresses);
    for _ in 0..6 {
        let mut client = fixture.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
        let mut upstream = endpoint.accept();
        assert_eq!(upstream.message().1, "hi");
        upstream.send(response("200 OK", "Connection: close\r\n", "done"));
        assert_eq!(client.message().1, "done");
    }
}

#[test]
fn a_request_that_reached_an_endpoint_is_never_sent_twice() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().start(&[&first, &second]);
    let mut client = fixture.connect();
    client.send("POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n10");
    let (_, mut upstream) = accept_any(&[&first, &second]);
    assert_eq!(upstream.message().1, "10");
    drop(upstream);
    let (head, _) = client.message();
    assert_eq!(status(&head), 502, "{head}");
    assert!(header(&head, "retry-after").is_some(), "{head}");
    assert!(first.try_accept().is_none() && second.try_accept().is_none());
}

#[test]
fn without_an_endpoint_the_client_is_told_when_to_come_back() {
    let none = Setup::new().start(&[]);
    let refusing = Setup::new().start_at(&[refusing_address()]);
    for (fixture, expected) in [(&none, 503), (&refusing, 502)] {
        for request in [GET, UPGRADE] {
            let mut client = fixture.connect();
            client.send(request);
            let (head, body) = client.message();
            assert!([expected, 503].contains(&status(&head)), "{head}{body}");
            let after = header(&head, "retry-after").and_then(|secs| secs.parse::<u32>().ok());
            assert!(after.is_some_and(|secs| (1..=5).contains(&secs)), "{head}");
        }
    }
}

#[test]
fn a_slow_endpoint_is_a_gateway_timeout() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("response_timeout: 100ms").start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send(GET);
    let mut upstream = endpoint.accept();
    upstream.head();
    assert_eq!(status(&client.message().0), 504);
    upstream.expect_fin();
}

#[test]
fn every_endpoint_gets_its_turn_under_round_robin() {
    let endpoints = [Endpoint::bind(), Endpoint::bind()];
    let all: Vec<&Endpoint> = endpoints.iter().collect();
    let fixture = Setup::new().pool("balance: round_robin").start(&all);
    let mut counts = [0; 2];
    let mut kept = Vec::new();
    for _ in 0..6 {
        let mut client = fixture.connect();
        client.send(more(GET, "Connection: close\r\n"));
        let (at, mut upstream) = accept_any(&all);
        upstream.head();
        upstream.send(response("200 OK", "Connection: close\r\n", ""));
        client.message();
        counts[at] += 1;
        kept.push((client, upstream));
    }
    assert_eq!(counts, [3, 3]);
}

#[test]
fn headers_for_one_hop_end_here_and_forwarded_headers_are_added() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let port = fixture.address().port().to_string();
    let said = "X-Forwarded-For: 10.9.8.7\r\nX-Forwarded-Proto: https\r\nX-Request-Id: forged\r\n\
        Connection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
        Proxy-Authorization: Basic x\r\nWS-Handoff: v=1; token=forged\r\nCookie: a=1\r\nOrigin: http://o\r\n";
    for (request, answer) in [
        (more(GET, said), response("200 OK", "", "")),
        (
            UPGRADE.replace("Connection: Upgrade\r\n", &said.replace("keep-alive", "Upgrade")),
            SWITCHING.to_owned(),
        ),
    ] {
        let ending_here = "Keep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\n";
        let answer = more(&answer, &format!("{ending_here}X-App: yes\r\n"));
        let mut client = fixture.connect();
        client.send(request);
        let mut upstream = endpoint.accept();
        let head = upstream.head();
        for gone in ["x-secret", "keep-alive", "te", "proxy-authorization", "ws-handoff"] {
            assert!(headers(&head, gone).is_empty(), "{gone}: {head}");
        }
        assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(header(&head, "x-forwarded-proto"), Some("http"));
        assert_eq!(header(&head, "x-forwarded-host"), Some("chat.example.com"));
        assert_eq!(header(&head, "x-forwarded-port"), Some(port.as_str()));
        assert_eq!(header(&head, "host"), Some("chat.example.com"));
        assert_eq!((header(&head, "cookie"), header(&head, "origin")), (Some("a=1"), Some("http://o")));
        let id = header(&head, "x-request-id").expect("an id").to_owned();
        assert_ne!(id, "forged");
        upstream.send(answer);
        let head = client.head();
        assert_eq!(header(&head, "x-request-id"), Some(id.as_str()), "{head}");
        assert_eq!(header(&head, "x-app"), Some("yes"));
        for gone in ["keep-alive", "proxy-authenticate"] {
            assert!(headers(&head, gone).is_empty(), "{gone}: {head}");
        }
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_appended_to() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().rest("trusted_proxies: [127.0.0.0/8]\n").start(&[&endpoint]);
    let said = "X-Forwarded-For: 10.9.8.7\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc-1\r\n";
    for request in [more(GET, said), upgrade_with(said)] {
        let mut client = fixture.connect();
        client.send(request);
        let mut upstream = endpoint.accept();
        let head = upstream.head();
        assert_eq!(header(&head, "x-forwarded-for"), Some("10.9.8.7, 127.0.0.1"), "{head}");
        assert_eq!(header(&head, "x-forwarded-proto"), Some("https"));
        assert_eq!(header(&head, "x-request-id"), Some("abc-1"));
        upstream.send(response("200 OK", "", ""));
        assert_eq!(header(&client.message().0, "x-request-id"), Some("abc-1"));
    }
}
