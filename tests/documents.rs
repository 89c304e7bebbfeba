//! Tables and pages that say which command made them are what that command prints.
//!
//! Between `<!-- made by: chipmark ... -->` and `<!-- end -->` stands the output of the command, run in
//! the root of the repository. `./x documents` renews them all.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use tempfile::TempDir;

/// Where such parts are.
const DOCUMENTS: [&str; 2] = ["README.md", "reports/README.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with the reports that git knows: what a run left beside them is in no document. `None` where
/// git does not tell, as in a published package.
fn published() -> Option<TempDir> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "reports"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|done| done.status.success() && !done.stdout.is_empty())?;
    let folder = TempDir::new().unwrap();
    for name in String::from_utf8(listed.stdout).unwrap().split('\0') {
        let (from, to) = (root().join(name), folder.path().join(name));
        // One that is taken out is still listed.
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
    Some(folder)
}

/// The output of a command of the program in a folder; its words are apart by blanks, and quoted where they have
/// some.
fn output(command: &str, folder: &Path) -> String {
    let word = Regex::new(r"'([^']*)'|(\S+)").unwrap();
    let words: Vec<&str> = word
        .captures_iter(command)
        .map(|found| found.get(1).or(found.get(2)).unwrap().as_str())
        .collect();
    assert_eq!(words.first(), Some(&"chipmark"), "{command}");
    let done = Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(&words[1..])
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

/// A document with each part as its command makes it in a folder now, and how many parts it has.
fn renewed(text: &str, folder: &Path) -> (String, usize) {
    let part = Regex::new(r"(?s)(<!-- made by: ([^\n]*?) -->\n)(.*?)(<!-- end -->)").unwrap();
    let mut count = 0;
    let text = part.replace_all(text, |found: &regex::Captures<'_>| {
        count += 1;
        let made = output(&found[2], folder);
        // A table of Markdown stands as it is, other output as code.
        let made = if made.starts_with('|') || made.starts_with('#') {
            format!("{}\n", made.trim_end())
        } else {
            let lines = made.trim_end().lines();
            let lines: Vec<String> = lines
                .map(|line| format!("    {line}").trim_end().to_owned())
                .collect();
            format!("{}\n", lines.join("\n"))
        };
        format!("{}\n{made}\n{}", &found[1], &found[4])
    });
    (text.into_owned(), count)
}

#[test]
fn what_a_command_made_is_what_it_makes() {
    for name in DOCUMENTS {
        let path = root().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let (made, count) = renewed(&text, root());
        assert!(count > 0, "{name} has no part that a command made");
        assert_eq!(
            text.matches("<!-- made by:").count(),
            count,
            "{name}: a part has no end"
        );
        if std::env::var_os("CHIPMARK_WRITE").is_some() {
            fs::write(&path, made).unwrap();
        } else {
            let of_published = |folder: TempDir| renewed(&text, folder.path()).0 == text;
            assert!(
                text == made || published().is_some_and(of_published),
                "{name} is not what its commands make; run `./x documents`"
            );
        }
    }
}
