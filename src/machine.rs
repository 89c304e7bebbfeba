//! Facts of the machine the program runs on.

use std::time::Instant;

use sysinfo::{CpuRefreshKind, System};

use crate::report::Host;

/// Bytes of main memory that this process may use; zero where the system does not tell. In a
/// container that is the group's share: the kernel ends a process that goes beyond it.
#[must_use]
pub fn memory_bytes() -> u64 {
    System::new().map_or(0, |mut system| {
        system.refresh_memory();
        let share = system
            .cgroup_limits()
            .map(|limits| limits.total_memory)
            .filter(|&bytes| bytes > 0);
        share.unwrap_or(u64::MAX).min(system.total_memory())
    })
}

/// The processor's name; empty where the system does not tell.
#[must_use]
pub fn cpu_name() -> String {
    System::new().map_or_else(
        |_| String::new(),
        |mut system| {
            system.refresh_cpu_list(CpuRefreshKind::nothing());
            system
                .cpus()
                .first()
                .map(|cpu| cpu.brand().trim().to_owned())
                .unwrap_or_default()
        },
    )
}

/// Logical processors that this process may use.
#[must_use]
pub fn cpu_count() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// The smallest difference seen between two readings of this machine's clock, in seconds.
#[must_use]
pub fn clock_quantum_s() -> f64 {
    let differences = (0..64).map(|_| {
        let started = Instant::now();
        loop {
            let elapsed = started.elapsed();
            if !elapsed.is_zero() {
                return elapsed.as_secs_f64();
            }
        }
    });
    differences.fold(f64::INFINITY, f64::min)
}

/// What a report says of the machine.
#[must_use]
pub fn host() -> Host {
    Host {
        os: System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned()),
        kernel: System::kernel_version().unwrap_or_default(),
        cpu: cpu_name(),
        cpu_count: cpu_count(),
        memory_bytes: memory_bytes(),
    }
}
