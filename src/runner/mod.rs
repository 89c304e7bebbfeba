//! Runners execute cases. Two live in this binary; any program that speaks the protocol is another.

pub mod external;
pub mod host;
pub mod start;
pub mod worker;

use std::time::Duration;

use rayon::prelude::*;

use crate::input::{self, PROJECTION_TENSOR};
use crate::op::Case;
use crate::protocol::{FaultKind, Request, Response, Runner};

/// Why a conversation ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One line for people.
    pub message: String,
    /// Whether someone else ended the runner, so that nothing it was asked is to blame.
    pub from_outside: bool,
}

impl Fault {
    /// A fault that what was asked may have caused.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            from_outside: false,
        }
    }
}

/// A line to a runner: one request, one response.
pub trait Conversation {
    /// Sends `request` and waits for the response.
    ///
    /// # Errors
    /// When the runner died, hung beyond `timeout` or said something that is not the protocol. It
    /// must not be asked anything more.
    fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Response, Fault>;

    /// Keeps the runner from doing anything until it is asked again, where that is possible.
    fn rest(&mut self) {}
}

/// A runner in this very process, for debugging: a panic or a hang takes everything with it.
pub struct InProcess(pub Box<dyn Runner>);

impl Conversation for InProcess {
    fn ask(&mut self, request: &Request, _timeout: Duration) -> Result<Response, Fault> {
        Ok(self.0.handle(request.clone()))
    }
}

/// The runner of this name that lives in this binary.
#[must_use]
pub fn native(name: &str) -> Option<Box<dyn Runner>> {
    match name {
        "wgpu" => Some(Box::new(worker::WgpuRunner::new(
            crate::catalogue::kernels(),
        ))),
        "host" => Some(Box::new(host::HostRunner::default())),
        _ => None,
    }
}

/// The names that [`native`] knows.
pub const NATIVE: [&str; 2] = ["wgpu", "host"];

/// Seconds a runner may be silent before it is taken for dead, unless the user says otherwise.
pub const SILENCE_S_MAX: u64 = 120;

/// A refusal, as the conductor is to read it.
pub fn error(kind: FaultKind, message: impl Into<String>) -> Response {
    Response::Error {
        kind,
        message: message.into(),
    }
}

pub(crate) fn no_set(set_index: u32, set_count: usize) -> Response {
    error(
        FaultKind::Input,
        format!("there is no set of buffers {set_index}; the case has {set_count}"),
    )
}

/// The answer to [`Request::Outputs`] from an output of `len` elements that `element` reads.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // positions are checked, and memory holds the rest
pub fn outputs(
    case: &Case,
    len: u64,
    element: impl Fn(usize) -> f64 + Sync,
    positions: &[u64],
    projection_seed: Option<u32>,
    all: bool,
) -> Response {
    if let Some(beyond) = positions.iter().find(|position| **position >= len) {
        return error(
            FaultKind::Input,
            format!("position {beyond} is beyond the output of {len} elements"),
        );
    }
    let values = if all {
        (0..len as usize).map(&element).collect()
    } else {
        positions
            .iter()
            .map(|&position| element(position as usize))
            .collect()
    };
    let projection = projection_seed.map_or_else(Vec::new, |seed| {
        let (_, columns) = case.op.op().output_rows(&case.shape);
        let signs = signs(seed, columns);
        (0..len.div_ceil(columns.max(1)))
            .into_par_iter()
            .map(|row| {
                (row * columns..len)
                    .zip(&signs)
                    .map(|(index, sign)| element(index as usize) * sign)
                    .sum()
            })
            .collect()
    });
    Response::Outputs { values, projection }
}

/// The signs of a projection, one per column.
#[must_use]
pub fn signs(seed: u32, columns: u64) -> Vec<f64> {
    let keys = input::keys(seed, PROJECTION_TENSOR);
    (0..u32::try_from(columns).unwrap_or(u32::MAX))
        .map(|column| input::sign(keys, column))
        .collect()
}
