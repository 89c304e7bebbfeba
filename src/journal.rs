//! What a run has learnt so far, on disk after every case, so that a run that was cut off goes on
//! where it was.
//!
//! JSON Lines: the first line says what the run is, each further one holds an outcome. The file lies
//! in the report folder and goes once the report is there.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::report::Outcome;

/// How the names of these files begin and end.
const PREFIX: &str = ".chipmark-";
const ENDING: &str = ".unfinished.jsonl";

/// What must be equal for one run to go on where another stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the machine: what two of them measured is no one report, however alike they are.
    pub machine: String,
    /// Version and commit of the program.
    pub tool: String,
    /// SHA-256 of the suite.
    pub suite_sha256: String,
    /// The cases, after filter and shard.
    pub cases_sha256: String,
    /// Runners as asked for.
    pub runners: Vec<String>,
    /// Device and API as asked for.
    pub device: Option<String>,
    /// API as asked for.
    pub backend: Option<String>,
    /// Whether kernels keep their checks.
    pub checks: bool,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    identity: Identity,
    seed: u32,
    started_at: String,
    /// Name, driver and address of each runner's device, once they are open.
    devices: Vec<String>,
}

/// The file of a run under way.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// What a run that was cut off left behind.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// Its file.
    pub path: PathBuf,
    /// Seed of its inputs.
    pub seed: u32,
    /// When it began.
    pub started_at: String,
    /// Its runners' devices.
    pub devices: Vec<String>,
    /// What it had learnt.
    pub outcomes: Vec<Outcome>,
}

fn refuse(path: &Path, error: &std::io::Error) -> Error {
    Error::usage(format!("{}: {error}", path.display()))
}

impl Journal {
    /// Starts a file for a run in `folder`, with what is known already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn start(
        folder: &Path,
        identity: &Identity,
        seed: u32,
        started_at: &str,
        devices: &[String],
        outcomes: &[Outcome],
    ) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| refuse(folder, &error))?;
        let mut file = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(ENDING)
            .tempfile_in(folder)
            .map_err(|error| refuse(folder, &error))?;
        let head = Head {
            identity: identity.clone(),
            seed,
            started_at: started_at.to_owned(),
            devices: devices.to_vec(),
        };
        let mut text = line(&head)?;
        for outcome in outcomes {
            text += &line(outcome)?;
        }
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| refuse(file.path(), &error))?;
        let (file, path) = file.keep().map_err(|error| refuse(folder, &error.error))?;
        // Held while the run goes on, so that no other takes it for one that was cut off. File systems
        // without locks have none of that.
        let _ = file.try_lock();
        Ok(Self { path, file })
    }

    /// Adds an outcome.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, outcome: &Outcome) -> Result<()> {
        let text = line(outcome)?;
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|error| refuse(&self.path, &error))
    }

    /// Removes the file: the report holds everything now.
    pub fn finish(self) {
        // If it cannot be removed it is offered for `--resume` once more, which does no harm.
        let _ = fs::remove_file(&self.path);
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn line(value: &impl Serialize) -> Result<String> {
    let mut text =
        serde_json::to_string(value).map_err(|error| Error::internal(error.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// The newest unfinished run in `folder` that is the same as `identity`, and that nobody is at work on. A
/// last line that was cut off is left out: its case runs again.
///
/// # Errors
/// A usage error where there is none, naming those that are there and what differs.
pub fn find(folder: &Path, identity: &Identity) -> Result<Unfinished> {
    let mut found: Vec<(Head, Unfinished)> = Vec::new();
    let mut under_way = None;
    for entry in fs::read_dir(folder).map_err(|error| refuse(folder, &error))? {
        let path = entry.map_err(|error| refuse(folder, &error))?.path();
        let is_journal = path
            .file_name()
            .and_then(std::ffi::OsStr::to_str)
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(ENDING));
        if !is_journal {
            continue;
        }
        if is_under_way(&path) {
            under_way = Some(path);
        } else if let Some(read) = read(&path) {
            found.push(read);
        }
    }
    found.sort_by(|a, b| a.0.started_at.cmp(&b.0.started_at));
    if let Some((_, unfinished)) = found
        .iter()
        .rev()
        .find(|(head, _)| head.identity == *identity)
    {
        return Ok(unfinished.clone());
    }
    Err(Error::usage(match (found.last(), under_way) {
        (None, Some(path)) => format!(
            "--resume: the run of {} is still under way; start another without --resume",
            path.display()
        ),
        (None, None) => format!(
            "--resume: {} holds no unfinished run; start one without --resume",
            folder.display()
        ),
        (Some((head, unfinished)), _) => format!(
            "--resume: the unfinished run of {} in {} differs in {}; repeat its command, or start anew without --resume",
            head.started_at,
            unfinished.path.display(),
            differences(&head.identity, identity)
        ),
    }))
}

/// Whether a process still writes a run's file.
fn is_under_way(path: &Path) -> bool {
    let locked = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    File::open(path).is_ok_and(locked)
}

fn differences(one: &Identity, other: &Identity) -> String {
    let mut names = Vec::new();
    for (name, differs) in [
        (
            "machine (CHIPMARK_MACHINE names it where a host name does not last)",
            one.machine != other.machine,
        ),
        ("the program's version or commit", one.tool != other.tool),
        ("suite", one.suite_sha256 != other.suite_sha256),
        (
            "filter or shard",
            one.suite_sha256 == other.suite_sha256 && one.cases_sha256 != other.cases_sha256,
        ),
        ("runners", one.runners != other.runners),
        (
            "device",
            one.device != other.device || one.backend != other.backend,
        ),
        ("checks", one.checks != other.checks),
    ] {
        if differs {
            names.push(name);
        }
    }
    names.join(", ")
}

fn read(path: &Path) -> Option<(Head, Unfinished)> {
    let mut lines = BufReader::new(File::open(path).ok()?).lines();
    let head: Head = serde_json::from_str(&lines.next()?.ok()?).ok()?;
    let outcomes = lines
        .map_while(|line| serde_json::from_str(&line.ok()?).ok())
        .collect();
    let unfinished = Unfinished {
        path: path.to_owned(),
        seed: head.seed,
        started_at: head.started_at.clone(),
        devices: head.devices.clone(),
        outcomes,
    };
    Some((head, unfinished))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Case, Dtype, OpName, Shape};
    use crate::report::{OutcomeStatus, unmeasured};

    fn identity() -> Identity {
        Identity {
            machine: "m".to_owned(),
            tool: "0.1.0 abc".to_owned(),
            suite_sha256: "s".to_owned(),
            cases_sha256: "c".to_owned(),
            runners: vec!["host".to_owned()],
            device: None,
            backend: None,
            checks: false,
        }
    }

    fn outcome(n: u64) -> Outcome {
        let case = Case::new(OpName::Copy, &Shape::of(&[("n", n)]), Dtype::F32).unwrap();
        unmeasured(&case, "host", OutcomeStatus::Skipped, "why".to_owned())
    }

    #[test]
    fn a_cut_off_run_is_found_with_all_whole_outcomes() {
        let folder = tempfile::tempdir().unwrap();
        let start = |at: &str, known: &[Outcome]| {
            Journal::start(
                folder.path(),
                &identity(),
                7,
                at,
                &["cpu".to_owned()],
                known,
            )
            .unwrap()
        };
        start("2026-01-01T00:00:00Z", &[]);
        let mut journal = start("2026-01-02T00:00:00Z", &[outcome(4)]);
        journal.add(&outcome(8)).unwrap();
        // The process dies in the middle of a line.
        let half = &line(&outcome(12)).unwrap()[..40];
        journal.file.write_all(half.as_bytes()).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        let found = find(folder.path(), &identity()).unwrap();
        assert_eq!(found.outcomes, [outcome(4), outcome(8)]);
        assert_eq!(
            (found.seed, found.started_at.as_str()),
            (7, "2026-01-02T00:00:00Z")
        );
        fs::remove_file(path).unwrap();
        assert!(
            find(folder.path(), &identity())
                .unwrap()
                .outcomes
                .is_empty()
        );
    }

    #[test]
    fn another_run_is_not_gone_on_with_and_the_difference_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let none = find(folder.path(), &identity()).unwrap_err().message;
        assert!(none.contains("no unfinished run"), "{none}");
        Journal::start(
            folder.path(),
            &identity(),
            7,
            "2026-01-01T00:00:00Z",
            &[],
            &[],
        )
        .unwrap();
        let mut other = identity();
        other.suite_sha256 = "t".to_owned();
        other.checks = true;
        let message = find(folder.path(), &other).unwrap_err().message;
        assert!(message.contains("suite, checks"), "{message}");
        // What another machine measured is of another device, however alike they are.
        let mut other = identity();
        other.machine = "n".to_owned();
        let message = find(folder.path(), &other).unwrap_err().message;
        assert!(message.contains("differs in machine ("), "{message}");
    }

    #[test]
    fn a_run_under_way_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = "2026-01-01T00:00:00Z";
        let journal = Journal::start(folder.path(), &identity(), 7, at, &[], &[]).unwrap();
        let message = find(folder.path(), &identity()).unwrap_err().message;
        assert!(message.contains("still under way"), "{message}");
        drop(journal);
        assert_eq!(find(folder.path(), &identity()).unwrap().started_at, at);
    }
}
