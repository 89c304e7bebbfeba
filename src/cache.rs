//! What earlier searches found best, kept in the user's cache folder, so that the next search for
//! the same case on the same device begins with it.
//!
//! An entry holds for one device, API and driver, one case and one text of a kernel: where any of
//! them has changed it is no longer found. What is found is a place to begin and nothing more: it is
//! built, verified and timed like any other variant.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalogue::kernels;
use crate::error::{Error, Result};
use crate::files;
use crate::op::{Case, Dtype};
use crate::protocol::{Device, Tunables, Variant};
use crate::report::Tried;
use crate::shader;
use crate::tune::TIME_UP;

/// Variants kept of a case.
const KEPT_MAX: usize = 4;

/// A variant that takes longer than the best one by this factor is not worth another look.
const KEPT_WITHIN: f64 = 1.3;

/// Cases kept in all; the oldest go first.
const ENTRIES_MAX: usize = 10_000;

/// A variant that was among the best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the device.
    pub device: String,
    /// API it was reached through.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// The case.
    pub case_id: String,
    /// Kernel.
    pub kernel: String,
    /// Its tunables.
    pub variant: Tunables,
    /// SHA-256 of the source with those tunables.
    pub shader_sha256: String,
    /// Seconds that it took.
    pub time_s_median: f64,
    /// Whether the search that found it had time for a look at every kernel. Earlier versions did not say.
    #[serde(default)]
    pub of_all: bool,
}

/// Whether a search had time to look at every kernel that it might have chosen.
fn looked_at_all(tried: &[Tried]) -> bool {
    let seen = |kernel: &str| {
        (tried.iter()).any(|t| t.kernel == kernel && !["untried", "refused"].contains(&&*t.status))
    };
    let late = |t: &&Tried| {
        t.status == "untried" && t.reason.as_deref().is_some_and(|r| r.starts_with(TIME_UP))
    };
    tried.iter().filter(late).all(|t| seen(&t.kernel))
}

impl Entry {
    fn is_of(&self, device: &Device, case_id: &str) -> bool {
        self.device == device.name
            && self.backend == device.backend
            && self.driver == device.driver
            && self.case_id == case_id
    }

    fn variant(&self) -> Variant {
        Variant {
            kernel: self.kernel.clone(),
            variant: self.variant.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Book {
    entries: Vec<Entry>,
}

/// The file, whether it is there yet or not.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
}

/// SHA-256 of the source of a variant as it is now, where its kernel is one of ours.
fn source_sha256(variant: &Variant, dtype: Dtype) -> Option<String> {
    let kernel = kernels()
        .into_iter()
        .find(|kernel| kernel.name == variant.kernel)?;
    let source = shader::specialise(&kernel.name, &kernel.source, &variant.variant, dtype).ok()?;
    Some(shader::sha256(source.as_bytes()))
}

impl Cache {
    /// The user's; `None` where the user has no home.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        Some(Self {
            path: files::cache()?.join("variants.json"),
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// All that is kept. A file that is not there, or that nobody can read, keeps nothing: it costs a
    /// search and is written anew.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        fs::read_to_string(&self.path)
            .ok()
            .and_then(|text| serde_json::from_str::<Book>(&text).ok())
            .map_or_else(Vec::new, |book| book.entries)
    }

    /// The best variants known of a case on a device, best first.
    #[must_use]
    pub fn recall(&self, device: &Device, case: &Case) -> Vec<Variant> {
        let id = case.id();
        let mut found: Vec<Entry> = self
            .entries()
            .into_iter()
            .filter(|entry| entry.is_of(device, &id))
            .filter(|entry| {
                source_sha256(&entry.variant(), case.dtype).as_ref() == Some(&entry.shader_sha256)
            })
            .collect();
        found.sort_by(|a, b| a.time_s_median.total_cmp(&b.time_s_median));
        found.iter().map(Entry::variant).collect()
    }

    /// Whether what is known of a case on a device was found by a search that looked at every kernel.
    #[must_use]
    pub fn is_of_all(&self, device: &Device, case: &Case) -> bool {
        let id = case.id();
        let entries = self.entries();
        let mut of_case = entries.iter().filter(|entry| entry.is_of(device, &id));
        of_case.all(|entry| entry.of_all)
    }

    /// Keeps the best of what a search has timed at the case itself, in place of what was known.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, device: &Device, case: &Case, tried: &[Tried]) -> Result<()> {
        let id = case.id();
        let of_all = looked_at_all(tried);
        let mut best: Vec<Entry> = tried
            .iter()
            .filter(|tried| tried.status == "timed" && tried.at_case_id.is_none())
            .filter_map(|tried| {
                let variant = Variant {
                    kernel: tried.kernel.clone(),
                    variant: tried.variant.clone(),
                };
                Some(Entry {
                    device: device.name.clone(),
                    backend: device.backend.clone(),
                    driver: device.driver.clone(),
                    case_id: id.clone(),
                    shader_sha256: source_sha256(&variant, case.dtype)?,
                    kernel: variant.kernel,
                    variant: variant.variant,
                    time_s_median: tried.time_s_median?,
                    of_all,
                })
            })
            .collect();
        best.sort_by(|a, b| a.time_s_median.total_cmp(&b.time_s_median));
        let Some(limit) = best.first().map(|entry| KEPT_WITHIN * entry.time_s_median) else {
            return Ok(());
        };
        best.retain(|entry| entry.time_s_median <= limit);
        best.truncate(KEPT_MAX);
        let mut entries = self.entries();
        entries.retain(|entry| !entry.is_of(device, &id));
        entries.extend(best);
        let excess = entries.len().saturating_sub(ENTRIES_MAX);
        entries.drain(..excess);
        self.write(entries)
    }

    /// Forgets a variant of a case: it did not work.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&self, device: &Device, case: &Case, variant: &Variant) -> Result<()> {
        let id = case.id();
        let before = self.entries();
        let mut entries = before.clone();
        entries.retain(|entry| !(entry.is_of(device, &id) && entry.variant() == *variant));
        if entries == before {
            return Ok(());
        }
        self.write(entries)
    }

    /// Removes the file; says how much it kept.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&self) -> Result<usize> {
        let count = self.entries().len();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.refuse(&error)),
            _ => Ok(count),
        }
    }

    fn refuse(&self, error: &std::io::Error) -> Error {
        Error::usage(format!("{}: {error}", self.path.display()))
    }

    fn write(&self, entries: Vec<Entry>) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&Book { entries })
            .map_err(|error| Error::internal(error.to_string()))?;
        text.push('\n');
        let directory = self.path.parent().unwrap_or(&self.path);
        fs::create_dir_all(directory).map_err(|error| self.refuse(&error))?;
        files::replace(&self.path, &text).map_err(|error| self.refuse(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{OpName, Shape};
    use crate::tune::entry;

    fn device(driver: &str) -> Device {
        Device {
            name: "a chip".to_owned(),
            backend: "vulkan".to_owned(),
            driver: driver.to_owned(),
            ..Device::default()
        }
    }

    fn case(m: u64) -> Case {
        let shape = Shape::of(&[("m", m), ("n", 64), ("k", 64)]);
        Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap()
    }

    fn timed(tile: u32, time_s: f64) -> Tried {
        let variant = Variant {
            kernel: "matmul/workgroup_tile".to_owned(),
            variant: Tunables::from([("TILE".to_owned(), tile)]),
        };
        let mut tried = entry(&variant, "timed", None);
        tried.time_s_median = Some(time_s);
        tried
    }

    fn tiles(found: &[Variant]) -> Vec<u32> {
        found.iter().map(|found| found.variant["TILE"]).collect()
    }

    fn cache(folder: &tempfile::TempDir) -> Cache {
        Cache {
            path: folder.path().join("below/variants.json"),
        }
    }

    #[test]
    fn a_search_that_had_no_time_for_some_kernel_is_known_to_have_been_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        let left = |kernel: &str| {
            let variant = Variant {
                kernel: kernel.to_owned(),
                variant: Tunables::new(),
            };
            entry(
                &variant,
                "untried",
                Some(format!("{TIME_UP} (and 3 more like it)")),
            )
        };
        // Other variants of a kernel that was looked at are no matter.
        let seen = [timed(32, 1.0), left("matmul/workgroup_tile")];
        cache.keep(&device("1"), &case(64), &seen).unwrap();
        assert!(cache.is_of_all(&device("1"), &case(64)));
        let unseen = [timed(32, 1.0), left("matmul/naive")];
        cache.keep(&device("1"), &case(64), &unseen).unwrap();
        assert!(!cache.is_of_all(&device("1"), &case(64)));
    }

    #[test]
    fn the_best_come_back_best_first_for_the_same_device_driver_and_case_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        let mut small = timed(16, 0.1);
        small.at_case_id = Some("elsewhere".to_owned());
        let tried = [timed(32, 1.1), timed(8, 1.0), timed(16, 2.0), small];
        cache.keep(&device("1"), &case(64), &tried).unwrap();
        assert_eq!(tiles(&cache.recall(&device("1"), &case(64))), [8, 32]);
        assert!(cache.recall(&device("2"), &case(64)).is_empty());
        assert!(cache.recall(&device("1"), &case(65)).is_empty());
    }

    #[test]
    fn a_later_search_replaces_what_was_known_of_its_case_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        for m in [64, 65] {
            cache
                .keep(&device("1"), &case(m), &[timed(8, 1.0)])
                .unwrap();
        }
        cache
            .keep(&device("1"), &case(64), &[timed(32, 0.5)])
            .unwrap();
        assert_eq!(tiles(&cache.recall(&device("1"), &case(64))), [32]);
        assert_eq!(tiles(&cache.recall(&device("1"), &case(65))), [8]);
        // A search that timed nothing takes nothing away.
        cache.keep(&device("1"), &case(65), &[]).unwrap();
        assert_eq!(tiles(&cache.recall(&device("1"), &case(65))), [8]);
    }

    #[test]
    fn a_changed_source_a_foreign_kernel_and_a_forgotten_variant_are_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        let mut foreign = timed(8, 0.1);
        foreign.kernel = "matmul/cublas".to_owned();
        let tried = [foreign, timed(8, 1.0), timed(16, 1.1)];
        cache.keep(&device("1"), &case(64), &tried).unwrap();
        assert_eq!(cache.entries().len(), 2);
        let best = cache.recall(&device("1"), &case(64)).remove(0);
        cache.forget(&device("1"), &case(64), &best).unwrap();
        assert_eq!(tiles(&cache.recall(&device("1"), &case(64))), [16]);
        let text = fs::read_to_string(cache.path()).unwrap();
        let sha256 = cache.entries()[0].shader_sha256.clone();
        fs::write(cache.path(), text.replace(&sha256, &"0".repeat(64))).unwrap();
        assert!(cache.recall(&device("1"), &case(64)).is_empty());
    }

    #[test]
    fn an_unreadable_file_keeps_nothing_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder);
        fs::create_dir_all(cache.path().parent().unwrap()).unwrap();
        fs::write(cache.path(), "{\"entries\": [{").unwrap();
        assert!(cache.recall(&device("1"), &case(64)).is_empty());
        cache
            .keep(&device("1"), &case(64), &[timed(8, 1.0)])
            .unwrap();
        assert_eq!(cache.clear().unwrap(), 1);
        assert_eq!(cache.clear().unwrap(), 0);
    }
}
