//! `chipmark publish`: reports into a folder of published ones, to the byte as they were written (or to
//! the letter, where a shell recoded them), and only what a stranger can rely on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::chips::Chips;
use crate::error::{Error, Result};
use crate::files;
use crate::report::{self, OutcomeStatus, Report, Status};
use crate::store::{self, Store};

/// Why a report that can be believed is still not published.
#[must_use]
pub fn objection(report: &Report) -> Option<String> {
    let count = report.with_status(OutcomeStatus::Measured).count();
    match report.tool.commit.as_deref() {
        None => Some(
            "it does not say which commit of the program made it, so nobody can repeat it; build from a clone"
                .to_owned(),
        ),
        Some(commit) if commit.ends_with("-dirty") => Some(format!(
            "it was made by a changed tree ({commit}), so nobody can repeat it; commit, build and measure again"
        )),
        Some(_) if report.status == Status::Interrupted => {
            Some("it was interrupted; go on with `chipmark run --resume` first".to_owned())
        }
        Some(_) if count == 0 => Some("no case of it was measured".to_owned()),
        Some(_) => None,
    }
}

/// Puts a report into a folder, under the name that a run gives, and returns its path.
///
/// # Errors
/// A usage error where the file is no report, cannot be believed, cannot be repeated or is there
/// already.
pub fn publish(path: &Path, folder: &Path) -> Result<PathBuf> {
    let refuse = |what: String| Error::usage(format!("{}: {what}", path.display()));
    let text = files::read_text(path).map_err(|error| refuse(error.to_string()))?;
    let (report, content_id) = Report::read_with_id(path)?;
    let doubt = store::doubt(&report, &content_id, &Chips::load(None)?);
    if let Some(reason) = doubt.or_else(|| objection(&report)) {
        return Err(refuse(reason));
    }
    fs::create_dir_all(folder).map_err(|error| refuse(error.to_string()))?;
    let there = Store::read(folder)?;
    let mut known = there.reports.iter();
    if let Some(known) = known.find(|one| one.report.report_id == report.report_id) {
        return Err(refuse(format!(
            "it is published already, as {}",
            folder.join(&known.place).display()
        )));
    }
    report::write_text(&report, &text, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("reports/swiftshader-device/2026-11-23-vulkan.json")
    }

    #[test]
    fn a_report_is_published_to_the_byte_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = publish(&published(), folder.path()).unwrap();
        assert!(path.ends_with("swiftshader-device/2026-11-23-vulkan.json"));
        assert_eq!(fs::read(&path).unwrap(), fs::read(published()).unwrap());
        let again = publish(&path, folder.path()).unwrap_err().message;
        assert!(again.contains("published already"), "{again}");
    }

    #[test]
    fn a_report_that_a_shell_recoded_is_the_same_report_and_published_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let redirected = folder.path().join("r.json");
        let text = fs::read_to_string(published()).unwrap();
        let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
        let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
        fs::write(&redirected, bytes).unwrap();
        let path = publish(&redirected, &folder.path().join("into")).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }

    #[test]
    fn what_nobody_could_repeat_or_believe_is_refused_with_the_remedy() {
        let (mut report, _) = Report::read_with_id(&published()).unwrap();
        assert_eq!(objection(&report), None);
        let mut refused = |change: &dyn Fn(&mut Report)| {
            let kept = report.clone();
            change(&mut report);
            let reason = objection(&report);
            report = kept;
            reason.unwrap()
        };
        assert!(refused(&|r| r.tool.commit = None).contains("from a clone"));
        assert!(refused(&|r| r.tool.commit = Some("abc-dirty".into())).contains("commit, build"));
        assert!(refused(&|r| r.status = Status::Interrupted).contains("--resume"));
        assert!(refused(&|r| r.outcomes.clear()).contains("no case"));

        let folder = tempfile::tempdir().unwrap();
        let altered = folder.path().join("altered.json");
        let text = fs::read_to_string(published()).unwrap();
        fs::write(
            &altered,
            text.replacen("\"duration_s\": ", "\"duration_s\": 1", 1),
        )
        .unwrap();
        let complaint = publish(&altered, &folder.path().join("into")).unwrap_err();
        assert!(
            complaint.message.contains("changed after"),
            "{}",
            complaint.message
        );
        assert!(!folder.path().join("into").exists());
    }
}
