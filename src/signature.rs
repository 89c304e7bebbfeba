//! Who answers for a report: detached signatures in the format of minisign (Ed25519 over BLAKE2b), so
//! that its own tool reads ours and we read its.
//!
//! A signature covers the bytes of the file, whatever text they stand for. Its trusted comment, which is signed too, names the
//! report's id.

use std::ffi::OsString;
use std::fs;
use std::io::{Cursor, IsTerminal};
use std::path::{Path, PathBuf};

use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};

use crate::error::{Error, Result};
use crate::files::{self, Readers};

/// The environment variable that holds the password of a secret key.
pub const PASSWORD_VARIABLE: &str = "CHIPMARK_KEY_PASSWORD";

/// How the second line of an encrypted secret key begins: `EdSc`, the names of its algorithms.
const ENCRYPTED: &str = "RWRTY";

/// Bytes of the checksum that a secret key ends with.
const CHECKSUM_BYTES: usize = 32;

/// Bytes of an Ed25519 signature, and of the algorithm and the number of the key before it.
const SIGNATURE_BYTES: usize = 64;
const NAME_BYTES: usize = 10;

/// What stands before the id in a trusted comment.
const ID: &str = "report_id:";

/// The file of a report's signature: the report's name with `.minisig` after it.
#[must_use]
pub fn path_of(report: &Path) -> PathBuf {
    let mut name = OsString::from(report);
    name.push(".minisig");
    PathBuf::from(name)
}

/// The password from the environment or, on a terminal, from the user; `None` where there is neither.
///
/// # Errors
/// When the terminal cannot be read.
pub fn password(prompt: &str) -> Result<Option<String>> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(Some(password));
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    rpassword::prompt_password(prompt)
        .map(Some)
        .map_err(|error| Error::usage(format!("the password could not be read: {error}")))
}

/// Writes a file that must not be there yet, whole or not at all.
fn write_new(path: &Path, text: &str, readers: Readers) -> Result<()> {
    files::create(path, text, readers).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::usage(format!(
            "{}: it is there already; remove it first",
            path.display()
        )),
        _ => Error::usage(format!("{}: {error}", path.display())),
    })
}

/// Makes a pair of keys in a folder, the secret one encrypted if there is a password, and returns the
/// files of the secret and of the public key.
///
/// # Errors
/// A usage error where a key is there already or the folder cannot be written.
pub fn generate(folder: &Path, password: Option<String>) -> Result<(PathBuf, PathBuf)> {
    let failed = |error: minisign::PError| Error::internal(format!("keys: {error}"));
    fs::create_dir_all(folder)
        .map_err(|error| Error::usage(format!("{}: {error}", folder.display())))?;
    let (secret, public) = (folder.join("chipmark.key"), folder.join("chipmark.pub"));
    if let Some(taken) = [&public, &secret].into_iter().find(|path| path.exists()) {
        return Err(Error::usage(format!(
            "{}: it is there already; remove it first",
            taken.display()
        )));
    }
    let pair = match password.filter(|password| !password.is_empty()) {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    }
    .map_err(failed)?;
    let secret_text = pair.sk.to_box(None).map_err(failed)?.into_string();
    let public_text = pair.pk.to_box().map_err(failed)?.into_string();
    write_new(&secret, &secret_text, Readers::Owner)?;
    write_new(&public, &public_text, Readers::All)?;
    Ok((secret, public))
}

/// The bytes that a line of a file stands for, none where it is not base64.
fn line_of(text: &str, number: usize) -> Vec<u8> {
    let line = text.lines().nth(number).unwrap_or_default();
    Base64::decode_to_vec(line.trim(), None).unwrap_or_default()
}

fn secret_key(path: &Path) -> Result<SecretKey> {
    let refuse = |what: String| Error::usage(format!("--key {}: {what}", path.display()));
    let text = files::read_text(path).map_err(|error| refuse(error.to_string()))?;
    let encrypted = text
        .lines()
        .nth(1)
        .is_some_and(|line| line.starts_with(ENCRYPTED));
    let sealed = SecretKeyBox::from_string(&text)
        .map_err(|error| refuse(format!("it is no secret key of minisign: {error}")))?;
    // minisign itself leaves the checksum of a key without a password empty.
    let bytes = line_of(&text, 1);
    let unchecked = bytes
        .last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|checksum| checksum.iter().all(|&byte| byte == 0));
    if !encrypted && unchecked {
        return SecretKey::from_bytes(&bytes)
            .map_err(|error| refuse(format!("it is no secret key of minisign: {error}")));
    }
    if !encrypted {
        return sealed.into_unencrypted_secret_key().map_err(|error| {
            refuse(format!(
                "it is no secret key of minisign: {error}; the public one ends in .pub and only checks"
            ))
        });
    }
    let password = password(&format!("Password of {}: ", path.display()))?.ok_or_else(|| {
        refuse(format!(
            "it has a password; set {PASSWORD_VARIABLE}, or sign from a terminal"
        ))
    })?;
    sealed
        .into_secret_key(Some(password))
        .map_err(|error| refuse(error.to_string()))
}

/// Signs the file of a report with this id and returns the signature's file.
///
/// # Errors
/// A usage error where the key cannot be used or a signature is there already.
pub fn sign(report: &Path, report_id: &str, key: &Path) -> Result<PathBuf> {
    let path = path_of(report);
    if path.exists() {
        return Err(Error::usage(format!(
            "{}: it is signed already; remove the signature first",
            path.display()
        )));
    }
    let bytes =
        fs::read(report).map_err(|error| Error::usage(format!("{}: {error}", report.display())))?;
    let secret = secret_key(key)?;
    let name: String = report
        .file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let comment = format!(
        "{ID}{report_id}\ttimestamp:{}\tfile:{name}",
        jiff::Timestamp::now().as_second()
    );
    // With the public half at hand a key whose halves do not belong together signs nothing.
    let public = PublicKey::from_secret_key(&secret)
        .map_err(|error| Error::usage(format!("--key {}: {error}", key.display())))?;
    let signed = minisign::sign(
        Some(&public),
        &secret,
        Cursor::new(bytes),
        Some(&comment),
        Some("signature of a chipmark report"),
    )
    .map_err(|error| Error::usage(format!("--key {}: {error}", key.display())))?;
    write_new(&path, &signed.into_string(), Readers::All)?;
    Ok(path)
}

/// Checks the signature beside a report with this id by a public key, and returns its trusted
/// comment.
///
/// # Errors
/// A usage error that names the file where there is no signature, it is not by this key, or of
/// another file.
pub fn verify(report: &Path, report_id: &str, key: &Path) -> Result<String> {
    let path = path_of(report);
    let refuse = |path: &Path, what: String| Error::usage(format!("{}: {what}", path.display()));
    let read =
        |path: &Path| files::read_text(path).map_err(|error| refuse(path, error.to_string()));
    let no_key = |error: minisign::PError| {
        refuse(
            key,
            format!("it is no public key of minisign: {error}; the public one ends in .pub"),
        )
    };
    let public: PublicKey = PublicKeyBox::from_string(&read(key)?)
        .and_then(PublicKeyBox::into_public_key)
        .map_err(no_key)?;
    let text = read(&path)?;
    // The library counts on whole signatures.
    for (number, wanted) in [(1, NAME_BYTES + SIGNATURE_BYTES), (3, SIGNATURE_BYTES)] {
        let there = line_of(&text, number).len();
        if there != wanted {
            return Err(refuse(
                &path,
                format!(
                    "it is no signature of minisign: line {} holds {there} bytes, not {wanted}",
                    number + 1
                ),
            ));
        }
    }
    let signed = SignatureBox::from_string(&text)
        .map_err(|error| refuse(&path, format!("it is no signature of minisign: {error}")))?;
    let bytes = fs::read(report).map_err(|error| refuse(report, error.to_string()))?;
    minisign::verify(&public, &signed, Cursor::new(bytes), true, false, false).map_err(
        |error| {
            refuse(
                report,
                format!(
                    "{} is no signature of it by {}: {error}",
                    path.display(),
                    key.display()
                ),
            )
        },
    )?;
    let comment = signed
        .trusted_comment()
        .map_err(|error| refuse(&path, error.to_string()))?;
    // Signed by minisign itself it may name no id; the signature covers the file all the same.
    let named = comment.split('\t').find_map(|field| field.strip_prefix(ID));
    match named {
        Some(named) if named != report_id => Err(refuse(
            &path,
            format!("it names report_id {named}, but the report is {report_id}"),
        )),
        _ => Ok(comment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Written by minisign 0.11: a key without a password, and its signature of `a report\n`.
    const PUBLIC: &str = "untrusted comment: minisign public key 15DFECCFD44A58AF
RWSvWErUz+zfFRyMOPVxOpdp1TSqE0qLx3Rrv0HKkT3uLWL6ssLnp81h
";
    const SECRET: &str = "untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAr1hK1M/s3xVSubSqH+tqac1wKOiad/9HMJzK2c4CjhNNKBhW4dWDrhyMOPVxOpdp1TSqE0qLx3Rrv0HKkT3uLWL6ssLnp81hAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
";
    const SIGNED: &str = "untrusted comment: signature from minisign secret key
RUSvWErUz+zfFbiScg/JabO+3Lb3FOSG3FZt7p5uSHCa0pQjfaA/+X2nI2PLZU4xBxt7yajP+0yYnnElXvz8gF/sQcvvqj6+uQw=
trusted comment: timestamp:1
FpOdG1OXChzqJT6gVABUaycCscsTAGHd4jVL9X8B/qjqBFhQyZw+40hrrGmv/7H7rJWiIYcx10osxEGm97/TDQ==
";

    /// A folder with a report, not yet signed, and the keys of another program.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("r.json", "a report\n"),
            ("t.pub", PUBLIC),
            ("t.key", SECRET),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_signature_of_minisign_itself_is_read_and_one_byte_less_is_not_believed() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("r.json.minisig"), SIGNED).unwrap();
        let verify = || verify(&at("r.json"), "any", &at("t.pub"));
        assert_eq!(verify().unwrap(), "timestamp:1");
        fs::write(at("r.json"), "a report").unwrap();
        assert!(
            verify()
                .unwrap_err()
                .message
                .contains("is no signature of it")
        );
        fs::write(at("r.json"), "a report\n").unwrap();
        // The comment is signed too.
        fs::write(
            at("r.json.minisig"),
            SIGNED.replace("timestamp:1", "timestamp:2"),
        )
        .unwrap();
        assert!(
            verify()
                .unwrap_err()
                .message
                .contains("is no signature of it")
        );
    }

    #[test]
    fn what_a_key_signs_its_public_key_confirms_and_no_other() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        let written = sign(&at("r.json"), "abc", &at("t.key")).unwrap();
        assert_eq!(written, at("r.json.minisig"));
        let comment = verify(&at("r.json"), "abc", &at("t.pub")).unwrap();
        assert!(
            comment.starts_with("report_id:abc\ttimestamp:") && comment.ends_with("file:r.json")
        );
        let other = verify(&at("r.json"), "abd", &at("t.pub"))
            .unwrap_err()
            .message;
        assert!(
            other.contains("it names report_id abc, but the report is abd"),
            "{other}"
        );
        let twice = sign(&at("r.json"), "abc", &at("t.key"))
            .unwrap_err()
            .message;
        assert!(twice.contains("signed already"), "{twice}");
        let (_, public) = generate(&at("keys"), None).unwrap();
        let strange = verify(&at("r.json"), "abc", &public).unwrap_err().message;
        assert!(strange.contains("different from public key"), "{strange}");
        let taken = generate(&at("keys"), None).unwrap_err().message;
        assert!(taken.contains("there already"), "{taken}");
    }

    #[test]
    fn files_that_are_no_keys_or_signatures_are_refused_by_name() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        let absent = verify(&at("r.json"), "any", &at("t.pub"))
            .unwrap_err()
            .message;
        assert!(absent.contains("r.json.minisig: "), "{absent}");
        let wrong = sign(&at("r.json"), "any", &at("t.pub"))
            .unwrap_err()
            .message;
        assert!(wrong.contains("t.pub: it is no secret key"), "{wrong}");
        fs::write(at("r.json.minisig"), SIGNED).unwrap();
        let wrong = verify(&at("r.json"), "any", &at("t.key"))
            .unwrap_err()
            .message;
        assert!(wrong.contains("t.key: it is no public key"), "{wrong}");
        // Cut anywhere, neither reads nor panics.
        for (name, whole) in [("r.json.minisig", SIGNED), ("t.pub", PUBLIC)] {
            for length in 0..whole.trim_end().len() {
                fs::write(at(name), &whole[..length]).unwrap();
                assert!(
                    verify(&at("r.json"), "any", &at("t.pub")).is_err(),
                    "{length}"
                );
            }
            fs::write(at(name), whole).unwrap();
        }
        fs::remove_file(at("r.json.minisig")).unwrap();
        for length in 0..SECRET.trim_end().len() {
            fs::write(at("t.key"), &SECRET[..length]).unwrap();
            assert!(
                sign(&at("r.json"), "any", &at("t.key")).is_err(),
                "{length}"
            );
        }
        assert!(!at("r.json.minisig").exists());
    }
}
