//! Which program a runner's name, path or command stands for, and starting it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::runner::NATIVE;
use crate::runner::external::Process;

/// A runner of this repository that is a program of its own.
#[derive(Clone, Copy, Debug)]
pub struct External {
    /// Its name, which is that of its folder.
    pub name: &'static str,
    /// What it reaches.
    pub reaches: &'static str,
}

/// The runners in the folder `runners`.
pub const EXTERNALS: [External; 5] = [
    External {
        name: "torch",
        reaches: "PyTorch: CUDA, ROCm, XPU, MPS, CPU",
    },
    External {
        name: "jax",
        reaches: "JAX and XLA: TPU, GPU, CPU",
    },
    External {
        name: "neuron",
        reaches: "AWS Trainium and Inferentia2",
    },
    External {
        name: "onnxruntime",
        reaches: "ONNX Runtime: WebGPU, CUDA, CPU and others",
    },
    External {
        name: "cubecl",
        reaches: "CubeCL through wgpu",
    },
];

impl External {
    /// The program that starts it, where `./x runner` has put it beside this one, or in PATH.
    #[must_use]
    pub fn installed(&self) -> Option<PathBuf> {
        let file = format!("chipmark-{}{}", self.name, std::env::consts::EXE_SUFFIX);
        let built = std::env::current_exe().ok().and_then(|program| {
            let target = program.parent()?.parent()?;
            Some(target.join("runners").join(self.name).join("bin"))
        });
        let path = std::env::var_os("PATH").unwrap_or_default();
        built
            .into_iter()
            .chain(std::env::split_paths(&path))
            .map(|folder| folder.join(&file))
            .find(|file| file.is_file())
    }

    /// What makes it available.
    #[must_use]
    pub fn remedy(&self) -> String {
        self.remedy_on(cfg!(windows))
    }

    /// `./x` needs a shell that Windows does not have.
    fn remedy_on(&self, on_windows: bool) -> String {
        let name = self.name;
        match (on_windows, name) {
            (false, _) => format!("`./x runner {name}` installs it"),
            (true, "cubecl") => {
                format!(
                    "`cargo build --release --manifest-path runners/{name}/Cargo.toml` makes it, and --runner runners/{name}/target/release/chipmark-{name}.exe starts it"
                )
            }
            (true, _) => format!(
                "`pip install -r runners/{name}/requirements.txt` installs what it needs, and --runner \"python runners/{name}/chipmark_{name}.py\" starts it"
            ),
        }
    }
}

/// Starts a runner's process by name, path or command.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] where there is no such runner or it cannot be started.
pub fn start(name: &str) -> Result<Process> {
    if NATIVE.contains(&name) {
        let program = std::env::current_exe()
            .map_err(|error| Error::internal(format!("the program cannot find itself: {error}")))?;
        let mut command = Command::new(program);
        command.args(["worker", "--runner", name]);
        return Process::start(name, command);
    }
    let known = EXTERNALS.iter().find(|external| external.name == name);
    let command = match known {
        Some(external) => Command::new(external.installed().ok_or_else(|| {
            Error::usage(format!(
                "runner {name} is not installed here: {}",
                external.remedy()
            ))
        })?),
        None => program(name).ok_or_else(|| {
            let names: Vec<&str> = NATIVE
                .into_iter()
                .chain(EXTERNALS.map(|external| external.name))
                .collect();
            Error::usage(format!(
                "runner {name}: it is neither one of {} nor the path of a program",
                names.join(", ")
            ))
        })?,
    };
    Process::start(name, command)
}

/// The program that `name` begins with the path of, with the words after it as its arguments, or else
/// the one that its first word is. Of paths that fit the longest is meant, for a path may have blanks. A
/// single word must be a path; a program that the system finds by name needs arguments to be told from a
/// mistyped runner.
fn program(name: &str) -> Option<Command> {
    let name = name.trim();
    let blanks = name.rmatch_indices(char::is_whitespace);
    let ends = std::iter::once(name.len()).chain(blanks.map(|(at, _)| at));
    for (path, arguments) in ends.map(|end| name.split_at(end)) {
        if let Some(file) = file(path.trim_end()) {
            let mut command = command(&file, cfg!(windows));
            command.args(arguments.split_whitespace());
            return Some(command);
        }
    }
    let (first, arguments) = name.split_once(char::is_whitespace)?;
    let mut command = Command::new(first);
    command.args(arguments.split_whitespace());
    Some(command)
}

/// The file that a path names, with or without the ending that the system gives to programs.
fn file(path: &str) -> Option<PathBuf> {
    [
        path.to_owned(),
        format!("{path}{}", std::env::consts::EXE_SUFFIX),
    ]
    .iter()
    .find(|path| Path::new(path).is_file())
    .map(|path| std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)))
}

/// What starts a file. Windows knows no `#!`, so a program in Python goes to Python there.
fn command(file: &Path, on_windows: bool) -> Command {
    let is_python = file
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("py"));
    if !(on_windows && is_python) {
        return Command::new(file);
    }
    // python.org brings a launcher along that finds Python whether or not PATH has it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let launcher = std::env::split_paths(&path).any(|folder| folder.join("py.exe").is_file());
    let mut command = Command::new(if launcher { "py" } else { "python" });
    command.arg(file);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn the_program_of_a_command_is_the_longest_path_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("John Smith");
        std::fs::create_dir(&home).unwrap();
        let at = |name: &str| home.join(name).display().to_string();
        for name in ["old", "old runner"] {
            std::fs::write(home.join(name), "").unwrap();
        }
        for (name, program, arguments) in [
            ("old", "old", &[][..]),
            ("old runner", "old runner", &[]),
            (
                " old  worker  --runner host ",
                "old",
                &["worker", "--runner", "host"],
            ),
            ("old runner worker", "old runner", &["worker"]),
        ] {
            let text = name.replacen("old", &at("old"), 1);
            let mut wanted = vec![at(program)];
            wanted.extend(arguments.iter().map(|word| (*word).to_owned()));
            assert_eq!(words(&super::program(&text).unwrap()), wanted, "{text:?}");
        }
        // Found by the system, or by nobody.
        assert_eq!(
            words(&super::program("sh -c 'x").unwrap()),
            ["sh", "-c", "'x"]
        );
        assert!(super::program("wgpuu").is_none());
        assert!(super::program(&at("new")).is_some_and(|c| c.get_args().count() == 1));
    }

    #[test]
    fn on_windows_python_starts_what_is_written_in_it() {
        let started = |file: &str, on_windows| words(&command(Path::new(file), on_windows));
        assert_eq!(started("a/b.py", false), ["a/b.py"]);
        assert_eq!(started("a/b.exe", true), ["a/b.exe"]);
        for file in ["a/b.py", "a/b.PY"] {
            let [program, argument] = &started(file, true)[..] else {
                panic!("{file}: not two words");
            };
            assert!(["py", "python"].contains(&&**program), "{program}");
            assert_eq!(argument, file);
        }
    }

    #[test]
    fn what_a_remedy_names_is_in_this_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for external in EXTERNALS {
            assert!(external.remedy_on(false).starts_with("`./x runner "));
            let text = external.remedy_on(true);
            let named = text.split([' ', '"', '`']);
            let files: Vec<&str> = named.filter(|word| word.starts_with("runners/")).collect();
            assert!(!files.is_empty(), "{text}");
            for file in files.iter().filter(|file| !file.contains("/target/")) {
                assert!(root.join(file).exists(), "{text}");
            }
        }
    }
}
