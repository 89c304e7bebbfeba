//! House rules, enforced by reading the tree.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

/// The modules of the library in the order in which they may know of one another: each imports only
/// what stands before it. First the words (errors, inputs, operations, messages, and the types that
/// a report is made of), then what a plan needs, then what carries a plan out and the runners it
/// talks to, then what is made of the result.
const ORDER: &[&str] = &[
    "error",
    "interrupt",
    "awake",
    "files",
    "display",
    "input",
    "stats",
    "op",
    "protocol",
    "registers",
    "shader",
    "report",
    "machine",
    "npy", // words
    "chips",
    "catalogue",
    "hierarchy",
    "normalise",
    "datasheet",
    "model",
    "plan", // what to do, and what it may cost
    "unroll",
    "what_if",
    "spirv",
    "hal",
    "gpu",
    "variant",
    "estimate",
    "driver_statistics",
    "runner", // who does it
    "telemetry",
    "energy", // what it costs and what holds it back
    "settle",
    "measure",
    "verify",
    "tune",
    "cache",
    "case",
    "journal",
    "run", // how it is done
    "screen",
    "portability",
    "goals",
    "compare",
    "gate",
    "interleave",
    "calibrate",
    "merge",
    "consistency",
    "store",
    "index",
    "publish",
    "signature",
    "replay",
    "diagnose",
    "cost",
    "export",
    "history",
    "dashboard",
    "serve",
    "import",
    "audit",
    "inspect",
    "conformance",
    "schemas",
    "cli", // what is told of it
];

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 8] = [
    "utils", "util", "common", "base", "manager", "helpers", "helper", "misc",
];

/// The largest file that is not a report. Larger ones slow down every clone for ever.
const BYTES_MAX: u64 = 1 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is or could be committed, relative to the root, with forward slashes.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .current_dir(root())
        .output();
    let mut files: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout)
                .split('\0')
                .map(str::to_owned)
                .collect()
        }
        // Not a repository, or no git: what a published package holds.
        _ => walk(root()),
    };
    files.retain(|path| root().join(path).is_file());
    files.sort();
    files.dedup();
    assert!(files.len() > 20, "the tree was not found: {files:?}");
    files
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != ".git" {
            found.extend(walk(&path));
        } else if path.is_file() {
            let below = path.strip_prefix(root()).unwrap();
            found.push(below.to_string_lossy().replace('\\', "/"));
        }
    }
    found
}

fn with_ending(endings: &[&str]) -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
        .map(|path| {
            let text = read(&path);
            (path, text)
        })
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with every violation on a line of its own.
fn none(violations: &[String], rule: &str) {
    assert!(
        violations.is_empty(),
        "{rule}:\n  {}",
        violations.join("\n  ")
    );
}

/// The lines of a text in which the pattern is found, as `path:line: text`.
fn found(path: &str, text: &str, pattern: &Regex) -> Vec<String> {
    text.lines()
        .zip(1..)
        .filter(|(line, _)| pattern.is_match(line))
        .map(|(line, number)| format!("{path}:{number}: {}", line.trim()))
        .collect()
}

/// A source file up to its unit tests, which may use whatever they like.
fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

#[test]
fn only_one_file_speaks_wgpu() {
    let pattern = Regex::new(r"\bwgpu::").unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs"]) {
        let may = ["src/gpu.rs", "src/hal.rs"].contains(&path.as_str());
        if !may && !path.starts_with("tests/") {
            violations.extend(found(&path, &text, &pattern));
        }
    }
    none(&violations, "only src/gpu.rs and src/hal.rs may use wgpu");
}

#[test]
fn only_two_files_speak_vulkan() {
    let pattern = Regex::new(r"\bash::").unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs"]) {
        let may = ["src/driver_statistics.rs", "src/hal.rs"].contains(&path.as_str());
        if !may && !path.starts_with("tests/") {
            violations.extend(found(&path, &text, &pattern));
        }
    }
    none(
        &violations,
        "only src/driver_statistics.rs and src/hal.rs may use ash",
    );
}

#[test]
fn no_module_imports_one_that_comes_later() {
    let pattern = Regex::new(r"\bcrate::(\w+)").unwrap();
    let group = Regex::new(r"(?s)\bcrate::\{(.*?)\};").unwrap();
    let place = |module: &str| ORDER.iter().position(|name| *name == module);
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs"]) {
        let Some(below) = path.strip_prefix("src/") else {
            continue;
        };
        let module = below.split(['/', '.']).next().unwrap();
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let Some(here) = place(module) else {
            violations.push(format!(
                "{path}: module {module} has no place in ORDER in tests/tidy.rs"
            ));
            continue;
        };
        // Comments may point anywhere.
        let code: String = before_tests(&text)
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        let mut imported: BTreeSet<String> = pattern
            .captures_iter(&code)
            .map(|c| c[1].to_owned())
            .collect();
        for list in group.captures_iter(&code) {
            let names = list[1]
                .split(',')
                .map(|item| item.trim().split([':', ' ']).next().unwrap_or_default());
            imported.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        }
        for name in imported {
            match place(&name) {
                Some(there) if there <= here => {}
                Some(_) => violations.push(format!(
                    "{path}: {module} imports {name}, which comes later"
                )),
                None => violations.push(format!(
                    "{path}: {name} has no place in ORDER in tests/tidy.rs"
                )),
            }
        }
    }
    none(&violations, "data goes one way, and so do imports");
}

#[test]
fn every_module_of_the_library_has_a_place_in_the_order_and_every_place_a_module() {
    let declared: BTreeSet<String> = Regex::new(r"(?m)^\s*(?:pub )?mod (\w+);")
        .unwrap()
        .captures_iter(&read("src/lib.rs"))
        .map(|captures| captures[1].to_owned())
        .collect();
    let ordered: BTreeSet<String> = ORDER.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(declared, ordered);
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let violations: Vec<String> = files()
        .into_iter()
        .filter(|path| {
            path.split('/').any(|part| {
                let stem = part.split('.').next().unwrap_or_default().to_lowercase();
                EMPTY_NAMES.contains(&stem.as_str())
            })
        })
        .collect();
    none(&violations, "name a file for what it is about");
    // Such as a program makes that takes an option for the name of a folder.
    let options: Vec<String> = files()
        .into_iter()
        .filter(|path| path.split('/').any(|part| part.starts_with('-')))
        .collect();
    none(
        &options,
        "a name like an option is a mistake of some program",
    );
}

#[test]
fn every_shader_is_in_the_catalogue_under_its_path_and_every_kernel_has_its_shader() {
    let on_disk: BTreeSet<String> = with_ending(&[".wgsl"])
        .into_iter()
        .filter_map(|(path, _)| {
            Some(
                path.strip_prefix("shaders/")?
                    .strip_suffix(".wgsl")?
                    .to_owned(),
            )
        })
        // Makes the inputs; it is no kernel.
        .filter(|name| name != "input/fill")
        .collect();
    let kernels = chipmark::catalogue::kernels();
    let catalogued: BTreeSet<String> = kernels
        .iter()
        .map(|kernel| kernel.name.to_string())
        .collect();
    assert_eq!(catalogued.len(), kernels.len(), "two kernels have one name");
    assert_eq!(on_disk, catalogued);
    for kernel in kernels {
        let text = read(&format!("shaders/{}.wgsl", kernel.name));
        assert!(
            kernel.source == text,
            "{} is made of another file",
            kernel.name
        );
    }
}

#[test]
fn every_shader_tells_its_idea_and_asks_for_no_extension() {
    let mut violations = Vec::new();
    let enable = Regex::new(r"^\s*enable\s+subgroups").unwrap();
    for (path, text) in with_ending(&[".wgsl"]) {
        let header = text
            .lines()
            .take_while(|line| line.starts_with("//"))
            .count();
        if header < 3 {
            violations.push(format!(
                "{path}: its header comment has {header} lines; three or more tell the idea"
            ));
        }
        violations.extend(found(&path, &text, &enable));
    }
    none(
        &violations,
        "a shader begins with its idea in plain words, and naga knows subgroups as it is",
    );
}

#[test]
fn nothing_is_left_to_be_done_in_a_comment() {
    // Put together here, so that this file does not find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"]].map(|parts| parts.concat());
    let macros = [["to", "do!"], ["unimple", "mented!"]].map(|parts| parts.concat());
    let pattern = Regex::new(&format!(
        r"\b({})\b|\b({})",
        words.join("|"),
        macros.join("|")
    ))
    .unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs", ".wgsl", ".md", ".toml", ".yml", ".py", ".js", "/run"])
    {
        violations.extend(found(&path, &text, &pattern));
    }
    violations.extend(found("x", &read("x"), &pattern));
    none(
        &violations,
        "do it, or write it into CHANGELOG.md under what is not there yet",
    );
}

#[test]
fn no_name_says_flop_per_second_or_flop_count_with_one_ambiguous_word() {
    let word = ["fl", "ops"].concat();
    let bare = Regex::new(&format!(r"\b{word}\b")).unwrap();
    let key = Regex::new(&format!("\"{word}\"\\s*:")).unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs", ".wgsl"]) {
        // What reads the files of other programs has to know their words.
        if !path.starts_with("src/import/") {
            violations.extend(found(&path, &text, &bare));
        }
    }
    for (path, text) in with_ending(&[".json", ".toml"]) {
        violations.extend(found(&path, &text, &key));
    }
    none(
        &violations,
        "say flop_count for an amount and flops_per_second for a rate",
    );
}

#[test]
fn no_file_is_so_large_that_every_clone_suffers() {
    let violations: Vec<String> = files()
        .into_iter()
        .filter(|path| !path.starts_with("reports/"))
        .filter_map(|path| {
            let bytes = fs::metadata(root().join(&path)).unwrap().len();
            (bytes > BYTES_MAX).then(|| format!("{path}: {bytes} bytes; at most {BYTES_MAX}"))
        })
        .collect();
    none(&violations, "large files belong elsewhere");
}

/// Such a runner is built with `--locked` by itself, which nothing else here does.
#[test]
fn the_lock_of_every_runner_in_rust_knows_what_chipmark_needs() {
    let manifest: toml::Value = toml::from_str(&read("Cargo.toml")).unwrap();
    let names = |table: Option<&toml::Value>| -> Vec<String> {
        let table = table.and_then(toml::Value::as_table);
        table.into_iter().flat_map(|t| t.keys().cloned()).collect()
    };
    let mut needed: BTreeSet<String> = names(manifest.get("dependencies")).into_iter().collect();
    for target in manifest["target"].as_table().unwrap().values() {
        needed.extend(names(target.get("dependencies")));
    }
    let mut violations = Vec::new();
    let mut lock_count = 0;
    for path in files() {
        if !(path.starts_with("runners/") && path.ends_with("/Cargo.lock")) {
            continue;
        }
        lock_count += 1;
        let lock: toml::Value = toml::from_str(&read(&path)).unwrap();
        let packages = lock["package"].as_array().unwrap();
        let ours = packages
            .iter()
            .find(|package| package["name"].as_str() == Some("chipmark"))
            .unwrap_or_else(|| panic!("{path}: it has no chipmark"));
        // "NAME" or, where there are several, "NAME VERSION".
        let locked: BTreeSet<String> = ours["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                entry
                    .as_str()
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        for name in needed.symmetric_difference(&locked) {
            violations.push(format!(
                "{path}: {name} is in one of it and Cargo.toml only"
            ));
        }
        if ours["version"].as_str() != Some(env!("CARGO_PKG_VERSION")) {
            violations.push(format!("{path}: it holds another version of chipmark"));
        }
    }
    assert!(lock_count > 0, "no runner in Rust was found");
    none(
        &violations,
        "run `cargo metadata` in the folder of the runner, which mends it",
    );
}

#[test]
fn every_public_item_must_be_documented() {
    let manifest: toml::Value = toml::from_str(&read("Cargo.toml")).unwrap();
    let level = manifest["lints"]["rust"]["missing_docs"].as_str();
    assert!(
        matches!(level, Some("warn" | "deny")),
        "missing_docs is {level:?} in the lint table"
    );
    assert!(
        read("x").contains("-D warnings"),
        "./x test does not make errors of warnings"
    );
    let pattern = Regex::new(r"allow\([^)]*missing_docs").unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs"]) {
        if path.starts_with("src/") {
            violations.extend(found(&path, &text, &pattern));
        }
    }
    none(&violations, "document it instead");
}

#[test]
fn every_text_ends_with_a_newline_and_no_line_with_blanks() {
    let blanks = Regex::new(r"[ \t\r]+$|\t").unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".rs", ".wgsl", ".toml", ".md"]) {
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            violations.push(format!("{path}: it must end with exactly one newline"));
        }
        violations.extend(found(&path, &text, &blanks));
    }
    none(
        &violations,
        "no tabs, no blanks at the end of a line, one newline at the end of a file",
    );
}

#[test]
fn every_suite_parses_and_comes_with_the_program_under_its_own_name() {
    let mut names = BTreeSet::new();
    for (path, text) in with_ending(&[".toml"]) {
        let Some(name) = path
            .strip_prefix("suites/")
            .and_then(|name| name.strip_suffix(".toml"))
        else {
            continue;
        };
        let file = root().join(&path);
        let plan = chipmark::plan::plan(file.to_str().unwrap(), None)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plan.suite, name, "{path}");
        let built_in = chipmark::plan::plan(name, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(built_in.suite_sha256, plan.suite_sha256, "{path}");
        assert!(text.starts_with("name = "), "{path}");
        names.insert(name.to_owned());
    }
    let built_in: BTreeSet<String> = chipmark::plan::suite_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert_eq!(names, built_in);
}

#[test]
fn the_changelog_has_an_entry_for_this_version_with_what_moves_numbers_first() {
    let text = read("CHANGELOG.md");
    let heading = format!("\n## [{}]", env!("CARGO_PKG_VERSION"));
    let (_, entry) = text
        .split_once(&heading)
        .unwrap_or_else(|| panic!("CHANGELOG.md has no heading {:?}", heading.trim()));
    let first = entry.lines().find(|line| line.starts_with("### "));
    assert_eq!(first, Some("### Changes that move numbers"));
}

/// The prose of the house: no code, where brackets mean something else.
fn without_code(text: &str) -> String {
    let span = Regex::new(r"`[^`]*`").unwrap();
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            prose += &span.replace_all(line, "``");
            prose.push('\n');
        }
    }
    prose
}

#[test]
fn every_link_to_a_file_of_ours_leads_somewhere() {
    let inline = Regex::new(r"\]\(([^)\s]+)[^)]*\)").unwrap();
    let reference = Regex::new(r"(?m)^\[[^\]]+\]:\s*(\S+)").unwrap();
    let mut violations = Vec::new();
    for (path, text) in with_ending(&[".md"]) {
        let prose = without_code(&text);
        let folder = Path::new(&path).parent().unwrap();
        for captures in inline
            .captures_iter(&prose)
            .chain(reference.captures_iter(&prose))
        {
            let link = captures[1].trim_matches(['<', '>']);
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target: PathBuf = if file.is_empty() {
                PathBuf::from(&path)
            } else {
                folder.join(file)
            };
            if !root().join(&target).exists() {
                violations.push(format!("{path}: {link}"));
            } else if !anchor.is_empty() && (file.is_empty() || file.ends_with(".md")) {
                let headings = anchors(&fs::read_to_string(root().join(&target)).unwrap());
                if !headings.contains(anchor) {
                    violations.push(format!("{path}: {link}: there is no such heading"));
                }
            }
        }
    }
    none(&violations, "links that lead nowhere");
}

/// The anchors that the headings of a markdown text get.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let plain = line.trim_start_matches('#').trim().to_lowercase();
            plain
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// What documents tell the reader to type: lines of code, and code within a line, that begin with
/// the program or the script.
fn commands(text: &str) -> Vec<String> {
    let span = Regex::new(r"`([^`]+)`").unwrap();
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.push(line.trim().trim_start_matches("$ ").to_owned());
        } else {
            found.extend(
                span.captures_iter(line)
                    .map(|captures| captures[1].to_owned()),
            );
        }
    }
    found.retain(|command| command.starts_with("chipmark ") || command.starts_with("./x "));
    found
}

fn help(arguments: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_chipmark"))
        .args(arguments)
        .arg("--help")
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_command_in_the_documents_exists_with_every_option_it_is_given() {
    let script = read("x");
    let option = Regex::new(r"(?:^|[\s\[])(--[a-z][a-z-]*)").unwrap();
    let mut violations = Vec::new();
    let mut seen = 0;
    for (path, text) in with_ending(&[".md"]) {
        for command in commands(&text) {
            seen += 1;
            let mut words = command.split_whitespace();
            let (program, name) = (words.next().unwrap(), words.next().unwrap());
            let given: Vec<&str> = option
                .captures_iter(&command)
                .map(|c| c.get(1).unwrap().as_str())
                .collect();
            // COMMAND stands for any, and a bare option is the program's own.
            if name.chars().all(|c| c.is_ascii_uppercase()) || name.starts_with("--") {
                continue;
            }
            // The script hands what follows `run` to the program.
            let asked = match program {
                "chipmark" => help(&[name]),
                _ if Regex::new(&format!(r"(?m)^{}\b.*\)", regex::escape(name)))
                    .unwrap()
                    .is_match(&script) =>
                {
                    help(&["run"])
                }
                _ => None,
            };
            match asked {
                None => violations.push(format!("{path}: {command}: there is no {program} {name}")),
                Some(help) => violations.extend(
                    given
                        .into_iter()
                        .filter(|option| {
                            !Regex::new(&format!(r"{option}(?:[^a-z-]|$)"))
                                .unwrap()
                                .is_match(&help)
                        })
                        .map(|option| format!("{path}: {command}: {name} has no {option}")),
                ),
            }
        }
    }
    assert!(
        seen > 10,
        "the documents name only {seen} commands; is the search for them broken?"
    );
    none(&violations, "commands that do not exist");
}
