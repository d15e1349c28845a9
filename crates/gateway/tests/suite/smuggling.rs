//! Requests and answers that two readers could read differently: the gateway picks no side, it refuses them.

use crate::fixture::Setup;
use crate::support::Endpoint;
use crate::support::http::{GET, SWITCHING, UPGRADE, header, more, response, status};

#[test]
fn a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let h2c = more(GET, "Connection: Upgrade\r\nUpgrade: h2c\r\n");
    for request in [GET, h2c.as_str()] {
        let mut client = fixture.connect();
        client.send(request);
        let mut upstream = endpoint.accept();
        assert!(header(&upstream.head(), "upgrade").is_none());
        upstream.send([SWITCHING.as_bytes(), b"raw bytes"].concat());
        let (head, body) = client.message();
        assert_eq!(status(&head), 502, "{head}");
        assert!(!body.contains("raw"), "{body}");
        client.try_send("more raw bytes").ok();
        assert!(upstream.rest().0.is_empty(), "a tunnel is open");
    }
}

#[test]
fn an_answer_with_two_lengths_reaches_the_client_with_one() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    for lengths in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let mut client = fixture.connect();
        client.send(GET);
        let mut upstream = endpoint.accept();
        upstream.head();
        upstream
            .send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{lengths}\r\n5\r\nhello\r\n0\r\n\r\n"));
        let head = client.head();
        if status(&head) == 200 {
            assert!(header(&head, "content-length").is_none(), "{head}");
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
            client.expect("5\r\nhello\r\n0\r\n\r\n");
        } else {
            assert_eq!(status(&head), 502, "{head}");
        }
    }
}

#[test]
fn targets_in_absolute_form_reach_the_endpoint_in_origin_form() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().routes("- pool: chat\n  path: /ws\n").start(&[&endpoint]);
    for request in
        [GET.replace("/health", "http://chat.example.com/ws?a=b"), UPGRADE.replace("/ws?", "ws://x/ws?a=b&")]
    {
        let mut client = fixture.connect();
        client.send(request);
        let mut upstream = endpoint.accept();
        let head = upstream.head();
        assert!(head.starts_with("GET /ws?a=b"), "{head}");
        upstream.send(response("200 OK", "Connection: close\r\n", ""));
        client.message();
    }
    let mut client = fixture.connect();
    client.send("CONNECT chat.example.com:443 HTTP/1.1\r\nHost: chat.example.com\r\n\r\n");
    assert!([404, 405].contains(&status(&client.head())));
    assert!(endpoint.try_accept().is_none());
}

#[test]
fn requests_that_two_readers_could_read_differently_are_refused() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let table = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
    ];
    for request in table {
        let mut client = fixture.connect();
        client.send(request);
        let head = client.head();
        assert_eq!(status(&head), 400, "{request}: {head}");
        assert!(endpoint.try_accept().is_none(), "{request}");
    }
    // Later requests of a connection obey the same rules, as far as two readers could differ.
    for request in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] {
        let mut client = fixture.connect();
        client.send(GET);
        let mut upstream = endpoint.accept();
        upstream.head();
        upstream.send(response("200 OK", "Connection: close\r\n", ""));
        client.message();
        client.send(request);
        assert_eq!(status(&client.head()), 400, "{request}");
        assert!(endpoint.try_accept().is_none(), "{request}");
    }
}

#[test]
fn a_request_of_http_1_0_needs_no_host() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let mut client = fixture.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let mut upstream = endpoint.accept();
    let head = upstream.head();
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    upstream.send(response("200 OK", "", "old"));
    let (head, _) = client.rest();
    assert!(String::from_utf8_lossy(&head).ends_with("old"), "{head:?}");
}
