//! What the two ends of one connection must agree on, whatever moved it.
//!
//! A pure comparison of two records, so that it is tested without a process: a judge who finds nothing wrong
//! with a lost message would make the whole run worthless. Not here: who made the records (`peers`).

use serde_json::Value;

/// Longest control frame of a client: 2 bytes header, 4 mask, 125 payload; a Close may be added or swallowed.
const CONTROL_FRAME_BYTES_MAX: u64 = 131;
const BLOCK_BYTES: u64 = 4096;
/// The code and reason that the gateway is configured to close with.
pub const MOVE_CODE: u64 = 1012;
pub const MOVE_REASON: &str = "rebalance";
/// The code with which clients leave by themselves.
pub const OWN_CODE: u64 = 4000;

/// Python `websockets` takes a Close between two fragments for an error, although RFC 6455 section 5.4 allows
/// it. It is excused only when the *peer* left its own message unfinished, never when the gateway cut in.
const UNFINISHED: &str = "incomplete fragmented message";

/// The configured order of closes of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    ClientFirst,
    BackendFirst,
}

/// One end's account of one connection.
#[derive(Clone, Debug)]
pub struct Record {
    pub label: String,
    pub library: String,
    /// Kind, length and hash of each message, in order.
    pub sent: Vec<String>,
    /// Handed to the library, which then reported that the connection closed: may or may not have left.
    pub in_doubt: Option<String>,
    pub received: Vec<String>,
    pub pings: u64,
    pub pongs: u64,
    pub code: u64,
    pub reason: String,
    /// A Close frame was received and one was sent.
    pub clean: bool,
    pub error: Option<String>,
    /// It was closed between two fragments of a message that it was sending.
    pub unfinished: bool,
    pub protocol: String,
    pub extensions: String,
    pub bytes_out: Tape,
    pub bytes_in: Tape,
}

/// The raw bytes of one direction after the handshake, hashed in blocks of 4096.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tape {
    pub bytes: u64,
    pub blocks: Vec<String>,
    /// Hash of what follows the last whole block.
    pub rest: String,
    /// The last 64 bytes, as hex.
    pub end: String,
}

impl Record {
    /// Reads the line that a script printed.
    pub fn from_json(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| value[key].as_u64().unwrap_or_default();
        Self {
            label: text("label"),
            library: text("library"),
            sent: strings(&value["sent"]),
            in_doubt: (!value["in_doubt"].is_null()).then(|| value["in_doubt"].to_string()),
            received: strings(&value["received"]),
            pings: number("pings"),
            pongs: number("pongs"),
            code: number("code"),
            reason: text("reason"),
            clean: value["clean"].as_bool().unwrap_or(false),
            error: value["error"].as_str().map(str::to_owned),
            unfinished: value["unfinished"].as_bool().unwrap_or(false),
            protocol: text("protocol"),
            extensions: text("extensions"),
            bytes_out: Tape::from_json(&value["out"]),
            bytes_in: Tape::from_json(&value["in"]),
        }
    }
}

impl Tape {
    fn from_json(value: &Value) -> Self {
        let blocks = value["blocks"].as_array().into_iter().flatten();
        Self {
            bytes: value["bytes"].as_u64().unwrap_or_default(),
            blocks: blocks.filter_map(|b| b.as_str().map(str::to_owned)).collect(),
            rest: value["rest"].as_str().unwrap_or_default().to_owned(),
            end: value["end"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(Value::to_string).collect()
}

/// Everything that is wrong with one connection; empty when nothing is.
pub fn judge(order: Order, deflate: bool, client: &Record, endpoint: &Record) -> Vec<String> {
    let mut findings = Vec::new();
    for (side, end, other) in [("client", client, endpoint), ("endpoint", endpoint, client)] {
        let who = format!("{side} ({})", end.library);
        let excused = other.unfinished && end.error.as_deref().is_some_and(|e| e.contains(UNFINISHED));
        if let Some(error) = end.error.as_ref().filter(|_| !excused) {
            findings.push(format!("{who} reports an error: {error}"));
        }
        if !end.clean {
            findings.push(format!("{who} saw no clean close (code {})", end.code));
        }
        if end.protocol != "interop.v1" {
            findings.push(format!("{who} has subprotocol {:?}, expected interop.v1", end.protocol));
        }
        if end.extensions.contains("permessage-deflate") != deflate {
            findings.push(format!("{who} negotiated {:?}, deflate was {deflate}", end.extensions));
        }
        if end.pongs > end.pings {
            findings.push(format!("{who} got {} pongs for {} pings", end.pongs, end.pings));
        }
    }
    findings.extend(judge_close(client));

    let own_close_arrived = endpoint.code == OWN_CODE;
    let all_up = order == Order::ClientFirst || own_close_arrived;
    let all_down = order == Order::BackendFirst && client.code == MOVE_CODE && !own_close_arrived;
    findings.extend(judge_messages("to_upstream", all_up, client, endpoint));
    findings.extend(judge_messages("to_downstream", all_down, endpoint, client));
    findings.extend(judge_bytes("to_upstream", &client.bytes_out, &endpoint.bytes_in));
    findings.extend(judge_bytes("to_downstream", &endpoint.bytes_out, &client.bytes_in));
    findings.into_iter().map(|finding| format!("{}: {finding}", client.label)).collect()
}

/// Exactly one Close with the right code, and not a byte after it.
fn judge_close(client: &Record) -> Option<String> {
    if !matches!((client.code, client.reason.as_str()), (MOVE_CODE, MOVE_REASON) | (OWN_CODE, _)) {
        return Some(format!("client was closed with {} {:?}", client.code, client.reason));
    }
    let mut close = format!("88{:02x}{:04x}", client.reason.len() + 2, client.code);
    close.extend(client.reason.bytes().map(|byte| format!("{byte:02x}")));
    match client.bytes_in.end.strip_suffix(&close) {
        None => Some(format!("bytes after the Close frame: stream ends in {}", client.bytes_in.end)),
        Some(before) if before.ends_with(&close) => Some("two Close frames".into()),
        Some(_) => None,
    }
}

/// Order, kind and content of every message; with `all`, nothing may be missing at the end either.
fn judge_messages(direction: &str, all: bool, from: &Record, to: &Record) -> Option<String> {
    let sent: Vec<&String> = from.sent.iter().chain(&from.in_doubt).collect();
    if let Some(at) = (0..to.received.len()).find(|&at| sent.get(at) != Some(&&to.received[at])) {
        let expected = sent.get(at).map_or("nothing", |message| message.as_str());
        return Some(format!("{direction}: message {at} is {}, expected {expected}", to.received[at]));
    }
    let missing = from.sent.len().saturating_sub(to.received.len());
    (all && missing > 0).then(|| format!("{direction}: {missing} of {} messages lost", from.sent.len()))
}

/// The bytes on the wire are the same, but for one control frame at the end.
fn judge_bytes(direction: &str, sent: &Tape, received: &Tape) -> Option<String> {
    if received.bytes > sent.bytes + CONTROL_FRAME_BYTES_MAX {
        return Some(format!("{direction}: {} bytes became {}", sent.bytes, received.bytes));
    }
    let common = sent.bytes.min(received.bytes).saturating_sub(CONTROL_FRAME_BYTES_MAX) / BLOCK_BYTES;
    let altered = (0..common as usize).find(|&at| sent.blocks.get(at) != received.blocks.get(at))?;
    Some(format!("{direction}: bytes altered in block {altered} of {common}"))
}

mod tests {
    use super::*;

    fn pair() -> (Record, Record) {
        let tape = |end: &str| Tape { bytes: 100, blocks: Vec::new(), rest: "x".into(), end: end.into() };
        let end = |sent: &[&str], received: &[&str]| Record {
            label: "a/0".into(),
            library: "test".into(),
            sent: sent.iter().map(|&s| s.into()).collect(),
            in_doubt: None,
            received: received.iter().map(|&s| s.into()).collect(),
            pings: 0,
            pongs: 0,
            code: MOVE_CODE,
            reason: MOVE_REASON.into(),
            clean: true,
            error: None,
            unfinished: false,
            protocol: "interop.v1".into(),
            extensions: String::new(),
            bytes_out: tape(""),
            bytes_in: tape("81017888 0b03f4726562616c616e6365".replace(' ', "").as_str()),
        };
        (end(&["1", "2"], &["a"]), end(&["a", "b"], &["1", "2"]))
    }

    fn findings(order: Order, change: impl Fn(&mut Record, &mut Record)) -> String {
        let (mut client, mut endpoint) = pair();
        change(&mut client, &mut endpoint);
        judge(order, false, &client, &endpoint).join("; ")
    }

    #[test]
    fn two_ends_that_agree_have_no_finding() {
        assert_eq!(findings(Order::ClientFirst, |_, _| ()), "");
    }

    #[test]
    fn a_lost_message_is_found_in_the_direction_that_may_lose_none() {
        let lose = |_: &mut Record, endpoint: &mut Record| drop(endpoint.received.pop());
        assert!(findings(Order::ClientFirst, lose).contains("to_upstream: 1 of 2 messages lost"));
        let found = findings(Order::BackendFirst, lose);
        assert!(found.contains("to_downstream: 1 of 2 messages lost") && !found.contains("to_upstream"));
    }

    #[test]
    fn a_repeated_altered_or_reordered_message_is_found_in_any_direction() {
        let repeated =
            findings(Order::BackendFirst, |_, endpoint| endpoint.received = vec!["1".into(), "1".into()]);
        assert!(repeated.contains("to_upstream: message 1 is 1, expected 2"), "{repeated}");
        let extra = findings(Order::ClientFirst, |client, _| {
            client.received = vec!["a".into(), "b".into(), "b".into()]
        });
        assert!(extra.contains("to_downstream: message 2 is b, expected nothing"), "{extra}");
    }

    #[test]
    fn a_message_in_doubt_may_arrive_or_not() {
        let doubt = |received: usize| {
            findings(Order::ClientFirst, move |client, endpoint| {
                client.in_doubt = client.sent.pop();
                endpoint.received.truncate(received);
            })
        };
        assert_eq!((doubt(2), doubt(1)), (String::new(), String::new()));
        assert!(doubt(0).contains("lost"));
    }

    #[test]
    fn a_second_close_a_wrong_code_and_bytes_after_the_close_are_found() {
        let close = "880b03f4726562616c616e6365";
        let twice = findings(Order::ClientFirst, |client, _| client.bytes_in.end = close.repeat(2));
        assert!(twice.contains("two Close frames"), "{twice}");
        let after = findings(Order::ClientFirst, |client, _| client.bytes_in.end = format!("{close}8100"));
        assert!(after.contains("bytes after the Close"), "{after}");
        assert!(findings(Order::ClientFirst, |client, _| client.code = 1006).contains("closed with 1006"));
    }

    #[test]
    fn a_close_between_fragments_is_excused_only_when_the_peer_left_its_message() {
        let cut = |unfinished: bool| {
            findings(Order::ClientFirst, move |client, endpoint| {
                endpoint.unfinished = unfinished;
                client.error = Some(format!("ProtocolError('{UNFINISHED}')"));
            })
        };
        assert_eq!(cut(true), "");
        assert!(cut(false).contains("reports an error"));
    }

    #[test]
    fn altered_bytes_are_found_even_when_the_messages_agree() {
        let altered = findings(Order::ClientFirst, |client, endpoint| {
            client.bytes_out =
                Tape { bytes: 5000, blocks: vec!["p".into()], rest: "r".into(), end: String::new() };
            endpoint.bytes_in = Tape { blocks: vec!["q".into()], ..client.bytes_out.clone() };
        });
        assert!(altered.contains("to_upstream: bytes altered in block 0"), "{altered}");
    }
}
