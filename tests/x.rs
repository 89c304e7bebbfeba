//! The door of the repository, `./x`, run on made-up machines: a folder with stub tools is the whole
//! `PATH`, so that every package manager and every missing tool can be had without installing a thing.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What `x` itself needs of the system; the rest of `PATH` is stubs.
const REAL_TOOLS: &[&str] = &[
    "basename", "cat", "chmod", "cksum", "cp", "cut", "date", "dirname", "env", "gzip", "ln",
    "mkdir", "mkfifo", "mktemp", "rm", "sed", "sleep", "sort", "tail", "tar", "tee", "touch", "tr",
    "wc",
];

/// Held while a stub is written or a process started: a process forked by another test in between
/// would hold the stub open for writing, and running it would fail ("Text file busy").
static FORK: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    FORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine: `bin` is its `PATH`, `log` has a line for each call of a stub.
struct Machine {
    folder: tempfile::TempDir,
}

/// What a run of `x` left.
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Machine {
    /// Linux, root, Rust with all components, `cc`; no package manager and no GPU adapter.
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["bin", "repo", "home", "cwd"] {
            fs::create_dir(machine.path(folder)).unwrap();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::copy(source.join("x"), machine.path("repo/x")).unwrap();
        fs::create_dir(machine.path("repo/scripts")).unwrap();
        for name in ["scripts/machine.sh", "scripts/pass"] {
            fs::copy(source.join(name), machine.path("repo").join(name)).unwrap();
        }
        fs::write(
            machine.path("repo/Cargo.toml"),
            "[package]\nname = \"chipmark\"\nrust-version = \"1.90\"\n",
        )
        .unwrap();
        for tool in REAL_TOOLS {
            symlink(real(tool), machine.path("bin").join(tool)).unwrap();
        }
        machine.stub("uname", "echo Linux");
        machine.stub("id", "echo 0");
        machine.stub("cc", "");
        machine.stub("rustc", "echo 'rustc 1.95.0 (0123456789 2026-03-21)'");
        machine.stub(
            "cargo",
            "if [ \"$1\" = build ]; then
                 mkdir -p \"$CARGO_TARGET_DIR/release\"
                 cp \"$MACHINE/chipmark\" \"$CARGO_TARGET_DIR/release/chipmark\"
             fi
             if [ \"$1\" = test ]; then echo 'test result: ok'; fi",
        );
        // Not on PATH: the stub cargo puts it where the build goes.
        machine.program(
            "chipmark",
            "case $1 in
             devices)
                 echo '{ \"devices\": [ { \"runner\": \"host\" }'
                 [ ! -e \"$MACHINE/gl\" ] || echo ', { \"backend\": \"gl\", \"runner\": \"wgpu\" }'
                 [ ! -e \"$MACHINE/adapter\" ] || echo ', { \"backend\": \"vulkan\", \"runner\": \"wgpu\" }'
                 echo '] }' ;;
             run) echo \"report from $PWD\" ;;
             esac",
        );
        machine
    }

    /// As `new`, with the given package manager, whose use brings the adapter.
    fn with_manager(name: &str) -> Self {
        let machine = Self::new();
        machine.stub(
            name,
            "echo \"chatter of the package manager\"; touch \"$MACHINE/adapter\"",
        );
        machine
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn program(&self, below: &str, body: &str) {
        let path = self.path(below);
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = format!("#!/bin/sh\necho \"{name} $*\" >>\"$MACHINE/log\"\n{body}\n");
        let _lock = lock();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn stub(&self, name: &str, body: &str) {
        self.program(&format!("bin/{name}"), body);
    }

    /// Adds to what the stub cargo does.
    fn cargo_also(&self, body: &str) {
        let path = self.path("bin/cargo");
        let text = fs::read_to_string(&path).unwrap();
        let _lock = lock();
        fs::write(path, format!("{text}\n{body}\n")).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    fn not_root(&self) -> &Self {
        self.stub("id", "echo 1000");
        self
    }

    fn plug_in_gpu(&self) -> &Self {
        fs::write(self.path("adapter"), "").unwrap();
        self
    }

    fn x(&self, words: &[&str]) -> Done {
        self.x_with(words, &[])
    }

    /// `sh ../repo/x WORDS` in a folder that is not the repository.
    fn x_with(&self, words: &[&str], environment: &[(&str, &str)]) -> Done {
        let guard = lock();
        let child = self.command(words, environment).spawn().unwrap();
        drop(guard);
        let output = child.wait_with_output().unwrap();
        Done {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// `x` with these words, or where there are none a shell for `./pass`.
    fn command(&self, words: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .arg(if words.is_empty() {
                "pass"
            } else {
                "../repo/x"
            })
            .args(words)
            .current_dir(self.path("cwd"))
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("MACHINE", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The lines of the log that begin with `tool`.
    fn calls(&self, tool: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let start = format!("{tool} ");
        log.lines()
            .filter(|line| line.starts_with(&start))
            .map(|line| line.trim_end().to_owned())
            .collect()
    }
}

fn real(tool: &str) -> PathBuf {
    std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join(tool))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("this system has no {tool}"))
}

/// Asserts that `text` has all of `parts`, each after the one before.
#[track_caller]
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is missing, or not in its place, in:\n{text}");
        };
        rest = &rest[at + part.len()..];
    }
}

const APT: &str = "apt-get install -y --no-install-recommends \
                   libvulkan1 mesa-vulkan-drivers libegl1 libgl1-mesa-dri";

#[test]
fn help_and_unknown_words() {
    let machine = Machine::new();
    let help = machine.x(&["help"]);
    assert_eq!(help.code, 0);
    assert!(help.stdout.starts_with("Usage: ./x"), "{}", help.stdout);
    let unknown = machine.x(&["frobnicate"]);
    assert_eq!(unknown.code, 2);
    assert_in_order(
        &unknown.stderr,
        &["unknown command: frobnicate", "Usage: ./x"],
    );
    assert_eq!(machine.x(&[]).code, 2);
    assert!(machine.calls("cargo").is_empty());
}

#[test]
fn an_adapter_is_there_and_nothing_is_installed() {
    let machine = Machine::with_manager("apt-get");
    machine.plug_in_gpu();
    let done = machine.x(&["run", "--output", "-", "two words"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(machine.calls("apt-get").is_empty());
    assert_eq!(
        machine.calls("chipmark"),
        [
            "chipmark devices --native --json",
            "chipmark run --output - two words"
        ]
    );
    // The program ran in the caller's folder, and stdout is its own.
    let cwd = fs::canonicalize(machine.path("cwd")).unwrap();
    let printed = done.stdout.strip_prefix("report from ").unwrap();
    assert_eq!(fs::canonicalize(printed.trim_end()).unwrap(), cwd);
    assert_eq!(done.stdout.lines().count(), 1);
}

#[test]
fn the_build_is_locked_and_goes_to_the_target_folder() {
    let machine = Machine::new();
    machine.plug_in_gpu();
    fs::write(machine.path("repo/Cargo.lock"), "").unwrap();
    let done = machine.x_with(&["run"], &[("CARGO_TARGET_DIR", "built")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(machine.calls("cargo"), ["cargo build --release --locked"]);
    assert!(machine.path("cwd/built/release/chipmark").exists());
}

#[test]
fn a_machine_with_gl_alone_gets_vulkan_or_goes_on_with_gl() {
    let machine = Machine::with_manager("apt-get");
    fs::write(machine.path("gl"), "").unwrap();
    let done = machine.x(&["setup"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(machine.calls("apt-get"), [APT]);
    assert_in_order(&done.stderr, &["only GL reaches a device", "ready: "]);
    assert!(!done.stderr.contains("going on with GL alone"));

    let machine = Machine::with_manager("apt-get");
    fs::write(machine.path("gl"), "").unwrap();
    let done = machine.x_with(&["run"], &[("CHIPMARK_NO_INSTALL", "1")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(machine.calls("apt-get").is_empty());
    assert_in_order(&done.stderr, &[APT, "going on with GL alone"]);
    assert!(!done.stderr.contains("only the host CPU can be measured"));
}

#[test]
fn no_adapter_and_each_package_manager() {
    let managers = [
        ("apt-get", APT),
        (
            "dnf",
            "dnf install -y vulkan-loader mesa-vulkan-drivers mesa-libEGL mesa-dri-drivers",
        ),
        (
            "pacman",
            "pacman -S --needed --noconfirm vulkan-icd-loader vulkan-swrast mesa",
        ),
        (
            "zypper",
            "zypper --non-interactive install --no-recommends libvulkan1 libvulkan_lvp Mesa-libEGL1 Mesa-dri",
        ),
    ];
    for (manager, command) in managers {
        let machine = Machine::with_manager(manager);
        let done = machine.x(&["run"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert_eq!(machine.calls(manager), [command]);
        assert_in_order(
            &done.stderr,
            &[
                "no GPU adapter found",
                "running:",
                command,
                "chatter of the package manager",
            ],
        );
        assert!(done.stdout.starts_with("report"), "{}", done.stdout);
        assert!(!done.stderr.contains("WARNING"), "{}", done.stderr);
    }
}

#[test]
fn missing_package_lists_are_fetched() {
    let machine = Machine::new();
    machine.stub(
        "apt-get",
        "if [ \"$1\" = update ]; then touch \"$MACHINE/lists\"; exit; fi
         [ -e \"$MACHINE/lists\" ] && touch \"$MACHINE/adapter\"",
    );
    let done = machine.x(&["setup"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(machine.calls("apt-get"), [APT, "apt-get update", APT]);
}

#[test]
fn a_user_with_sudo() {
    let machine = Machine::with_manager("apt-get");
    machine.not_root();
    machine.stub("sudo", "shift; exec \"$@\"");
    let done = machine.x(&["run"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    // -n: with no terminal there is nobody to type a password.
    let sudo = format!("sudo -n env DEBIAN_FRONTEND=noninteractive {APT}");
    assert_eq!(machine.calls("sudo"), [sudo]);
    assert_eq!(machine.calls("apt-get"), [APT]);
}

#[test]
fn a_user_without_sudo_is_told_what_root_must_type() {
    let machine = Machine::with_manager("apt-get");
    machine.not_root();
    let setup = machine.x(&["setup"]);
    assert_eq!(setup.code, 3);
    let line = format!("\n    apt-get update && env DEBIAN_FRONTEND=noninteractive {APT}\n");
    assert_in_order(&setup.stderr, &["no GPU adapter found", "as root:", &line]);
    assert!(machine.calls("apt-get").is_empty());
    // A run goes on with the host CPU.
    let run = machine.x(&["run"]);
    assert_eq!(run.code, 0);
    assert_in_order(
        &run.stderr,
        &[&line, "WARNING: going on without a GPU adapter"],
    );
    assert!(run.stdout.starts_with("report"));
}

#[test]
fn installation_can_be_refused() {
    let machine = Machine::with_manager("apt-get");
    machine.not_root();
    machine.stub("sudo", "exec \"$@\"");
    let done = machine.x_with(&["run"], &[("CHIPMARK_NO_INSTALL", "1")]);
    assert_eq!(done.code, 0);
    let line =
        format!("\n    sudo apt-get update && sudo env DEBIAN_FRONTEND=noninteractive {APT}\n");
    assert_in_order(
        &done.stderr,
        &["CHIPMARK_NO_INSTALL=1", &line, "WARNING: going on"],
    );
    assert!(machine.calls("sudo").is_empty() && machine.calls("apt-get").is_empty());
    assert!(done.stdout.starts_with("report"));
}

#[test]
fn a_failed_installation_does_not_stop_a_run() {
    let machine = Machine::new();
    machine.stub("dnf", "exit 1");
    let done = machine.x(&["run"]);
    assert_eq!(done.code, 0);
    assert_in_order(
        &done.stderr,
        &["the installation failed", "\n    dnf install -y", "WARNING"],
    );
    assert!(done.stdout.starts_with("report"));
}

#[test]
fn a_faulty_program_is_no_reason_to_install() {
    let machine = Machine::with_manager("apt-get");
    machine.program("chipmark", "[ \"$1\" != devices ] || exit 101");
    let done = machine.x(&["setup"]);
    assert_eq!(done.code, 3);
    assert!(done.stderr.contains("failed (exit 101)"), "{}", done.stderr);
    assert!(machine.calls("apt-get").is_empty());
}

#[test]
fn no_cargo() {
    let machine = Machine::with_manager("apt-get");
    machine.remove("cargo");
    // A bare image has nothing to fetch rustup with either: the line brings it.
    let bare = machine.x(&["run"]).stderr;
    let fetch = "apt-get update && apt-get install -y curl ca-certificates && curl --proto";
    assert!(bare.contains(fetch), "{bare}");
    machine.stub("curl", "");
    let done = machine.x(&["run"]);
    assert_eq!(done.code, 2);
    let lines = done.stderr.matches("https://sh.rustup.rs").count();
    assert_eq!(lines, 1, "{}", done.stderr);
    assert_in_order(
        &done.stderr,
        &[
            "Rust 1.90",
            "\n    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"$HOME/.cargo/env\"\n",
        ],
    );
    assert!(machine.calls("apt-get").is_empty());

    // Where rustup put it, though the shell does not know yet.
    machine.plug_in_gpu();
    fs::create_dir_all(machine.path("home/.cargo/bin")).unwrap();
    machine.program(
        "home/.cargo/bin/cargo",
        "mkdir -p \"$CARGO_TARGET_DIR/release\"; cp \"$MACHINE/chipmark\" \"$CARGO_TARGET_DIR/release/\"",
    );
    assert_eq!(machine.x(&["run"]).code, 0);
}

#[test]
fn an_old_rust() {
    for (version, code) in [
        ("1.89.0", 2),
        ("0.99.9", 2),
        ("1.90.0", 0),
        ("1.100.0-nightly", 0),
        ("2.0.0", 0),
    ] {
        let machine = Machine::new();
        machine.plug_in_gpu();
        machine.stub("rustup", "");
        machine.stub(
            "rustc",
            &format!("echo 'rustc {version} (0123456789 2026-01-01)'"),
        );
        let done = machine.x(&["setup"]);
        assert_eq!(done.code, code, "{version}: {}", done.stderr);
        assert_eq!(done.stderr.contains("\n    rustup update\n"), code == 2);
    }
}

#[test]
fn no_linker() {
    let machine = Machine::new();
    machine.plug_in_gpu();
    machine.remove("cc");
    let bare = machine.x(&["setup"]);
    assert_eq!(bare.code, 2, "{}", bare.stderr);
    assert!(machine.calls("cargo").is_empty());
    machine.stub("apt-get", "cp \"$MACHINE/bin/rustc\" \"$MACHINE/bin/cc\"");
    let done = machine.x(&["setup"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(
        machine.calls("apt-get"),
        ["apt-get install -y --no-install-recommends gcc libc6-dev"]
    );
}

#[test]
fn a_mac_needs_no_package() {
    let machine = Machine::with_manager("brew");
    machine.stub("uname", "echo Darwin");
    machine.stub("xcode-select", "[ -e \"$MACHINE/tools\" ]");
    let bare = machine.x(&["run"]);
    assert_eq!(bare.code, 2);
    assert!(bare.stderr.contains("\n    xcode-select --install\n"));
    fs::write(machine.path("tools"), "").unwrap();
    let done = machine.x(&["run"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(machine.calls("brew").is_empty());
}

#[test]
fn the_test_steps() {
    let machine = Machine::new();
    machine.plug_in_gpu();
    let done = machine.x(&["test"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stdout, "test result: ok\n");
    assert_in_order(
        &done.stderr,
        &[
            "test: ok (",
            "clippy: ok (",
            "doc: ok (",
            "fmt: ok (",
            "all passed",
        ],
    );
    let calls = machine.calls("cargo");
    assert!(calls.contains(&"cargo test --release".to_owned()));
    assert!(calls.contains(&"cargo clippy --release --all-targets -- -D warnings".to_owned()));
    assert!(calls.contains(&"cargo doc --release --no-deps".to_owned()));
    assert!(calls.contains(&"cargo fmt --check".to_owned()));
}

#[test]
fn the_first_failed_test_step_is_named_and_ends_it() {
    let machine = Machine::new();
    machine.plug_in_gpu();
    machine.cargo_also("case $* in 'clippy --release'*) exit 101 ;; esac");
    let done = machine.x(&["test"]);
    assert_eq!(done.code, 101);
    assert!(
        done.stderr.contains("FAILED: clippy (exit 101"),
        "{}",
        done.stderr
    );
    assert!(
        !machine
            .calls("cargo")
            .iter()
            .any(|call| call.contains("doc"))
    );
}

#[test]
fn a_missing_component() {
    let machine = Machine::new();
    machine.plug_in_gpu();
    machine.stub("rustup", "");
    machine.cargo_also("case $1 in clippy) exit 1 ;; esac");
    let done = machine.x(&["test"]);
    assert_eq!(done.code, 2);
    assert_in_order(
        &done.stderr,
        &[
            "test: ok (",
            "clippy is not installed",
            "\n    rustup component add clippy\n",
        ],
    );
    let skipped = machine.x_with(&["test"], &[("CHIPMARK_SKIP_LINT", "1")]);
    assert_eq!(skipped.code, 0);
    assert_in_order(&skipped.stderr, &["clippy: SKIPPED", "fmt: ok ("]);
}

/// What the stub of the program does in a pass: every suite leaves a report, and calibration a file.
const PASS: &str = "case $1 in
     --version) echo 'chipmark 0.1.0' ;;
     devices) echo '{\"runner\":\"wgpu\"}' ;;
     inspect) exit 6 ;;
     calibrate) for last; do :; done; echo '{}' >\"$last/calibration-fake.json\" ;;
     run) echo \"$LD_LIBRARY_PATH\"
         for last; do :; done
         mkdir -p \"$last/gpu\"; echo '{}' >\"$last/gpu/$3.json\" ;;
     esac";

const WITH_BINARY: (&str, &str) = ("CHIPMARK_BINARY", "./chipmark");

#[test]
fn a_case_that_fails_does_not_keep_the_goals_of_the_others_back() {
    let machine = Machine::with_manager("apt-get");
    machine.plug_in_gpu().remove("cargo");
    let ends = "goals) exit 0 ;; esac; [ $1 != run ] || exit 6";
    machine.program("cwd/chipmark", &PASS.replacen("esac", ends, 1));
    machine.stub("python3", "exit 1");
    let done = machine.x_with(&["pass", "out", "first"], &[WITH_BINARY]);
    assert_eq!(done.code, 6, "{}", done.stderr);
    let goals = machine.calls("chipmark goals");
    assert_eq!(goals, ["chipmark goals out/first/gpu/first.json"]);
}

#[test]
fn the_pass_goes_on_after_a_failed_stage_and_does_no_stage_twice() {
    let machine = Machine::with_manager("apt-get");
    machine.plug_in_gpu().remove("cargo");
    machine.stub("dpkg", "mkdir -p \"$3/usr/lib/x86_64-linux-gnu\"");
    fs::create_dir(machine.path("debs")).unwrap();
    fs::write(machine.path("debs/libvulkan1_1_amd64.deb"), "").unwrap();
    machine.program(
        "cwd/chipmark",
        &PASS.replacen("case $1 in", "case $1 in verify) echo wrong; exit 4 ;;", 1),
    );
    machine.stub("python3", "exit 1");
    let environment = [WITH_BINARY, ("CHIPMARK_LOADERS", "../debs")];
    let done = machine.x_with(&["pass", "out"], &environment);
    assert_eq!(done.code, 4, "{}", done.stderr);
    let budget = "--budget 480 --output out";
    let calibrated = "--budget 480 --calibrated out/calibration-fake.json --output out";
    assert_eq!(
        machine.calls("chipmark")[2..],
        [
            "chipmark devices",
            &format!("chipmark run --suite first --runner wgpu {budget}/first"),
            "chipmark goals out/first/gpu/first.json",
            "chipmark inspect --dtype f16 --filter ^(matmul/matrix_tile(_trans_b)?|attention/(flash_matrix|decode_subgroup))$ --output out/inspect-f16.json",
            "chipmark inspect --dtype f32 --filter ^matmul/register_tile_vec4$ --output out/inspect-f32.json",
            "chipmark inspect --dtype f16 --all-variants --filter ^(matmul/matrix_tile_trans_b|attention/flash_matrix)$ --output out/inspect-variants.json",
            "chipmark inspect --all-variants --filter ^matmul/matrix_tile_(w4|trans_b_i8)$ --output out/inspect-variants-units.json",
            "chipmark verify",
            "chipmark run --suite quick --runner wgpu --output out/quick",
            &format!("chipmark run --suite standard --runner wgpu --runner host {budget}/standard"),
            "chipmark calibrate --processes 6 --comparisons 6 --slowdown 1 --slowdown 5 --output out",
            "chipmark inspect --output out/inspect.json",
            &format!("chipmark run --suite tune --runner wgpu --runner host {calibrated}/tune"),
            &format!("chipmark run --suite llm --runner wgpu {calibrated}/llm"),
            &format!("chipmark run --suite energy --runner wgpu {calibrated}/energy"),
            "chipmark diagnose out/tune/gpu/tune.json --budget 480",
            "chipmark validate out/first/gpu/first.json",
            "chipmark validate out/quick/gpu/quick.json",
            "chipmark validate out/standard/gpu/standard.json",
            "chipmark validate out/tune/gpu/tune.json",
            "chipmark validate out/llm/gpu/llm.json",
            "chipmark validate out/energy/gpu/energy.json",
            "chipmark cost --model llama-3-8b --dtype f16 out/llm/gpu/llm.json",
            "chipmark cost --model llama-3-8b --dtype w4a16 out/llm/gpu/llm.json",
            "chipmark cost --model llama-3-70b --dtype f16 out/llm/gpu/llm.json",
            "chipmark cost --model llama-3-70b --dtype w4a16 out/llm/gpu/llm.json",
            "chipmark cost --model mixtral-8x7b --dtype f16 out/llm/gpu/llm.json",
            "chipmark goals out/first/gpu/first.json out/standard/gpu/standard.json out/tune/gpu/tune.json out/llm/gpu/llm.json",
        ]
    );
    let stages = [
        "facts ",
        "first ",
        "inspect ",
        "variants ",
        "verify ",
        "ended with 4",
        "quick ",
        "standard ",
        "calibrate ",
        "programs ",
        "tune ",
        "llm ",
        "energy ",
        "clocks ",
        "diagnose ",
        "validate ",
        "cost ",
        "summary ",
    ];
    // What it will do, with how long that may take, and what came of it.
    let announced: Vec<&str> = stages
        .iter()
        .copied()
        .filter(|word| !word.contains("with 4"))
        .collect();
    assert_in_order(&done.stderr, &announced);
    assert!(done.stderr.contains("at most 480 s"), "{}", done.stderr);
    let summary = fs::read_to_string(machine.path("cwd/out/summary.txt")).unwrap();
    assert_in_order(&summary, &stages);
    assert!(done.stderr.ends_with(&summary), "{}", done.stderr);
    let log = |name: &str| fs::read_to_string(machine.path("cwd/out").join(name)).unwrap();
    assert_eq!(log("verify.log"), "wrong\n");
    assert!(
        log("standard.log").contains("/usr/lib/x86_64-linux-gnu"),
        "{}",
        log("standard.log")
    );
    assert!(log("clocks.log").contains("nothing to compare with"));
    assert!(machine.calls("apt-get").is_empty());

    // Nothing is left to do; one stage by name is done again.
    let count = machine.calls("chipmark").len();
    let again = machine.x_with(&["pass", "out"], &environment);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(
        again.stderr.contains("llm        done already"),
        "{}",
        again.stderr
    );
    assert_eq!(machine.calls("chipmark").len(), count + 2); // --version and devices
    machine.stub("python3", "");
    let environment = [WITH_BINARY, ("CHIPMARK_LIMIT", "60")];
    let one = machine.x_with(&["pass", "out", "standard"], &environment);
    assert_eq!(one.code, 0, "{}", one.stderr);
    let calls = machine.calls("chipmark");
    let last = calls.last().unwrap();
    assert!(
        last.contains("--suite standard --runner wgpu --runner host --runner python3 ")
            && last.contains("runners/torch/chipmark_torch.py --budget 60 --calibrated ")
            && last.ends_with(" --output out/standard"),
        "{last}"
    );
    // All reports at once, as the stage has one limit.
    let clocks = machine.x_with(&["pass", "out", "clocks"], &environment);
    assert_eq!(clocks.code, 0, "{}", clocks.stderr);
    let calls = machine.calls("python3");
    let last = calls.last().unwrap();
    assert!(
        last.ends_with(
            "runners/torch/clocks.py out/first/gpu/first.json out/standard/gpu/standard.json out/tune/gpu/tune.json"
        ),
        "{last}"
    );
}

#[test]
fn the_pass_refuses_what_it_cannot_mean() {
    let machine = Machine::new();
    machine.program("cwd/chipmark", PASS);
    let pass = |words: &[&str], environment: &[(&str, &str)]| {
        let done = machine.x_with(&[&["pass"], words].concat(), environment);
        (done.code, done.stderr)
    };
    let (code, text) = pass(&["out", "nonsense"], &[WITH_BINARY]);
    assert!(
        code == 2 && text.contains("unknown stage: nonsense"),
        "{text}"
    );
    let (code, text) = pass(&["out"], &[WITH_BINARY, ("CHIPMARK_LIMIT", "soon")]);
    assert!(code == 2 && text.contains("CHIPMARK_LIMIT=soon"), "{text}");
    let (code, text) = pass(&["out"], &[WITH_BINARY, ("CHIPMARK_TOTAL", "0")]);
    assert!(code == 2 && text.contains("CHIPMARK_TOTAL=0"), "{text}");
    let (code, text) = pass(&["out"], &[("CHIPMARK_BINARY", "./nowhere")]);
    assert!(
        code == 2 && text.contains("./nowhere is not an executable file"),
        "{text}"
    );
    assert_eq!(pass(&["out", "facts"], &[WITH_BINARY]).0, 0);
    machine.program("cwd/chipmark", &format!("{PASS} # another build"));
    let (code, text) = pass(&["out"], &[WITH_BINARY]);
    assert!(
        code == 2 && text.contains("the pass of another program"),
        "{text}"
    );
    machine.program("cwd/chipmark", "exit 127");
    let (code, text) = pass(&["new"], &[WITH_BINARY]);
    assert!(code == 2 && text.contains("does not start here"), "{text}");
}

#[test]
fn a_pass_of_few_seconds_begins_what_fits_and_bounds_it() {
    let machine = Machine::new();
    machine.stub("python3", "exit 1");
    machine.program(
        "cwd/chipmark",
        &PASS.replacen(
            "case $1 in",
            "case $1:$3 in run:first) sleep 6 ;; esac; case $1 in",
            1,
        ),
    );
    let environment = [WITH_BINARY, ("CHIPMARK_TOTAL", "125")];
    let done = machine.x_with(&["pass", "out"], &environment);
    assert_eq!(done.code, 0, "{}", done.stderr);
    // What is left for the stage, less what it takes to end it.
    let runs = machine.calls("chipmark run");
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert!(
        runs[0].contains("--suite first ") && runs[0].contains(" --budget 6"),
        "{runs:?}"
    );
    let words = "no time for inspect and what follows";
    assert!(done.stderr.contains(words), "{}", done.stderr);
    let out = machine.path("cwd/out");
    assert!(out.join("done/first").exists() && !out.join("done/inspect").exists());
    let summary = fs::read_to_string(out.join("summary.txt")).unwrap();
    assert!(summary.lines().count() == 2, "{summary}");

    let rest = machine.x_with(&["pass", "out"], &[WITH_BINARY]);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    assert_eq!(machine.calls("chipmark run --suite first").len(), 1);
    assert!(out.join("done/summary").exists());
}

#[test]
fn a_pass_that_was_cut_off_goes_on_with_what_was_measured() {
    let machine = Machine::new();
    machine.stub("python3", "exit 1");
    // The first run of `standard` waits to be ended, and leaves what an interrupted run leaves.
    machine.program(
        "cwd/chipmark",
        &PASS.replacen(
            "case $1 in",
            "case $1:$3 in
             run:standard)
                 for last; do :; done
                 mkdir -p \"$last/gpu\"
                 if [ ! -e \"$MACHINE/cut\" ]; then
                     : >\"$MACHINE/cut\"
                     : >\"$last/.chipmark-1.unfinished.jsonl\"
                     trap 'echo told; : >\"$last/gpu/interrupted.json\"; exit 6' TERM
                     while :; do sleep 1; done
                 fi
                 rm \"$last/.chipmark-1.unfinished.jsonl\" ;;
             esac
             case $1 in",
            1,
        ),
    );
    let environment = [WITH_BINARY];
    let words = ["pass", "out", "facts", "standard"];
    let mut child = machine.command(&words, &environment).spawn().unwrap();
    let began = std::time::Instant::now();
    while !machine.path("cut").exists() {
        assert!(began.elapsed().as_secs() < 60, "it never came to the suite");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let signalled = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(signalled.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let out = machine.path("cwd/out");
    assert!(out.join("done/facts").exists() && !out.join("done/standard").exists());
    let log = fs::read_to_string(out.join("standard.log")).unwrap();
    assert!(log.ends_with("told\n"), "{log}");
    assert!(out.join("standard/gpu/interrupted.json").exists());

    let done = machine.x_with(&["pass", "out"], &environment);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let runs: Vec<String> = machine.calls("chipmark run --suite standard");
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert!(runs[1].contains(" --resume "), "{runs:?}");
    assert!(
        machine
            .calls("chipmark")
            .contains(&"chipmark verify".to_owned())
    );
    // One report of the suite: the one that is whole.
    let reports: Vec<_> = fs::read_dir(out.join("standard/gpu")).unwrap().collect();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(out.join("standard/gpu/standard.json").exists());
}

#[test]
fn a_bundle_is_all_that_the_pass_needs() {
    let machine = Machine::new();
    machine.plug_in_gpu();
    machine.program("chipmark", PASS);
    machine.stub(
        "rustc",
        "case $1 in -vV) echo 'host: x86_64-none' ;; *) echo 'rustc 1.95.0 (0 2026-03-21)' ;; esac",
    );
    let file = |name: &str, text: &str| {
        let path = machine.path("repo").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for name in [
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "METHODOLOGY.md",
        "docs/reproduce.md",
        "suites/quick.toml",
        "goals/kernels.toml",
        "models/llama.toml",
        "runners/chipmark_runner.py",
        "runners/torch/chipmark_torch.py",
        "runners/torch/requirements.txt",
        "runners/torch/README.md",
    ] {
        file(name, "");
    }
    fs::create_dir(machine.path("debs")).unwrap();
    fs::write(machine.path("debs/libvulkan1_1_amd64.deb"), "").unwrap();
    let done = machine.x_with(&["bundle"], &[("CHIPMARK_LOADERS", "../debs")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let place = machine.path("elsewhere");
    fs::create_dir(&place).unwrap();
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(machine.path("cwd/dist/chipmark-0.1.0-x86_64-none-bundle.tar.gz"))
        .current_dir(&place)
        .status();
    assert!(unpacked.unwrap().success());
    let bundle = place.join("chipmark-0.1.0-x86_64-none");
    for name in [
        "chipmark",
        "pass",
        "machine.sh",
        "README",
        "reproduce.md",
        "runners/torch/chipmark_torch.py",
        "loaders/libvulkan1_1_amd64.deb",
    ] {
        assert!(bundle.join(name).exists(), "{name} is missing");
    }
    assert!(
        fs::read_to_string(bundle.join("README"))
            .unwrap()
            .contains("./pass out")
    );

    // Where there is neither Rust nor the repository.
    machine.remove("cargo");
    machine.stub("dpkg", "");
    machine.stub("python3", "exit 1");
    fs::remove_dir_all(machine.path("repo")).unwrap();
    let mut command = machine.command(&[], &[]);
    let output = command.arg("out").current_dir(&bundle).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(bundle.join("out/summary.txt").exists());
    assert_eq!(machine.calls("dpkg").len(), 1);
    assert!(
        machine
            .calls("chipmark run")
            .iter()
            .any(|call| call.contains("--suite llm"))
    );
}

impl Machine {
    /// The folder of a runner in Python, and a Python that makes environments.
    fn with_runner(&self, name: &str) -> &Self {
        let folder = self.path("repo/runners").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("README.md"), "").unwrap();
        fs::write(folder.join("requirements.txt"), "").unwrap();
        self.stub(
            "python3",
            "if [ \"$2\" = venv ]; then
                 mkdir -p \"$3/bin\" && cp \"$MACHINE/bin/pip\" \"$3/bin/python\"
             fi",
        );
        self.stub("pip", "echo \"environment's python $*\"");
        self
    }
}

#[test]
fn a_runner_gets_an_environment_a_launcher_and_its_test() {
    let machine = Machine::new();
    machine.plug_in_gpu().with_runner("torch");
    let done = machine.x(&["runner", "torch"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let log = fs::read_to_string(machine.path("log")).unwrap();
    let order = [
        "python3 -m venv",
        "pip -m pip install",
        "chipmark conformance torch",
    ];
    let places: Vec<Option<usize>> = order.iter().map(|line| log.find(line)).collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{log}"
    );
    let launcher = machine.path("repo/target/runners/torch/bin/chipmark-torch");
    let output = Command::new(&launcher)
        .arg("word")
        .env("MACHINE", machine.folder.path())
        .env("PATH", machine.path("bin"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("repo/runners/torch/chipmark_torch.py word"),
        "{text}"
    );
    // Once made, the environment is kept.
    machine.x(&["runner", "torch"]);
    let log = fs::read_to_string(machine.path("log")).unwrap();
    assert_eq!(log.matches("python3 -m venv").count(), 1, "{log}");
}

#[test]
fn a_release_is_the_program_the_site_and_their_sums() {
    let machine = Machine::new();
    let sums = "sha256sum";
    symlink(real(sums), machine.path("bin").join(sums)).unwrap();
    machine.stub(
        "rustc",
        "echo 'rustc 1.95.0 (0123456789 2026-03-21)'; echo 'host: x86_64-none'",
    );
    machine.program(
        "chipmark",
        "case $1 in
         --version) echo 'chipmark 1.2.3' ;;
         dashboard) mkdir \"$4\"; cat reports/one.json >\"$4/index.html\" ;;
         esac",
    );
    for file in ["README.md", "CHANGELOG.md", "METHODOLOGY.md", "LICENSE-MIT"] {
        fs::write(machine.path("repo").join(file), file).unwrap();
    }
    fs::create_dir(machine.path("repo/reports")).unwrap();
    fs::write(machine.path("repo/reports/one.json"), "of one report").unwrap();
    let done = machine.x(&["release", "out"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let names = ["chipmark-1.2.3-x86_64-none", "chipmark-1.2.3-site"];
    for name in names {
        assert!(
            done.stdout.contains(&format!("  {name}.tar.gz\n")),
            "{}",
            done.stdout
        );
        let packed = machine.path("cwd/out").join(format!("{name}.tar.gz"));
        let packed = packed.to_str().unwrap().to_owned();
        let unpacked = Command::new("tar")
            .args([
                "-xzf",
                &packed,
                "-C",
                machine.path("home").to_str().unwrap(),
            ])
            .status();
        assert!(unpacked.unwrap().success());
    }
    let at = |below: &str| fs::read_to_string(machine.path("home").join(below)).unwrap();
    assert_eq!(at("chipmark-1.2.3-site/index.html"), "of one report");
    assert_eq!(at("chipmark-1.2.3-x86_64-none/LICENSE-MIT"), "LICENSE-MIT");
    assert!(at("chipmark-1.2.3-x86_64-none/chipmark").contains("dashboard"));
    assert_eq!(
        fs::read_to_string(machine.path("cwd/out/SHA256SUMS")).unwrap(),
        done.stdout
    );
    let left: Vec<_> = fs::read_dir(machine.folder.path()).unwrap().collect();
    assert_eq!(
        left.len(),
        6,
        "something is left in the temporary folder: {left:?}"
    );
}

#[test]
fn a_runner_that_there_is_not_is_named_with_those_that_there_are() {
    let machine = Machine::new();
    machine.with_runner("torch").with_runner("jax");
    for words in [&["runner", "pytorch"][..], &["runner"]] {
        let done = machine.x(words);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains("jax torch"), "{}", done.stderr);
    }
}

#[test]
fn a_python_that_cannot_make_environments_is_mended_or_the_command_is_told() {
    let machine = Machine::with_manager("apt-get");
    machine.plug_in_gpu().with_runner("jax");
    // As Debian's without python3-venv, until that is installed.
    machine.stub("python3", "[ -e \"$MACHINE/venv\" ] || exit 1
        [ \"$2\" != venv ] || { mkdir -p \"$3/bin\" && cp \"$MACHINE/bin/pip\" \"$3/bin/python\"; }");
    let done = machine.x_with(&["runner", "jax"], &[("CHIPMARK_NO_INSTALL", "1")]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("python3-venv"), "{}", done.stderr);
    machine.stub("apt-get", "touch \"$MACHINE/venv\"");
    let done = machine.x(&["runner", "jax"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}
