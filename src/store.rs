//! A folder of reports: what of it can be believed, and why the rest cannot.
//!
//! The report files are the truth and are never changed; whatever is made of them is made anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;
use serde::Serialize;

use crate::chips::Chips;
use crate::error::{Error, Result};
use crate::report::{Report, slug};
use crate::{consistency, datasheet};

/// The largest file that is read: fifty times the largest report of a suite of chipmark's.
pub const LARGEST_FILE_BYTES: u64 = 64 << 20;

/// A report that passed every check.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its path below the folder, with `/` between the parts.
    pub place: String,
    /// What it is of.
    pub platform: Platform,
    /// Its content.
    pub report: Report,
}

/// What was measured: a chip reached through another API, or a processor with other cores, is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Platform {
    /// What people call it.
    pub label: String,
    /// Names it in files and addresses: lower-case letters, digits and hyphens alone.
    pub key: String,
}

/// A file that no figure is taken from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rejected {
    /// Its path below the folder, with `/` between the parts.
    pub place: String,
    /// What speaks against it.
    pub reason: String,
}

/// The files of a folder as they lie there: place, size and when each was changed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<(String, Option<u64>, Option<SystemTime>)>);

/// The reports of a folder and all folders below it.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The good ones, oldest first; of one age, by place.
    pub reports: Vec<Stored>,
    /// The others, by place.
    pub rejected: Vec<Rejected>,
}

impl Store {
    /// Reads every `.json` file. Hidden files and folders are passed over, links are not followed.
    ///
    /// A report is good if it is as it was written, contradicts neither itself nor its chip's
    /// datasheet, and no other file holds the same one.
    ///
    /// # Errors
    /// A usage error when the folder itself cannot be read. A bad file is no error: it is among the
    /// rejected.
    pub fn read(folder: &Path) -> Result<Self> {
        let chips = Chips::load(None)?;
        let mut store = Self::default();
        let mut files = Vec::new();
        walk(folder, "", &mut files, &mut store.rejected)
            .map_err(|error| Error::usage(format!("{}: {error}", folder.display())))?;
        let read: Vec<_> = files
            .into_par_iter()
            .map(|(path, place)| {
                let report = good(&path, &chips);
                (place, report)
            })
            .collect();
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for (place, report) in read {
            let reason = match report {
                Err(reason) => reason,
                Ok(report) => match places.get(&report.report_id) {
                    Some(first) => format!("it is the same report as {first}"),
                    None => {
                        places.insert(report.report_id.clone(), place.clone());
                        store.reports.push(Stored {
                            place,
                            platform: platform(&report),
                            report,
                        });
                        continue;
                    }
                },
            };
            store.rejected.push(Rejected { place, reason });
        }
        store
            .reports
            .sort_by(|a, b| (instant(a), &a.place).cmp(&(instant(b), &b.place)));
        store.rejected.sort();
        store.tell_apart();
        Ok(store)
    }
}

impl Store {
    /// What can be seen of the files without reading them: two that are equal hold the same reports.
    ///
    /// # Errors
    /// Those of the file system, when the folder cannot be read.
    pub fn stamp(folder: &Path) -> std::io::Result<Stamp> {
        let mut files = Vec::new();
        walk(folder, "", &mut files, &mut Vec::new())?;
        let of_file = |(path, place): (PathBuf, String)| {
            let seen = fs::metadata(&path).ok();
            let size = seen.as_ref().map(fs::Metadata::len);
            (place, size, seen.and_then(|seen| seen.modified().ok()))
        };
        Ok(Stamp(files.into_iter().map(of_file).collect()))
    }

    /// Two names can be one key, of letters alone: the later ones get a number.
    fn tell_apart(&mut self) {
        let mut labels: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for stored in &mut self.reports {
            let Platform { label, key } = &mut stored.platform;
            let known = labels.entry(key.clone()).or_default();
            let place = known.iter().position(|one| one == label);
            let place = place.unwrap_or_else(|| {
                known.push(label.clone());
                known.len() - 1
            });
            if place > 0 {
                key.push_str(&format!("-n{}", place + 1));
            }
        }
    }
}

/// What tells devices apart: a chip reached through another API, or another processor or number of its
/// cores, is another.
fn platform(report: &Report) -> Platform {
    let device = &report.device;
    let name = report
        .chip
        .as_ref()
        .map_or_else(|| plain(&device.name), |chip| plain(&chip.name));
    let base = report
        .chip
        .as_ref()
        .map_or_else(|| slug(&device.name), |chip| slug(&chip.id));
    let mut key = format!("{base}-{}", slug(&device.backend));
    let mut label = format!("{name}, {}", plain(&device.backend));
    if device.device_type == "cpu" {
        let cores = report.host.cpu_count;
        key.push_str(&format!("-{cores}"));
        label.push_str(&format!(
            ", {cores} {}",
            if cores == 1 { "core" } else { "cores" }
        ));
        // A software driver is as fast as the processor that it runs on, and does not name it.
        let cpu = &report.host.cpu;
        if *cpu != device.name && !cpu.is_empty() {
            key.push_str(&format!("-{}", slug(cpu)));
            label.push_str(&format!(" of {}", plain(cpu)));
        }
    }
    Platform { label, key }
}

/// A name as a label: without trade marks or the version of a compiler in brackets, and no longer than
/// a line.
fn plain(name: &str) -> String {
    let name = name.replace("(R)", "").replace("(TM)", "");
    let name = name.split(" (").next().unwrap_or_default().trim();
    match name.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None if name.is_empty() => "unnamed".to_owned(),
        None => name.to_owned(),
    }
}

fn instant(stored: &Stored) -> Option<jiff::Timestamp> {
    stored.report.started_at.parse().ok()
}

/// Finds the files; what is not one that could be a report is among the rejected with its reason.
fn walk(
    folder: &Path,
    below: &str,
    files: &mut Vec<(PathBuf, String)>,
    rejected: &mut Vec<Rejected>,
) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let place = format!("{below}{name}");
        let path = entry.path();
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Err(error) = walk(&path, &format!("{place}/"), files, rejected) {
                let reason = error.to_string();
                rejected.push(Rejected { place, reason });
            }
        } else if kind.is_file() && is_json {
            files.push((path, place));
        } else if kind.is_symlink() {
            rejected.push(Rejected {
                place,
                reason: "it is a link, which is not followed; put the file itself here".to_owned(),
            });
        }
    }
    Ok(())
}

/// The report in a file, or the first thing that speaks against it.
fn good(path: &Path, chips: &Chips) -> std::result::Result<Report, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST_FILE_BYTES {
        return Err(format!(
            "it has {size} bytes, more than the {LARGEST_FILE_BYTES} that a report may have"
        ));
    }
    let (report, expected) = Report::read_with_id(path).map_err(|error| {
        let prefix = format!("{}: ", path.display());
        let message = error.to_string();
        message.strip_prefix(&prefix).unwrap_or(&message).to_owned()
    })?;
    doubt(&report, &expected, chips).map_or(Ok(report), Err)
}

/// Why a report that could be read should not be believed, given the id of its content.
#[must_use]
pub fn doubt(report: &Report, content_id: &str, chips: &Chips) -> Option<String> {
    if report.report_id != content_id {
        return Some(
            "it was changed after it was written: report_id is not that of its content".to_owned(),
        );
    }
    if report.started_at.parse::<jiff::Timestamp>().is_err() {
        return Some(format!(
            "started_at is {:?}, which is no time",
            report.started_at
        ));
    }
    let mut found = consistency::violations(report);
    found.extend(datasheet::contradictions(report, chips));
    let first = found.first()?;
    Some(match found.len() {
        1 => first.clone(),
        count => format!("{first} (and {} more)", count - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of_a_real_report(to: &Path) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("reports/swiftshader-device/2026-11-23-vulkan.json");
        fs::copy(from, to).unwrap();
    }

    #[test]
    fn bad_files_are_listed_with_reasons_and_good_ones_kept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("chip/deeper")).unwrap();
        fs::create_dir_all(at(".journal")).unwrap();
        copy_of_a_real_report(&at("chip/deeper/good.json"));
        copy_of_a_real_report(&at("twice.json"));
        copy_of_a_real_report(&at(".journal/hidden.json"));
        let text = fs::read_to_string(at("twice.json")).unwrap();
        fs::write(at("cut.json"), &text[..text.len() / 2]).unwrap();
        fs::write(
            at("changed.json"),
            text.replacen("\"duration_s\": ", "\"duration_s\": 1", 1),
        )
        .unwrap();
        fs::write(at("foreign.json"), "{\"benchmarks\": []}").unwrap();
        fs::write(
            at("huge.json"),
            text.replacen("\"median\": ", "\"median\": 1e308", 1),
        )
        .unwrap();
        fs::write(at("notes.txt"), "not looked at").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/passwd", at("link.json")).unwrap();

        let store = Store::read(folder.path()).unwrap();
        let places: Vec<_> = store.reports.iter().map(|s| s.place.as_str()).collect();
        assert_eq!(places, ["chip/deeper/good.json"]);
        let reason = |place: &str| {
            let found = store.rejected.iter().find(|r| r.place == place);
            found.map(|r| r.reason.clone()).unwrap_or_default()
        };
        assert!(reason("twice.json").contains("same report as chip/deeper/good.json"));
        assert!(
            reason("cut.json").contains("middle of the JSON"),
            "{}",
            reason("cut.json")
        );
        assert!(reason("changed.json").contains("changed after"));
        assert!(reason("foreign.json").contains("no chipmark report"));
        assert!(!reason("huge.json").is_empty());
        assert_eq!(store.rejected.len(), if cfg!(unix) { 6 } else { 5 });
        assert!(Store::read(&at("nowhere")).is_err());
    }
}
