//! A site of a folder of reports: static pages that work from disk, offline and without a server.
//!
//! Tables are whole without scripts; the script of the site sorts and filters them and draws charts of
//! the same figures. Whatever a report says is text to both: it is escaped here, and the pages forbid
//! scripts that are not the site's own.

mod chip;
mod compare;
mod cost;
mod history;
mod overview;
mod page;
mod reports;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use crate::chips::Chips;
use crate::error::{Error, Result};
use crate::history::{Series, Terms};
use crate::report::Report;
use crate::store::Store;

use page::{Made, Page};
pub(crate) use reports::encoded;

const STYLE: &str = include_str!("site.css");
const SCRIPT: &str = include_str!("site.js");

/// Lies in every site, so that a folder of somebody else's is not taken for an older one.
const MARKER: &str = ".chipmark-site";

/// What was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Pages written.
    pub page_count: usize,
    /// Reports that they show.
    pub report_count: usize,
    /// Files that they do not.
    pub rejected_count: usize,
}

/// The library that draws the charts, as the crate `plotly` brings it along; what typesets formulas
/// beside it is left behind.
fn plotly() -> Result<String> {
    let elements = plotly::Plot::offline_js_sources();
    let script = elements
        .split_once("<script type=\"text/javascript\">")
        .and_then(|(_, rest)| rest.split_once("</script>\n"))
        .map(|(script, _)| script.to_owned());
    script.ok_or_else(|| Error::internal("the crate plotly brings no script of its charts"))
}

/// Writes the site into a folder, which is made where it is missing. An older site there is replaced
/// in one step; a folder with anything else in it is refused.
///
/// `command` is the command line that every page names.
///
/// # Errors
/// A usage error where the folder holds something else or cannot be written.
pub fn build(store: &Store, to: &Path, command: &str) -> Result<Built> {
    let refuse = |error: io::Error| Error::usage(format!("{}: {error}", to.display()));
    if !may_be_replaced(to).map_err(refuse)? {
        return Err(Error::usage(format!(
            "{}: the folder holds files that are no site of chipmark's; name another or an empty one",
            to.display()
        )));
    }
    let parent = match to.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(refuse)?;
    let fresh = tempfile::Builder::new()
        .prefix(".chipmark-site-")
        .tempdir_in(parent)
        .map_err(refuse)?;
    let files = files(store, command, None)?;
    let built = Built {
        page_count: files
            .iter()
            .filter(|(place, _)| place.ends_with(".html"))
            .count(),
        report_count: store.reports.len(),
        rejected_count: store.rejected.len(),
    };
    let site = fresh.path().join("site");
    for folder in ["assets", "chips", "data"] {
        fs::create_dir_all(site.join(folder)).map_err(refuse)?;
    }
    files
        .par_iter()
        .try_for_each(|(place, text)| fs::write(site.join(place), text))
        .map_err(refuse)?;
    // On one file system a change of name is one step: nobody sees half a site.
    if to.exists() {
        fs::rename(to, fresh.path().join("old")).map_err(refuse)?;
    }
    fs::rename(&site, to).map_err(refuse)?;
    Ok(built)
}

/// Of every device one report with the newest that is known of it, whichever report it is from; oldest
/// first.
#[must_use]
pub fn newest(store: &Store) -> Vec<(String, Report)> {
    let mut views = view::views(store);
    views.sort_by_key(|view| view.reports.first().copied());
    let named = |view: view::View| (view.label, view.report);
    views.into_iter().map(named).collect()
}

fn may_be_replaced(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(folder.join(MARKER).exists() || entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Every file of the site: its place, with `/` between the parts, and its content. All places are names
/// of ours or keys of views.
///
/// A site that is served has a `version`: its pages ask the server now and then whether it is still that
/// one, and link to the reports.
///
/// # Errors
/// Internal ones.
pub fn files(store: &Store, command: &str, version: Option<&str>) -> Result<Vec<(String, String)>> {
    let chips = Chips::load(None)?;
    let views = view::views(store);
    let made = Made {
        command,
        version,
        report_count: store.reports.len(),
        rejected_count: store.rejected.len(),
    };
    let found = crate::history::history(store, &Terms::default());
    let top: [Page<'_>; 5] = [
        overview::page(&views, store.reports.len(), store.rejected.len())?,
        compare::page(&views)?,
        cost::page(&views, &chips)?,
        history::page(&found)?,
        reports::page(store, &views, version.is_some())?,
    ];
    let mut files: Vec<(String, String)> = top
        .iter()
        .map(|page| (page.file.into(), page::document(page, &made)))
        .collect();
    let of_views: Result<Vec<_>> = views
        .par_iter()
        .map(|view| {
            let page = page::document(&chip::page(view, store)?, &made);
            let cases = page::json(&chip::cases(view))?;
            let key = &view.key;
            Ok([
                (format!("chips/{key}.html"), page),
                (
                    format!("data/{key}.js"),
                    format!("chipmark.put(\"{key}\", {cases});\n"),
                ),
            ])
        })
        .collect();
    files.extend(of_views?.into_iter().flatten());
    for view in &views {
        let own = found
            .series
            .iter()
            .filter(|series| series.platform.key == view.key)
            .map(|series| (history::name(series), series))
            .collect::<BTreeMap<String, &Series>>();
        let key = format!("history-{}", view.key);
        let text = format!("chipmark.put(\"{key}\", {});\n", page::json(&own)?);
        files.push((format!("data/{key}.js"), text));
    }
    let icon = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 24 24\" color=\"#2f6fed\">{}</svg>\n",
        page::MARK
    );
    files.extend([
        ("assets/site.css".into(), STYLE.to_owned()),
        ("assets/site.js".into(), SCRIPT.to_owned()),
        ("assets/plotly.js".into(), plotly()?),
        ("assets/icon.svg".into(), icon),
        (
            MARKER.into(),
            "Made by `chipmark dashboard`, which may replace this folder.\n".to_owned(),
        ),
    ]);
    Ok(files)
}
