//! Where a key stands in a request, and how it is found: what `hash` and `tenant` mean.
//!
//! Nothing is decoded or copied: the same bytes are the same key.

use crate::{HashKey, TenantKey};

/// A part of a request that names something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    /// The first header of this name, in any case.
    Header(String),
    /// The first cookie of this name.
    Cookie(String),
    /// The first query parameter of this name.
    Query(String),
}

impl HashKey {
    /// `None`: the client's address.
    pub fn key(&self) -> Option<Key> {
        one_of(&self.header, &self.cookie, &self.query)
    }
}

impl TenantKey {
    /// `None` in a configuration that [`parse`](crate::parse) refuses only.
    pub fn key(&self) -> Option<Key> {
        one_of(&self.header, &self.cookie, &self.query)
    }
}

fn one_of(header: &Option<String>, cookie: &Option<String>, query: &Option<String>) -> Option<Key> {
    let header = header.clone().map(Key::Header);
    header.or_else(|| cookie.clone().map(Key::Cookie)).or_else(|| query.clone().map(Key::Query))
}

impl Key {
    /// Its value in a request with this target and these headers. An empty one counts as missing.
    pub fn find<'a>(
        &self,
        target: &'a str,
        mut headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<&'a [u8]> {
        let value = match self {
            Self::Header(name) => {
                headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim_ascii())
            }
            Self::Cookie(name) => headers
                .filter(|(n, _)| n.eq_ignore_ascii_case("cookie"))
                .find_map(|(_, cookies)| in_pairs(cookies, b';', name)),
            Self::Query(name) => {
                let (_, query) = target.split_once('?')?;
                in_pairs(query.split('#').next().unwrap_or(query).as_bytes(), b'&', name)
            }
        };
        value.filter(|value| !value.is_empty())
    }

    /// As in the file: `header X-User`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Header(name) => format!("header {name}"),
            Self::Cookie(name) => format!("cookie {name}"),
            Self::Query(name) => format!("query parameter {name}"),
        }
    }
}

/// The value behind `name=` in a list of pairs.
fn in_pairs<'a>(pairs: &'a [u8], separator: u8, name: &str) -> Option<&'a [u8]> {
    pairs.split(|byte| *byte == separator).find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Key, target, headers, what is found.
    type Row<'a> = (&'a Key, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>);

    fn find(key: &Key, target: &str, headers: &[(&str, &str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        key.find(target, headers).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn the_first_value_of_the_named_part_is_the_key() {
        let (header, cookie) = (Key::Header("X-User".into()), Key::Cookie("sid".into()));
        let query = Key::Query("room".into());
        let table: [Row; 14] = [
            (&header, "/", &[("x-USER", " 7 "), ("x-user", "8")], Some("7")),
            (&header, "/", &[("x-user-id", "7")], None),
            (&header, "/", &[("x-user", " ")], None),
            (&cookie, "/", &[("Cookie", "a=1; sid=x=y ;sid=z")], Some("x=y")),
            (&cookie, "/", &[("cookie", "xsid=1"), ("cookie", "sid=2")], Some("2")),
            (&cookie, "/", &[("cookie", "SID=1; sid; sid2=3; sid=")], None),
            (&cookie, "/", &[("set-cookie", "sid=1")], None),
            (&query, "/ws?a=1&room=b%20c&room=d", &[], Some("b%20c")),
            (&query, "/ws?room=1#room=2", &[], Some("1")),
            (&query, "/ws?room=a?b", &[], Some("a?b")),
            (&query, "/ws?rooms=1", &[], None),
            (&query, "/ws?room", &[], None),
            (&query, "/room=1", &[], None),
            (&query, "http://host/ws?room=1", &[], Some("1")),
        ];
        for (key, target, headers, expected) in table {
            assert_eq!(find(key, target, headers).as_deref(), expected, "{key:?} {target} {headers:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_found_wherever_it_stands(
            before in "[a-z=;& ]{0,20}",
            value in "[a-zA-Z0-9%._-]{1,20}",
            after in "[a-z=;& ]{0,20}",
        ) {
            prop_assert_eq!(
                find(&Key::Cookie("SID".into()), "/", &[("cookie", &format!("{before};SID={value};{after}"))]),
                Some(value.clone())
            );
            let target = format!("/?{before}&SID={value}&{after}");
            prop_assert_eq!(find(&Key::Query("SID".into()), &target, &[]), Some(value));
        }

        #[test]
        fn no_request_makes_the_search_panic(target in "\\PC{0,60}", value in prop::collection::vec(any::<u8>(), 0..60)) {
            for key in [Key::Header("a".into()), Key::Cookie("a".into()), Key::Query("a".into())] {
                key.find(&target, [("a", &value[..]), ("cookie", &value[..])].into_iter());
            }
        }
    }
}
