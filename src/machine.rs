//! Facts of the machine the program runs on.

use std::path::Path;
use std::time::Instant;

use sysinfo::{CpuRefreshKind, System};

use crate::protocol::Device;
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
    let name = System::new().map_or_else(
        |_| String::new(),
        |mut system| {
            system.refresh_cpu_list(CpuRefreshKind::nothing());
            system
                .cpus()
                .first()
                .map(|cpu| cpu.brand().trim().to_owned())
                .unwrap_or_default()
        },
    );
    let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    with_generation(&name, &facts)
}

/// The name with the family and the model of the silicon, as Linux tells them, where it has no number
/// of a product: hypervisors call processors of several generations `AMD EPYC` or `Intel Xeon
/// Processor @ 2.80GHz`, and reports of one must not stand in the series of another.
fn with_generation(name: &str, facts: &str) -> String {
    let product = name.split('@').next().unwrap_or_default();
    let fact = |wanted: &str| {
        facts.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == wanted).then(|| value.trim())
        })
    };
    match (fact("cpu family"), fact("model")) {
        (Some(family), Some(model))
            if !name.is_empty() && !product.contains(|c: char| c.is_ascii_digit()) =>
        {
            format!("{name}, family {family} model {model}")
        }
        _ => name.to_owned(),
    }
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

/// Sizes in bytes of the processor's data caches as the operating system states them, from the first
/// level to the last; empty where it does not.
#[must_use]
pub fn cache_bytes() -> Vec<u64> {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let mut sizes: Vec<u64> = (0..8)
        .map(|index| folder.join(format!("index{index}")))
        .filter(|cache| {
            std::fs::read_to_string(cache.join("type"))
                .is_ok_and(|kind| matches!(kind.trim(), "Data" | "Unified"))
        })
        .filter_map(|cache| with_unit(std::fs::read_to_string(cache.join("size")).ok()?.trim()))
        .collect();
    sizes.sort_unstable();
    sizes
}

/// The processor's caches where `device` is the processor, and none where it is another chip.
#[must_use]
pub fn caches_of(device: &Device) -> Vec<u64> {
    if device.device_type == "cpu" {
        cache_bytes()
    } else {
        Vec::new()
    }
}

/// Bytes of a size as Linux writes it: `32K`, `1024K`, `32M`.
fn with_unit(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(['K', 'M']);
    let unit = match text.strip_prefix(number)? {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Name and version of the operating system.
#[must_use]
pub fn os() -> String {
    System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.to_owned())
}

/// The variable that names the machine, for containers that have another host name each time.
const NAME_VARIABLE: &str = "CHIPMARK_MACHINE";

/// The name this machine goes by; empty where the system gives none.
#[must_use]
pub fn name() -> String {
    std::env::var(NAME_VARIABLE)
        .ok()
        .or_else(|| System::host_name().ok())
        .unwrap_or_default()
}

/// What a report says of the machine.
#[must_use]
pub fn host() -> Host {
    Host {
        os: os(),
        kernel: System::kernel_version().unwrap_or_default(),
        cpu: cpu_name(),
        cpu_count: cpu_count(),
        memory_bytes: memory_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_number_gets_the_generation_where_it_is_told() {
        let facts = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n";
        for (name, wanted) in [
            ("AMD EPYC", "AMD EPYC, family 25 model 17"),
            (
                "AMD EPYC 9354 32-Core Processor",
                "AMD EPYC 9354 32-Core Processor",
            ),
            (
                "Intel Xeon Processor @ 2.80GHz",
                "Intel Xeon Processor @ 2.80GHz, family 25 model 17",
            ),
        ] {
            assert_eq!(with_generation(name, facts), wanted);
            assert_eq!(with_generation(name, ""), name);
        }
    }

    #[test]
    fn sizes_are_read_as_linux_writes_them() {
        assert_eq!(with_unit("32K"), Some(32 << 10));
        assert_eq!(with_unit("32M"), Some(32 << 20));
        assert_eq!(with_unit("512"), Some(512));
        assert_eq!(with_unit("32G"), None);
        assert_eq!(with_unit(""), None);
    }
}
