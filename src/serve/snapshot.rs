//! A folder as it was at one moment, ready to be answered from.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use hyper::body::Bytes;
use sha2::{Digest, Sha256};

use crate::dashboard;
use crate::error::Result;
use crate::export::openmetrics;
use crate::store::Store;

/// A file of the site.
pub(super) struct File {
    pub(super) content: Bytes,
    pub(super) media_type: &'static str,
    /// Names the content, in quotes as a header has it.
    pub(super) tag: String,
}

/// The site, the metrics and what they are of.
pub(super) struct Snapshot {
    /// By place.
    pub(super) files: BTreeMap<String, File>,
    /// In the text format of OpenMetrics.
    pub(super) metrics: Bytes,
    /// Which reports it is of: the same for the same files.
    pub(super) version: String,
    /// When the folder was begun to be read.
    pub(super) began: Instant,
    /// The place of each report, by its id.
    pub(super) places: BTreeMap<String, String>,
    /// Files that no figure was taken from.
    pub(super) rejected_count: usize,
}

impl Snapshot {
    /// Reads a folder and makes everything of it.
    pub(super) fn of(folder: &Path, command: &str) -> Result<Self> {
        let began = Instant::now();
        let store = Store::read(folder)?;
        let mut seen = Sha256::new();
        for stored in &store.reports {
            seen.update(format!("{}\n{}\n", stored.place, stored.report.report_id));
        }
        for rejected in &store.rejected {
            seen.update(format!("{}\n{}\n", rejected.place, rejected.reason));
        }
        let version = short(&seen.finalize());
        let files = dashboard::files(&store, command, Some(&version))?
            .into_iter()
            .map(|(place, content)| {
                let media_type = match place.rsplit('.').next() {
                    Some("html") => "text/html; charset=utf-8",
                    Some("css") => "text/css; charset=utf-8",
                    Some("js") => "text/javascript; charset=utf-8",
                    Some("svg") => "image/svg+xml",
                    _ => "text/plain; charset=utf-8",
                };
                let tag = format!("\"{}\"", short(&Sha256::digest(&content)));
                let content = Bytes::from(content);
                let file = File {
                    content,
                    media_type,
                    tag,
                };
                (place, file)
            })
            .collect();
        let (stored, left_out) = (store.reports.len(), store.rejected.len());
        let metrics = openmetrics::served(&dashboard::newest(&store), stored, left_out)?;
        let place = |stored: crate::store::Stored| (stored.report.report_id, stored.place);
        Ok(Self {
            files,
            metrics: metrics.into(),
            version,
            began,
            places: store.reports.into_iter().map(place).collect(),
            rejected_count: left_out,
        })
    }

    /// What it holds, in words.
    pub(super) fn told(&self) -> String {
        let count = |count: usize, what: &str| {
            format!("{count} {what}{}", if count == 1 { "" } else { "s" })
        };
        format!(
            "{}, {} left out",
            count(self.places.len(), "report"),
            count(self.rejected_count, "file")
        )
    }
}

/// Enough of a digest that two contents never meet.
fn short(digest: &[u8]) -> String {
    digest[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
