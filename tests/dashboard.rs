//! The site of a folder of reports: what lies in it, and what a reader of it sees in a real browser,
//! where one and the programs that drive it are installed.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use chipmark::report::{ChipRecord, OutcomeStatus, Report};

use program::*;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn report(place: &str) -> Report {
    Report::read(&repository().join("reports").join(place)).unwrap()
}

fn write(mut report: Report, to: &Path) {
    report.seal().unwrap();
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::write(to, report.to_json().unwrap()).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Has a site read in a browser. Says so where that cannot be done here.
fn read_in_a_browser(site: &Path, more: &[&str]) {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    let python = repository().join(target).join("consumers/bin/python");
    if !python.exists() {
        eprintln!(
            "NOT CHECKED in a browser: {} is not there; .ci/run makes it",
            python.display()
        );
        return;
    }
    let mut command = Command::new(python);
    command.arg(repository().join("tests/browser/site.py"));
    command.arg(site);
    if let Some(screenshots) = std::env::var_os("CHIPMARK_SCREENSHOTS") {
        command.arg("--screenshots").arg(screenshots);
    }
    let output = command.args(more).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    eprintln!("{said}");
}

#[test]
fn the_site_of_the_published_reports_holds_in_a_browser() {
    let folder = folder();
    let site = folder.path().join("site");
    let reports = repository().join("reports");
    let arguments = |site: &Path| {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [
            "dashboard".to_owned(),
            text(&reports),
            "-o".to_owned(),
            text(site),
        ]
    };
    let built = chipmark(
        folder.path(),
        &arguments(&site).each_ref().map(String::as_str),
    );
    assert_eq!((built.code, built.stderr.as_str()), (0, ""));
    assert!(
        built.stdout.contains("0 files left out"),
        "{}",
        built.stdout
    );
    for page in ["index", "compare", "cost", "history", "reports"] {
        let text = fs::read_to_string(site.join(format!("{page}.html"))).unwrap();
        assert!(text.contains("Made by"), "{page}");
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{page} points elsewhere"
        );
    }
    read_in_a_browser(&site, &[]);

    // An older site is replaced whole; what is not a site is left alone.
    fs::write(
        site.join("chips/gone.html"),
        "of a device that is no longer there",
    )
    .unwrap();
    let again = chipmark(
        folder.path(),
        &arguments(&site).each_ref().map(String::as_str),
    );
    assert_eq!(again.code, 0);
    assert!(!site.join("chips/gone.html").exists());
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "the only copy").unwrap();
    let refused = chipmark(
        folder.path(),
        &arguments(&foreign).each_ref().map(String::as_str),
    );
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("no site of chipmark's"),
        "{}",
        refused.stderr
    );
    assert!(foreign.join("thesis.tex").exists());
    let nothing = chipmark(folder.path(), &["dashboard", foreign.to_str().unwrap()]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("no report"), "{}", nothing.stderr);
}

#[test]
fn what_strangers_wrote_into_reports_is_text_and_stays_in_the_folder() {
    const SCRIPT: &str =
        "</script><script>globalThis.hacked=1</script><img src=x onerror='globalThis.hacked=2'>";
    let folder = folder();
    let reports = folder.path().join("reports");
    let mut hostile = report("swiftshader-device/2026-11-23-vulkan.json");
    hostile.device.name = SCRIPT.to_owned();
    for record in &mut hostile.runners {
        record.device.name = SCRIPT.to_owned();
        record.timer.note = Some(SCRIPT.to_owned());
    }
    hostile.suite.name = format!("=cmd(){SCRIPT}");
    hostile.tool.command = SCRIPT.to_owned();
    hostile.host.os = format!("\u{2028}{SCRIPT}");
    for outcome in &mut hostile.outcomes {
        if outcome.status != OutcomeStatus::Measured {
            outcome.reason = Some(SCRIPT.to_owned());
        }
    }
    write(hostile.clone(), &reports.join("hostile.json"));
    let mut climbing = hostile.clone();
    climbing.chip = Some(ChipRecord {
        id: "../../../../climbed".to_owned(),
        name: SCRIPT.to_owned(),
        vendor: SCRIPT.to_owned(),
        by: SCRIPT.to_owned(),
        note: Some(SCRIPT.to_owned()),
        devices_per_chip: None,
        price: None,
    });
    climbing.device.backend = "/../..\\..".to_owned();
    write(climbing, &reports.join("climbing.json"));
    let mut huge = report("llvmpipe/2026-11-23-gl.json");
    for outcome in &mut huge.outcomes {
        outcome.flops_per_second = Some(1e300);
    }
    write(huge, &reports.join("huge.json"));
    write(
        report("llvmpipe/2026-11-23-gl.json"),
        &reports.join("good.json"),
    );
    fs::copy(reports.join("good.json"), reports.join("twice.json")).unwrap();
    fs::write(
        reports.join("cut.json"),
        &fs::read(reports.join("good.json")).unwrap()[..500],
    )
    .unwrap();
    fs::write(reports.join("deep.json"), "[".repeat(1 << 20)).unwrap();
    fs::write(reports.join("<b>foreign.json"), "{\"benchmarks\": []}").unwrap();

    let built = chipmark(folder.path(), &["dashboard", "reports", "-o", "site"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    for left_out in [
        "huge.json",
        "twice.json",
        "cut.json",
        "deep.json",
        "foreign.json",
    ] {
        assert!(
            built.stderr.contains(left_out),
            "{left_out}: {}",
            built.stderr
        );
    }
    let mut beside: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    beside.sort();
    assert_eq!(
        beside,
        ["reports", "site"],
        "something was written elsewhere"
    );
    for path in files(&folder.path().join("site")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!name.contains("climbed") || name.ends_with(".html") || name.ends_with(".js"));
        if path.extension().is_some_and(|end| end == "html") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("<script>globalThis"), "{}", path.display());
            assert!(!text.contains("<img"), "{}", path.display());
        }
    }
    read_in_a_browser(&folder.path().join("site"), &["--pages-only"]);
}

/// As many reports as a team has after years; `CHIPMARK_SITE_REPORTS=1430` with `--nocapture` says how
/// long 100,000 outcomes take, as many as a thousand reports of a hundred cases have.
#[test]
fn many_reports_of_many_devices_become_one_site() {
    let count: usize =
        std::env::var("CHIPMARK_SITE_REPORTS").map_or(12, |text| text.parse().unwrap());
    let folder = folder();
    let template = report("llvmpipe/2026-11-23-vulkan-2.json");
    let cases = template.outcomes.len();
    for number in 0..count {
        let mut one = template.clone();
        let name = format!("accelerator {}", number % 20);
        let same = |name: &String| *name == template.device.name;
        for record in &mut one.runners {
            if same(&record.device.name) {
                record.device.name.clone_from(&name);
            }
        }
        one.device.name = name;
        let day = jiff::civil::date(2020, 1, 1).to_datetime(jiff::civil::time(12, 0, 0, 0));
        let at = day + jiff::Span::new().days(i64::try_from(number / 20).unwrap());
        one.started_at = format!("{at}Z");
        write(one, &folder.path().join(format!("reports/{number}.json")));
    }
    let began = Instant::now();
    let built = chipmark(folder.path(), &["dashboard", "reports", "-o", "site"]);
    eprintln!(
        "{count} reports of {cases} cases: {:.1} s",
        began.elapsed().as_secs_f64()
    );
    assert_eq!((built.code, built.stderr.as_str()), (0, ""));
    let pages = fs::read_dir(folder.path().join("site/chips"))
        .unwrap()
        .count();
    assert_eq!(pages, count.min(20));
    if let Some(keep) = std::env::var_os("CHIPMARK_SITE_KEEP") {
        fs::rename(folder.path().join("site"), keep).unwrap();
    }
}
