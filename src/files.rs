//! Where on a machine the user's own files lie, reading a text whichever shell wrote it, and writing a
//! file whole or not at all.

use std::env;
use std::fs;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// The path that an environment variable holds, where it is one that does not depend on where a
/// program was started.
fn set(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).map(PathBuf::from);
    value.filter(|path| path.is_absolute())
}

/// For settings and calibrations; `None` where the user has no home.
#[must_use]
pub fn settings() -> Option<PathBuf> {
    let base = set("XDG_CONFIG_HOME")
        .or_else(|| set("APPDATA"))
        .or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("chipmark"))
}

/// For what can be made again; `None` where the user has no home.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    let ours = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| Some(set("HOME")?.join(ours)))?;
    Some(base.join("chipmark"))
}

/// The text that bytes stand for: UTF-8 or, where they begin with a mark that says so, UTF-16. PowerShell
/// before version 7 writes all that is redirected in UTF-16, and editors on Windows put a mark before
/// UTF-8 too.
///
/// # Errors
/// [`ErrorKind::InvalidData`] where they are neither.
pub fn text(bytes: &[u8]) -> Result<String> {
    let utf_16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = units.iter().copied().map(unit).collect();
        let text = String::from_utf16(&units).ok();
        text.filter(|_| rest.is_empty())
    };
    let decoded = match bytes {
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => str::from_utf8(rest).ok().map(str::to_owned),
        _ => str::from_utf8(bytes).ok().map(str::to_owned),
    };
    decoded.ok_or_else(|| Error::new(ErrorKind::InvalidData, "it is no text in UTF-8 or UTF-16"))
}

/// Reads a text that the user wrote, or a program for the user.
///
/// # Errors
/// Those of the file system and of [`text`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    text(&fs::read(path)?)
}

/// The files that a path with `*` and `?` stands for, in the order of their names; the path itself where
/// it has none, or names a file as it is. Brackets stand for themselves, as in shells on Windows.
///
/// # Errors
/// [`ErrorKind::NotFound`] where there is no such file.
pub fn matching(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(pattern) = path.to_str().filter(|text| text.contains(['*', '?'])) else {
        return Ok(vec![path.to_owned()]);
    };
    if path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let options = glob::MatchOptions {
        case_sensitive: false,
        require_literal_separator: true,
        // What is hidden is not meant: a report that is being written, an editor's backup.
        require_literal_leading_dot: true,
    };
    let found = glob::glob_with(&pattern.replace('[', "[[]"), options).map_err(Error::other)?;
    let files: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
    if files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no file matches it"));
    }
    Ok(files)
}

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// All users of the machine: what collects a file runs as another.
    All,
    /// Its owner alone.
    Owner,
}

/// The content on disk under a name that nobody looks for, in the folder where it shall lie: only within
/// a file system is a change of name one step.
fn written(path: &Path, content: &[u8], readers: Readers) -> Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut file = tempfile::Builder::new()
        .prefix(".chipmark-")
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    #[cfg(unix)]
    if readers == Readers::All {
        use std::os::unix::fs::PermissionsExt;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = readers;
    Ok(file)
}

/// Writes a file, over an earlier one: whoever reads it at any moment finds the old or the new one.
///
/// # Errors
/// Those of the file system; an earlier file is then as it was.
pub fn replace(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    written(path, content.as_ref(), Readers::All)?.persist(path)?;
    Ok(())
}

/// Writes a file that must not be there yet.
///
/// # Errors
/// Those of the file system, [`std::io::ErrorKind::AlreadyExists`] among them.
pub fn create(path: &Path, text: &str, readers: Readers) -> Result<()> {
    written(path, text.as_bytes(), readers)?.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_whichever_shell_wrote_it() {
        let text = "name = \"µ\"\r\n𝄞\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let utf_16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let units = std::iter::once('\u{feff}').chain(text.chars());
            let units: Vec<u16> = units.collect::<String>().encode_utf16().collect();
            units.into_iter().flat_map(bytes).collect()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            [&[0xef, 0xbb, 0xbf], text.as_bytes()].concat(),
            utf_16(u16::to_le_bytes),
            utf_16(u16::to_be_bytes),
        ] {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read_text(&path).unwrap(), text, "{bytes:x?}");
        }
        assert_eq!(super::text(&[]).unwrap(), "");
        // Latin-1, half a unit, half a pair.
        for bytes in [&b"\xb5"[..], b"\xff\xfea", b"\xff\xfe\x34\xd8"] {
            let error = super::text(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{bytes:x?}");
        }
    }

    #[test]
    fn wildcards_stand_for_the_files_that_match_and_for_nothing_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b[1]/2.json", "a/1.json", "a/.2.json", "a/3.txt", "1.json"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        fs::create_dir(at("a/4.json")).unwrap();
        let found = |pattern: &str| matching(&at(pattern)).unwrap();
        assert_eq!(found("*/*.json"), [at("a/1.json"), at("b[1]/2.json")]);
        assert_eq!(found("b[1]/?.json"), [at("b[1]/2.json")]);
        assert_eq!(found("not/there.json"), [at("not/there.json")]);
        let error = matching(&at("*.toml")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_replaced_whole_or_left_as_it_was_and_nothing_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        create(&path, "one", Readers::Owner).unwrap();
        let taken = create(&path, "two", Readers::All).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(), 0o600);
            replace(&path, "three").unwrap();
            assert_eq!(mode(), 0o644);
        }
        replace(&path, "three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert!(replace(&folder.path().join("no/folder"), "four").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
