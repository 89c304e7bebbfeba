//! Where on a machine the user's own files lie, and writing a file whole or not at all.

use std::env;
use std::io::{Result, Write};
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
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
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
    use std::fs;
    use std::io::ErrorKind;

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
