//! Whether the user or the system wants the program to stop.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ErrorKind;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The leaders of the groups of processes that are stopped.
static STOPPED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Stops the processes of a group or lets them go on. However this program ends of itself, none is left
/// stopped.
pub(crate) fn set_stopped(leader: u32, stopped: bool) {
    let Ok(mut all) = STOPPED.lock() else {
        return;
    };
    if stopped {
        all.insert(leader);
    } else {
        all.remove(&leader);
    }
    signal(leader, stopped);
}

fn signal(leader: u32, stopped: bool) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        let what = if stopped { Signal::STOP } else { Signal::CONT };
        if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
            // A group that is gone has nothing to stop; whoever asks it next will hear why.
            let _ = kill_process_group(group, what);
        }
    }
    #[cfg(not(unix))]
    let _ = (leader, stopped);
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
            if let Ok(all) = STOPPED.lock() {
                all.iter().for_each(|&leader| signal(leader, false));
            }
            std::process::exit(i32::from(ErrorKind::Partial.exit_code()));
        }
    });
}
