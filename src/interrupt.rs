//! Whether the user or the system wants the program to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ErrorKind;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the user or the system asked the program to stop.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Makes Ctrl-C and SIGTERM end the run in good order; a second one ends it at once.
pub fn heed() {
    // Fails only if a handler is already there, and then interrupts are heeded as it likes.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(ErrorKind::Partial.exit_code()));
        }
    });
}
