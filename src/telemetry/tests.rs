//! Made-up trees of files and a made-up NVML in the place of hardware.

use std::collections::BTreeMap;
use std::fs;

use tempfile::TempDir;

use super::nvml::{Figure, Gpu, Library};
use super::*;

/// A temporary folder that looks like the root of a machine.
struct Machine(TempDir);

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Self(TempDir::new().unwrap());
        for (path, text) in files {
            machine.write(path, text);
        }
        machine
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    fn open(&self, device: &Device) -> Sensors {
        Sensors::open_at(self.0.path(), device, || Err("no NVML here".to_owned()))
    }
}

fn device(kind: &str, pci_id: Option<&str>, bus: Option<&str>) -> Device {
    Device {
        name: "a device".to_owned(),
        device_type: kind.to_owned(),
        pci_id: pci_id.map(str::to_owned),
        pci_bus_id: bus.map(str::to_owned),
        ..Device::default()
    }
}

fn cpu() -> Device {
    device("cpu", None, None)
}

const AMD: [(&str, &str); 11] = [
    (
        "sys/class/drm/card1/device/uevent",
        "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:03:00.0\n",
    ),
    ("sys/class/drm/card1-DP-1/status", "connected\n"),
    ("sys/class/drm/card1/device/hwmon/hwmon4/name", "amdgpu\n"),
    (
        "sys/class/drm/card1/device/hwmon/hwmon4/power1_average",
        "212000000\n",
    ),
    (
        "sys/class/drm/card1/device/hwmon/hwmon4/power1_cap",
        "327000000\n",
    ),
    (
        "sys/class/drm/card1/device/hwmon/hwmon4/temp1_input",
        "61000\n",
    ),
    (
        "sys/class/drm/card1/device/hwmon/hwmon4/freq1_input",
        "2275000000\n",
    ),
    (
        "sys/class/drm/card1/device/hwmon/hwmon4/freq2_input",
        "1249000000\n",
    ),
    (
        "sys/class/drm/card1/device/pp_dpm_sclk",
        "0: 500Mhz\n1: 2275Mhz *\n2: 2526Mhz\n",
    ),
    (
        "sys/class/drm/card0/device/uevent",
        "DRIVER=ast\nPCI_ID=1A03:2000\nPCI_SLOT_NAME=0000:01:00.0\n",
    ),
    ("sys/class/drm/version", "drm 1.1.0 20060810\n"),
];

fn amd() -> Device {
    device("discrete_gpu", Some("1002:744c"), Some("0000:03:00.0"))
}

#[test]
fn an_amd_card_is_found_by_its_address_and_read_from_hwmon() {
    let machine = Machine::new(&AMD);
    let sensors = machine.open(&amd());
    assert_eq!(sensors.absent(), None);
    assert_eq!(sensors.sources(), ["hwmon amdgpu"]);
    let point = sensors.read();
    assert_eq!(point.sm_clock_hz, Some(2.275e9));
    assert_eq!(point.memory_clock_hz, Some(1.249e9));
    assert_eq!(point.power_w, Some(212.0));
    assert_eq!(point.temperature_c, Some(61.0));
    assert!(point.throttle_reasons.is_empty());
    assert_eq!(sensors.power_limit_w(), Some(327.0));
    assert_eq!(sensors.clock_max_hz(), Some(2.526e9));
    assert_eq!(sensors.energy_j(), None);
    assert_eq!(sensors.power_w(), Some(212.0));
    assert!(sensors.energy_absent().unwrap().contains("amdgpu"));
    assert_eq!(
        described(&sensors),
        "hwmon amdgpu; energy: from hwmon amdgpu power1_average; limit 327 W"
    );
}

#[test]
fn a_card_without_an_address_is_found_by_its_pci_id_if_it_is_alone() {
    let machine = Machine::new(&AMD);
    let anonymous = device("discrete_gpu", Some("1002:744c"), None);
    assert_eq!(machine.open(&anonymous).absent(), None);
    machine.write(
        "sys/class/drm/card2/device/uevent",
        "DRIVER=amdgpu\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:83:00.0\n",
    );
    let reason = machine.open(&anonymous).absent().unwrap();
    assert!(
        reason.contains("0000:03:00.0") && reason.contains("0000:83:00.0"),
        "{reason}"
    );
    let elsewhere = device("discrete_gpu", Some("1002:744c"), Some("0000:c3:00.0"));
    let reason = machine.open(&elsewhere).absent().unwrap();
    assert!(
        reason.contains("0000:c3:00.0") && reason.contains("0000:03:00.0"),
        "{reason}"
    );
}

/// A `gpu_metrics` file of version 1.3 whose throttle bits are `bits`.
fn gpu_metrics(bits: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 120];
    bytes[..4].copy_from_slice(&[120, 0, 1, 3]);
    bytes[112..].copy_from_slice(&bits.to_le_bytes());
    bytes
}

#[test]
fn amd_throttle_bits_become_words_and_unknown_versions_say_nothing() {
    let machine = Machine::new(&AMD);
    let path = "sys/class/drm/card1/device/gpu_metrics";
    let sensors = machine.open(&amd());
    machine.write(path, gpu_metrics(1 << 36 | 1));
    assert_eq!(sensors.read().throttle_reasons, ["power cap", "thermal"]);
    machine.write(path, gpu_metrics(u64::MAX));
    assert!(sensors.read().throttle_reasons.is_empty());
    let mut newer = gpu_metrics(1);
    newer[3] = 5;
    machine.write(path, newer);
    assert!(sensors.read().throttle_reasons.is_empty());
    machine.write(path, &gpu_metrics(1)[..50]);
    assert!(sensors.read().throttle_reasons.is_empty());
}

#[test]
fn an_i915_card_shows_energy_clock_and_reasons() {
    let card = "sys/class/drm/card0";
    let machine = Machine::new(&[
        (
            "sys/class/drm/card0/device/uevent",
            "DRIVER=i915\nPCI_ID=8086:56A0\nPCI_SLOT_NAME=0000:03:00.0\n",
        ),
        ("sys/class/drm/card0/device/hwmon/hwmon2/name", "i915_gt0\n"),
        (
            "sys/class/drm/card0/device/hwmon/hwmon2/energy1_input",
            "1\n",
        ),
        ("sys/class/drm/card0/device/hwmon/hwmon3/name", "i915\n"),
        (
            "sys/class/drm/card0/device/hwmon/hwmon3/energy1_input",
            "5000000\n",
        ),
        (
            "sys/class/drm/card0/device/hwmon/hwmon3/power1_max",
            "190000000\n",
        ),
        ("sys/class/drm/card0/gt/gt0/rps_act_freq_mhz", "2400\n"),
        ("sys/class/drm/card0/gt/gt0/rps_max_freq_mhz", "2450\n"),
        ("sys/class/drm/card0/gt/gt0/throttle_reason_status", "1\n"),
        ("sys/class/drm/card0/gt/gt0/throttle_reason_pl1", "1\n"),
        ("sys/class/drm/card0/gt/gt0/throttle_reason_thermal", "0\n"),
    ]);
    let sensors = machine.open(&device(
        "discrete_gpu",
        Some("8086:56a0"),
        Some("0000:03:00.0"),
    ));
    assert_eq!(sensors.absent(), None);
    let point = sensors.read();
    assert_eq!(point.sm_clock_hz, Some(2.4e9));
    assert_eq!(point.throttle_reasons, ["power limit pl1"]);
    assert_eq!(point.temperature_c, None);
    assert_eq!(sensors.energy_j(), Some(5.0));
    assert_eq!(sensors.power_limit_w(), Some(190.0));
    assert_eq!(sensors.clock_max_hz(), Some(2.45e9));
    assert!(sensors.meter().is_none());
    // Asleep: the driver says 0 MHz, which is no clock.
    machine.write(&format!("{card}/gt/gt0/rps_act_freq_mhz"), "0\n");
    assert_eq!(sensors.read().sm_clock_hz, None);
}

#[test]
fn an_xe_card_shows_its_fastest_engine_and_the_package_channel() {
    let machine = Machine::new(&[
        (
            "sys/class/drm/card0/device/uevent",
            "DRIVER=xe\nPCI_ID=8086:E20B\nPCI_SLOT_NAME=0000:03:00.0\n",
        ),
        ("sys/class/drm/card0/device/hwmon/hwmon3/name", "xe\n"),
        (
            "sys/class/drm/card0/device/hwmon/hwmon3/energy2_input",
            "7000000\n",
        ),
        (
            "sys/class/drm/card0/device/hwmon/hwmon3/energy2_label",
            "pkg\n",
        ),
        (
            "sys/class/drm/card0/device/hwmon/hwmon3/temp2_input",
            "48000\n",
        ),
        (
            "sys/class/drm/card0/device/tile0/gt0/freq0/act_freq",
            "2850\n",
        ),
        (
            "sys/class/drm/card0/device/tile0/gt1/freq0/act_freq",
            "1100\n",
        ),
        (
            "sys/class/drm/card0/device/tile0/gt0/freq0/throttle/reason_thermal",
            "1\n",
        ),
        (
            "sys/class/drm/card0/device/tile0/gt0/freq0/throttle/reasons",
            "1\n",
        ),
    ]);
    let sensors = machine.open(&device(
        "discrete_gpu",
        Some("8086:e20b"),
        Some("0000:03:00.0"),
    ));
    let point = sensors.read();
    assert_eq!(point.sm_clock_hz, Some(2.85e9));
    assert_eq!(point.temperature_c, Some(48.0));
    assert_eq!(point.throttle_reasons, ["thermal"]);
    assert_eq!(sensors.energy_j(), Some(7.0));
    assert_eq!(
        sensors.counter().unwrap().source,
        "hwmon xe energy2_input (pkg)"
    );
}

#[test]
fn garbage_in_files_is_absent_and_never_a_number() {
    let machine = Machine::new(&AMD);
    let sensors = machine.open(&amd());
    let folder = "sys/class/drm/card1/device/hwmon/hwmon4";
    machine.write(&format!("{folder}/freq1_input"), "nan\n");
    machine.write(&format!("{folder}/freq2_input"), "-5\n");
    machine.write(&format!("{folder}/power1_average"), b"\xff\xfe\x00");
    machine.write(&format!("{folder}/temp1_input"), "warm\n");
    assert_eq!(sensors.read(), TracePoint::default());
    assert_eq!(sensors.power_w(), None);

    let machine = Machine::new(&AMD);
    for file in [
        "freq1_input",
        "freq2_input",
        "power1_average",
        "temp1_input",
        "power1_cap",
    ] {
        machine.write(&format!("{folder}/{file}"), "\n");
    }
    let reason = machine.open(&amd()).absent().unwrap();
    assert!(reason.contains("amdgpu"), "{reason}");
    machine.write("sys/class/drm/card1/device/uevent", b"\xff\xff");
    assert!(machine.open(&amd()).absent().is_some());
}

#[test]
fn a_card_that_is_unplugged_while_it_is_read_yields_absent_figures() {
    let machine = Machine::new(&AMD);
    let sensors = machine.open(&amd());
    let recorder = Recorder::start(&sensors, Duration::from_millis(1));
    while sensors.read().power_w.is_none() {}
    machine.remove("sys/class/drm/card1");
    assert_eq!(sensors.read(), TracePoint::default());
    let trace = recorder.stop();
    assert!(
        trace
            .points
            .iter()
            .all(|point| point.power_w == Some(212.0))
    );
}

#[test]
fn a_machine_without_any_files_says_why_for_every_kind_of_device() {
    let machine = Machine::new(&[]);
    for (device, words) in [
        (cpu(), "no energy counter of a processor package"),
        (amd(), "shows no card"),
        (
            device("discrete_gpu", Some("10de:2330"), None),
            "no NVML here",
        ),
        (device("discrete_gpu", None, None), "no PCI address"),
        (device("other", None, Some("somewhere")), "not understood"),
    ] {
        let sensors = machine.open(&device);
        let reason = sensors.absent().unwrap();
        assert!(reason.contains(words), "{reason}");
        assert_eq!(sensors.energy_absent(), Some(reason.clone()));
        assert_eq!(described(&sensors), format!("none: {reason}"));
        assert_eq!(sensors.read(), TracePoint::default());
        assert_eq!((sensors.energy_j(), sensors.power_w()), (None, None));
        assert_eq!(Recorder::start(&sensors, INTERVAL).stop(), Trace::default());
    }
}

#[test]
fn this_machine_is_opened_without_complaint() {
    for device in [
        cpu(),
        amd(),
        device("discrete_gpu", Some("10de:2330"), None),
    ] {
        let sensors = Sensors::open(&device);
        assert_eq!(sensors.absent().is_some(), sensors.sources().is_empty());
        assert!(!describe(&device).is_empty());
    }
}

const RAPL: [(&str, &str); 16] = [
    ("sys/class/powercap/intel-rapl/enabled", "1\n"),
    ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
    ("sys/class/powercap/intel-rapl:0/energy_uj", "99000000\n"),
    (
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
        "100000000\n",
    ),
    (
        "sys/class/powercap/intel-rapl:0/constraint_0_name",
        "long_term\n",
    ),
    (
        "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw",
        "65000000\n",
    ),
    (
        "sys/class/powercap/intel-rapl:0/constraint_1_name",
        "short_term\n",
    ),
    (
        "sys/class/powercap/intel-rapl:0/constraint_1_power_limit_uw",
        "90000000\n",
    ),
    ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
    ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5000000\n"),
    ("sys/class/powercap/intel-rapl:1/name", "psys\n"),
    ("sys/class/powercap/intel-rapl:1/energy_uj", "7000000\n"),
    ("sys/class/powercap/intel-rapl-mmio:0/name", "package-0\n"),
    (
        "sys/class/powercap/intel-rapl-mmio:0/energy_uj",
        "99000000\n",
    ),
    ("sys/class/hwmon/hwmon0/name", "k10temp\n"),
    ("sys/class/hwmon/hwmon0/temp1_input", "71500\n"),
];

#[test]
fn rapl_goes_on_counting_when_the_counter_starts_again() {
    let machine = Machine::new(&RAPL);
    let sensors = machine.open(&cpu());
    assert_eq!(sensors.absent(), None);
    let energy = "sys/class/powercap/intel-rapl:0/energy_uj";
    let first = sensors.energy_j().unwrap();
    machine.write(energy, "2000000\n");
    let second = sensors.energy_j().unwrap();
    assert!((second - first - 3.0).abs() < 1e-9, "{first} {second}");
    machine.write(energy, "12000000\n");
    assert!((sensors.energy_j().unwrap() - first - 13.0).abs() < 1e-9);
    // A step back in the middle is no new start; whoever looks at differences must see it.
    machine.write(energy, "11000000\n");
    assert!((sensors.energy_j().unwrap() - first - 12.0).abs() < 1e-9);
    // More than the counter can hold is garbage.
    machine.write(energy, "100000001\n");
    assert_eq!(sensors.energy_j(), None);
    machine.write(energy, "13000000\n");
    assert!((sensors.energy_j().unwrap() - first - 14.0).abs() < 1e-9);
}

#[test]
fn rapl_sums_packages_and_leaves_out_their_parts_and_the_whole_machine() {
    let machine = Machine::new(&RAPL);
    for (file, text) in [
        ("name", "package-1\n"),
        ("energy_uj", "1000000\n"),
        ("max_energy_range_uj", "100000000\n"),
        ("constraint_0_name", "long_term\n"),
        ("constraint_0_power_limit_uw", "60000000\n"),
    ] {
        machine.write(&format!("sys/class/powercap/intel-rapl:2/{file}"), text);
    }
    let sensors = machine.open(&cpu());
    let counter = sensors.counter().unwrap();
    assert!(counter.package);
    assert_eq!(counter.source, "rapl, sum of 2 packages");
    // Short-term where there is one.
    assert_eq!(sensors.power_limit_w(), Some(150.0));
    let first = sensors.energy_j().unwrap();
    machine.write("sys/class/powercap/intel-rapl:0/energy_uj", "99500000\n");
    machine.write("sys/class/powercap/intel-rapl:2/energy_uj", "1250000\n");
    machine.write("sys/class/powercap/intel-rapl:0:0/energy_uj", "9000000\n");
    machine.write("sys/class/powercap/intel-rapl:1/energy_uj", "9000000\n");
    assert!((sensors.energy_j().unwrap() - first - 0.75).abs() < 1e-9);
    assert_eq!(sensors.read().temperature_c, Some(71.5));
    machine.remove("sys/class/powercap/intel-rapl:2");
    assert_eq!(sensors.energy_j(), None);
}

#[cfg(unix)]
#[test]
fn a_counter_that_only_root_may_read_says_so_with_the_remedy() {
    use std::os::unix::fs::PermissionsExt;

    let machine = Machine::new(&RAPL);
    let path = machine
        .0
        .path()
        .join("sys/class/powercap/intel-rapl:0/energy_uj");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&path).is_ok() {
        return; // root reads everything
    }
    let sensors = machine.open(&cpu());
    // The temperature is still there.
    assert_eq!(sensors.absent(), None);
    assert_eq!(sensors.sources(), ["hwmon k10temp"]);
    let reason = sensors.energy_absent().unwrap();
    assert!(
        reason.contains("root") && reason.contains("chmod a+r"),
        "{reason}"
    );
    assert!(described(&sensors).contains("no energy: "));
}

#[test]
fn the_processors_clock_is_the_mean_over_those_that_may_be_used() {
    let machine = Machine::new(&[("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0,2-3\n")]);
    for (cpu, khz) in [
        (0, "1000000\n"),
        (1, "9000000\n"),
        (2, "2000000\n"),
        (3, "x"),
    ] {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}");
        machine.write(&format!("{folder}/cpufreq/scaling_cur_freq"), khz);
        machine.write(&format!("{folder}/cpufreq/cpuinfo_max_freq"), "4000000\n");
        machine.write(
            &format!("{folder}/thermal_throttle/core_throttle_count"),
            "5\n",
        );
    }
    machine.write("sys/devices/system/cpu/cpufreq/boost", "1\n");
    let sensors = machine.open(&cpu());
    assert_eq!(sensors.sources(), ["cpufreq", "thermal_throttle"]);
    assert_eq!(sensors.clock_max_hz(), Some(4e9));
    let point = sensors.read();
    assert_eq!(point.sm_clock_hz, Some(1.5e9));
    // What was counted since the machine was started is not of this measurement.
    assert!(point.throttle_reasons.is_empty());
    machine.write(
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count",
        "9\n",
    );
    assert!(sensors.read().throttle_reasons.is_empty());
    machine.write(
        "sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count",
        "6\n",
    );
    assert_eq!(sensors.read().throttle_reasons, ["core thermal throttle"]);
    assert!(sensors.read().throttle_reasons.is_empty());
}

#[test]
fn integrated_graphics_take_the_counter_of_their_package() {
    let machine = Machine::new(&RAPL);
    machine.write(
        "sys/class/drm/card0/device/uevent",
        "DRIVER=i915\nPCI_ID=8086:9A49\nPCI_SLOT_NAME=0000:00:02.0\n",
    );
    machine.write("sys/class/drm/card0/gt_act_freq_mhz", "1300\n");
    let sensors = machine.open(&device(
        "integrated_gpu",
        Some("8086:9a49"),
        Some("0000:00:02.0"),
    ));
    assert_eq!(sensors.read().sm_clock_hz, Some(1.3e9));
    assert!(sensors.counter().unwrap().package);
    assert!(sensors.energy_j().is_some());
}

/// NVML with figures of the test's choice; what is not among them is refused as NVML does.
#[derive(Clone, Default)]
struct Fake {
    gpus: Vec<(&'static str, &'static str)>,
    figures: Arc<Mutex<BTreeMap<String, u64>>>,
    panics: bool,
}

impl Fake {
    fn new(gpus: &[(&'static str, &'static str)], figures: &[(Figure, u64)]) -> Self {
        let fake = Self {
            gpus: gpus.to_vec(),
            ..Self::default()
        };
        for (figure, value) in figures {
            fake.set(*figure, *value);
        }
        fake
    }

    fn set(&self, figure: Figure, value: u64) {
        let mut figures = self.figures.lock().unwrap();
        figures.insert(format!("{figure:?}"), value);
    }

    fn open(&self, device: &Device) -> Sensors {
        let library = self.clone();
        Sensors::open_at(Path::new("/nowhere"), device, || Ok(Box::new(library)))
    }
}

impl Library for Fake {
    fn gpus(&self) -> Result<Vec<Gpu>, String> {
        Ok((0..)
            .zip(&self.gpus)
            .map(|(index, (name, bus_id))| Gpu {
                index,
                name: (*name).to_owned(),
                bus_id: (*bus_id).to_owned(),
            })
            .collect())
    }

    fn figure(&self, _: u32, figure: Figure) -> Result<u64, String> {
        assert!(
            !(self.panics && figure == Figure::TemperatureC),
            "on purpose"
        );
        let refusal = "the requested operation is not available on the target device";
        let figures = self.figures.lock().unwrap();
        figures
            .get(&format!("{figure:?}"))
            .copied()
            .ok_or_else(|| refusal.to_owned())
    }
}

const H100: [(Figure, u64); 8] = [
    (Figure::SmClockMhz, 1755),
    (Figure::MemoryClockMhz, 2619),
    (Figure::SmClockMaxMhz, 1980),
    (Figure::PowerMw, 612_000),
    (Figure::PowerLimitMw, 700_000),
    (Figure::TemperatureC, 58),
    (Figure::ClockReasons, 0x4 | 0x40),
    (Figure::EnergyMj, 123_456),
];

fn nvidia(bus: Option<&str>) -> Device {
    Device {
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        ..device("discrete_gpu", Some("10de:2330"), bus)
    }
}

#[test]
fn nvml_is_read_in_si_units_with_reasons_in_words() {
    let fake = Fake::new(&[("NVIDIA H100 80GB HBM3", "00000000:61:00.0")], &H100);
    let sensors = fake.open(&nvidia(Some("0000:61:00.0")));
    assert_eq!(sensors.absent(), None);
    let point = sensors.read();
    assert_eq!(point.sm_clock_hz, Some(1.755e9));
    assert_eq!(point.memory_clock_hz, Some(2.619e9));
    assert_eq!(point.power_w, Some(612.0));
    assert_eq!(point.temperature_c, Some(58.0));
    assert_eq!(
        point.throttle_reasons,
        ["sw power cap", "hw thermal slowdown"]
    );
    assert_eq!(sensors.energy_j(), Some(123.456));
    assert_eq!(sensors.power_limit_w(), Some(700.0));
    assert_eq!(sensors.clock_max_hz(), Some(1.98e9));
    assert_eq!(
        described(&sensors),
        "nvml; energy: nvml total energy; limit 700 W"
    );
    // Instantaneous power where the driver has it.
    assert_eq!(sensors.meter().unwrap().settle_s, POWER_SETTLE_S);
    fake.set(Figure::PowerInstantMw, 650_000);
    let sensors = fake.open(&nvidia(Some("0000:61:00.0")));
    assert_eq!(sensors.power_w(), Some(650.0));
    assert_eq!(sensors.meter().unwrap().settle_s, SETTLE_S);
}

#[test]
fn a_gpu_without_an_energy_counter_says_what_nvml_says() {
    let fake = Fake::new(
        &[("NVIDIA GeForce GTX 1080", "00000000:01:00.0")],
        &[(Figure::PowerMw, 90_000)],
    );
    let sensors = fake.open(&nvidia(None));
    assert_eq!(sensors.energy_j(), None);
    let reason = sensors.energy_absent().unwrap();
    assert!(reason.contains("not available"), "{reason}");
    assert_eq!(sensors.power_w(), Some(90.0));
    assert_eq!(sensors.read().sm_clock_hz, None);
}

#[test]
fn of_several_gpus_only_the_right_one_is_read_or_the_reason_lists_them() {
    let two = [
        ("NVIDIA H100 80GB HBM3", "00000000:61:00.0"),
        ("NVIDIA H100 80GB HBM3", "00000001:61:00.0"),
    ];
    let fake = Fake::new(&two, &H100);
    assert_eq!(fake.open(&nvidia(Some("0001:61:00.0"))).absent(), None);
    for bus in [None, Some("0000:62:00.0")] {
        let reason = fake.open(&nvidia(bus)).absent().unwrap();
        assert!(
            reason.contains("00000000:61:00.0") && reason.contains("00000001:61:00.0"),
            "{reason}"
        );
    }
    let mixed = [
        ("NVIDIA H100 80GB HBM3", "00000000:61:00.0"),
        ("NVIDIA L4", "00000001:61:00.0"),
    ];
    let fake = Fake::new(&mixed, &H100);
    assert_eq!(fake.open(&nvidia(None)).absent(), None);
    let none = Fake::new(&[], &[]).open(&nvidia(None));
    assert_eq!(none.absent().unwrap(), "NVML sees no GPU");
}

#[test]
fn an_energy_of_instances_is_said_to_be_that_of_the_board() {
    let fake = Fake::new(&[("NVIDIA H100", "00000000:61:00.0")], &H100);
    fake.set(Figure::MigMode, 1);
    let sensors = fake.open(&nvidia(None));
    assert!(sensors.counter().unwrap().covers.contains("instance"));
}

#[test]
fn a_panic_in_the_library_ends_the_readings_and_nothing_else() {
    let fake = Fake {
        panics: true,
        ..Fake::new(&[("NVIDIA H100", "00000000:61:00.0")], &H100)
    };
    let sensors = fake.open(&nvidia(None));
    assert_eq!(sensors.absent(), None);
    let recorder = Recorder::start(&sensors, Duration::from_millis(1));
    assert!(recorder.stop().points.is_empty());
    let reason = sensors.absent().unwrap();
    assert!(reason.contains("broke down"), "{reason}");
    assert_eq!(sensors.energy_j(), None);
    assert_eq!(sensors.energy_absent(), Some(reason));
}

#[test]
fn pci_addresses_are_the_same_with_and_without_leading_zeros() {
    let address = PciAddress::parse("0000:01:00.0");
    assert!(address.is_some());
    for text in ["00000000:01:00.0", "01:00.0", "0000:01:00", " 0:1:0.0\n"] {
        assert_eq!(PciAddress::parse(text), address, "{text}");
    }
    for text in ["0001:01:00.0", "0000:01:00.1", "0000:0A:00.0"] {
        assert!(PciAddress::parse(text).is_some_and(|other| Some(other) != address));
    }
    for text in [
        "",
        "x",
        "1",
        "0000:01:zz.0",
        "0:0000:01:00.0",
        "::.",
        "é:é.é",
    ] {
        assert_eq!(PciAddress::parse(text), None, "{text}");
    }
}

#[test]
fn power_from_energy_needs_neither_too_short_nor_too_long_a_time() {
    let mut power = PowerFromEnergy::default();
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    assert_eq!(power.update(at(0), 10.0), None);
    assert_eq!(power.update(at(5), 11.0), None);
    let watts = power.update(at(100), 15.0).unwrap();
    assert!((watts - 50.0).abs() < 1e-9);
    assert_eq!(power.update(at(60_000), 20.0), None);
    assert_eq!(power.update(at(60_100), 20.0), None);
    assert!(power.update(at(60_200), 21.0).is_some());
}

#[test]
fn a_recorder_leaves_no_thread_and_keeps_first_and_last() {
    let machine = Machine::new(&AMD);
    let sensors = machine.open(&amd());
    let recorder = Recorder::start(&sensors, Duration::from_millis(1));
    let trace = recorder.stop();
    assert_eq!(trace.source, "hwmon amdgpu");
    assert!(trace.points.len() >= 2);
    assert!(trace.points.is_sorted_by(|a, b| a.at_s < b.at_s));
    // The thread had a clone; only this one is left.
    assert_eq!(Arc::strong_count(&sensors.0), 1);
    drop(Recorder::start(&sensors, Duration::from_secs(3600)));
    assert_eq!(Arc::strong_count(&sensors.0), 1);
}

#[test]
fn thinning_keeps_the_ends_and_loses_no_reason() {
    let point = |index: u32| TracePoint {
        at_s: f64::from(index),
        throttle_reasons: if index == 3 {
            vec!["sw power cap".to_owned()]
        } else {
            Vec::new()
        },
        ..TracePoint::default()
    };
    for count in [0, 1, 2, 199, 200, 201, 399, 400, 12_345] {
        let points: Vec<TracePoint> = (0..count).map(point).collect();
        let kept = thinned(points.clone(), 200);
        assert_eq!(kept.len(), points.len().min(200), "{count}");
        assert_eq!(kept.first().map(|p| p.at_s), points.first().map(|p| p.at_s));
        assert_eq!(kept.last().map(|p| p.at_s), points.last().map(|p| p.at_s));
        let reasons: usize = kept.iter().map(|p| p.throttle_reasons.len()).sum();
        assert_eq!(reasons, usize::from(count > 3), "{count}");
    }
}

fn trace(clocks_mhz: &[f64], reasons: &[&str]) -> Trace {
    Trace {
        source: "nvml".to_owned(),
        points: clocks_mhz
            .iter()
            .map(|mhz| TracePoint {
                sm_clock_hz: Some(mhz * 1e6),
                throttle_reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
                ..TracePoint::default()
            })
            .collect(),
    }
}

#[test]
fn a_canary_that_moved_is_evidence_with_both_numbers() {
    let slower = suspect(None, Some(1e-3), Some(1.08e-3));
    assert!(slower.suspected);
    assert!((slower.canary_change.unwrap() - 0.08).abs() < 1e-12);
    assert_eq!(
        slower.evidence,
        ["the canary took 1.0000e-3 s before and 1.0800e-3 s after (+8.0 %)"]
    );
    assert!(suspect(None, Some(1e-3), Some(0.9e-3)).suspected);
    assert!(!suspect(None, Some(1e-3), Some(1.04e-3)).suspected);
    for (before, after) in [(None, Some(1.0)), (Some(0.0), Some(1.0)), (None, None)] {
        let throttle = suspect(None, before, after);
        assert_eq!((throttle.suspected, throttle.canary_change), (false, None));
    }
}

#[test]
fn reasons_are_counted_but_idleness_and_settings_are_not_evidence() {
    let mut capped = trace(&[1700.0; 10], &["sw power cap"]);
    capped.points.extend(trace(&[1700.0; 30], &[]).points);
    let throttle = suspect(Some(&capped), None, None);
    assert!(throttle.suspected);
    assert_eq!(
        throttle.evidence,
        ["the driver gave \"sw power cap\" as a reason in 10 of 40 readings"]
    );
    let quiet = trace(&[1700.0; 10], &["idle", "applications clocks setting"]);
    assert_eq!(suspect(Some(&quiet), None, None), Throttle::default());
    assert_eq!(
        suspect(Some(&Trace::default()), None, None),
        Throttle::default()
    );
}

#[test]
fn a_clock_that_fell_is_evidence_and_one_that_rose_or_jumped_once_is_not() {
    let falling: Vec<f64> = (0..40).map(|i| 1980.0 - 5.0 * f64::from(i)).collect();
    let throttle = suspect(Some(&trace(&falling, &[])), None, None);
    assert_eq!(throttle.evidence.len(), 1, "{throttle:?}");
    assert!(throttle.evidence[0].contains("fell from 1960 MHz to 1810 MHz"));
    let rising: Vec<f64> = falling.iter().rev().copied().collect();
    assert!(!suspect(Some(&trace(&rising, &[])), None, None).suspected);
    let mut jump = vec![1980.0; 40];
    jump[17] = 210.0;
    assert!(!suspect(Some(&trace(&jump, &[])), None, None).suspected);
    // Before and after the work the device was idle.
    let mut ends = trace(&[210.0; 8], &["idle"]);
    ends.points.extend(trace(&[1980.0; 8], &[]).points);
    ends.points.extend(trace(&[210.0; 8], &["idle"]).points);
    assert!(!suspect(Some(&ends), None, None).suspected);
    assert!(suspect(Some(&trace(&[1980.0, 1500.0], &[])), None, None).suspected);
    assert!(!suspect(Some(&trace(&[1980.0], &[])), None, None).suspected);
}

/// Sensors whose energy and power are functions of the seconds since they were made.
struct Formula {
    started: Instant,
    energy_j: fn(f64) -> Option<f64>,
    power_w: fn(f64) -> Option<f64>,
}

impl Source for Formula {
    fn read(&mut self) -> TracePoint {
        TracePoint {
            power_w: self.power_w(),
            ..TracePoint::default()
        }
    }

    fn power_w(&mut self) -> Option<f64> {
        (self.power_w)(self.started.elapsed().as_secs_f64())
    }

    fn energy_j(&mut self) -> Option<f64> {
        (self.energy_j)(self.started.elapsed().as_secs_f64())
    }
}

impl Sensors {
    /// Sensors of formulas, for the tests of other modules.
    pub(crate) fn of_formulas(
        counter: Option<Counter>,
        meter: Option<Meter>,
        energy_j: fn(f64) -> Option<f64>,
        power_w: fn(f64) -> Option<f64>,
    ) -> Self {
        let facts = Facts {
            sources: vec!["formula".to_owned()],
            energy_absent: counter.is_none().then(|| "it counts no energy".to_owned()),
            counter,
            meter,
            ..Facts::default()
        };
        Self::of(
            facts,
            Box::new(Formula {
                started: Instant::now(),
                energy_j,
                power_w,
            }),
        )
    }
}
