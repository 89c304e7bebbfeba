//! The adapters of this machine, for tests that need one. Where there is none a test says so and
//! passes: the suite runs on machines with no driver at all.

#![allow(dead_code)] // each test that includes this uses its own part

use std::path::Path;

/// One way to reach an adapter: a name for messages, the API, and the environment it needs.
pub struct Adapter {
    /// For messages.
    pub name: String,
    /// What `--backend` takes.
    pub backend: String,
    /// Variables that make the loader find it.
    pub environment: Vec<(&'static str, String)>,
}

/// Where distributions put the manifest of SwiftShader, which comes with Chromium.
const SWIFTSHADER: [&str; 2] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
];

/// Every adapter there is, each API of the same device counted apart.
pub fn adapters() -> Vec<Adapter> {
    let mut adapters = Vec::new();
    for candidate in chipmark::gpu::enumerate(None) {
        let device = candidate.device;
        for backend in std::iter::once(&device.backend).chain(&device.also_reached_by) {
            adapters.push(Adapter {
                name: format!("{} through {backend}", device.name),
                backend: backend.clone(),
                environment: Vec::new(),
            });
        }
    }
    let already = adapters
        .iter()
        .any(|adapter| adapter.name.contains("SwiftShader"));
    if let Some(manifest) = SWIFTSHADER
        .iter()
        .find(|path| Path::new(path).exists())
        .filter(|_| !already)
    {
        adapters.push(Adapter {
            name: "SwiftShader through vulkan".to_owned(),
            backend: "vulkan".to_owned(),
            environment: vec![
                ("VK_ICD_FILENAMES", (*manifest).to_owned()),
                ("VK_DRIVER_FILES", (*manifest).to_owned()),
            ],
        });
    }
    adapters
}

/// Says visibly that a test had nothing to run on.
pub fn skipped(what: &str) {
    eprintln!("SKIPPED {what}: no wgpu adapter on this machine");
}
