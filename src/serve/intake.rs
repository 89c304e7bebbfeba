//! Takes reports in: whole and believed, or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::chips::Chips;
use crate::error::one_line;
use crate::files;
use crate::report::{self, Report};
use crate::store;

use super::snapshot::Snapshot;

/// What came of a report that was sent.
pub(super) enum Taken {
    /// It lies at a place now.
    Stored { place: String, report_id: String },
    /// It has been lying there.
    Known { place: String, report_id: String },
    /// It is no report that can be read.
    Unreadable(String),
    /// It is a report that nobody should believe.
    Doubted(String),
    /// The fault is here.
    Failed(String),
}

/// Reports that are on their way at a time: each may be as large as a report can be.
const TURNS: usize = 4;

/// A report whose place is known.
struct Known {
    place: String,
    /// When it was taken in, if it was sent here.
    taken: Option<Instant>,
}

/// The reports that are known, by id: one at a time is stored, so that the same one sent twice at the
/// same moment is stored once.
pub(super) struct Intake {
    known: Mutex<BTreeMap<String, Known>>,
    turns: Arc<Semaphore>,
}

fn listed(snapshot: &Snapshot) -> impl Iterator<Item = (String, Known)> {
    snapshot.places.iter().map(|(id, place)| {
        let (place, taken) = (place.clone(), None);
        (id.clone(), Known { place, taken })
    })
}

impl Intake {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self {
            known: Mutex::new(listed(snapshot).collect()),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// The right to send a report, for as long as it is held.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lies in the folder, others' additions and removals included. What was taken in since the
    /// folder was read stays known.
    pub(super) fn learn(&self, snapshot: &Snapshot) {
        let mut known = self.known();
        known.retain(|_, one| one.taken.is_some_and(|taken| taken >= snapshot.began));
        known.extend(listed(snapshot));
    }

    /// Whether a report lies at a place below the folder.
    pub(super) fn has(&self, place: &str) -> bool {
        self.known().values().any(|one| one.place == place)
    }

    /// Judges a report and stores it in the folder, as it was sent to the letter.
    pub(super) fn take(&self, bytes: &[u8], folder: &Path) -> Taken {
        let text = match files::text(bytes) {
            Ok(text) => text,
            Err(error) => return Taken::Unreadable(format!("it is not JSON: {error}")),
        };
        let (report, content_id) = match Report::parse(&text, "the report") {
            Ok(parsed) => parsed,
            Err(error) => return Taken::Unreadable(error.to_string()),
        };
        let chips = match Chips::load(None) {
            Ok(chips) => chips,
            Err(error) => return Taken::Failed(error.to_string()),
        };
        if let Some(doubt) = store::doubt(&report, &content_id, &chips) {
            return Taken::Doubted(format!("the report: {doubt}"));
        }
        let mut known = self.known();
        let report_id = report.report_id.clone();
        if let Some(Known { place, .. }) = known.get(&report_id) {
            // Somebody may have removed it since the folder was read.
            if folder.join(place).is_file() {
                let place = place.clone();
                return Taken::Known { place, report_id };
            }
        }
        let path = match report::write_text(&report, &text, folder) {
            Ok(path) => path,
            Err(error) => return Taken::Failed(one_line(&error.to_string())),
        };
        let below = path.strip_prefix(folder).unwrap_or(&path);
        let parts = below
            .components()
            .map(|part| part.as_os_str().to_string_lossy());
        let place = parts.collect::<Vec<_>>().join("/");
        let taken = Some(Instant::now());
        let one = Known {
            place: place.clone(),
            taken,
        };
        known.insert(report_id.clone(), one);
        Taken::Stored { place, report_id }
    }
}
