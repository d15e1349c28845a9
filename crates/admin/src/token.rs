//! The token of calls that change something: read from a file, compared in constant time, never shown.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

/// Shortest token, in bytes: what 64 random bits take in hexadecimal.
const TOKEN_BYTES_MIN: usize = 16;
/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// The blanks around a token count towards this: the most that is read of the file, in bytes.
const FILE_BYTES_MAX: u64 = 8192;
/// The file is looked at again at most this often.
const LOOK: Duration = Duration::from_secs(1);

/// A secret. Its Debug is a mask, and there is no way to get it out again.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

impl Token {
    /// Whether `presented` is this token. Takes the same time for any text of the same length; the length itself is no
    /// secret.
    pub fn is(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(presented).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(****)")
    }
}

/// Why a token file can not be used. Names the file, never its content.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Missing, or not readable by this process.
    #[error("token file {path} can not be read: {error}; is the path right, and may this process read it?")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("token file {path} is not a regular file; name the file that holds the token")]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Too short to be a secret, or too long to be a header.
    #[error(
        "token file {path} holds {found} bytes, expected {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX}; \
         make one with `openssl rand -hex 32`"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes without the blanks around them.
        found: u64,
    },
    /// Something that a header can not carry.
    #[error(
        "token file {path} holds blanks, control or non-ASCII characters within the token; \
         expected one line of visible ASCII, for example from `openssl rand -hex 32`"
    )]
    Characters {
        /// The file.
        path: PathBuf,
    },
}

/// A file with a token, and what it said last.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    looked: Instant,
    /// `None`: the file can not be used, and nothing is let in.
    token: Option<Token>,
}

impl TokenFile {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(path: &Path, now: Instant) -> Result<Self, TokenError> {
        let token = read(path)?;
        Ok(Self { path: path.to_owned(), last: Mutex::new(Last { looked: now, token: Some(token) }) })
    }

    /// The token as of at most a second ago. `None`, and a line in the log, while the file can not be used: a token
    /// that was taken away is not accepted any longer.
    pub fn current(&self, now: Instant) -> Option<Token> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(last.looked) >= LOOK {
            last.looked = now;
            last.token = match read(&self.path) {
                Ok(token) => {
                    if !last.token.as_ref().is_some_and(|old| old.is(&token.0)) {
                        tracing::info!(file = %self.path.display(), "the admin token has changed");
                    }
                    Some(token)
                }
                Err(error) => {
                    tracing::error!(%error, "calls that change something are refused");
                    None
                }
            };
        }
        last.token.clone()
    }
}

fn read(path: &Path) -> Result<Token, TokenError> {
    let failed = |error| TokenError::Read { path: path.to_owned(), error };
    // A pipe would block at the opening already.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(TokenError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)).map_err(failed)?;
    let token = bytes.trim_ascii();
    if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
        return Err(TokenError::Size { path: path.to_owned(), found: token.len() as u64 });
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(TokenError::Characters { path: path.to_owned() });
    }
    Ok(Token(token.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn blanks_around_a_token_do_not_count_and_it_is_compared_as_a_whole() {
        let (_folder, path) = file(format!("  {SECRET}\r\n").as_bytes());
        let token = TokenFile::open(&path, Instant::now()).unwrap().current(Instant::now()).unwrap();
        assert!(token.is(SECRET.as_bytes()));
        for other in ["", "0123456789abcdef", &SECRET.to_uppercase(), &format!("{SECRET}0")] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_file_that_can_not_be_used_is_named_and_its_content_is_not() {
        let long = vec![b'x'; TOKEN_BYTES_MAX + 1];
        for (content, why) in [
            (&b"hunter2-hunter2"[..], "holds 15 bytes, expected 16 to 4096"),
            (&long, "holds 4097 bytes"),
            (b"", "holds 0 bytes"),
            (b"hunter2-hunter2 hunter2-hunter2", "visible ASCII"),
            (b"hunter2-hunter2-\xc3\xa4", "visible ASCII"),
        ] {
            let (_folder, path) = file(content);
            let error = TokenFile::open(&path, Instant::now()).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(why) && text.contains("/token") && !text.contains("hunter2"), "{text}");
        }
        let (folder, path) = file(b"");
        let error = TokenFile::open(folder.path(), Instant::now()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = TokenFile::open(&path, Instant::now()).unwrap_err();
        assert!(error.to_string().contains("can not be read"), "{error}");
    }

    #[test]
    fn a_rotated_token_is_taken_after_a_second_and_a_lost_one_lets_nobody_in() {
        let start = Instant::now();
        let (_folder, path) = file(SECRET.as_bytes());
        let tokens = TokenFile::open(&path, start).unwrap();
        let takes = |text: &str, after: Duration| {
            tokens.current(start + after).is_some_and(|token| token.is(text.as_bytes()))
        };
        let rotated = SECRET.replace('0', "f");
        std::fs::write(&path, &rotated).unwrap();
        assert!(takes(SECRET, LOOK / 2), "it is not read at every call");
        assert!(takes(&rotated, LOOK));
        assert!(!takes(SECRET, LOOK));
        std::fs::write(&path, "short").unwrap();
        assert!(!takes(&rotated, LOOK * 2) && !takes("short", LOOK * 2));
        std::fs::write(&path, SECRET).unwrap();
        assert!(takes(SECRET, LOOK * 3));
    }

    #[test]
    fn a_token_prints_as_a_mask() {
        let (_folder, path) = file(SECRET.as_bytes());
        let tokens = TokenFile::open(&path, Instant::now()).unwrap();
        let token = tokens.current(Instant::now());
        assert!(!format!("{tokens:?} {token:?} {token:#?}").contains("0123"));
        assert!(format!("{token:?}").contains("****"));
    }
}
