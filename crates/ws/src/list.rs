//! Comma-separated header values (RFC 9110 5.6.1), and which headers belong to one hop only (RFC 9110 7.6.1).
//!
//! Values with quoted strings, as in `Sec-WebSocket-Extensions`, have their own parser in `extensions`.

/// True for a header that is meant for the next hop only, and is not forwarded: `Connection`, `Keep-Alive`,
/// `Proxy-*`, `TE`, `Trailer`, `Transfer-Encoding`, `Upgrade`. Names that a `Connection` header lists join
/// them, see [`connection_options`].
pub fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 7] =
        ["connection", "keep-alive", "te", "trailer", "trailers", "transfer-encoding", "upgrade"];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
        || name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"))
}

/// The names listed in all `Connection` headers, given the values of these. What is no token is left out.
pub fn connection_options<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a str> {
    items(lines).filter_map(token)
}

/// True when one of the comma-separated items is `wanted`, in upper or lower case.
pub(crate) fn lists<'a>(lines: impl Iterator<Item = &'a [u8]>, wanted: &str) -> bool {
    items(lines).any(|item| item.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Comma-separated items without the blanks around them; empty ones are left out.
pub(crate) fn items<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lines.flat_map(|line| line.split(|byte| *byte == b',')).map(trim).filter(|item| !item.is_empty())
}

/// The item as text, if it is a token (RFC 9110 5.6.2).
pub(crate) fn token(item: &[u8]) -> Option<&str> {
    let is_token = !item.is_empty() && item.iter().all(|byte| is_token_byte(*byte));
    is_token.then(|| std::str::from_utf8(item).ok()).flatten()
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without optional white space, which in HTTP is space and tab only.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_hop_are_known_in_any_case() {
        for name in
            ["Connection", "keep-alive", "TE", "Trailer", "TRANSFER-ENCODING", "upgrade", "Proxy-Connection"]
        {
            assert!(is_hop_by_hop(name), "{name}");
        }
        for name in ["Host", "Sec-WebSocket-Key", "Proxy", "X-Proxy-Connection", "Test", ""] {
            assert!(!is_hop_by_hop(name), "{name}");
        }
    }

    #[test]
    fn connection_options_come_from_all_lines_and_leave_out_what_is_no_token() {
        let lines: [&[u8]; 3] = [b"keep-alive,\tUpgrade ", b"", b"X-Internal,, a b, \xFF"];
        let found: Vec<&str> = connection_options(lines.into_iter()).collect();
        assert_eq!(found, ["keep-alive", "Upgrade", "X-Internal"]);
    }
}
