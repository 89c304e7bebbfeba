//! What can go wrong, and the exit code each kind of failure has by contract.

use std::fmt;

/// The kinds of failure a user can meet. Each has one exit code, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A gate (comparison, conformance) did not hold.
    GateFailed,
    /// The command line or an input file is wrong; the message names it and the remedy.
    Usage,
    /// No device that can be measured is at hand.
    NoDevice,
    /// A kernel produced wrong results.
    WrongResults,
    /// Something was measured, but the numbers cannot be believed.
    MeasurementInvalid,
    /// Some cases failed or the run was interrupted; what was measured is in the report.
    Partial,
    /// A mistake of ours.
    Internal,
    /// The device was lost or a runner died; trying again may help.
    Transient,
}

impl ErrorKind {
    /// The process exit code of this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::GateFailed => 1,
            Self::Usage => 2,
            Self::NoDevice => 3,
            Self::WrongResults => 4,
            Self::MeasurementInvalid => 5,
            Self::Partial => 6,
            Self::Internal => 70,
            Self::Transient => 75,
        }
    }
}

/// A failure with its kind and one line for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure this is.
    pub kind: ErrorKind,
    /// One line: what is wrong, where, and what to do about it.
    pub message: String,
}

impl Error {
    /// A failure of `kind` explained by `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Bad command line or input file.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// A mistake of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The result of anything that can fail in front of a user.
pub type Result<T> = std::result::Result<T, Error>;

/// A message of another library, which may have drawn the place in several lines, as one.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
