//! What a client must know to send reports.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;

/// Shorter ones can be guessed.
const LENGTH_MIN: usize = 16;
/// Longer ones are some other file.
const LENGTH_MAX: usize = 512;

/// A secret, of which only a digest is kept: two digests can be compared without the time telling how
/// much of a guess was right.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads one from the first line of a file.
    ///
    /// # Errors
    /// A usage error where the file cannot be read or holds no token.
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let text = files::read_text(path).map_err(|error| refuse(error.to_string()))?;
        let token = text.trim_end();
        let is_token = token.bytes().all(|byte| byte.is_ascii_graphic())
            && (LENGTH_MIN..=LENGTH_MAX).contains(&token.len());
        if !is_token {
            return Err(refuse(format!(
                "a token is one line of {LENGTH_MIN} to {LENGTH_MAX} letters, digits and signs; `openssl rand -hex 32` makes one"
            )));
        }
        Ok(Self::of(token.as_bytes()))
    }

    fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether what a client sent as `Authorization` holds this token.
    pub(super) fn is_in(&self, authorization: &[u8]) -> bool {
        let given = authorization.split_first_chunk::<7>();
        given.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"Bearer ") && Self::of(token).0 == self.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_a_file_and_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let token = Token::read(&path).unwrap();
        assert!(token.is_in(b"Bearer 0123456789abcdef"));
        assert!(token.is_in(b"bearer 0123456789abcdef"));
        for other in [
            &b"Bearer 0123456789abcdeg"[..],
            b"Bearer 0123456789abcdef ",
            b"Basic 0123456789abcdef",
            b"0123456789abcdef",
            b"Bearer ",
            b"",
        ] {
            assert!(!token.is_in(other), "{other:?}");
        }
        assert!(!format!("{token:?}").contains("012"));
        for bad in [
            "",
            "short\n",
            "0123456789 abcdef\n",
            "0123456789abcdef\nmore\n",
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = Token::read(&path).unwrap_err();
            assert!(error.message.contains("a token is one line"), "{bad:?}");
        }
    }
}
