//! Which Close codes a configuration may ask us to send when sessions are moved.
//!
//! A legal code can still be the wrong one: many client libraries take some codes as "never come back".
//! The list was made by reading and running them. Not here: the configuration itself, and the wording of its errors.

/// What to say about a configured Close code at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No known client is harmed.
    Fine,
    /// Legal, but some clients do not reconnect; tells why, and what to use instead.
    Warn(&'static str),
    /// Must not be sent at all; tells why, and what to use instead.
    Refuse(&'static str),
}

/// Judges a Close code (RFC 6455 7.4) that a session may be closed with so that its client comes back.
pub fn verdict(code: u16) -> Verdict {
    match code {
        1012..=1014 | 3000..=3499 | 4000 | 4100..=4299 => Verdict::Fine,
        1000 => Verdict::Warn(
            "1000 says the work is done: JupyterLab, vscode-coder and older Phoenix clients never reconnect; use 1012",
        ),
        1001 => Verdict::Warn(
            "1001 makes JupyterLab and vscode-coder stay away; use 1012, or keep it where all clients are python websockets",
        ),
        1002 | 1003 | 1007 | 1009 | 1010 => Verdict::Warn(
            "1002, 1003, 1007, 1009 and 1010 blame the client, and some libraries then give up; use 1012",
        ),
        1008 => {
            Verdict::Warn("1008 says the client broke a policy, and some libraries then give up; use 1012")
        }
        1011 => Verdict::Warn("1011 is fatal to graphql-ws clients; use 1012"),
        3500..=3999 => Verdict::Warn("3500-3999 tell centrifuge clients never to reconnect; use 1012"),
        4001..=4099 => Verdict::Warn(
            "4001-4099 tell pusher clients never to reconnect, and graphql-ws takes some as fatal; use 1012 or 4200",
        ),
        4300..=4999 => Verdict::Warn(
            "4300-4999 hold codes that are fatal to graphql-ws (4400-4500) or centrifuge (4500-4999); use 1012 or 4200",
        ),
        1004..=1006 | 1015 => {
            Verdict::Refuse("1004, 1005, 1006 and 1015 must never be sent (RFC 6455 7.4.1); use 1012")
        }
        1016..=2999 => {
            Verdict::Refuse("1016-2999 are reserved and have no meaning yet (RFC 6455 7.4.2); use 1012")
        }
        0..=999 | 5000.. => {
            Verdict::Refuse("a Close code is a number in 1000-4999 (RFC 6455 7.4.2); use 1012")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_keep_clients_away_are_told_at_start() {
        for code in [1000, 1001, 1002, 1008, 1009, 1011, 3500, 3999, 4001, 4099, 4300, 4400, 4999] {
            assert!(matches!(verdict(code), Verdict::Warn(_)), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(matches!(verdict(code), Verdict::Refuse(_)), "{code}");
        }
        for code in [1012, 1013, 1014, 3000, 3499, 4000, 4100, 4200, 4299] {
            assert_eq!(verdict(code), Verdict::Fine, "{code}");
        }
    }

    #[test]
    fn each_judgement_names_a_code_to_use_instead() {
        for code in 0..=u16::MAX {
            match verdict(code) {
                Verdict::Fine => {}
                Verdict::Warn(why) | Verdict::Refuse(why) => {
                    assert!(why.contains("use 1012"), "{code}: {why}")
                }
            }
        }
    }
}
