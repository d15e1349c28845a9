//! What publishers and consumers must agree on, whatever moved their connections.
//!
//! A pure comparison of records, so that it is tested without a broker: a judge who finds nothing wrong with a lost message
//! would make the whole run worthless. Not here: who made the records (`peer`), and what the broker says (`bench`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// What one job saw.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Of the job.
    pub name: String,
    /// Where it published to or consumed from.
    pub queue: String,
    /// Exceptions, closes, cancels, blocks: everything that a client should not have noticed.
    pub problems: Vec<String>,
    /// Publisher -> messages sent; their numbers are 0 and up. A job with several channels is several publishers.
    pub sent: BTreeMap<String, u64>,
    /// The publisher asked for confirms.
    pub confirmed: bool,
    /// Publisher, number, and `ack`, `nack` or `return`, in the order of arrival.
    pub outcomes: Vec<(String, u64, String)>,
    /// Publisher -> tag and `multiple` of each confirm, as the protocol had them; empty where a library hides them.
    pub confirms: BTreeMap<String, Vec<(u64, u8)>>,
    /// Publisher, number, redelivered, payload as it was sent.
    pub consumed: Vec<(String, u64, u8, u8)>,
}

impl Record {
    /// Reads what a client wrote.
    pub fn from_json(value: &Value) -> Self {
        serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("a client wrote {value}: {e}"))
    }
}

/// What has to hold beside that nothing is lost, nothing is broken, and no client notices anything.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Each consumer gets each publisher's messages in the order they were sent.
    pub in_order: bool,
    /// Nothing is redelivered or delivered twice.
    pub once: bool,
}

/// Nothing is excused.
pub const STRICT: Rules = Rules { in_order: true, once: true };

/// The counts of a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Total {
    pub publishers: usize,
    pub consumers: usize,
    pub sent: u64,
    pub confirmed: u64,
    pub returned: u64,
    pub consumed: u64,
    pub redelivered: u64,
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} publishers, {} consumers, {} sent, {} confirmed, {} returned, {} consumed ({} redelivered)",
            self.publishers,
            self.consumers,
            self.sent,
            self.confirmed,
            self.returned,
            self.consumed,
            self.redelivered
        )
    }
}

/// Compares all records of a run: findings, and what was counted.
pub fn judge(records: &[Record], rules: Rules) -> (Vec<String>, Total) {
    let (mut findings, mut total) = (Vec::new(), Total::default());
    let mut due: BTreeMap<(&str, &str), BTreeSet<u64>> = BTreeMap::new();
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records {
        findings.extend(record.problems.iter().map(|problem| format!("{}: {problem}", record.name)));
        for (publisher, &sent) in &record.sent {
            total.publishers += 1;
            total.sent += sent;
            known.insert(publisher, sent);
            let (found, arrived) = judge_publisher(record, publisher, sent, &mut total);
            findings.extend(found);
            due.entry((&record.queue, publisher)).or_default().extend(arrived);
        }
    }
    let mut seen: BTreeSet<(&str, &str, u64)> = BTreeSet::new();
    for record in records.iter().filter(|record| record.sent.is_empty()) {
        total.consumers += 1;
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for (publisher, number, redelivered, good) in &record.consumed {
            total.consumed += 1;
            total.redelivered += u64::from(*redelivered);
            let mut add = |text: &str| findings.push(format!("{}: {publisher} {number} {text}", record.name));
            if *good == 0 {
                add("came with another payload than it was sent with");
            }
            if known.get(publisher.as_str()).is_none_or(|sent| number >= sent) {
                add("was never sent");
            }
            if rules.once && *redelivered != 0 {
                add("is marked as redelivered");
            }
            if !seen.insert((&record.queue, publisher, *number)) && rules.once {
                add("came twice");
            }
            let before = newest.insert(publisher, *number);
            if rules.in_order && before.is_some_and(|before| before > *number) {
                add(&format!("came after {}", before.unwrap_or_default()));
            }
        }
    }
    for ((queue, publisher), numbers) in due {
        let lost: Vec<u64> =
            numbers.into_iter().filter(|n| !seen.contains(&(queue, publisher, *n))).collect();
        if let Some(first) = lost.first() {
            findings.push(format!(
                "{queue}: {} messages of {publisher} never came, the first is {first}",
                lost.len()
            ));
        }
    }
    (findings, total)
}

/// What is wrong with the answers that a publisher got, and the numbers that a consumer must get.
fn judge_publisher(
    record: &Record,
    publisher: &str,
    sent: u64,
    total: &mut Total,
) -> (Vec<String>, BTreeSet<u64>) {
    let mut findings = Vec::new();
    let (mut answered, mut returned) = (BTreeSet::new(), BTreeSet::new());
    for (_, number, what) in record.outcomes.iter().filter(|(of, ..)| of == publisher) {
        let mut add = |text: &str| findings.push(format!("{}: {publisher} {number} {text}", record.name));
        match what.as_str() {
            "return" if answered.contains(number) => add("was returned after its confirm"),
            "return" if !returned.insert(*number) => add("was returned twice"),
            "return" => {}
            "ack" if answered.insert(*number) => {}
            "ack" => add("was confirmed twice"),
            other => add(&format!("was answered by {other}")),
        }
    }
    total.confirmed += answered.len() as u64;
    total.returned += returned.len() as u64;
    if record.confirmed && answered.len() as u64 != sent {
        let missing = (0..sent).find(|number| !answered.contains(number));
        findings.push(format!(
            "{}: {publisher} sent {sent}, {} were confirmed; {missing:?} was not",
            record.name,
            answered.len()
        ));
    }
    if let Some(confirms) = record.confirms.get(publisher).filter(|_| record.confirmed) {
        findings.extend(
            judge_numbering(confirms, sent).map(|text| format!("{}: {publisher}: {text}", record.name)),
        );
    }
    let arrived = if record.confirmed { answered } else { (0..sent).collect() };
    (findings, arrived.difference(&returned).copied().collect())
}

/// Confirms name every message of a channel exactly once.
fn judge_numbering(confirms: &[(u64, u8)], sent: u64) -> Option<String> {
    let mut open: BTreeSet<u64> = (1..=sent).collect();
    for (tag, multiple) in confirms {
        if !open.remove(tag) {
            return Some(format!("a confirm of tag {tag}, which is not open; {sent} messages were sent"));
        }
        if *multiple != 0 {
            open = open.split_off(tag);
        }
    }
    open.first().map(|tag| format!("no confirm of tag {tag}; {sent} messages were sent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(sent: u64) -> Record {
        let name = "p".to_owned();
        let outcomes = (0..sent).map(|number| ("p.0".to_owned(), number, "ack".to_owned())).collect();
        let confirms = BTreeMap::from([(
            "p.0".to_owned(),
            vec![(sent.div_ceil(2), 1), (sent, 1)].into_iter().take(sent as usize).collect(),
        )]);
        let sent = BTreeMap::from([("p.0".to_owned(), sent)]);
        Record { name, queue: "q".into(), sent, confirmed: true, outcomes, confirms, ..Record::default() }
    }

    fn consumer(numbers: &[u64]) -> Record {
        let consumed = numbers.iter().map(|number| ("p.0".to_owned(), *number, 0, 1)).collect();
        Record { name: "c".into(), queue: "q".into(), consumed, ..Record::default() }
    }

    fn found(records: &[Record]) -> String {
        judge(records, STRICT).0.join("\n")
    }

    #[test]
    fn what_went_well_has_no_findings() {
        let (findings, total) = judge(&[publisher(4), consumer(&[0, 1, 3]), consumer(&[2])], STRICT);
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!((total.sent, total.confirmed, total.consumed), (4, 4, 4));
    }

    #[test]
    fn each_kind_of_harm_is_found() {
        assert!(
            found(&[publisher(4), consumer(&[0, 1, 3])])
                .contains("1 messages of p.0 never came, the first is 2")
        );
        assert!(found(&[publisher(3), consumer(&[0, 1, 1, 2])]).contains("p.0 1 came twice"));
        assert!(found(&[publisher(3), consumer(&[0, 2, 1])]).contains("p.0 1 came after 2"));
        assert!(found(&[publisher(2), consumer(&[0, 1, 2])]).contains("p.0 2 was never sent"));
        let mut broken = consumer(&[0, 1]);
        broken.consumed[1].3 = 0;
        assert!(found(&[publisher(2), broken]).contains("another payload"));
        let mut again = consumer(&[0, 1]);
        again.consumed[0].2 = 1;
        assert!(found(&[publisher(2), again.clone()]).contains("marked as redelivered"));
        let lenient = Rules { in_order: false, once: false };
        assert!(judge(&[publisher(2), again], lenient).0.is_empty());
        let closed = Record { problems: vec!["closed".into()], ..consumer(&[0]) };
        assert_eq!(found(&[publisher(1), closed]), "c: closed");
    }

    #[test]
    fn confirms_name_each_message_once_and_returns_come_before() {
        let mut twice = publisher(2);
        twice.confirms.insert("p.0".into(), vec![(1, 0), (2, 0), (2, 0)]);
        assert!(found(&[twice, consumer(&[0, 1])]).contains("a confirm of tag 2, which is not open"));
        let mut gap = publisher(2);
        gap.confirms.insert("p.0".into(), vec![(2, 0)]);
        assert!(found(&[gap, consumer(&[0, 1])]).contains("no confirm of tag 1"));
        let mut silent = publisher(2);
        silent.outcomes.pop();
        assert!(found(&[silent, consumer(&[0])]).contains("sent 2, 1 were confirmed; Some(1) was not"));
        let returned = |at| {
            let mut record = publisher(1);
            record.outcomes.insert(at, ("p.0".into(), 0, "return".into()));
            found(&[record, consumer(&[])])
        };
        assert_eq!(returned(0), "");
        assert!(returned(1).contains("returned after its confirm"));
    }
}
