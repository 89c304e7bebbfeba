//! Tables and pages that say which command made them are what that command prints.
//!
//! Between `<!-- made by: chipmark ... -->` and `<!-- end -->` stands the output of the command, run in
//! the root of the repository. `./x documents` renews them all.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

/// Where such parts are.
const DOCUMENTS: [&str; 2] = ["README.md", "reports/README.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The output of a command of the program; its words are apart by blanks, and quoted where they have
/// some.
fn output(command: &str) -> String {
    let word = Regex::new(r"'([^']*)'|(\S+)").unwrap();
    let words: Vec<&str> = word
        .captures_iter(command)
        .map(|found| found.get(1).or(found.get(2)).unwrap().as_str())
        .collect();
    assert_eq!(words.first(), Some(&"chipmark"), "{command}");
    let done = Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(&words[1..])
        .current_dir(root())
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

/// A document with each part as its command makes it now, and how many parts it has.
fn renewed(text: &str) -> (String, usize) {
    let part = Regex::new(r"(?s)(<!-- made by: ([^\n]*?) -->\n)(.*?)(<!-- end -->)").unwrap();
    let mut count = 0;
    let text = part.replace_all(text, |found: &regex::Captures<'_>| {
        count += 1;
        let made = output(&found[2]);
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
        let (made, count) = renewed(&text);
        assert!(count > 0, "{name} has no part that a command made");
        assert_eq!(
            text.matches("<!-- made by:").count(),
            count,
            "{name}: a part has no end"
        );
        if std::env::var_os("CHIPMARK_WRITE").is_some() {
            fs::write(&path, made).unwrap();
        } else {
            assert!(
                text == made,
                "{name} is not what its commands make; run `./x documents`"
            );
        }
    }
}
