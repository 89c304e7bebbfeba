//! CubeCL as a runner of chipmark: Burn's matmul and attention on its wgpu backend, kernels chosen
//! by CubeCL's own autotuner.
//!
//! It is a program of its own, so that nobody who builds chipmark has to build Burn:
//!
//! ```text
//! cargo build --release --manifest-path runners/cubecl/Cargo.toml
//! chipmark run --runner wgpu --runner runners/cubecl/target/release/chipmark-cubecl
//! ```
//!
//! Timed on the host's clock: so many calls, then one wait. Inputs come from chipmark's own streams,
//! and outputs are those of the last call.

use std::io::{stdin, stdout};
use std::time::Instant;

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device as BurnDevice, DeviceKind, Tensor, TensorData};
use chipmark::input::Data;
use chipmark::op::{Case, Dtype, OpName};
use chipmark::protocol::{
    Device, FaultKind, PROTOCOL_VERSION, Request, Response, Runner, RunnerInfo, Span, Timer,
    Variant, serve,
};
use chipmark::runner::{error, outputs};
use chipmark::verify;

/// The Burn release this program is built with.
const BURN: &str = "burn 0.22.1";

fn main() -> std::io::Result<()> {
    serve(&mut CubeCl::default(), stdin().lock(), stdout().lock())
}

/// What there is at any time.
#[derive(Default)]
struct CubeCl {
    device: Option<BurnDevice>,
    loaded: Option<Loaded>,
}

/// A case with its tensors on the device.
struct Loaded {
    case: Case,
    operands: Operands,
    prepared: bool,
    /// The output of the last call.
    output: Option<Output>,
}

enum Operands {
    Matmul([Tensor<3>; 2]),
    Attention([Tensor<4>; 3], AttentionModuleOptions),
}

enum Output {
    Matmul(Tensor<3>),
    Attention(Tensor<4>),
}

fn unsupported(message: impl Into<String>) -> Response {
    error(FaultKind::Unsupported, message)
}

impl CubeCl {
    fn hello(&mut self, selector: Option<&str>) -> Response {
        let kind = match selector {
            None => DeviceKind::DefaultDevice,
            Some("cpu") => DeviceKind::Cpu,
            Some(text) => match text.parse() {
                Ok(index) => DeviceKind::DiscreteGpu(index),
                Err(_) => {
                    return error(
                        FaultKind::NoDevice,
                        format!(
                            "this runner takes `cpu` or the number of a discrete GPU, not {text:?}"
                        ),
                    );
                }
            },
        };
        let device = BurnDevice::wgpu(kind);
        let name = device
            .identity()
            .map_or_else(|| "unknown".to_owned(), |identity| identity.name);
        self.device = Some(device);
        Response::Hello {
            protocol: PROTOCOL_VERSION,
            runner: RunnerInfo {
                name: "cubecl".to_owned(),
                version: format!("{} ({BURN})", env!("CARGO_PKG_VERSION")),
            },
            device: Box::new(Device {
                device_type: if name.contains("llvmpipe") || name.contains("SwiftShader") {
                    "cpu".to_owned()
                } else {
                    "other".to_owned()
                },
                name,
                backend: "vulkan".to_owned(),
                driver: BURN.to_owned(),
                runner: "cubecl".to_owned(),
                ..Device::default()
            }),
            timer: Timer {
                clock: "host".to_owned(),
                quantum_s: 1e-7,
                period_s: None,
                note: Some("Burn shows no timestamps of single calls".to_owned()),
            },
        }
    }

    fn load(&mut self, case: Case, seed: u32, data: &Data, set_count: u32) -> Response {
        self.loaded = None;
        let Some(device) = &self.device else {
            return error(FaultKind::Input, "say hello first");
        };
        if set_count > 1 {
            return unsupported("this runner has one set of buffers");
        }
        if case.dtype != Dtype::F32 {
            return unsupported(format!(
                "Burn has no product of {} with sums and output of chipmark's types",
                case.dtype
            ));
        }
        let inputs = match verify::inputs(&case, seed, data) {
            Ok(inputs) => inputs,
            Err(refused) => return error(FaultKind::Input, refused.message),
        };
        let size = |name: &str| usize::try_from(case.shape.get(name)).unwrap_or(usize::MAX);
        // The same values that the conductor's reference will see.
        let tensors = case.tensors();
        let mut inputs = tensors.iter().zip(inputs);
        let mut next = || -> Vec<f32> {
            inputs.next().map_or_else(Vec::new, |(tensor, values)| {
                (0..tensor.len()).map(|index| values.get(index)).collect()
            })
        };
        let operands = match case.op {
            OpName::Matmul => {
                let (batch, m, n, k) = (size("batch").max(1), size("m"), size("n"), size("k"));
                let a = Tensor::from_data(TensorData::new(next(), [batch, m, k]), device);
                let b = if size("trans_b") == 1 {
                    // A view: the kernel reads the transposed layout.
                    Tensor::<3>::from_data(TensorData::new(next(), [batch, n, k]), device)
                        .swap_dims(1, 2)
                } else {
                    Tensor::from_data(TensorData::new(next(), [batch, k, n]), device)
                };
                Operands::Matmul([a, b])
            }
            OpName::Attention => {
                if case.shape.get("page") > 0 {
                    return unsupported("Burn has no attention over keys in pages");
                }
                if case.shape.get("heads") != case.shape.get("kv_heads") {
                    return unsupported("Burn's attention has as many key-value heads as heads");
                }
                let causal = case.shape.get("causal") == 1;
                if causal && case.shape.get("query_len") != case.shape.get("kv_len") {
                    return unsupported(
                        "Burn's causal mask is checked only where there are as many queries as keys",
                    );
                }
                let query = [
                    size("batch"),
                    size("heads"),
                    size("query_len"),
                    size("head_dim"),
                ];
                let key = [
                    size("batch"),
                    size("heads"),
                    size("kv_len"),
                    size("head_dim"),
                ];
                let q = Tensor::from_data(TensorData::new(next(), query), device);
                let k = Tensor::from_data(TensorData::new(next(), key), device);
                let v = Tensor::from_data(TensorData::new(next(), key), device);
                let options = AttentionModuleOptions {
                    is_causal: causal,
                    ..AttentionModuleOptions::default()
                };
                Operands::Attention([q, k, v], options)
            }
            op => return unsupported(format!("this runner has no {op}")),
        };
        let kernel = format!("{}/cubecl", case.op);
        self.loaded = Some(Loaded {
            case,
            operands,
            prepared: false,
            output: None,
        });
        let variant = Variant {
            kernel,
            ..Variant::default()
        };
        Response::variants(vec![variant], 1)
    }
}

impl Loaded {
    fn call(&mut self) {
        self.output = Some(match &self.operands {
            Operands::Matmul([a, b]) => Output::Matmul(a.clone().matmul(b.clone())),
            Operands::Attention([q, k, v], options) => Output::Attention(attention(
                q.clone(),
                k.clone(),
                v.clone(),
                None,
                None,
                *options,
            )),
        });
    }

    /// Calls so often and waits once; seconds of the whole.
    fn timed(&mut self, device: &BurnDevice, repeat_count: u32) -> Result<f64, Response> {
        let started = Instant::now();
        for _ in 0..repeat_count {
            self.call();
        }
        device
            .sync()
            .map_err(|e| error(FaultKind::Internal, e.to_string()))?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn prepare(&mut self, device: &BurnDevice, variant: &Variant) -> Result<Response, Response> {
        if variant.kernel != format!("{}/cubecl", self.case.op) || !variant.variant.is_empty() {
            return Err(error(
                FaultKind::Validation,
                format!("there is no {} variant {variant}", self.case.op),
            ));
        }
        // The first call tunes and compiles; what it took beyond a later call counts as compiling.
        let first_call_s = self.timed(device, 1)?;
        self.prepared = true;
        Ok(Response::ready(first_call_s))
    }

    fn measure(
        &mut self,
        device: &BurnDevice,
        repeat_count: u32,
        sample_count: u32,
        poison: bool,
    ) -> Result<Response, Response> {
        if !self.prepared {
            return Err(error(FaultKind::Input, "no variant is prepared"));
        }
        if poison {
            // Every call makes an output of its own; without one there is nothing to show.
            self.output = None;
        }
        let mut samples = Vec::new();
        for _ in 0..sample_count {
            samples.push(Span {
                device_s: None,
                host_s: self.timed(device, repeat_count)?,
                submit_s: None,
                repeat_count,
            });
        }
        Ok(Response::Samples { samples })
    }

    fn read(&self) -> Result<Vec<f32>, Response> {
        let data = match &self.output {
            Some(Output::Matmul(tensor)) => tensor.try_to_data(),
            Some(Output::Attention(tensor)) => tensor.try_to_data(),
            None => {
                let len = usize::try_from(self.case.output().len()).unwrap_or(0);
                return Ok(vec![f32::NAN; len]);
            }
        };
        data.map_err(|e| error(FaultKind::Internal, e.to_string()))?
            .try_to_vec()
            .map_err(|e| error(FaultKind::Internal, format!("{e:?}")))
    }
}

impl Runner for CubeCl {
    fn handle(&mut self, request: Request) -> Response {
        let loaded = match (&request, &self.device, &mut self.loaded) {
            (Request::Hello { protocol, .. }, ..) if *protocol != PROTOCOL_VERSION => {
                return unsupported(format!(
                    "this runner speaks protocol {PROTOCOL_VERSION}, not {protocol}"
                ));
            }
            (Request::Hello { device, .. }, ..) => {
                let selector = device.clone();
                return self.hello(selector.as_deref());
            }
            (Request::Bye, ..) => return Response::Bye,
            (Request::Case { .. }, ..) => None,
            (_, Some(device), Some(loaded)) => Some((device, loaded)),
            _ => return error(FaultKind::Input, "there is no case yet"),
        };
        let done = match (request, loaded) {
            (Request::Prepare { variant }, Some((device, loaded))) => {
                loaded.prepare(device, &variant)
            }
            (
                Request::Measure {
                    repeat_count,
                    sample_count,
                    poison,
                },
                Some((device, loaded)),
            ) => loaded.measure(device, repeat_count, sample_count, poison),
            (Request::Outputs { set_index, .. }, _) if set_index > 0 => Err(error(
                FaultKind::Input,
                format!("there is no set of buffers {set_index}; this runner has one"),
            )),
            (
                Request::Outputs {
                    positions,
                    projection_seed,
                    all,
                    ..
                },
                Some((_, loaded)),
            ) => loaded.read().map(|values| {
                outputs(
                    &loaded.case,
                    values.len() as u64,
                    |index| f64::from(values[index]),
                    &positions,
                    projection_seed,
                    all,
                )
            }),
            (
                Request::Case {
                    case,
                    seed,
                    data,
                    set_count,
                },
                _,
            ) => match Case::new(case.op, &case.shape, case.dtype) {
                Ok(case) => Ok(self.load(case, seed, &data, set_count)),
                Err(refused) => Err(error(FaultKind::Input, refused.message)),
            },
            _ => Err(error(FaultKind::Input, "this request is not understood")),
        };
        done.unwrap_or_else(|refusal| refusal)
    }
}
