//! What an endpoint may answer to an upgrade request. Only a genuine 101 opens a tunnel.

use crate::fixture::{Fixture, Setup, reset};
use crate::support::frames::{CLOSE, TEXT, bare, closing, masked};
use crate::support::http::{GET, SWITCHING, UPGRADE, header, headers, response, status, switching_with};
use crate::support::wire::End;
use crate::support::{Endpoint, Wire};

/// A client whose upgrade request is with the endpoint.
fn ask(fixture: &Fixture, endpoint: &Endpoint) -> (Wire, Wire) {
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let mut upstream = endpoint.accept();
    upstream.head();
    (client, upstream)
}

#[test]
fn a_101_that_is_not_genuine_never_opens_a_tunnel() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let table = [
        SWITCHING.replace(accept, ""),
        SWITCHING.replace("s3pP", "S3pP"),
        switching_with(accept),
        SWITCHING.replace("Upgrade: websocket\r\n", ""),
        SWITCHING.replace("Upgrade: websocket", "Upgrade: h2c"),
        SWITCHING.replace("Connection: Upgrade\r\n", "Connection: keep-alive\r\n"),
        switching_with("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n"),
        switching_with("Sec-WebSocket-Extensions: =,;\r\n"),
    ];
    for answer in table {
        let (mut client, mut upstream) = ask(&fixture, &endpoint);
        upstream.send([answer.as_bytes(), &bare(TEXT, "secret")].concat());
        let (head, body) = client.message();
        assert_eq!(status(&head), 502, "{answer}: {head}");
        assert!(header(&head, "retry-after").is_some(), "{head}");
        assert!(body.contains("101") && !body.contains("secret"), "{body}");
        client.expect_fin();
        // Nothing the client sends reaches the endpoint any more.
        client.try_send(masked(TEXT, "smuggled")).ok();
        assert!(upstream.rest().0.is_empty());
    }
}

#[test]
fn a_success_that_looks_like_a_101_is_no_tunnel_and_what_follows_is_judged_as_http() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    let disguised = SWITCHING.replace("101 Switching Protocols", "200 OK");
    upstream
        .send(disguised.replace("Connection: Upgrade\r\n", "Connection: Upgrade\r\nContent-Length: 2\r\n"));
    upstream.send("ok");
    let (head, body) = client.message();
    assert_eq!((status(&head), body.as_str()), (200, "ok"));
    assert!(header(&head, "upgrade").is_none(), "{head}");
    client.send("GET /admin HTTP/1.1\r\nHost: chat.example.com\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
    let mut upstream = endpoint.accept();
    let asked = upstream.head();
    assert_eq!(headers(&asked, "x-forwarded-for"), ["127.0.0.1"], "{asked}");
    upstream.send(response("404 Not Found", "", ""));
    assert_eq!(status(&client.message().0), 404);
}

#[test]
fn any_other_answer_is_relayed_with_body_and_cookies_and_the_connection_goes_on() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    for answer in [
        "200 OK",
        "302 Found",
        "401 Unauthorized",
        "403 Forbidden",
        "426 Upgrade Required",
        "429 Too Many Requests",
    ] {
        let (mut client, mut upstream) = ask(&fixture, &endpoint);
        let more = "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nLocation: /login\r\nRetry-After: 7\r\n\
            WWW-Authenticate: Basic\r\n";
        upstream.send(response(answer, more, "the endpoint's own words"));
        let (head, body) = client.message();
        assert_eq!(status(&head), answer[..3].parse::<u16>().expect("a number"), "{head}");
        assert_eq!(body, "the endpoint's own words");
        assert_eq!(headers(&head, "set-cookie"), ["a=1; Path=/", "b=2"], "{head}");
        assert_eq!(header(&head, "retry-after"), Some("7"));
        assert_eq!(header(&head, "location"), Some("/login"));
        assert!(header(&head, "x-request-id").is_some(), "{head}");
        client.send(GET);
        let mut second = endpoint.accept();
        assert!(second.head().starts_with("GET /health HTTP/1.1\r\n"));
        second.send(response("200 OK", "", "fine"));
        assert_eq!(client.message().1, "fine");
    }
}

#[test]
fn an_answer_of_unknown_length_is_relayed_while_it_comes() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    upstream.send("HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    let head = client.head();
    assert_eq!(status(&head), 401);
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
    client.expect("5\r\nfirst\r\n");
    upstream.send("4\r\nlast\r\n0\r\n\r\n");
    client.expect("4\r\nlast\r\n0\r\n\r\n");

    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    upstream.send("HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\nuntil the end");
    assert_eq!(status(&client.head()), 500);
    client.expect("D\r\nuntil the end\r\n");
    drop(upstream);
    client.expect("0\r\n\r\n");
}

#[test]
fn interim_answers_before_the_101_are_passed_over() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    upstream.send(SWITCHING);
    upstream.send(bare(TEXT, "hi"));
    assert_eq!(status(&client.head()), 101);
    client.expect(bare(TEXT, "hi"));
    drop((client, upstream));
    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    upstream.try_send("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).ok();
    assert_eq!(status(&client.message().0), 502);
}

#[test]
fn a_101_and_then_the_end_closes_the_client_with_1012() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    upstream.send(SWITCHING);
    drop(upstream);
    assert_eq!(status(&client.head()), 101);
    assert_eq!(client.frame().close().0, 1012);
    client.send(masked(CLOSE, closing(1012, "")));
    client.expect_fin();
}

#[test]
fn an_endpoint_that_dies_before_its_answer_is_replaced_by_the_next() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().pool("tries_max: 2").start(&[&first, &second]);
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let (at, mut dying) = crate::support::accept_any(&[&first, &second]);
    dying.head();
    reset(dying);
    let other = [&second, &first][at];
    let (mut upstream, _) = other.accept_websocket();
    assert_eq!(status(&client.head()), 101);
    client.send(masked(TEXT, "hi"));
    upstream.expect(masked(TEXT, "hi"));
}

#[test]
fn an_endpoint_that_dies_amid_its_answer_is_not_replaced() {
    let (first, second) = (Endpoint::bind(), Endpoint::bind());
    let fixture = Setup::new().start(&[&first, &second]);
    let mut client = fixture.connect();
    client.send(UPGRADE);
    let (_, mut dying) = crate::support::accept_any(&[&first, &second]);
    dying.head();
    dying.send("HTTP/1.1 10");
    drop(dying);
    assert_eq!(status(&client.message().0), 502);
    assert!(first.try_accept().is_none() && second.try_accept().is_none());
}

#[test]
fn without_another_endpoint_the_client_is_told_502_and_when_to_come_back() {
    let endpoint = Endpoint::bind();
    for settings in ["tries_max: 1", "websocket:\n  retry_upgrade: false"] {
        let fixture = Setup::new().pool(settings).start(&[&endpoint]);
        let (mut client, upstream) = ask(&fixture, &endpoint);
        drop(upstream);
        let (head, body) = client.message();
        assert_eq!(status(&head), 502, "{body}");
        assert!(header(&head, "retry-after").is_some_and(|secs| secs.parse::<u8>().is_ok()), "{head}");
        client.expect_fin();
    }
}

#[test]
fn an_endpoint_that_answers_what_is_not_http_is_a_bad_gateway() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().start(&[&endpoint]);
    let endless = format!("HTTP/1.1 101 Switching Protocols\r\nCookie: {}", "c".repeat(20_000));
    for answer in ["SSH-2.0-OpenSSH_9.6\r\n", "HTTP/2 101\r\n\r\n", &endless] {
        let (mut client, mut upstream) = ask(&fixture, &endpoint);
        upstream.send(answer);
        assert_eq!(status(&client.message().0), 502, "{answer:.40}");
        client.expect_fin();
    }
}

#[test]
fn an_endpoint_that_says_nothing_is_a_gateway_timeout() {
    let endpoint = Endpoint::bind();
    let fixture = Setup::new().pool("response_timeout: 100ms").start(&[&endpoint]);
    let (mut client, mut upstream) = ask(&fixture, &endpoint);
    let (head, body) = client.message();
    assert_eq!(status(&head), 504, "{body}");
    assert!(header(&head, "retry-after").is_some(), "{head}");
    assert_eq!(upstream.end(), End::Fin);
}
