//! Which extensions an endpoint accepted, as far as it matters to a relay (RFC 6455 9.1, RFC 7692).
//!
//! Frames of unknown extensions pass like all others; only messages of our own are then impossible. The
//! parameters of permessage-deflate are parsed, and not kept: pass-through does not need them.

use crate::list::{is_token_byte, trim};
use crate::scan::Rsv;

/// The extensions of an accepted response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extensions {
    /// None at all.
    None,
    /// permessage-deflate and nothing else.
    Deflate,
    /// At least one that we do not know.
    Unknown,
}

/// A `Sec-WebSocket-Extensions` header that does not follow the grammar of RFC 6455 9.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionsError {
    /// The name of an extension or of a parameter is missing.
    #[error("expected a token in Sec-WebSocket-Extensions, found {0} (RFC 6455 9.1)")]
    ExpectedToken(Found),
    /// Something other than `;`, `,` or `=` between the tokens.
    #[error("expected ';' or ',' in Sec-WebSocket-Extensions, found {0} (RFC 6455 9.1)")]
    ExpectedSeparator(Found),
    /// A quoted string which does not end, or holds something else than a token.
    #[error("expected a token in quotes in Sec-WebSocket-Extensions, found {0} (RFC 6455 9.1)")]
    ExpectedQuoted(Found),
}

/// What stood where something else was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This byte.
    Byte(u8),
    /// The end of the header's line.
    End,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Byte(byte) => write!(f, "'{}'", byte.escape_ascii()),
            Self::End => f.write_str("the end of the line"),
        }
    }
}

impl Extensions {
    /// From the values of all `Sec-WebSocket-Extensions` lines of a response.
    ///
    /// # Errors
    /// When a line does not follow the grammar; RFC 6455 9.1 asks to fail such a handshake.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, ExtensionsError> {
        let (mut deflate, mut other) = (0_usize, false);
        for line in lines {
            let mut rest = line;
            loop {
                rest = skip_empty(rest);
                if rest.is_empty() {
                    break;
                }
                let (name, behind) = extension(rest)?;
                rest = behind;
                if name == b"permessage-deflate" {
                    deflate += 1;
                } else {
                    other = true;
                }
            }
        }
        Ok(match (deflate, other) {
            (0, false) => Self::None,
            (1, false) => Self::Deflate,
            // Twice the same is not what RFC 7692 describes, so we do not pretend to understand it.
            _ => Self::Unknown,
        })
    }

    /// The reserved bits which these extensions may set.
    pub fn rsv(self) -> Rsv {
        match self {
            Self::None => Rsv::None,
            Self::Deflate => Rsv::Deflate,
            Self::Unknown => Rsv::Any,
        }
    }
}

/// One extension with its parameters: its name, and what follows behind the comma.
fn extension(bytes: &[u8]) -> Result<(&[u8], &[u8]), ExtensionsError> {
    let (name, mut rest) = token(bytes)?;
    loop {
        rest = trim(rest);
        rest = match rest {
            [] => return Ok((name, rest)),
            [b',', behind @ ..] => return Ok((name, behind)),
            [b';', behind @ ..] => parameter(trim(behind))?,
            _ => return Err(ExtensionsError::ExpectedSeparator(found(rest))),
        };
    }
}

/// One parameter; returns what follows it.
fn parameter(bytes: &[u8]) -> Result<&[u8], ExtensionsError> {
    let (_, rest) = token(bytes)?;
    match trim(rest) {
        [b'=', value @ ..] => match trim(value) {
            [b'"', quoted @ ..] => quoted_token(quoted),
            plain => token(plain).map(|(_, rest)| rest),
        },
        rest => Ok(rest),
    }
}

/// What follows the closing quote. The text in quotes must be a token once its escapes are undone.
fn quoted_token(bytes: &[u8]) -> Result<&[u8], ExtensionsError> {
    let (mut rest, mut any) = (bytes, false);
    loop {
        rest = match rest {
            [b'"', behind @ ..] if any => return Ok(behind),
            [b'\\', escaped, behind @ ..] if is_token_byte(*escaped) => behind,
            [plain, behind @ ..] if is_token_byte(*plain) => behind,
            _ => return Err(ExtensionsError::ExpectedQuoted(found(rest))),
        };
        any = true;
    }
}

fn token(bytes: &[u8]) -> Result<(&[u8], &[u8]), ExtensionsError> {
    let len = bytes.iter().take_while(|byte| is_token_byte(**byte)).count();
    if len == 0 {
        return Err(ExtensionsError::ExpectedToken(found(bytes)));
    }
    Ok(bytes.split_at(len))
}

/// Leaves out empty list elements, which RFC 9110 5.6.1.2 asks a recipient to ignore.
fn skip_empty(bytes: &[u8]) -> &[u8] {
    let mut rest = trim(bytes);
    while let [b',', behind @ ..] = rest {
        rest = trim(behind);
    }
    rest
}

fn found(bytes: &[u8]) -> Found {
    bytes.first().map_or(Found::End, |byte| Found::Byte(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Extensions, ExtensionsError> {
        Extensions::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn lines_are_joined_and_only_deflate_alone_is_known() {
        for (lines, expected) in [
            (&[][..], Extensions::None),
            (&["", " , ,"], Extensions::None),
            (&["permessage-deflate"], Extensions::Deflate),
            (
                &["permessage-deflate; client_no_context_takeover ;server_max_window_bits=\"10\""],
                Extensions::Deflate,
            ),
            (&["permessage-deflate ; a = b", ""], Extensions::Deflate),
            (&["permessage-deflate;a=\"1\\5\" , "], Extensions::Deflate),
            (&["permessage-deflate", "permessage-deflate"], Extensions::Unknown),
            (&["permessage-deflate", "x-other"], Extensions::Unknown),
            (&["x-webkit-deflate-frame"], Extensions::Unknown),
            (&["x-a; b=\"permessage-deflate\""], Extensions::Unknown),
        ] {
            assert_eq!(parse(lines), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn a_header_against_the_grammar_is_told_with_what_was_found() {
        for (line, expected) in [
            (";", ExtensionsError::ExpectedToken(Found::Byte(b';'))),
            ("a;", ExtensionsError::ExpectedToken(Found::End)),
            ("a;b=", ExtensionsError::ExpectedToken(Found::End)),
            ("a;=b", ExtensionsError::ExpectedToken(Found::Byte(b'='))),
            ("a b", ExtensionsError::ExpectedSeparator(Found::Byte(b'b'))),
            ("a=b", ExtensionsError::ExpectedSeparator(Found::Byte(b'='))),
            ("a;b=\"\"", ExtensionsError::ExpectedQuoted(Found::Byte(b'"'))),
            ("a;b=\"c", ExtensionsError::ExpectedQuoted(Found::End)),
            ("a;b=\"c,d\"", ExtensionsError::ExpectedQuoted(Found::Byte(b','))),
            ("a;b=\"c\\", ExtensionsError::ExpectedQuoted(Found::Byte(b'\\'))),
            ("a;b=\"c\"d", ExtensionsError::ExpectedSeparator(Found::Byte(b'd'))),
        ] {
            assert_eq!(parse(&[line]), Err(expected), "{line:?}");
        }
        assert_eq!(
            parse(&["a b"]).map_err(|error| error.to_string()),
            Err("expected ';' or ',' in Sec-WebSocket-Extensions, found 'b' (RFC 6455 9.1)".into())
        );
    }
}
