//! Where on a machine the user's own files lie.

use std::env;
use std::path::PathBuf;

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
