//! TLS listeners, IPv6, and certificates that change while sessions live.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::fixture::{Fixture, Setup, wait_for_sessions};
use crate::support::frames::{BINARY, CLOSE, TEXT, bare, closing, masked};
use crate::support::http::{GET, UPGRADE, header, response, status};
use crate::support::{Endpoint, Wire};

const NAME: &str = "chat.example.com";

/// Writes a fresh certificate and its key to `folder`.
fn write_certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("the folder is ours");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("the folder is ours");
    made.cert.der().clone()
}

fn setup(folder: &Path) -> Setup {
    let at = |file: &str| folder.join(file).display().to_string();
    let (certificate, key) = (at("certificate.pem"), at("key.pem"));
    let tls = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
    Setup::new().listeners(&format!("- address: 127.0.0.1:0\n{tls}"))
}

/// A TLS handshake with whoever shows `certificate`.
fn handshake(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    alpn: &[&str],
) -> Result<(Wire, Option<Vec<u8>>), std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("it is a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(NAME).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(crate::support::PATIENCE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    let chosen = connection.alpn_protocol().map(<[u8]>::to_vec);
    let wire = tcp.try_clone()?;
    Ok((Wire::over(wire, StreamOwned::new(connection, tcp)), chosen))
}

fn open(fixture: &Fixture, endpoint: &Endpoint, certificate: &CertificateDer<'static>) -> (Wire, Wire) {
    let (mut client, _) = handshake(fixture.address(), certificate, &["http/1.1"]).expect("a handshake");
    client.send(UPGRADE);
    let (upstream, head) = endpoint.accept_websocket();
    assert_eq!(header(&head, "x-forwarded-proto"), Some("https"), "{head}");
    assert_eq!(status(&client.head()), 101);
    (client, upstream)
}

#[test]
fn sessions_and_requests_run_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = write_certificate(folder.path());
    let endpoint = Endpoint::bind();
    let fixture = setup(folder.path()).start(&[&endpoint]);
    let (mut client, mut upstream) = open(&fixture, &endpoint, &certificate);
    let large = vec![9; 300_000];
    let (request, answer) = (masked(BINARY, &large), bare(BINARY, &large));
    std::thread::scope(|scope| {
        scope.spawn(|| client.send(&request));
        upstream.expect(&request);
    });
    std::thread::scope(|scope| {
        scope.spawn(|| upstream.send(&answer));
        client.expect(&answer);
    });
    // The end of a TLS stream is announced: no reader can take it for a cut.
    let close = masked(CLOSE, closing(1000, ""));
    client.send(&close);
    upstream.expect(&close);
    upstream.send(bare(CLOSE, closing(1000, "")));
    assert_eq!(client.frame().close().0, 1000);
    client.expect_fin();
    let (mut plain, chosen) =
        handshake(fixture.address(), &certificate, &["h2", "http/1.1"]).expect("a handshake");
    assert_eq!(chosen.as_deref(), Some(&b"http/1.1"[..]));
    plain.send(GET);
    let mut upstream = endpoint.accept();
    assert_eq!(header(&upstream.head(), "x-forwarded-proto"), Some("https"));
    upstream.send(response("200 OK", "", "secure"));
    assert_eq!(plain.message().1, "secure");
}

#[test]
fn amqp_runs_over_tls_whatever_protocols_the_client_offers() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = write_certificate(folder.path());
    let endpoint = Endpoint::bind();
    let listener = format!(
        "- {{address: 127.0.0.1:0, tls: {{certificate: {0}/certificate.pem, key: {0}/key.pem}}, protocol: amqp, routes: [{{pool: chat}}]}}\n",
        folder.path().display()
    );
    let fixture = Setup::amqp("").listeners(&listener).start(&[&endpoint]);
    for alpn in [&[][..], &["amqp"]] {
        let (client, chosen) = handshake(fixture.address(), &certificate, alpn).expect("a handshake");
        assert_eq!(chosen, None);
        let (mut client, mut broker) = fixture.open_amqp_on(client, &endpoint);
        let delivery = crate::support::amqp::delivery(1, &vec![5; 300_000], 131_072);
        client.send(crate::support::amqp::channel_open(1));
        broker.expect(crate::support::amqp::channel_open(1));
        broker.send(crate::support::amqp::channel_open_ok(1));
        client.expect(crate::support::amqp::channel_open_ok(1));
        std::thread::scope(|scope| {
            scope.spawn(|| broker.send(&delivery));
            client.expect(&delivery);
        });
    }
}

#[test]
fn what_is_no_tls_handshake_leaves_no_session_and_no_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = write_certificate(folder.path());
    let endpoint = Endpoint::bind();
    let fixture = setup(folder.path()).limits("tls_handshake_timeout: 150ms").start(&[&endpoint]);
    // Nothing at all, until the time is up.
    fixture.connect().expect_fin();
    let mut plain = fixture.connect();
    plain.send(GET);
    let (answer, _) = plain.rest();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(handshake(fixture.address(), &certificate, &["h2"]).is_err(), "only http/1.1 is spoken");
    assert!(endpoint.try_accept().is_none());
    drop(plain);
    fixture.expect_zero();
}

#[test]
fn a_replaced_certificate_reaches_new_connections_and_leaves_sessions_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = write_certificate(folder.path());
    let endpoint = Endpoint::bind();
    let fixture = setup(folder.path()).start(&[&endpoint]);
    let (mut client, mut upstream) = open(&fixture, &endpoint, &old);
    let new = write_certificate(folder.path());
    fixture.gateway.refresh_certificates();
    let (_second, _second_upstream) = open(&fixture, &endpoint, &new);
    assert!(handshake(fixture.address(), &old, &[]).is_err(), "the old certificate is gone");
    std::fs::write(folder.path().join("certificate.pem"), "no certificate").expect("the folder is ours");
    fixture.gateway.refresh_certificates();
    let (_third, _third_upstream) = open(&fixture, &endpoint, &new);
    client.send(masked(TEXT, "as before"));
    upstream.expect(masked(TEXT, "as before"));
    wait_for_sessions(&fixture, 3);
}

#[test]
fn an_endpoint_that_vanishes_is_told_over_tls_and_the_stream_ends_properly() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = write_certificate(folder.path());
    let endpoint = Endpoint::bind();
    let fixture = setup(folder.path()).start(&[&endpoint]);
    let (mut client, upstream) = open(&fixture, &endpoint, &certificate);
    drop(upstream);
    assert_eq!(client.frame().close().0, 1012);
    // Under way when the Close came: it must not turn the end into a reset.
    client.send(masked(BINARY, vec![3; 20_000]));
    client.send(masked(CLOSE, closing(1012, "")));
    client.expect_fin();
    let (mut client, mut upstream) = open(&fixture, &endpoint, &certificate);
    let half = &bare(TEXT, "half a frame")[..6];
    upstream.send(half);
    client.expect(half);
    drop(upstream);
    client.expect_fin();
}

#[test]
fn a_fault_of_a_certificate_is_told_once() {
    let folder = tempfile::tempdir().expect("a folder");
    write_certificate(folder.path());
    let at = |file: &str| folder.path().join(file);
    let files = config::Tls { certificate: at("certificate.pem"), key: at("key.pem") };
    let certificate = gateway::Certificate::load(files, config::Protocol::Http).expect("it is good");
    assert!(!certificate.refresh().expect("nothing changed"));
    std::fs::remove_file(at("key.pem")).expect("it was there");
    let fault = certificate.refresh().expect_err("the key is gone").to_string();
    assert!(fault.contains("key.pem"), "{fault}");
    assert!(!certificate.refresh().expect("told before"));
    write_certificate(folder.path());
    assert!(certificate.refresh().expect("good again"));
}

#[test]
fn a_listener_on_ipv6_takes_ipv4_clients_too_unless_told_otherwise() {
    let endpoint = Endpoint::bind();
    let listeners = "- address: '[::]:0'\n- address: '[::]:0'\n  ipv6_only: true\n- address: '[::1]:0'\n";
    let fixture = Setup::new().listeners(listeners).start(&[&endpoint]);
    let ports: Vec<u16> = fixture.gateway.addresses().iter().map(SocketAddr::port).collect();
    for (address, port, seen) in [
        ("127.0.0.1", ports[0], "127.0.0.1"),
        ("::1", ports[0], "::1"),
        ("::1", ports[1], "::1"),
        ("::1", ports[2], "::1"),
    ] {
        let mut client = Wire::connect(SocketAddr::new(address.parse().expect("an address"), port));
        client.send(UPGRADE);
        let (_upstream, head) = endpoint.accept_websocket();
        assert_eq!(header(&head, "x-forwarded-for"), Some(seen), "{head}");
        assert_eq!(header(&head, "x-forwarded-port"), Some(port.to_string().as_str()));
        assert_eq!(status(&client.head()), 101);
    }
    let refused = TcpStream::connect(("127.0.0.1", ports[1]));
    assert!(refused.is_err(), "IPv4 on a port for IPv6 only");
}

#[test]
fn an_endpoint_may_have_an_ipv6_address() {
    let endpoint = Endpoint::bind_to("[::1]:0");
    let fixture = Setup::new().start(&[&endpoint]);
    let (mut client, mut upstream) = fixture.open(&endpoint);
    client.send(masked(TEXT, "six"));
    upstream.expect(masked(TEXT, "six"));
}
