//! The rules of single values: each takes a value and says what is wrong with it.

use std::time::Duration;

use ws::CLOSE_REASON_BYTES_MAX;

/// Largest notice, in bytes.
const NOTICE_BYTES_MAX: usize = 16 * 1024;

/// A host name, an IP address (IPv6 in brackets), or `*.` and a host name.
pub(crate) fn host(host: &str) -> Result<(), String> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
        return if valid { Ok(()) } else { Err(format!("`{host}` is not an IPv6 address in brackets")) };
    }
    let expected = "expected for example chat.example.com or *.example.com";
    if name.contains(':') {
        return Err(format!("`{host}` has a port or a scheme; routes match the name alone, {expected}"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("`{host}` is not a host name, {expected}"));
    }
    Ok(())
}

/// An absolute path without query: what a request target starts with.
pub(crate) fn path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` does not start with `/`; write `/{path}`"));
    }
    if let Some(bad) = path.chars().find(|c| matches!(c, '?' | '#' | '*' | '\\') || !c.is_ascii_graphic()) {
        return Err(format!(
            "`{path}` has {bad:?}; a prefix has neither query nor pattern, expected like /ws"
        ));
    }
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(format!("`{path}` has an empty or a dot segment, which no request can match; remove it"));
    }
    Ok(())
}

/// A name to resolve, perhaps of SRV records, perhaps with the dot that ends a complete name.
pub(crate) fn dns_name(name: &str) -> Result<(), String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if !bare.starts_with("*.") && !bare.starts_with('[') && host(bare).is_ok() {
        return Ok(());
    }
    Err(format!("`{name}` is not a DNS name, expected for example chat.default.svc.cluster.local"))
}

/// A label as Kubernetes names Services and namespaces by (RFC 1123).
pub(crate) fn object_name(name: &str, what: &str) -> Result<(), String> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let dashed = name.starts_with('-') || name.ends_with('-');
    if (1..=63).contains(&name.len()) && name.bytes().all(valid) && !dashed {
        return Ok(());
    }
    Err(format!(
        "`{name}` is not the name of a {what}, expected 1 to 63 of a-z, 0-9 and `-`, with no `-` at its ends"
    ))
}

/// A Service names its ports like objects.
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    let message =
        |_| format!("`{name}` is not the name of a port, expected like ws, or a number from 1 to 65535");
    object_name(name, "port").map_err(message)
}

/// Zones are values of a label.
pub(crate) fn zone(zone: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&zone.len()) && zone.chars().all(valid) {
        return Ok(());
    }
    Err(format!("`{zone}` is not a zone, expected 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`"))
}

/// Pool names become metric labels and parts of messages.
pub(crate) fn pool_name(name: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&name.len()) && name.chars().all(valid) {
        return Ok(());
    }
    Err(format!("`{name}` is not a pool name, expected 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`"))
}

pub(crate) fn notice_bytes(payload: &[u8]) -> Result<(), String> {
    match payload.len() {
        0 => Err("found nothing, expected the message that asks the client to come back".into()),
        1..=NOTICE_BYTES_MAX => Ok(()),
        more => Err(format!("found {more} bytes, expected at most {NOTICE_BYTES_MAX}; shorten it")),
    }
}

pub(crate) fn close_reason(reason: &str) -> Result<(), String> {
    if reason.len() <= CLOSE_REASON_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "found {} bytes, a Close frame has room for {CLOSE_REASON_BYTES_MAX}; shorten it",
        reason.len()
    ))
}

/// A token (RFC 9110 section 5.6.2): `what` it names, and an `example`.
pub(crate) fn token(token: &str, what: &str, example: &str) -> Result<(), String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !token.is_empty() && token.bytes().all(valid) {
        return Ok(());
    }
    Err(format!("`{token}` is not the name of a {what}, expected like {example}"))
}

/// The name of a query parameter, as it is written in a request: what would need encoding is encoded.
pub(crate) fn query_name(name: &str) -> Result<(), String> {
    let valid = |b: u8| b.is_ascii_graphic() && !b"&=#+".contains(&b);
    if !name.is_empty() && name.bytes().all(valid) {
        return Ok(());
    }
    Err(format!("`{name}` is not the name of a query parameter, expected like room"))
}

/// As it would be written in the file: `1m 30s`, `100ms`, `0s`.
pub(crate) fn duration_text(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".into();
    }
    let (total, mut text) = (duration.as_secs(), String::new());
    let parts = [
        (u128::from(total / 86_400), "d"),
        (u128::from(total / 3600 % 24), "h"),
        (u128::from(total / 60 % 60), "m"),
        (u128::from(total % 60), "s"),
        (u128::from(duration.subsec_millis()), "ms"),
        (u128::from(duration.subsec_nanos() % 1_000_000), "ns"),
    ];
    for (value, unit) in parts.into_iter().filter(|(value, _)| *value > 0) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&format!("{value}{unit}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_wildcards_or_addresses() {
        for good in ["a", "chat.example.com", "*.example.com", "10.0.0.1", "[::1]", "my_pod-0.ns"] {
            assert_eq!(host(good), Ok(()), "{good}");
        }
        for bad in ["", "*", "*.", "a..b", "-a.b", "a.*.b", "a b", "a:80", "http://a", "[::1", "[x]", "ä.de"]
        {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        for good in ["/", "/ws", "/ws/", "/a/b-c/%20", "/v1:x"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["", "ws", "/a?b", "/a#b", "/a*", "/a b", "//a", "/a/../b", "/./a", "/\u{e4}"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_checked_at_their_bounds() {
        assert!(close_reason(&"x".repeat(123)).is_ok() && close_reason(&"x".repeat(124)).is_err());
        assert!(notice_bytes(&[0; 16 * 1024]).is_ok() && notice_bytes(&[0; 16 * 1024 + 1]).is_err());
        assert!(notice_bytes(&[]).is_err());
        assert!(pool_name(&"x".repeat(63)).is_ok() && pool_name(&"x".repeat(64)).is_err());
    }

    #[test]
    fn durations_read_as_they_are_written() {
        let text = |ms: u64| duration_text(Duration::from_millis(ms));
        assert_eq!([text(0), text(100), text(90_000), text(3_600_000)], ["0s", "100ms", "1m 30s", "1h"]);
    }
}
