//! Who may change something: one decision over the headers of a request.
//!
//! Two dangers. Somebody who reaches the port from elsewhere: a token is asked for, always unless the port is on loopback
//! and none is configured. A web page in the operator's browser, which does reach loopback: requests that a page made
//! are refused, by `Origin` and `Sec-Fetch-Site`; and without a token the Host must be an address or `localhost`, since a
//! page can make a name of its own lead to 127.0.0.1.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use axum::http::uri::Authority;

use crate::token::Token;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What is asked of a caller.
#[derive(Clone, Debug)]
pub enum Access {
    /// The port is on loopback and no token is configured.
    Loopback,
    /// This token.
    Token(Token),
    /// A token is configured and its file can not be used now.
    Unusable,
    /// The port can be reached from elsewhere and no token is configured.
    Closed,
}

/// Why a call is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// From a web page.
    #[error(
        "this call comes from a web page (it has an Origin, or a Sec-Fetch-Site of another site), and pages may change \
         nothing; use the evenkeel command or curl"
    )]
    WebPage,
    /// Without a token, by name.
    #[error(
        "without a token the Host of a call must be an IP address or localhost; use one of these, \
         or set admin.token_file and bring the token"
    )]
    Host,
    /// Nobody can be let in.
    #[error(
        "the admin port can be reached from other machines and no token is configured, so nothing may be changed; \
         set admin.token_file, or put admin.address on 127.0.0.1"
    )]
    NoToken,
    /// Our fault.
    #[error(
        "the gateway can not use its token file; its log says why. Nothing may be changed until it is right again"
    )]
    Unusable,
    /// None came.
    #[error(
        "this call changes something and needs `Authorization: Bearer TOKEN`, with the token of admin.token_file"
    )]
    TokenMissing,
    /// Another one came.
    #[error("this is not the token of admin.token_file; was it changed?")]
    TokenWrong,
}

/// Whether `address` is of this machine alone, also when it is an IPv4 address written as IPv6.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether a request with these headers may change something.
pub fn judge(access: &Access, headers: &HeaderMap) -> Result<(), Denied> {
    if is_of_a_web_page(headers) {
        return Err(Denied::WebPage);
    }
    match access {
        Access::Closed => Err(Denied::NoToken),
        Access::Unusable => Err(Denied::Unusable),
        Access::Loopback if names_no_name(headers) => Ok(()),
        Access::Loopback => Err(Denied::Host),
        Access::Token(token) => match bearer(headers) {
            None => Err(Denied::TokenMissing),
            Some(presented) if token.is(presented) => Ok(()),
            Some(_) => Err(Denied::TokenWrong),
        },
    }
}

fn is_of_a_web_page(headers: &HeaderMap) -> bool {
    let foreign = |site: &[u8]| site != b"same-origin" && site != b"none";
    headers.contains_key(ORIGIN)
        || headers.get_all(SEC_FETCH_SITE).iter().any(|site| foreign(site.as_bytes()))
}

/// One Host, and it is an IP address or `localhost`.
fn names_no_name(headers: &HeaderMap) -> bool {
    let Some(Ok(host)) = only(headers, HOST).map(Authority::try_from) else { return false };
    let host = host.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = only(headers, AUTHORIZATION)?;
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The value of a header that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SECRET, token};

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn judged(access: &Access, list: &[(&'static str, &str)]) -> Result<(), Denied> {
        judge(access, &headers(list))
    }

    #[test]
    fn on_loopback_without_a_token_only_an_address_or_localhost_is_a_host() {
        for host in ["127.0.0.1:9900", "127.0.0.1", "localhost:9900", "LOCALHOST", "[::1]:9900", "10.0.0.7:1"]
        {
            assert_eq!(judged(&Access::Loopback, &[("host", host)]), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9900", "localhost.evil.example", "127.0.0.1.nip.io", "", "a b"]
        {
            assert_eq!(judged(&Access::Loopback, &[("host", host)]), Err(Denied::Host), "{host}");
        }
        assert_eq!(judged(&Access::Loopback, &[]), Err(Denied::Host));
        let two = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(judged(&Access::Loopback, &two), Err(Denied::Host));
    }

    #[test]
    fn a_web_page_may_change_nothing_not_even_with_the_token() {
        let bearer = format!("Bearer {SECRET}");
        let good = [("host", "127.0.0.1:9900"), ("authorization", bearer.as_str())];
        for access in [Access::Loopback, Access::Token(token()), Access::Closed, Access::Unusable] {
            for mark in [
                ("origin", "https://evil.example"),
                ("origin", "null"),
                ("origin", "http://127.0.0.1:9900"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-site", "anything"),
            ] {
                assert_eq!(judged(&access, &[good[0], good[1], mark]), Err(Denied::WebPage), "{mark:?}");
            }
        }
        for site in ["same-origin", "none"] {
            assert_eq!(judged(&Access::Loopback, &[good[0], ("sec-fetch-site", site)]), Ok(()));
        }
    }

    #[test]
    fn with_a_token_the_very_token_is_needed_once_and_the_host_does_not_matter() {
        let access = Access::Token(token());
        let longer = format!("{SECRET}0");
        let cases = [
            (format!("Bearer {SECRET}"), Ok(())),
            (format!("bearer   {SECRET}  "), Ok(())),
            (format!("Bearer {longer}"), Err(Denied::TokenWrong)),
            (format!("Bearer {}", &SECRET[1..]), Err(Denied::TokenWrong)),
            ("Bearer ".into(), Err(Denied::TokenWrong)),
            ("Bearer".into(), Err(Denied::TokenMissing)),
            (format!("Basic {SECRET}"), Err(Denied::TokenMissing)),
            (SECRET.into(), Err(Denied::TokenMissing)),
        ];
        for (value, expected) in cases {
            let list = [("host", "evenkeel.example"), ("authorization", value.as_str())];
            assert_eq!(judged(&access, &list), expected, "{value}");
        }
        assert_eq!(judged(&access, &[("host", "127.0.0.1")]), Err(Denied::TokenMissing));
        let bearer = format!("Bearer {SECRET}");
        let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
        assert_eq!(judged(&access, &twice), Err(Denied::TokenMissing));
    }

    #[test]
    fn an_open_port_without_a_token_and_an_unusable_file_let_nobody_in() {
        let bearer = format!("Bearer {SECRET}");
        let good = [("host", "127.0.0.1:9900"), ("authorization", bearer.as_str())];
        assert_eq!(judged(&Access::Closed, &good), Err(Denied::NoToken));
        assert_eq!(judged(&Access::Unusable, &good), Err(Denied::Unusable));
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for (address, expected) in [
            ("127.0.0.1:1", true),
            ("127.8.8.8:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), expected, "{address}");
        }
    }
}
