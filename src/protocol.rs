//! The messages between the conductor and a runner: JSON Lines on the runner's stdin and stdout.
//!
//! The conductor speaks first and a runner answers each request with exactly one response, in
//! order. `docs/protocol.md` is the specification for people who write runners.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::input::Data;
use crate::op::Case;

/// Version of this protocol. A runner refuses a `hello` with a version it does not speak.
pub const PROTOCOL_VERSION: u32 = 1;

/// Tunable values of one variant, by name.
pub type Tunables = BTreeMap<String, u32>;

/// One kernel with its tunables fixed.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Variant {
    /// Kernel name, such as `matmul/register_tile`.
    pub kernel: String,
    /// Its tunables; empty where it has none.
    #[serde(default)]
    pub variant: Tunables,
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kernel)?;
        for (index, (name, value)) in self.variant.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

/// What the conductor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Open the device. First and once.
    Hello {
        /// [`PROTOCOL_VERSION`] of the conductor.
        protocol: u32,
        /// Which device, as the user wrote it: index, part of a name, or PCI id.
        #[serde(default)]
        device: Option<String>,
        /// Which API, as the user wrote it: `vulkan`, `metal`, `dx12`, `gl`.
        #[serde(default)]
        backend: Option<String>,
        /// Keep bounds checks and loop limits in kernels.
        #[serde(default)]
        checks: bool,
    },
    /// Make the inputs of a case and say which variants could run it.
    Case {
        /// What is asked.
        case: Case,
        /// Seed of the inputs.
        seed: u32,
        /// How the inputs are drawn.
        data: Data,
        /// Sets of buffers, all with the same contents, that successive calls take by turns: one
        /// for hot caches, more for cold ones. A runner that lacks the memory says so.
        #[serde(default = "one")]
        set_count: u32,
    },
    /// Build these variants side by side, for a later `prepare` to find them built: at most as many as
    /// the runner said it builds at once, of those it offered for the current case.
    Build {
        /// Which ones.
        variants: Vec<Variant>,
    },
    /// Build one variant for the current case, poison its output and call it once.
    Prepare {
        /// Which one.
        #[serde(flatten)]
        variant: Variant,
    },
    /// Build a what-if variant for the current case, poison the output and call it once; it is then
    /// what is timed. Its output is wrong by design. Only kernels that can be taken apart have any.
    WhatIf {
        /// Of which variant.
        #[serde(flatten)]
        variant: Variant,
        /// What is changed.
        what_if: WhatIf,
    },
    /// Say what a variant takes of the device, and what the driver says of it.
    Inspect {
        /// Which one.
        #[serde(flatten)]
        variant: Variant,
    },
    /// Time the prepared variant.
    Measure {
        /// Calls in each timed span.
        repeat_count: u32,
        /// Spans to time.
        sample_count: u32,
        /// Overwrite the output with NaN first, so that what is checked afterwards was written by
        /// the calls that were timed.
        poison: bool,
    },
    /// Give back parts of the output as the last call left it.
    Outputs {
        /// Positions in the row-major output.
        positions: Vec<u64>,
        /// Seed of a projection: for every row the sum of its elements times the sign of their
        /// column. Absent if none is wanted.
        #[serde(default)]
        projection_seed: Option<u32>,
        /// Give every element back instead.
        #[serde(default)]
        all: bool,
        /// From which set of buffers, counted from 0.
        #[serde(default)]
        set_index: u32,
    },
    /// The conversation is over.
    Bye,
}

/// What a runner answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// The device is open.
    Hello {
        /// The version the runner speaks.
        protocol: u32,
        /// Name and version of the runner.
        runner: RunnerInfo,
        /// The device it opened.
        device: Box<Device>,
        /// The clock its samples come from.
        timer: Timer,
    },
    /// The inputs are there; these variants could run.
    Variants {
        /// Legal variants, each kernel's preferred one first.
        variants: Vec<Variant>,
        /// Variants that this device, dtype or shape rules out, with the reason.
        refused: Vec<Refused>,
        /// Sets of buffers that calls will take by turns. A runner that knows nothing of them has
        /// one.
        #[serde(default = "one")]
        set_count: u32,
        /// What variants will need, as far as the runner can tell before it builds them. Variants
        /// of which nothing is told are searched as ever.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        estimates: Vec<Estimate>,
        /// How many variants the runner builds side by side when asked to `build` them. One that does
        /// not know that request has 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        builds_at_once: u32,
    },
    /// What could be built is built; why the rest could not be is said when it is prepared.
    Built,
    /// The variant is built and has been called once.
    Ready {
        /// Seconds from source to a pipeline that can be launched.
        compile_s: f64,
        /// Seconds of the first call on the host's clock; drivers that compile late do it here.
        #[serde(default)]
        first_call_s: f64,
        /// SHA-256 of the exact source, if there is one.
        shader_sha256: Option<String>,
        /// Whether matrix units do the work: `alu` or `matrix`.
        engine: String,
        /// What was done to the source before the driver got it, such as `unrolled 12 loops`.
        #[serde(default)]
        passes: Vec<String>,
        /// The clock of this variant's samples where it is not the runner's: `host` for what a
        /// device cannot time, such as a round trip to it.
        #[serde(default)]
        clock: Option<String>,
        /// What the variant rounds its output to, where that is shorter than the dtype's own:
        /// `f16` of a library that keeps sums in f32 and hands them over in f16.
        #[serde(default)]
        output: Option<String>,
        /// Of a what-if variant, the share of what it looks for that it leaves out.
        #[serde(default)]
        left_out: Option<f64>,
    },
    /// What a variant takes of the device.
    Inspected {
        /// The facts.
        inspection: Box<Inspection>,
    },
    /// Timed spans, as measured, none left out.
    Samples {
        /// In the order they were taken.
        samples: Vec<Span>,
    },
    /// Parts of the output.
    Outputs {
        /// The elements asked for.
        #[serde(with = "float_list")]
        #[schemars(with = "Vec<FloatSchema>")]
        values: Vec<f64>,
        /// One projected value per row, if a projection was asked for.
        #[serde(with = "float_list")]
        #[schemars(with = "Vec<FloatSchema>")]
        projection: Vec<f64>,
    },
    /// The request could not be carried out; the runner goes on.
    Error {
        /// What kind of trouble.
        kind: FaultKind,
        /// One line for people.
        message: String,
    },
    /// The runner ends.
    Bye,
}

impl Response {
    /// The answer of a runner that offers these variants in so many sets of buffers, refuses none and
    /// estimates nothing. Runners that are built on their own are best written with it: it keeps its
    /// form when this protocol grows.
    #[must_use]
    pub fn variants(variants: Vec<Variant>, set_count: u32) -> Self {
        Self::Variants {
            variants,
            refused: Vec::new(),
            set_count,
            estimates: Vec::new(),
            builds_at_once: 1,
        }
    }

    /// The answer of a runner that compiles nothing of its own and uses the ordinary arithmetic units,
    /// as far as it knows; for the same runners.
    #[must_use]
    pub fn ready(first_call_s: f64) -> Self {
        Self::Ready {
            compile_s: 0.0,
            first_call_s,
            shader_sha256: None,
            engine: "alu".to_owned(),
            passes: Vec::new(),
            clock: None,
            output: None,
            left_out: None,
        }
    }
}

/// What is changed in a kernel to see what a part of it costs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WhatIf {
    /// Nothing that is computed: a program that no cache of a driver's can know.
    Cold,
    /// Loads of inputs come from a few elements in the nearest cache.
    MathOnly,
    /// Multiply-adds are left out but for what every loaded value needs to be needed.
    LoadsOnly,
    /// The dimension that is summed over is as short as the kernel allows.
    StoresOnly,
}

impl WhatIf {
    /// Its name in JSON and on the screen.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::MathOnly => "math_only",
            Self::LoadsOnly => "loads_only",
            Self::StoresOnly => "stores_only",
        }
    }
}

/// What a variant takes of the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Inspection {
    /// Its launches in their order.
    pub passes: Vec<InspectedPass>,
    /// Bytes of workgroup memory of one workgroup.
    pub workgroup_bytes: u32,
    /// Lanes of the smallest subgroup of the device, where it is known.
    pub subgroup_size_min: Option<u32>,
    /// What the driver says of the compiled program, where it says anything.
    pub driver_statistics: Option<Vec<Executable>>,
    /// Why it says nothing, where it does not.
    pub driver_statistics_reason: Option<String>,
}

/// One launch of a variant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InspectedPass {
    /// Its entry point.
    pub entry_point: String,
    /// Invocations of a workgroup in each dimension.
    pub workgroup_size: [u32; 3],
    /// Workgroups in each dimension.
    pub workgroup_count: [u32; 3],
    /// Share of the covered tiles that lies beyond the sizes of the case.
    pub padding: f64,
    /// Registers of 32 bits that arrays, vectors and matrices of an invocation need at one time, as in
    /// [`Estimate::register_count`].
    pub register_count: u32,
    /// Expressions after unrolling.
    pub expression_count: u32,
}

/// A compiled program, as its driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Executable {
    /// The entry point it comes from.
    pub entry_point: String,
    /// What the driver calls it.
    pub name: String,
    /// Lanes of its subgroups; zero where the driver does not tell.
    pub subgroup_size: u32,
    /// The driver's figures under the driver's names; yes and no are 1 and 0.
    pub statistics: BTreeMap<String, f64>,
}

/// Who executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunnerInfo {
    /// Short name: `wgpu`, `host`, `torch`.
    pub name: String,
    /// Version of the runner and of what it runs on.
    pub version: String,
}

/// What [`Device::device_type`] can be.
pub const DEVICE_TYPES: [&str; 5] = [
    "discrete_gpu",
    "integrated_gpu",
    "virtual_gpu",
    "cpu",
    "other",
];

/// What an API enumerated and a runner opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// Name as the driver gives it.
    pub name: String,
    /// The API it was opened through: `vulkan`, `metal`, `dx12`, `gl`, `cpu`, `cuda`.
    pub backend: String,
    /// Driver name and version as the driver gives them; empty where it gives none.
    pub driver: String,
    /// `discrete_gpu`, `integrated_gpu`, `virtual_gpu`, `cpu` or `other`.
    pub device_type: String,
    /// Name of the runner that reaches it.
    pub runner: String,
    /// PCI ids as `vendor:device` in hexadecimal, where there are such.
    pub pci_id: Option<String>,
    /// PCI address, where there is one.
    pub pci_bus_id: Option<String>,
    /// Entry in the chip catalogue, where the device is known.
    pub chip_id: Option<String>,
    /// Limits by name.
    pub limits: BTreeMap<String, u64>,
    /// Features that were there and switched on.
    pub features: Vec<String>,
    /// Other APIs that reach the same device.
    #[serde(default)]
    pub also_reached_by: Vec<String>,
}

impl Device {
    /// Whether a runner that was opened again has the device that it had.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |device: &Self| {
            (
                device.name.clone(),
                device.backend.clone(),
                device.pci_bus_id.clone(),
                device.driver.clone(),
            )
        };
        identity(self) == identity(other)
    }
}

/// The clock of a runner's samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timer {
    /// `device` where the device takes timestamps, else `host`.
    pub clock: String,
    /// Smallest difference the clock can show, in seconds: as measured, where `period_s` stands
    /// beside it, else as stated.
    pub quantum_s: f64,
    /// What the API says one tick of the clock is; the true quantum can be a multiple of it.
    #[serde(default)]
    pub period_s: Option<f64>,
    /// Why the device's own clock is not used, where it is not.
    pub note: Option<String>,
}

/// A variant that cannot run here, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Which one.
    #[serde(flatten)]
    pub variant: Variant,
    /// The cause with both numbers.
    pub reason: String,
}

/// What a variant will need at a case, told before it is built; what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// Which one.
    #[serde(flatten)]
    pub variant: Variant,
    /// Which units do the work: `alu` or `matrix`.
    #[serde(default)]
    pub engine: Option<String>,
    /// Workgroups of its widest pass.
    #[serde(default)]
    pub workgroup_count: Option<u64>,
    /// Invocations of its largest workgroup.
    #[serde(default)]
    pub invocation_count: Option<u32>,
    /// Workgroup memory of one workgroup.
    #[serde(default)]
    pub workgroup_bytes: Option<u32>,
    /// Registers of 32 bits that an invocation needs.
    #[serde(default)]
    pub register_count: Option<u32>,
    /// Operations that it does at least, where it is certain to do more than the case asks for: what
    /// pads its tiles is computed as well.
    #[serde(default)]
    pub flop_count: Option<u64>,
    /// How much of its tiles lies beyond the sizes of the case, computed or not.
    #[serde(default)]
    pub padding_percent: Option<u32>,
}

/// One timed span of `repeat_count` calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// Seconds between the device's timestamps around the calls, where it takes them.
    pub device_s: Option<f64>,
    /// Seconds on the host clock from before the submission to its completion.
    pub host_s: f64,
    /// Seconds on the host clock until the submission was handed over; absent where nothing is
    /// submitted.
    #[serde(default)]
    pub submit_s: Option<f64>,
    /// Calls in the span.
    pub repeat_count: u32,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_one(count: &u32) -> bool {
    *count == 1
}

/// Why a request could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The runner does not do this.
    Unsupported,
    /// A limit or a file of the user's stands in the way.
    Input,
    /// No device to open.
    NoDevice,
    /// Not enough memory.
    OutOfMemory,
    /// A shader did not compile or a call was refused.
    Validation,
    /// The device went away.
    DeviceLost,
    /// A mistake of the runner's.
    Internal,
}

/// A float in JSON: a number, or the word for one that JSON cannot write.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum FloatSchema {
    Number(f64),
    Word(FloatWord),
}

#[derive(JsonSchema)]
#[allow(dead_code)]
enum FloatWord {
    NaN,
    Infinity,
    #[serde(rename = "-Infinity")]
    NegativeInfinity,
}

/// Lists of floats that may hold NaN and infinities, which JSON numbers cannot.
mod float_list {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Float {
        Number(f64),
        Word(String),
    }

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|&value| {
            if value.is_finite() {
                Float::Number(value)
            } else if value.is_nan() {
                Float::Word("NaN".to_owned())
            } else if value > 0.0 {
                Float::Word("Infinity".to_owned())
            } else {
                Float::Word("-Infinity".to_owned())
            }
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Vec::<Float>::deserialize(deserializer)?
            .into_iter()
            .map(|value| match value {
                Float::Number(number) => Ok(number),
                Float::Word(word) => match word.as_str() {
                    "NaN" => Ok(f64::NAN),
                    "Infinity" => Ok(f64::INFINITY),
                    "-Infinity" => Ok(f64::NEG_INFINITY),
                    _ => Err(D::Error::custom(format!("{word:?} is not a number"))),
                },
            })
            .collect()
    }
}

/// Something that executes requests, in this process or behind a pipe.
pub trait Runner {
    /// Carries out one request.
    fn handle(&mut self, request: Request) -> Response;
}

/// Serves `runner` on a pair of streams until `bye` or the end of input.
///
/// # Errors
/// When a stream breaks.
pub fn serve(
    runner: &mut dyn Runner,
    requests: impl BufRead,
    mut responses: impl Write,
) -> std::io::Result<()> {
    for line in requests.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let response = match serde_json::from_str::<Request>(&line) {
            Ok(request) => runner.handle(request),
            Err(error) => Response::Error {
                kind: FaultKind::Input,
                message: format!("this request is not understood: {error}"),
            },
        };
        let last = response == Response::Bye;
        // In one piece: standard output looks for the end of a line in every piece it gets.
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        responses.write_all(&line)?;
        responses.flush()?;
        if last {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_that_json_cannot_write_survive_the_pipe() {
        let sent = Response::Outputs {
            values: vec![
                1.5,
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::from(0.1f32),
            ],
            projection: vec![],
        };
        let line = serde_json::to_string(&sent).unwrap();
        assert!(
            line.contains(r#"[1.5,"NaN","Infinity","-Infinity",0.10000000149011612]"#),
            "{line}"
        );
        let Ok(Response::Outputs { values, .. }) = serde_json::from_str(&line) else {
            panic!("not understood: {line}")
        };
        assert!(values[1].is_nan());
        assert_eq!((values[2], values[4]), (f64::INFINITY, f64::from(0.1f32)));
    }

    #[test]
    fn garbage_is_answered_with_an_error_and_the_runner_goes_on() {
        struct Deaf;
        impl Runner for Deaf {
            fn handle(&mut self, _request: Request) -> Response {
                Response::Bye
            }
        }
        let mut out = Vec::new();
        serve(
            &mut Deaf,
            "not json\n{\"type\":\"bye\"}\n".as_bytes(),
            &mut out,
        )
        .unwrap();
        let lines: Vec<String> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("\"kind\":\"input\""));
        assert_eq!(lines[1], "{\"type\":\"bye\"}");
    }
}
