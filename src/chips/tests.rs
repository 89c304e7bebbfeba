use super::*;
use crate::protocol::Device;

fn device(name: &str, pci_id: &str) -> Device {
    Device {
        name: name.to_owned(),
        pci_id: (!pci_id.is_empty()).then(|| pci_id.to_owned()),
        ..Device::default()
    }
}

fn told(name: &str, pci_id: &str) -> Option<String> {
    let chips = Chips::built_in().unwrap();
    identify(&device(name, pci_id), &chips)
        .chip_id()
        .map(str::to_owned)
}

/// A file of the user's on top of the built-in chips.
fn with(text: &str) -> Result<Chips> {
    let mut chips = Chips::built_in()?;
    chips.add("mine.toml", text, true)?;
    Ok(chips)
}

fn refusal(text: &str) -> String {
    with(text).unwrap_err().message
}

#[test]
fn names_as_drivers_print_them_are_told() {
    // Name, PCI id where the API gives one, chip.
    for (name, pci, chip) in [
        (
            "NVIDIA H100 80GB HBM3",
            "10de:2330",
            "nvidia-h100-sxm5-80gb",
        ),
        ("NVIDIA H100 80GB HBM3", "", "nvidia-h100-sxm5-80gb"),
        ("NVIDIA H100 PCIe", "10de:2331", "nvidia-h100-pcie-80gb"),
        ("NVIDIA H100 NVL", "10de:2321", "nvidia-h100-nvl-94gb"),
        ("NVIDIA H200", "10de:2335", "nvidia-h200-sxm-141gb"),
        ("NVIDIA GH200 480GB", "10de:2342", "nvidia-gh200-96gb"),
        ("NVIDIA B200", "", "nvidia-b200-sxm-180gb"),
        (
            "NVIDIA A100-SXM4-40GB",
            "10de:20b0",
            "nvidia-a100-sxm4-40gb",
        ),
        (
            "NVIDIA A100-SXM4-80GB",
            "10de:20b2",
            "nvidia-a100-sxm4-80gb",
        ),
        (
            "NVIDIA A100-PCIE-40GB",
            "10de:20f1",
            "nvidia-a100-pcie-40gb",
        ),
        (
            "NVIDIA A100 80GB PCIe",
            "10de:20b5",
            "nvidia-a100-pcie-80gb",
        ),
        ("Tesla V100-SXM2-16GB", "10de:1db1", "nvidia-v100-sxm2-16gb"),
        ("Tesla T4/PCIe/SSE2", "", "nvidia-t4-16gb"),
        ("NVIDIA A10G", "10de:2237", "nvidia-a10g-24gb"),
        ("NVIDIA L4", "10de:27b8", "nvidia-l4-24gb"),
        ("NVIDIA L40S", "10de:26b9", "nvidia-l40s-48gb"),
        ("NVIDIA GeForce RTX 4090", "10de:2684", "nvidia-rtx-4090"),
        ("NVIDIA GeForce RTX 4090/PCIe/SSE2", "", "nvidia-rtx-4090"),
        (
            "ANGLE (NVIDIA, NVIDIA GeForce RTX 3090 (0x00002204), OpenGL 4.6)",
            "",
            "nvidia-rtx-3090",
        ),
        ("NVIDIA GeForce RTX 5090", "10de:2b85", "nvidia-rtx-5090"),
        (
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            "10de:2bb5",
            "nvidia-rtx-pro-6000-blackwell",
        ),
        (
            "AMD Radeon RX 7900 XTX (RADV NAVI31)",
            "1002:744c",
            "amd-rx-7900-xtx",
        ),
        (
            "AMD Radeon RX 7900 XTX (radeonsi, navi31, LLVM 17.0.6, DRM 3.57, 6.8.0)",
            "",
            "amd-rx-7900-xtx",
        ),
        (
            "AMD Radeon RX 9070 XT (RADV GFX1201)",
            "1002:7550",
            "amd-rx-9070-xt",
        ),
        (
            "Radeon 8060S Graphics (RADV GFX1151)",
            "1002:1586",
            "amd-radeon-8060s",
        ),
        (
            "AMD Radeon(TM) 8060S Graphics",
            "1002:1586",
            "amd-radeon-8060s",
        ),
        ("AMD Instinct MI300X", "1002:74a1", "amd-mi300x"),
        ("AMD Instinct MI250X", "1002:7408", "amd-mi250x"),
        ("AMD Instinct MI210", "1002:740f", "amd-mi210"),
        (
            "Intel(R) Arc(tm) A770 Graphics (DG2)",
            "8086:56a0",
            "intel-arc-a770-16gb",
        ),
        (
            "Mesa Intel(R) Arc(tm) A770 Graphics (DG2)",
            "",
            "intel-arc-a770-16gb",
        ),
        (
            "Intel(R) Arc(TM) B580 Graphics",
            "8086:e20b",
            "intel-arc-b580",
        ),
        ("Apple M1", "", "apple-m1"),
        ("Apple M1 Max", "", "apple-m1-max"),
        ("Apple M3 Max", "", "apple-m3-max"),
        ("Apple M4 Pro", "", "apple-m4-pro"),
        ("Turnip Adreno (TM) 750", "", "qualcomm-adreno-750"),
        (
            "Microsoft Direct3D12 (Qualcomm(R) Adreno(TM) X1-85 GPU)",
            "",
            "qualcomm-adreno-x1-85",
        ),
        ("Immortalis-G720 MC12", "", "arm-mali-g720"),
        ("V3D 7.1.7.0", "", "broadcom-videocore-vii"),
        ("TPU v5 lite", "", "google-tpu-v5e"),
        ("TPU v6e", "", "google-tpu-v6e"),
        ("NeuronDevice (Trainium2)", "", "aws-trainium2"),
        ("neuron", "1d0f:7264", "aws-inferentia2"),
        (
            "Gaudi3 AI Training Accelerator",
            "1da3:1060",
            "intel-gaudi3",
        ),
        ("Ascend910B2", "", "huawei-ascend-910b2"),
    ] {
        assert_eq!(told(name, pci).as_deref(), Some(chip), "{name} {pci}");
    }
}

#[test]
fn look_alikes_are_not_taken_for_the_chip() {
    for (name, pci) in [
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "10de:2757"),
        ("NVIDIA GeForce RTX 4090 D", "10de:2685"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", ""),
        ("NVIDIA GeForce RTX 3090 Ti", "10de:2203"),
        ("NVIDIA GeForce RTX 5090 D", ""),
        ("NVIDIA H100 80GB HBM2e", "10de:2336"),
        ("NVIDIA H800", "10de:2324"),
        ("NVIDIA H20", "10de:2329"),
        ("NVIDIA H200 NVL", "10de:233b"),
        ("NVIDIA A100-SXM-64GB", "10de:20b3"),
        ("NVIDIA L40", "10de:26b5"),
        ("NVIDIA L4 MIG 1g.6gb", ""),
        ("AMD Radeon RX 7900 XT (RADV NAVI31)", "1002:744c"),
        ("AMD Radeon RX 9070 (RADV GFX1201)", "1002:7550"),
        ("AMD Radeon Graphics (RADV GFX1201)", "1002:7550"),
        ("AMD Radeon Graphics (RADV GFX1201)", ""),
        ("AMD Instinct MI250", "1002:740c"),
        ("Intel(R) Arc(tm) A750 Graphics (DG2)", "8086:56a1"),
        ("Apple M4 Ultra", ""),
        ("Apple M1 Pro", ""),
        ("Adreno (TM) 640", ""),
        ("Orin", ""),
        ("wormhole_b0", "1e52:401e"),
        ("qaic", "17cb:a100"),
        ("maia", ""),
        ("llvmpipe (LLVM 15.0.6, 256 bits)", ""),
        ("SwiftShader Device (Subzero)", "1ae0:c0de"),
        // The name of one and the id of another, or of none.
        ("NVIDIA H100 PCIe", "10de:2330"),
        ("NVIDIA GeForce RTX 4090", "10de:ffff"),
        ("", ""),
    ] {
        assert_eq!(told(name, pci), None, "{name} {pci}");
    }
}

#[test]
fn what_cannot_be_told_says_between_which() {
    let chips = Chips::built_in().unwrap();
    let line = |name: &str, pci: &str| identify(&device(name, pci), &chips).line();
    let shared = line("AMD Radeon Graphics (RADV GFX1201)", "1002:7550");
    assert!(
        shared.contains("PCI id 1002:7550") && shared.contains("amd-rx-9070-xt"),
        "{shared}"
    );
    let three = line("qaic", "");
    assert!(three.contains("qualcomm-cloud-ai-100-pro"), "{three}");
    let clash = line("NVIDIA H100 PCIe", "10de:2330");
    assert!(
        clash.contains("its name that of nvidia-h100-pcie-80gb"),
        "{clash}"
    );
    assert!(line("Voodoo 2", "").contains("--chip"));
    // Told, with what cannot be told of it.
    assert!(line("Apple M3 Max", "").contains("fewer report the same name"));
}

#[test]
fn every_alias_tells_its_own_chip_and_a_shared_one_none() {
    let chips = Chips::built_in().unwrap();
    for chip in chips.all() {
        for alias in &chip.aliases {
            let told = identify(&device(alias, ""), &chips);
            assert_eq!(told.chip_id(), Some(&*chip.id), "{alias}");
        }
        for alias in &chip.shared_aliases {
            assert_eq!(
                identify(&device(alias, ""), &chips).chip_id(),
                None,
                "{alias}"
            );
        }
    }
}

#[test]
fn the_catalogue_holds_81_chips_and_a_source_for_each_number() {
    let chips = Chips::built_in().unwrap();
    assert_eq!(chips.all().len(), 81);
    let mut vendors: Vec<&str> = chips.all().iter().map(|chip| &*chip.vendor).collect();
    vendors.dedup();
    assert_eq!(vendors.len(), 16);
    let figures: usize = chips.all().iter().map(|c| check::figures(c).len()).sum();
    assert!(figures > 900, "{figures}");
    // What is in no file is unknown and not zero.
    let trainium = chips.get("aws-trainium2").unwrap();
    assert_eq!(trainium.power_w, None);
    assert_eq!(trainium.peaks.matrix[&PeakDtype::Bf16].value, 667e12);
    assert_eq!(trainium.peaks.matrix[&PeakDtype::F8].value, 1299e12);
    assert_eq!(
        trainium.peaks.matrix[&PeakDtype::Bf16].confidence,
        Confidence::Vendor
    );
    assert_eq!(
        trainium.memory.bytes.as_ref().unwrap().value,
        96.0 * 1024f64.powi(3)
    );
}

#[test]
fn a_peak_is_that_of_the_units_and_of_one_device() {
    let chips = Chips::built_in().unwrap();
    let peak = |id: &str, engine: Option<&str>, dtype: Dtype| {
        let chip = chips.get(id).unwrap();
        chip.peak(engine, dtype).map(|peak| (peak.name, peak.value))
    };
    let h100 = "nvidia-h100-sxm5-80gb";
    let named = |name: &str, value: f64| Some((name.to_owned(), value));
    assert_eq!(
        peak(h100, Some("matrix"), Dtype::Tf32).unwrap().0,
        "matrix tf32"
    );
    assert_eq!(peak(h100, Some("matrix"), Dtype::F32), None);
    assert_eq!(peak(h100, Some("alu"), Dtype::F32).unwrap().0, "vector f32");
    assert_eq!(peak(h100, None, Dtype::F16).unwrap().0, "matrix f16");
    assert_eq!(peak(h100, Some("alu"), Dtype::I32), None);
    // GeForce cards halve the rate where sums are kept in 32 bits.
    let rtx = "nvidia-rtx-4090";
    let full = peak(rtx, Some("matrix"), Dtype::F16F16).unwrap();
    let half = peak(rtx, Some("matrix"), Dtype::F16).unwrap();
    assert_eq!(full.0, "matrix f16 summed in f16");
    assert!((full.1 / half.1 - 2.0).abs() < 0.02);
    // f16 holds every byte, and units for bytes are few on this one.
    let b300 = chips.get("nvidia-b300-sxm-288gb").unwrap();
    let rate = |dtype: PeakDtype| b300.peaks.matrix[&dtype].value;
    assert!(rate(PeakDtype::I8) < rate(PeakDtype::F16));
    for engine in [Some("matrix"), None] {
        assert_eq!(b300.peak(engine, Dtype::I8).unwrap().name, "matrix f16");
    }
    assert_eq!(peak(h100, None, Dtype::I8).unwrap().0, "matrix i8");
    // No rate for bytes is no sign that there are no units for them.
    assert!(
        !chips
            .get("intel-gaudi3")
            .unwrap()
            .peaks
            .matrix
            .contains_key(&PeakDtype::I8)
    );
    assert_eq!(peak("intel-gaudi3", None, Dtype::I8), None);
    // A chip of four logical cores.
    assert_eq!(
        peak("aws-trainium2", Some("matrix"), Dtype::Bf16),
        named("matrix bf16", 667e12 / 4.0)
    );
    let trainium = chips.get("aws-trainium2").unwrap();
    assert_eq!(trainium.device_memory_bytes(), Some(24.0 * 1024f64.powi(3)));
    assert_eq!(trainium.bandwidth().unwrap().value, 2.9e12 / 4.0);
}

#[test]
fn a_price_is_the_users_own_then_the_lowest_dated_on_demand() {
    let mut chips = Chips::built_in().unwrap();
    let price = |chips: &Chips, id: &str| {
        let price = chips.get(id).unwrap().price(None).cloned();
        price.map(|price| (price.usd_per_hour_chip.value, price.pricing))
    };
    assert_eq!(
        price(&chips, "aws-inferentia1"),
        Some((0.228, Pricing::OnDemand))
    );
    // Its only prices are without a date.
    assert_eq!(price(&chips, "aws-trainium2"), None);
    chips
        .set_price("aws-trainium2", 1.25, "2026-11-23")
        .unwrap();
    assert_eq!(price(&chips, "aws-trainium2"), Some((1.25, Pricing::Own)));
    assert!(chips.set_price("aws-trainium9", 1.0, "2026").is_err());
}

#[test]
fn a_users_file_adds_a_chip_and_changes_part_of_another() {
    let chips = with(
        r#"
        [[chips]]
        id = "my-npu"
        vendor = "Us"
        name = "Our NPU"
        aliases = ["npu0"]
        memory = { bytes = 8e9, bandwidth_bytes_per_s = 100e9 }
        [chips.peaks.matrix]
        f16 = 10e12

        [[chips]]
        id = "nvidia-h100-pcie-80gb"
        power_w = 300
        [[chips.prices]]
        provider = "our own rack"
        usd_per_hour_chip = 1.1
        as_of = "2026-11"
        "#,
    )
    .unwrap();
    let own = chips.get("my-npu").unwrap();
    assert_eq!(own.memory.bytes.as_ref().unwrap().sources, ["mine.toml"]);
    assert_eq!(
        own.memory.bytes.as_ref().unwrap().confidence,
        Confidence::User
    );
    let changed = chips.get("nvidia-h100-pcie-80gb").unwrap();
    let before = Chips::built_in().unwrap();
    let before = before.get("nvidia-h100-pcie-80gb").unwrap();
    assert_eq!(changed.power_w.as_ref().unwrap().value, 300.0);
    assert_eq!(changed.peaks, before.peaks);
    assert_eq!(changed.name, before.name);
    assert_eq!(changed.price(None).unwrap().provider, "our own rack");
    assert_eq!(
        identify(&device("npu0", ""), &chips).chip_id(),
        Some("my-npu")
    );
}

#[test]
fn a_chip_file_that_cannot_be_right_is_refused_with_its_field() {
    let chip = |rest: &str| format!("[[chips]]\nid = \"x\"\nname = \"X\"\n{rest}");
    for (text, part) in [
        (
            chip("[chips.peaks.matrix]\nf16_sparse = 2e12"),
            "peaks.matrix.f16_sparse is a sparse peak",
        ),
        (
            "[[chips]]\nid = \"nvidia-h100-sxm5-80gb\"\n[chips.peaks.matrix]\nf16 = 1979e12"
                .to_owned(),
            "twice the dense",
        ),
        (
            chip("[chips.peaks.matrix]\nf16 = 1e12\nf8 = 8e12"),
            "f8 is 8.0 times f16",
        ),
        (chip("power_w = -3"), "power_w is -3"),
        (chip("power_w = nan"), "power_w is NaN"),
        (chip("memory = { bytes = 1e30 }"), "memory.bytes is 1e30"),
        (chip("colour = 1"), "colour"),
        (chip("power_w = \"much\""), "power_w"),
        (chip("aliases = [\"NVIDIA H200\"]"), "nvidia-h200-sxm-141gb"),
        (chip("aliases = [\"maia\"]"), "shared alias"),
        (
            chip("pci = { vendor_id = \"10de\", confidence = \"user\" }"),
            "\"10de\" must be four",
        ),
        (
            chip(
                "pci = { vendor_id = \"0x10de\", device_ids = [\"0x2330\"], confidence = \"user\" }",
            ),
            "PCI id 0x2330",
        ),
        (
            chip("[[chips.prices]]\nprovider = \"P\"\nusd_per_hour_chip = 0"),
            "usd_per_hour_chip is 0",
        ),
        (
            chip(
                "[[chips.prices]]\nprovider = \"P\"\nusd_per_hour_chip = 2\nas_of = \"yesterday\"",
            ),
            "as_of is \"yesterday\"",
        ),
        (
            chip(
                "[[chips.prices]]\nprovider = \"P\"\nusd_per_hour_chip = 2\nusd_per_hour_instance = 8\nchips_per_instance = 8",
            ),
            "over 8 chips is 1",
        ),
        (
            chip("[chips.peaks]\nmatrix_unsupported = [\"f8\"]\nmatrix = { f8 = 1e12 }"),
            "which has a peak",
        ),
        ("[[chips]]\nid = \"../x\"".to_owned(), "chip id \"../x\""),
        ("[[chips]]\nname = \"X\"".to_owned(), "missing field `id`"),
        ("[[chips]]\nid = \"x\"".to_owned(), "name is missing"),
        ("chips = 3".to_owned(), "chips"),
        ("[[chips]\n".to_owned(), "line 1"),
    ] {
        let message = refusal(&text);
        assert!(message.starts_with("mine.toml: "), "{message}");
        assert!(message.contains(part), "{text}\n{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}
