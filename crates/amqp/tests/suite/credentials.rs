//! The secret: where it goes, and where it never does.

use amqp::{
    Credentials, HEADER_BYTES, Login, MethodId, Progress, SASL_BYTES_MAX, StartOk, Table, Tune, Value, write,
};
use proptest::prelude::*;

const TUNE: Tune = Tune { channel_max: 1, frame_max: 4096, heartbeat: 0 };
const SECRET: &str = "hunter2-correct-horse";

fn plain(user: &str, secret: &[u8]) -> Vec<u8> {
    [b"\0", user.as_bytes(), b"\0", secret].concat()
}

fn amqplain(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries {
        write::short_string(&mut out, name.as_bytes());
        out.push(b'S');
        write::long_string(&mut out, value);
    }
    out
}

fn start_ok<'a>(mechanism: &'a str, response: &'a [u8]) -> StartOk<'a> {
    let client_properties = Table::default();
    StartOk { client_properties, mechanism: mechanism.as_bytes(), response, locale: b"en_US" }
}

fn credentials(mechanism: &str, response: &[u8]) -> Option<Credentials> {
    Credentials::new(&start_ok(mechanism, response), TUNE, b"/")
}

/// The SASL response in the start-ok frame.
fn response(credentials: &Credentials) -> Vec<u8> {
    let frame = credentials.start_ok();
    StartOk::parse(&frame[HEADER_BYTES..frame.len() - 1]).expect("a start-ok").response.to_vec()
}

/// `text` shows the secret as a text, as a list of numbers or as hexadecimal.
fn shows(text: &str, secret: &str) -> bool {
    let numbers = format!("{:?}", secret.as_bytes());
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    [secret, numbers.trim_matches(['[', ']']), &hexadecimal].iter().any(|form| text.contains(form))
}

#[test]
fn no_debug_shows_the_secret() {
    let response = plain("guest", SECRET.as_bytes());
    let start_ok = start_ok("PLAIN", &response);
    let credentials = credentials("PLAIN", &response).expect("they can be repeated");
    let tune = {
        let mut out = Vec::new();
        TUNE.write(&mut out, MethodId::CONNECTION_TUNE);
        out[HEADER_BYTES..out.len() - 1].to_vec()
    };
    let mut start = Vec::new();
    amqp::Start { server_properties: Table::default(), mechanisms: b"PLAIN", locales: b"en_US" }
        .write(&mut start);
    let mut login = Login::ExpectStart;
    let sent = login.handle_method(&start[HEADER_BYTES..], &credentials, None).expect("it goes on");
    assert!(
        matches!(&sent, Progress::Send(bytes) if bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()))
    );
    let next = login.handle_method(&tune, &credentials, None).expect("it goes on");
    let update = [&[0, 10, 0, 70, 0, 0, 0, SECRET.len() as u8][..], SECRET.as_bytes(), &[0]].concat();
    let update = amqp::Method::parse(&update).expect("an update-secret");

    let all =
        format!("{start_ok:?} {start_ok:#?} {credentials:?} {credentials:#?} {sent:?} {next:?} {update:?}");
    assert!(!shows(&all, SECRET), "{all}");
    assert!(shows(&format!("{response:?}"), SECRET), "the test can tell");
}

#[test]
fn a_new_secret_takes_the_place_of_the_old_one() {
    let mut plain_ones = credentials("PLAIN", &plain("guest", b"old")).expect("they can be repeated");
    assert!(plain_ones.update_secret(SECRET.as_bytes()));
    assert_eq!(response(&plain_ones), plain("guest", SECRET.as_bytes()));

    // RabbitMQ finds its two entries in any order; the new response has them in the usual one.
    for entries in
        [[("LOGIN", &b"guest"[..]), ("PASSWORD", b"old")], [("PASSWORD", b"old"), ("LOGIN", b"guest")]]
    {
        let mut table_ones = credentials("AMQPLAIN", &amqplain(&entries)).expect("they can be repeated");
        assert!(table_ones.update_secret(SECRET.as_bytes()));
        assert_eq!(response(&table_ones), amqplain(&[("LOGIN", b"guest"), ("PASSWORD", SECRET.as_bytes())]));
        assert_eq!(table_ones.user(), Some(&b"guest"[..]));
    }
}

#[test]
fn a_secret_that_does_not_fit_leaves_the_old_one_and_says_so() {
    let old = plain("guest", b"old");
    let mut credentials = credentials("PLAIN", &old).expect("they can be repeated");
    assert!(!credentials.update_secret(b"with\0zero"));
    assert!(!credentials.update_secret(&vec![b'j'; SASL_BYTES_MAX - 6]));
    assert_eq!(response(&credentials), old);
    assert!(credentials.update_secret(&vec![b'j'; SASL_BYTES_MAX - 7]));
}

#[test]
fn a_secret_with_any_byte_fits_the_table_mechanism() {
    let old = amqplain(&[("LOGIN", b"guest"), ("PASSWORD", b"old")]);
    let mut credentials = credentials("AMQPLAIN", &old).expect("they can be repeated");
    assert!(credentials.update_secret(b"with\0zero"));
    let new = response(&credentials);
    assert_eq!(Table::new(&new).find("PASSWORD"), Some(Value::Bytes(b"with\0zero")));
}

#[test]
fn only_a_response_that_can_be_repeated_is_kept() {
    let table = amqplain(&[("LOGIN", b"guest"), ("PASSWORD", b"x")]);
    let cases = [
        ("PLAIN", &b"\0guest\0x"[..], Some("guest")),
        ("PLAIN", &b"\0guest\0"[..], Some("guest")),
        ("PLAIN", &b"\0\0"[..], Some("")),
        ("PLAIN", &b""[..], None),
        ("PLAIN", &b"\0"[..], None),
        ("PLAIN", &b"\0guest"[..], None),
        ("PLAIN", &b"guest\0x"[..], None),
        ("PLAIN", &b"other\0guest\0x"[..], None),
        ("PLAIN", &b"\0guest\0x\0y"[..], None),
        ("AMQPLAIN", &table[..], Some("guest")),
        ("AMQPLAIN", &table[..9], None),
        ("AMQPLAIN", &b""[..], None),
        ("EXTERNAL", &b""[..], None),
        ("RABBIT-CR-DEMO", &b"guest"[..], None),
    ];
    for (mechanism, response, user) in cases {
        let told = start_ok(mechanism, response).user();
        assert_eq!(told, user.map(str::as_bytes), "{mechanism} {response:?}");
        assert_eq!(credentials(mechanism, response).is_some(), user.is_some(), "{mechanism} {response:?}");
    }
    assert_eq!(start_ok("plain", b"\0guest\0x").user(), None, "names of mechanisms are exact");
}

#[test]
fn a_response_is_kept_up_to_its_limit() {
    for (len, is) in [(SASL_BYTES_MAX, true), (SASL_BYTES_MAX + 1, false)] {
        let response = plain("guest", &vec![b'j'; len - 7]);
        assert_eq!(response.len(), len);
        assert_eq!(credentials("PLAIN", &response).is_some(), is);
    }
}

#[test]
fn the_frame_with_the_secret_is_written_into_one_buffer_that_does_not_grow() {
    for len in [0, 1, 700, SASL_BYTES_MAX - 7] {
        let credentials =
            credentials("PLAIN", &plain("guest", &vec![b'j'; len])).expect("they can be repeated");
        let allocations = allocation_counter::measure(|| drop(credentials.start_ok()));
        assert_eq!(allocations.count_total, 1);
    }
}

#[test]
fn a_new_secret_is_written_into_one_buffer_and_kept_in_another() {
    let table = amqplain(&[("LOGIN", b"guest"), ("PASSWORD", b"x")]);
    for (mechanism, old) in [("PLAIN", plain("guest", b"x")), ("AMQPLAIN", table)] {
        let mut credentials = credentials(mechanism, &old).expect("they can be repeated");
        let allocations = allocation_counter::measure(|| assert!(credentials.update_secret(&[b'j'; 5000])));
        assert_eq!(allocations.count_total, 2, "{mechanism}");
    }
}

#[test]
fn what_was_agreed_is_kept_beside_the_secret() {
    let credentials = credentials("PLAIN", b"\0guest\0x").expect("they can be repeated");
    assert_eq!((credentials.tune(), credentials.vhost()), (TUNE, &b"/"[..]));
}

#[test]
fn a_capability_counts_when_it_is_a_true_boolean() {
    let inner = [&[1, b'a', b't', 1, 1, b'b', b't', 0, 1, b'c', b'S', 0, 0, 0, 4][..], b"true"].concat();
    let mut properties = Vec::new();
    write::short_string(&mut properties, b"capabilities");
    properties.push(b'F');
    write::long_string(&mut properties, &inner);
    let start_ok = StartOk { client_properties: Table::new(&properties), ..start_ok("PLAIN", b"") };
    for (name, has) in [("a", true), ("b", false), ("c", false), ("d", false)] {
        assert_eq!(start_ok.has_capability(name), has, "{name}");
    }
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn any_response_is_judged_without_a_panic(response: Vec<u8>, secret: Vec<u8>, table: bool) {
        let mechanism = if table { "AMQPLAIN" } else { "PLAIN" };
        if let Some(mut credentials) = credentials(mechanism, &response) {
            let user = credentials.user().map(<[u8]>::to_vec);
            credentials.update_secret(&secret);
            prop_assert_eq!(credentials.user().map(<[u8]>::to_vec), user);
        }
    }
}
