//! What all pages share: their frame, their tables and the data of their charts.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

use crate::error::{Error, Result};

/// The pages that every page links to: file, name.
const PAGES: [(&str, &str); 5] = [
    ("index.html", "Overview"),
    ("compare.html", "Compare"),
    ("cost.html", "Cost"),
    ("history.html", "History"),
    ("reports.html", "Reports"),
];

/// What every page says of how it came about.
pub(super) struct Made<'a> {
    /// The command line.
    pub(super) command: &'a str,
    /// Which state of the folder a served site shows; none for one on disk.
    pub(super) version: Option<&'a str>,
    /// Reports behind the site.
    pub(super) report_count: usize,
    /// Files that were left out.
    pub(super) rejected_count: usize,
}

/// A page: its place in the site, its title and what is on it.
pub(super) struct Page<'a> {
    /// `../` as often as its folder lies below the site's.
    pub(super) root: &'a str,
    /// Which of the pages of the site it is; empty for others.
    pub(super) file: &'a str,
    /// Its title.
    pub(super) title: &'a str,
    /// One sentence below the title.
    pub(super) lead: Markup,
    /// What is on it.
    pub(super) body: Markup,
}

/// The whole document.
pub(super) fn document(page: &Page<'_>, made: &Made<'_>) -> String {
    let commit = option_env!("CHIPMARK_COMMIT").unwrap_or("of an unknown commit");
    let root = page.root;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Names in reports are strangers' words: even if one got through as a script, it is not run.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; img-src 'self' file: data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (page.title) " - chipmark" }
                link rel="icon" href={ (root) "assets/icon.svg" } type="image/svg+xml";
                link rel="stylesheet" href={ (root) "assets/site.css" };
                script src={ (root) "assets/site.js" } defer {}
            }
            body data-root=(root) data-version=[made.version] {
                a.skip href="#main" { "Skip to content" }
                header.site {
                    a.mark href={ (root) "index.html" } {
                        svg aria-hidden="true" viewBox="0 0 24 24" { (PreEscaped(MARK)) }
                        "chipmark"
                    }
                    nav aria-label="Pages" {
                        @for (file, name) in PAGES {
                            a href={ (root) (file) } aria-current=[(file == page.file).then_some("page")] { (name) }
                        }
                    }
                    button.theme type="button" hidden aria-label="Switch between light and dark" { "◐" }
                }
                main id="main" tabindex="-1" {
                    div.title {
                        h1 { (page.title) }
                        p.lead { (page.lead) }
                    }
                    (page.body)
                }
                footer.site {
                    p {
                        "Made by " code { (made.command) } ", chipmark " (env!("CARGO_PKG_VERSION")) " "
                        code { (commit) } ", of " (made.report_count) " reports"
                        @if made.rejected_count > 0 {
                            "; " a href={ (root) "reports.html#left-out" } { (made.rejected_count) " files left out" }
                        }
                        "."
                    }
                    p { "Every figure was verified before it was timed. Nothing on this site comes from elsewhere." }
                }
            }
        }
    }
    .into_string()
}

/// Three bars under a roof.
pub(super) const MARK: &str = r#"<path d="M2 9 9 3h13" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round"/><path d="M5 21v-6M12 21V9M19 21v-9" stroke="currentColor" stroke-width="3.5" stroke-linecap="round"/>"#;

/// A column of a table.
pub(super) struct Column {
    name: &'static str,
    number: bool,
    help: &'static str,
}

/// A column of words.
pub(super) const fn words(name: &'static str) -> Column {
    Column {
        name,
        number: false,
        help: "",
    }
}

/// A column of numbers, with what they are.
pub(super) const fn numbers(name: &'static str, help: &'static str) -> Column {
    Column {
        name,
        number: true,
        help,
    }
}

/// A cell: what people read, and behind it what sorts and goes into a CSV file.
#[derive(Clone, Default)]
pub(super) struct Cell {
    text: String,
    value: Option<String>,
    link: Option<String>,
    class: &'static str,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    pub(super) fn number(text: impl Into<String>, value: f64) -> Self {
        Self {
            text: text.into(),
            value: Some(value.to_string()),
            ..Self::default()
        }
    }

    /// A number that may not be known.
    pub(super) fn known(value: Option<f64>, text: impl Fn(f64) -> String) -> Self {
        value.map_or_else(Self::absent, |value| Self::number(text(value), value))
    }

    pub(super) fn absent() -> Self {
        Self {
            text: "–".to_owned(),
            value: Some(String::new()),
            ..Self::default()
        }
    }

    pub(super) fn link(mut self, to: impl Into<String>) -> Self {
        self.link = Some(to.into());
        self
    }

    pub(super) fn class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }
}

/// A row, with what filters look at: name, value.
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    pub(super) facets: Vec<(&'static str, String)>,
}

impl Row {
    pub(super) fn of(cells: Vec<Cell>) -> Self {
        Self {
            cells,
            facets: Vec::new(),
        }
    }
}

/// A table that sorts, filters and can be taken along as CSV. Without scripts it is all there.
pub(super) fn table(id: &str, caption: &str, columns: &[Column], rows: &[Row]) -> Markup {
    html! {
        div.tablebox {
            div.tablehead {
                p.caption id={ (id) "-caption" } { (caption) }
                p.count data-count=(id) aria-live="polite" {}
                button.csv type="button" hidden data-csv=(id) { "CSV" }
            }
            div.scroll role="region" tabindex="0" aria-labelledby={ (id) "-caption" } {
                table.data id=(id) {
                    thead {
                        tr {
                            @for column in columns {
                                th scope="col" class=[column.number.then_some("n")] title=[(!column.help.is_empty()).then_some(column.help)] { (column.name) }
                            }
                        }
                    }
                    tbody {
                        @for row in rows {
                            (tr(columns, row))
                        }
                    }
                }
            }
        }
    }
}

fn tr(columns: &[Column], row: &Row) -> Markup {
    // maud has no attributes of computed names: these names are ours, the values are escaped.
    let mut facets = String::new();
    for (name, value) in &row.facets {
        facets.push_str(&format!(
            " data-{name}=\"{}\"",
            html! { (value) }.into_string()
        ));
    }
    html! {
        (PreEscaped(format!("<tr{facets}>")))
        @for (column, cell) in columns.iter().zip(&row.cells) {
            @let class = match (column.number, cell.class) {
                (true, "") => "n".to_owned(),
                (true, more) => format!("n {more}"),
                (false, more) => more.to_owned(),
            };
            td class=[(!class.is_empty()).then_some(class)] data-v=[cell.value.as_deref()] {
                @match &cell.link {
                    Some(link) => a href=(link) { (cell.text) },
                    None => (cell.text),
                }
            }
        }
        (PreEscaped("</tr>"))
    }
}

/// A control that shows those rows of a table whose facet has one value.
pub(super) fn choice(facet: &str, name: &str, values: &[String], chosen: Option<&str>) -> Markup {
    html! {
        label {
            span { (name) }
            select name=(facet) {
                option value="" { "all" }
                @for value in values {
                    option value=(value) selected[chosen == Some(value)] { (value) }
                }
            }
        }
    }
}

/// The controls of a table; without scripts they would do nothing, so they are not there.
pub(super) fn filters(table: &str, controls: &Markup) -> Markup {
    html! {
        form.filters hidden data-filters=(table) aria-label="Filters" {
            (controls)
            label {
                span { "Search" }
                input type="search" name="q" placeholder="any words" autocomplete="off";
            }
            button type="reset" { "Reset" }
        }
    }
}

/// A place that the script draws a chart in; the table that holds the same figures is named.
pub(super) fn chart(id: &str, title: &str, about: &str, table: &str) -> Markup {
    html! {
        figure.chart id=(id) {
            figcaption { strong { (title) } " " span { (about) } }
            div.plot role="img" aria-label={ (title) ". The figures are in the table " (table) "." } { }
            noscript { p.quiet { "Charts need a script; the table below has every figure." } }
        }
    }
}

/// Data for the script of a page.
///
/// # Errors
/// An internal error where it cannot be written as JSON.
pub(super) fn data(value: &impl Serialize) -> Result<Markup> {
    Ok(html! {
        script type="application/json" id="data" { (PreEscaped(json(value)?)) }
    })
}

/// JSON that can stand inside a script element and inside a script: whatever a string holds, it ends
/// neither.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|error| Error::internal(error.to_string()))?;
    // All of these can only be within strings, where JSON takes them escaped.
    Ok(text
        .replace('<', "\\u003c")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029"))
}

/// Each value once, as they come.
pub(super) fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}
