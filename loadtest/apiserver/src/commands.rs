//! The lines by which the program is scripted: the handle's own words.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::{Cut, Handle, History, Refusal};
use serde_json::Value;

/// What stands below `--help`.
pub const HELP: &str = "\
Commands, one a line on the standard input:
  apply FILE                              create or replace objects
  delete PLURAL NAMESPACE NAME
  cut end | reset | half                  end all watches
  hang | answer                           say nothing; answer again
  refuse | accept                         close the port; open it again
  restart kept | compacted | lost         and what it still knows of history and objects
  compact                                 forget the history: 410
  deny VERB RESOURCE | allow VERB RESOURCE   403; * is any
  fail COUNT VERB RESOURCE 401 | 410 | 429 | 500 | 503
  slow 2s                                 lists take so long
  streaming on | off                      whether streaming lists are known
  requests                                print and forget the requests so far
  quit";

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing stands there.
    Nothing,
    /// `apply`
    Apply(String),
    /// `delete`
    Delete(String, String, String),
    /// `cut`
    Cut(Cut),
    /// `hang` and `answer`
    Hang(bool),
    /// `refuse` and `accept`
    Listen(bool),
    /// `restart`
    Restart(History),
    /// `compact`
    Compact,
    /// `deny` and `allow`
    Deny(bool, String, String),
    /// `fail`
    Fail(u32, String, String, Refusal),
    /// `slow`
    Slow(Duration),
    /// `streaming`
    Streaming(bool),
    /// `requests`
    Requests,
    /// `quit`
    Quit,
}

/// What follows a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// The next one, after a text if it is not empty.
    Go(String),
    /// The end.
    Quit,
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is no command.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let own = |text: &str| text.to_owned();
        Ok(match words.as_slice() {
            [] => Self::Nothing,
            ["apply", file] => Self::Apply(own(file)),
            ["delete", plural, namespace, name] => Self::Delete(own(plural), own(namespace), own(name)),
            ["cut", "end"] => Self::Cut(Cut::End),
            ["cut", "reset"] => Self::Cut(Cut::Reset),
            ["cut", "half"] => Self::Cut(Cut::HalfLine),
            [word @ ("hang" | "answer")] => Self::Hang(*word == "hang"),
            [word @ ("refuse" | "accept")] => Self::Listen(*word == "accept"),
            ["restart", "kept"] => Self::Restart(History::Kept),
            ["restart", "compacted"] => Self::Restart(History::Compacted),
            ["restart", "lost"] => Self::Restart(History::Lost),
            ["compact"] => Self::Compact,
            [word @ ("deny" | "allow"), verb, resource] => {
                Self::Deny(*word == "deny", own(verb), own(resource))
            }
            ["fail", count, verb, resource, code] => {
                let count = count.parse().with_context(|| format!("{count:?} is no number of times"))?;
                Self::Fail(count, own(verb), own(resource), refusal(code)?)
            }
            ["slow", text] => {
                let by = humantime::parse_duration(text);
                Self::Slow(by.with_context(|| format!("{text:?} is no duration; expected for example 2s"))?)
            }
            ["streaming", word @ ("on" | "off")] => Self::Streaming(*word == "on"),
            ["requests"] => Self::Requests,
            ["quit"] => Self::Quit,
            _ => bail!("{line:?} is no command; see --help"),
        })
    }

    /// Does it.
    ///
    /// # Errors
    /// When a file or an object in it is not what it should be.
    pub fn run(self, server: &Handle) -> anyhow::Result<Next> {
        match self {
            Self::Nothing => {}
            Self::Apply(file) => {
                let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
                apply(server, &text)?;
            }
            Self::Delete(plural, namespace, name) => {
                if !server.delete(&plural, &namespace, &name) {
                    bail!("there is no {plural} {name} in {namespace}");
                }
            }
            Self::Cut(how) => server.cut_watches(how),
            Self::Hang(true) => server.hang(),
            Self::Hang(false) => server.answer_again(),
            Self::Listen(true) => server.accept_connections(),
            Self::Listen(false) => server.refuse_connections(),
            Self::Restart(history) => server.restart(history),
            Self::Compact => server.compact(),
            Self::Deny(true, verb, resource) => server.deny(&verb, &resource),
            Self::Deny(false, verb, resource) => server.allow(&verb, &resource),
            Self::Fail(times, verb, resource, refusal) => {
                server.refuse_next(times, &verb, &resource, refusal);
            }
            Self::Slow(by) => server.slow_lists(by),
            Self::Streaming(known) => server.set_streaming_lists(known),
            Self::Requests => return Ok(Next::Go(requests(server))),
            Self::Quit => return Ok(Next::Quit),
        }
        Ok(Next::Go(String::new()))
    }
}

/// Applies all objects of a text of YAML documents or of JSON; a `List` is its items.
///
/// # Errors
/// When it cannot be read, or an object is refused.
pub fn apply(server: &Handle, text: &str) -> anyhow::Result<()> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("cannot read the objects")?;
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let items = match document["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document],
        };
        for item in items {
            let name = item["metadata"]["name"].clone();
            server.apply(item).with_context(|| format!("object {name}"))?;
        }
    }
    Ok(())
}

fn refusal(code: &str) -> anyhow::Result<Refusal> {
    Ok(match code {
        "401" => Refusal::Unauthorized,
        "410" => Refusal::Expired,
        "429" => Refusal::TooManyRequests(1),
        "500" => Refusal::InternalError,
        "503" => Refusal::Unavailable,
        _ => bail!("{code:?} is no refusal; expected 401, 410, 429, 500 or 503"),
    })
}

fn requests(server: &Handle) -> String {
    let mut text = String::new();
    for seen in server.requests() {
        let place = seen.namespace.as_deref().unwrap_or("-");
        let name = seen.name.as_deref().unwrap_or("-");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {place} {name} {}", seen.verb, seen.resource, seen.user_agent);
    }
    server.forget_requests();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use apiserver::ApiServer;

    use super::*;

    #[test]
    fn a_line_is_a_command_or_an_error() {
        assert_eq!(Command::parse("cut half").unwrap(), Command::Cut(Cut::HalfLine));
        assert_eq!(Command::parse("  ").unwrap(), Command::Nothing);
        assert_eq!(Command::parse("slow 2s").unwrap(), Command::Slow(Duration::from_secs(2)));
        let fail = Command::Fail(3, "list".into(), "*".into(), Refusal::TooManyRequests(1));
        assert_eq!(Command::parse("fail 3 list * 429").unwrap(), fail);
        for wrong in ["cut", "fail x list pods 429", "fail 1 list pods 200", "slow fast", "deny list"] {
            assert!(Command::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn documents_and_lists_are_applied() {
        let server = ApiServer::start().unwrap();
        let text = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: chat, namespace: shop}}
---
";
        apply(&server, text).unwrap();
        assert!(server.get("services", "shop", "chat").is_some());
        let error = apply(&server, "{apiVersion: v9, kind: Pod, metadata: {name: p}}").unwrap_err();
        assert!(format!("{error:#}").contains("no matches for kind"), "{error:#}");
        let command = Command::parse("delete services shop chat").unwrap();
        assert_eq!(command.clone().run(&server).unwrap(), Next::Go(String::new()));
        assert!(command.run(&server).is_err());
    }
}
