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
    "basename", "cat", "chmod", "cp", "date", "dirname", "env", "ln", "mkdir", "mktemp", "rm",
    "sed", "tee", "touch",
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
                 [ ! -e \"$MACHINE/adapter\" ] || echo ', { \"runner\": \"wgpu\" }'
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
        let mut command = Command::new("/bin/sh");
        command
            .arg("../repo/x")
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
        let guard = lock();
        let child = command.spawn().unwrap();
        drop(guard);
        let output = child.wait_with_output().unwrap();
        Done {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
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

#[test]
fn the_gpu_pass_goes_on_after_a_failed_step() {
    let machine = Machine::with_manager("apt-get");
    machine.plug_in_gpu().remove("cargo");
    machine.stub("dpkg", "mkdir -p \"$3/usr/lib/x86_64-linux-gnu\"");
    fs::create_dir(machine.path("debs")).unwrap();
    fs::write(machine.path("debs/libvulkan1_1_amd64.deb"), "").unwrap();
    machine.program(
        "cwd/chipmark",
        "case $1 in
         devices) echo '{\"runner\":\"wgpu\"}' ;;
         verify) echo wrong; exit 4 ;;
         calibrate) echo '{}' >\"$5/calibration-fake.json\" ;;
         run) echo \"$LD_LIBRARY_PATH\"
             for last; do :; done
             if [ \"$3\" != quick ]; then mkdir -p \"$last/gpu\"; echo '{}' >\"$last/gpu/$3.json\"; fi ;;
         esac",
    );
    machine.stub("python3", "exit 1");
    let done = machine.x_with(
        &["gpu", "out"],
        &[
            ("CHIPMARK_BINARY", "./chipmark"),
            ("CHIPMARK_LOADERS", "../debs"),
        ],
    );
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert_eq!(
        machine.calls("chipmark")[1..],
        [
            "chipmark devices",
            "chipmark verify",
            "chipmark run --suite quick --output out/quick",
            "chipmark calibrate --comparisons 5 --output out",
            "chipmark run --suite standard --runner wgpu --runner host --calibrated out/calibration-fake.json --output out/reports",
            "chipmark run --suite llm --runner wgpu --calibrated out/calibration-fake.json --output out/reports",
            "chipmark validate out/reports/gpu/llm.json",
            "chipmark validate out/reports/gpu/standard.json",
            "chipmark cost --model llama-3-8b out/reports/gpu/llm.json out/reports/gpu/standard.json",
            "chipmark cost --model llama-3-70b out/reports/gpu/llm.json out/reports/gpu/standard.json",
            "chipmark cost --model mixtral-8x7b out/reports/gpu/llm.json out/reports/gpu/standard.json",
        ]
    );
    assert_in_order(
        &done.stderr,
        &[
            "summary",
            "facts",
            "ok",
            "verify",
            "failed(4)",
            "quick",
            "ok",
            "calibrate",
            "ok",
            "run",
            "ok",
            "llm",
            "ok",
            "validate",
            "ok",
            "cost",
            "ok",
        ],
    );
    let out = machine.path("cwd/out");
    assert_eq!(
        fs::read_to_string(out.join("verify.log")).unwrap(),
        "wrong\n"
    );
    let library_path = fs::read_to_string(out.join("run.log")).unwrap();
    assert!(
        library_path.contains("/usr/lib/x86_64-linux-gnu"),
        "{library_path}"
    );
    assert!(out.join("summary.txt").exists());
    assert!(machine.calls("apt-get").is_empty());

    // One step of it, with the vendor's library where there is one, and no longer than so many seconds.
    machine.stub("python3", "");
    let done = machine.x_with(
        &["gpu", "short", "run"],
        &[("CHIPMARK_BINARY", "./chipmark"), ("CHIPMARK_BUDGET", "60")],
    );
    assert_eq!(done.code, 0, "{}", done.stderr);
    let calls = machine.calls("chipmark");
    let last = calls.last().unwrap();
    assert!(
        last.contains("--suite standard --runner wgpu --runner host --runner python3 ")
            && last.ends_with("runners/torch/chipmark_torch.py --budget 60 --output short/reports"),
        "{last}"
    );
    assert_eq!(machine.x_with(&["gpu", "out", "nonsense"], &[]).code, 2);
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
    for tool in ["tar", "gzip", "sha256sum"] {
        symlink(real(tool), machine.path("bin").join(tool)).unwrap();
    }
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
