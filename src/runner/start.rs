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
        format!("`./x runner {}` installs it", self.name)
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

/// The program that `name` is the path of, or else that its first word is, with the other words as
/// its arguments. A single word must be a path; a program that the system finds by name needs
/// arguments to be told from a mistyped runner.
fn program(name: &str) -> Option<Command> {
    let path = |name: &str| std::path::absolute(name).unwrap_or_else(|_| PathBuf::from(name));
    if Path::new(name).is_file() {
        return Some(Command::new(path(name)));
    }
    let (first, arguments) = name.trim().split_once(char::is_whitespace)?;
    let mut command = if Path::new(first).is_file() {
        Command::new(path(first))
    } else {
        Command::new(first)
    };
    command.args(arguments.split_whitespace());
    Some(command)
}
