//! The client side of the handshake, step by step, and every way in which it ends early.

use amqp::{
    Credentials, FRAME_BYTES_MIN, FrameError, HEADER_BYTES, Login, LoginError, MethodId, Progress, Start,
    StartOk, Table, Tune, code, open_vhost, write, write_open_ok,
};

const AGREED: Tune = Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };

fn start_ok() -> StartOk<'static> {
    StartOk {
        client_properties: Table::default(),
        mechanism: b"PLAIN",
        response: b"\0guest\0hunter2",
        locale: b"en_US",
    }
}

fn credentials(tune: Tune) -> Credentials {
    Credentials::new(&start_ok(), tune, b"/").expect("they can be repeated")
}

/// The payload of the frame that `write` writes.
fn payload(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out[HEADER_BYTES..out.len() - 1].to_vec()
}

fn start(cluster: Option<&str>) -> Vec<u8> {
    let mut entries = Vec::new();
    if let Some(cluster) = cluster {
        write::short_string(&mut entries, b"cluster_name");
        entries.push(b'S');
        write::long_string(&mut entries, cluster.as_bytes());
    }
    let server_properties = Table::new(&entries);
    payload(|out| Start { server_properties, mechanisms: b"AMQPLAIN PLAIN", locales: b"en_US" }.write(out))
}

fn tune(tune: Tune) -> Vec<u8> {
    payload(|out| tune.write(out, MethodId::CONNECTION_TUNE))
}

/// What follows when the broker sends `offered` as its tune.
fn tuned(agreed: Tune, offered: Tune) -> Result<Progress, LoginError> {
    Login::ExpectTune.handle_method(&tune(offered), &credentials(agreed), None)
}

fn sent(progress: Result<Progress, LoginError>) -> Vec<u8> {
    match progress {
        Ok(Progress::Send(bytes)) => bytes.to_vec(),
        other => panic!("nothing to send: {other:?}"),
    }
}

#[test]
fn a_login_repeats_what_the_client_sent() {
    let credentials = credentials(AGREED);
    let mut login = Login::ExpectStart;
    assert_eq!(Login::header(), *b"AMQP\x00\x00\x09\x01");

    let bytes = sent(login.handle_method(&start(Some("one")), &credentials, Some(b"one")));
    let repeated = StartOk::parse(&bytes[HEADER_BYTES..bytes.len() - 1]).expect("a start-ok");
    assert_eq!((repeated.mechanism, repeated.response), (&b"PLAIN"[..], start_ok().response));
    assert_eq!(repeated.locale, b"en_US");

    let bytes = sent(login.handle_method(&tune(AGREED), &credentials, None));
    let (tune_ok, open) = bytes.split_at(20);
    assert_eq!(Tune::parse(&tune_ok[HEADER_BYTES..]), Ok(AGREED));
    assert_eq!(open_vhost(&open[HEADER_BYTES..open.len() - 1]), Ok(&b"/"[..]));

    let progress = login.handle_method(&payload(write_open_ok), &credentials, None);
    assert!(matches!(progress, Ok(Progress::Open)));
    assert_eq!(login, Login::Done);
}

#[test]
fn an_endpoint_of_another_cluster_gets_no_credentials() {
    for (theirs, ours, is) in [
        (Some("one"), Some("one"), true),
        (Some("one"), None, true),
        (None, None, true),
        (Some("two"), Some("one"), false),
        (None, Some("one"), false),
        (Some("rabbit@two"), Some("rabbit@one"), true),
        (Some("rabbit@two"), Some("one"), false),
    ] {
        let mut login = Login::ExpectStart;
        let progress = login.handle_method(&start(theirs), &credentials(AGREED), ours.map(str::as_bytes));
        assert_eq!(progress.is_ok(), is, "{theirs:?} for {ours:?}");
        if !is {
            assert_eq!(progress.expect_err("refused"), LoginError::OtherCluster);
            assert_eq!(login, Login::ExpectStart);
        }
    }
}

#[test]
fn an_endpoint_must_allow_at_least_what_was_agreed() {
    let unbound = Tune { channel_max: 0, frame_max: 0, heartbeat: 0 };
    for (offered, is) in [
        (AGREED, true),
        (unbound, true),
        (Tune { heartbeat: 5, ..AGREED }, true),
        (Tune { frame_max: AGREED.frame_max + 1, ..AGREED }, true),
        (Tune { frame_max: AGREED.frame_max - 1, ..AGREED }, false),
        (Tune { channel_max: AGREED.channel_max + 1, ..AGREED }, true),
        (Tune { channel_max: AGREED.channel_max - 1, ..AGREED }, false),
    ] {
        assert_eq!(tuned(AGREED, offered).is_ok(), is, "{offered:?}");
    }
    // No bound was agreed: any bound is less.
    assert!(tuned(unbound, unbound).is_ok());
    let Tune { frame_max, channel_max, .. } = AGREED;
    assert_eq!(tuned(unbound, AGREED).expect_err("less"), LoginError::Tune { frame_max, channel_max });
}

#[test]
fn the_smaller_bound_of_both_counts_and_zero_is_none() {
    let bounds = |channel_max, frame_max| Tune { channel_max, frame_max, heartbeat: 7 };
    for (a, b, least) in [
        (bounds(0, 0), bounds(0, 0), bounds(0, 0)),
        (bounds(0, 4096), bounds(9, 0), bounds(9, 4096)),
        (bounds(5, 8192), bounds(9, 4096), bounds(5, 4096)),
        (bounds(u16::MAX, u32::MAX), bounds(0, 0), bounds(u16::MAX, u32::MAX)),
    ] {
        assert_eq!((a.within(b), b.within(a)), (least, least));
    }
    assert_eq!(bounds(1, 1).within(Tune { heartbeat: 1, ..bounds(1, 1) }).heartbeat, 7);
}

#[test]
fn a_client_may_ask_for_less_than_it_was_offered_but_not_for_tiny_frames() {
    let unbound = Tune { channel_max: 0, frame_max: 0, heartbeat: 60 };
    for (offered, asked, is) in [
        (AGREED, AGREED, true),
        (AGREED, Tune { channel_max: 1, frame_max: FRAME_BYTES_MIN, heartbeat: 0 }, true),
        (AGREED, Tune { frame_max: FRAME_BYTES_MIN - 1, ..AGREED }, false),
        (AGREED, Tune { frame_max: AGREED.frame_max + 1, ..AGREED }, false),
        (AGREED, Tune { frame_max: 0, ..AGREED }, false),
        (AGREED, Tune { channel_max: 0, ..AGREED }, false),
        (AGREED, Tune { heartbeat: 3600, ..AGREED }, true),
        (unbound, AGREED, true),
        (unbound, unbound, true),
    ] {
        assert_eq!(offered.allows(asked), is, "{asked:?} of {offered:?}");
    }
}

#[test]
fn a_refusal_is_told_with_its_code_in_any_state() {
    let close = payload(|out| write::connection_close(out, code::ACCESS_REFUSED, "ACCESS_REFUSED - who?"));
    for state in [Login::ExpectStart, Login::ExpectTune, Login::ExpectOpenOk, Login::Done] {
        let mut login = state;
        let error = login.handle_method(&close, &credentials(AGREED), None).expect_err("refused");
        assert_eq!(error.to_string(), "the endpoint refused the login: 403 ACCESS_REFUSED - who?");
        assert_eq!(login, state);
    }
}

#[test]
fn a_refusal_that_may_quote_the_secret_is_not_told() {
    let text = "SYNTAX_ERROR - response <<0,103,117,101,115,116,0,104>> invalid";
    let close = payload(|out| write::connection_close(out, code::SYNTAX_ERROR, text));
    let error = Login::ExpectTune.handle_method(&close, &credentials(AGREED), None).expect_err("refused");
    assert!(!format!("{error} {error:?}").contains("104"), "{error:?}");
    assert!(error.to_string().contains("502"));
}

#[test]
fn a_challenge_and_a_method_out_of_turn_end_it() {
    let secure = payload(|out| write::method(out, 0, MethodId::CONNECTION_SECURE, |out| out.extend([0; 4])));
    let challenge = Login::ExpectTune.handle_method(&secure, &credentials(AGREED), None);
    assert_eq!(challenge.expect_err("a challenge"), LoginError::Challenge);

    let (start, tune, open_ok) = (start(None), tune(AGREED), payload(write_open_ok));
    for (state, methods) in [
        (Login::ExpectStart, [&tune, &open_ok, &secure]),
        (Login::ExpectTune, [&start, &open_ok, &start]),
        (Login::ExpectOpenOk, [&start, &tune, &secure]),
        (Login::Done, [&start, &tune, &open_ok]),
    ] {
        for method in methods {
            let mut login = state;
            let error = login.handle_method(method, &credentials(AGREED), None).expect_err("out of turn");
            assert_eq!(error, LoginError::Unexpected(MethodId::of(method)));
            assert_eq!(login, state);
        }
    }
}

#[test]
fn a_handshake_method_that_is_cut_is_malformed() {
    let whole = [(Login::ExpectStart, start(Some("one"))), (Login::ExpectTune, tune(AGREED))];
    for (state, method) in whole {
        for len in 0..method.len() {
            let mut login = state;
            let error = login.handle_method(&method[..len], &credentials(AGREED), None).expect_err("cut");
            assert!(matches!(error, LoginError::Malformed(FrameError::Fields { .. })), "{error}");
        }
    }
}
