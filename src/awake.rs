//! Keeps a machine awake that nobody touches while something is measured on it: a laptop asleep in the
//! middle of a run costs the case that it slept through, and an hour later its clocks are others.
//!
//! Linux has no such wish of a program that every desktop heeds, and those that measure there alone
//! rarely sleep: there it is up to the user.

use std::marker::PhantomData;

/// As long as this lives the system does not fall asleep for want of a user. Its screen may go dark, and
/// whoever closes the lid or chooses sleep has it.
#[must_use = "the system stays awake as long as this lives"]
pub struct Awake {
    #[cfg(target_os = "macos")]
    caffeinate: Option<std::process::Child>,
    /// Windows keeps the wish with the thread that made it.
    _stays_on_its_thread: PhantomData<*const ()>,
}

/// Asks the system to stay awake. One that does not listen is no reason not to measure.
pub fn hold() -> Awake {
    #[cfg(windows)]
    windows::set_state(windows::CONTINUOUS | windows::SYSTEM_REQUIRED);
    Awake {
        #[cfg(target_os = "macos")]
        caffeinate: caffeinate(),
        _stays_on_its_thread: PhantomData,
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        #[cfg(windows)]
        windows::set_state(windows::CONTINUOUS);
        #[cfg(target_os = "macos")]
        if let Some(child) = &mut self.caffeinate {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// It ends with this process, however that ends. In a group of its own, for Ctrl-C is not for it: what a
/// run still has to do after that comes first.
#[cfg(target_os = "macos")]
fn caffeinate() -> Option<std::process::Child> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    Command::new("/usr/bin/caffeinate")
        .args(["-i", "-w", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()
}

#[cfg(windows)]
mod windows {
    /// `ES_CONTINUOUS`: until the thread says otherwise or ends.
    pub(super) const CONTINUOUS: u32 = 0x8000_0000;
    /// `ES_SYSTEM_REQUIRED`: the system is in use.
    pub(super) const SYSTEM_REQUIRED: u32 = 0x1;

    #[allow(unsafe_code)]
    #[link(name = "kernel32")]
    unsafe extern "system" {
        // SAFETY: it takes a number and returns one, and any number will do.
        safe fn SetThreadExecutionState(flags: u32) -> u32;
    }

    pub(super) fn set_state(flags: u32) {
        // It returns the state before, or 0 where it refuses; either is fine.
        let _ = SetThreadExecutionState(flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_can_be_kept_awake_twice_and_let_go() {
        let outer = hold();
        drop(hold());
        #[cfg(target_os = "macos")]
        {
            let mut outer = outer;
            let child = outer.caffeinate.as_mut().unwrap();
            assert!(child.try_wait().unwrap().is_none());
        }
        #[cfg(not(target_os = "macos"))]
        drop(outer);
    }
}
