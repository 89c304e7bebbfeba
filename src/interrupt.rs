//! Whether the user or the system wants the program to stop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::ErrorKind;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The leaders of the groups of processes that are stopped.
static STOPPED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn stopped() -> MutexGuard<'static, BTreeSet<u32>> {
    STOPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the processes of a group or lets them go on, where that is not so already. However this
/// program ends of itself, none is left stopped.
pub(crate) fn set_stopped(leader: u32, stop: bool) {
    let mut all = stopped();
    let changes = if stop {
        all.insert(leader)
    } else {
        all.remove(&leader)
    };
    if changes {
        signal(leader, stop);
    }
}

fn signal(leader: u32, stop: bool) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        let what = if stop { Signal::STOP } else { Signal::CONT };
        if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
            // A group that is gone has nothing to stop; whoever asks it next will hear why.
            let _ = kill_process_group(group, what);
        }
    }
    #[cfg(not(unix))]
    let _ = (leader, stop);
}

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
            // Held to the end, so that none is stopped any more.
            let all = stopped();
            all.iter().for_each(|&leader| signal(leader, false));
            std::process::exit(i32::from(ErrorKind::Partial.exit_code()));
        }
    });
}
