//! From a report to a published one, from outside: shown, held against goals, published, listed.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;

use program::*;
use serde_json::json;

/// A report as one that may be published: of a clean commit.
fn publishable(change: impl Fn(&mut serde_json::Value)) -> String {
    let mut report = report().clone();
    report["tool"]["commit"] = json!("0123456789abcdef0123456789abcdef01234567");
    change(&mut report);
    sealed(&report)
}

#[test]
fn a_report_is_shown_as_its_run_showed_it_or_only_some_of_its_cases() {
    let folder = folder();
    fs::write(folder.path().join("r.json"), publishable(|_| ())).unwrap();
    let all = chipmark(folder.path(), &["show", "r.json"]);
    assert_eq!(all.code, 0, "{all:?}");
    assert!(
        all.stdout.contains("matmul/m16_n24_k8/f32"),
        "{}",
        all.stdout
    );
    let some = chipmark(folder.path(), &["show", "r.json", "--filter", "^attention"]);
    assert!(
        !some.stdout.contains("matmul/m16_n24_k8/f32"),
        "{}",
        some.stdout
    );
    assert!(some.stdout.contains("attention/"), "{}", some.stdout);

    let none = chipmark(folder.path(), &["show", "r.json", "--filter", "^conv"]);
    assert_eq!(none.code, 2);
    assert!(
        none.stderr.contains("matches no case of r.json"),
        "{}",
        none.stderr
    );
    let broken = chipmark(folder.path(), &["show", "r.json", "--filter", "("]);
    assert_eq!(broken.code, 2);
    assert!(broken.stderr.contains("--filter: "), "{}", broken.stderr);
    fs::write(
        folder.path().join("r.json"),
        changed(|r| r["seed"] = json!(77)),
    )
    .unwrap();
    let altered = chipmark(folder.path(), &["show", "r.json"]);
    assert_eq!(altered.code, 2);
    assert!(
        altered.stderr.contains("changed after it was written"),
        "{}",
        altered.stderr
    );
}

#[test]
fn goals_are_held_against_what_our_kernels_reached() {
    let folder = folder();
    let of_ours = publishable(|r| {
        r["runners"][0]["name"] = json!("wgpu");
        for outcome in r["outcomes"].as_array_mut().unwrap() {
            outcome["runner"] = json!("wgpu");
            outcome["fraction_of_ceiling"] = json!(0.5);
        }
        for ceiling in r["ceilings"].as_array_mut().unwrap() {
            ceiling["runner"] = json!("wgpu");
        }
    });
    fs::write(folder.path().join("r.json"), of_ours).unwrap();
    let goal = "[[goal]]\nname = 'beyond reach'\nfilter = '^matmul/m64_'\ndevices = 'cpu'\nfraction_of_ceiling_min = 1e6\n";
    fs::write(folder.path().join("g.toml"), goal).unwrap();
    let words = ["goals", "r.json", "--goals", "g.toml", "--json"];
    let done = chipmark(folder.path(), &words);
    assert_eq!(done.code, 0, "{done:?}");
    let rows = &done.json()[0]["rows"];
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    assert_eq!(rows[0]["finding"], "missed");
    assert_eq!(rows[0]["asked"], 1e6);
    let text = chipmark(folder.path(), &words[..4]);
    assert!(
        text.stdout.contains("0 reached, 1 missed"),
        "{}",
        text.stdout
    );

    fs::write(folder.path().join("g.toml"), goal.replace("1e6", "-1")).unwrap();
    let bad = chipmark(folder.path(), &words);
    assert_eq!(bad.code, 2);
    assert!(
        bad.stderr.contains("--goals g.toml: [[goal]] 1") && bad.stderr.contains("above 0"),
        "{}",
        bad.stderr
    );
}

#[test]
fn what_is_published_is_listed_and_what_nobody_could_repeat_is_refused() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let good = publishable(|_| ());
    fs::write(at("good.json"), &good).unwrap();
    let done = chipmark(folder.path(), &["publish", "good.json", "--into", "out"]);
    assert_eq!(done.code, 0, "{done:?}");
    let place = done.stdout.trim();
    assert_eq!(fs::read_to_string(at(place)).unwrap(), good);
    let page = chipmark(folder.path(), &["index", "out"]);
    let name = place.strip_prefix("out/").unwrap();
    assert!(
        page.stdout.contains(&format!("[{name}]({name})")),
        "{}",
        page.stdout
    );
    let headline = chipmark(
        folder.path(),
        &["index", "out", "--headline", "--prefix", "out/"],
    );
    assert!(
        headline.stdout.contains(&format!("]({place})")),
        "{}",
        headline.stdout
    );

    let dirty = publishable(|r| r["tool"]["commit"] = json!("0123456-dirty"));
    fs::write(at("dirty.json"), dirty).unwrap();
    for (words, needle) in [
        (
            ["publish", "good.json", "--into", "out"],
            "published already",
        ),
        (["publish", "dirty.json", "--into", "out"], "changed tree"),
        (["publish", "nowhere.json", "--into", "out"], "nowhere.json"),
    ] {
        let refused = chipmark(folder.path(), &words);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(needle), "{}", refused.stderr);
    }
    assert_eq!(reports(&at("out")).len(), 1);
}
