//! Kernels on the device's own clock, one benchmark per kernel in its preferred variant. Where
//! there is no adapter it says so and ends.
//!
//! `chipmark run` is the tool for numbers to publish; this one is for working on a kernel, because
//! criterion remembers the last run and says what changed.

use std::time::Duration;

use chipmark::catalogue::kernels;
use chipmark::input::Data;
use chipmark::op::{Case, Dtype, OpName, Shape};
use chipmark::protocol::{PROTOCOL_VERSION, Request, Response, Runner, Variant};
use chipmark::runner::worker::WgpuRunner;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Seconds that the device reports, in place of the host's wall clock.
struct DeviceTime(WallTime);

impl Measurement for DeviceTime {
    type Intermediate = ();
    type Value = Duration;

    fn start(&self) {}

    fn end(&self, (): ()) -> Duration {
        Duration::ZERO
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.0.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

/// Small enough for a software adapter, large enough to say something of a GPU.
fn cases() -> Vec<Case> {
    let case = |op, sizes: &[(&str, u64)]| {
        Case::new(op, &Shape::of(sizes), Dtype::F32).unwrap_or_else(|error| panic!("{error}"))
    };
    vec![
        case(OpName::Fma, &[("invocations", 65_536), ("steps", 128)]),
        case(OpName::Copy, &[("n", 4 << 20)]),
        case(OpName::Matmul, &[("m", 256), ("n", 256), ("k", 256)]),
        case(
            OpName::Attention,
            &[
                ("heads", 4),
                ("kv_heads", 2),
                ("query_len", 128),
                ("kv_len", 128),
                ("head_dim", 64),
            ],
        ),
    ]
}

fn preferred(variants: &[Variant]) -> Vec<Variant> {
    let mut seen = std::collections::BTreeSet::new();
    variants
        .iter()
        .filter(|variant| seen.insert(variant.kernel.clone()))
        .cloned()
        .collect()
}

fn device_s(response: Response) -> f64 {
    match response {
        Response::Samples { samples } => samples
            .iter()
            .map(|span| span.device_s.unwrap_or(span.host_s))
            .sum(),
        other => panic!("no samples: {other:?}"),
    }
}

fn kernels_on_the_device(c: &mut Criterion<DeviceTime>) {
    let mut runner = WgpuRunner::new(kernels());
    let hello = Request::Hello {
        protocol: PROTOCOL_VERSION,
        device: None,
        backend: None,
        checks: false,
    };
    if let Response::Error { message, .. } = runner.handle(hello) {
        eprintln!("skipped: {message}");
        return;
    }
    for case in cases() {
        let mut group = c.benchmark_group(case.id());
        group.throughput(if case.flop_count() > 0 {
            Throughput::Elements(case.flop_count())
        } else {
            Throughput::Bytes(case.bytes_min())
        });
        let request = Request::Case {
            case: case.clone(),
            seed: 1,
            data: Data::Uniform,
            set_count: 1,
        };
        let Response::Variants { variants, .. } = runner.handle(request) else {
            continue;
        };
        for variant in preferred(&variants) {
            if let Response::Error { message, .. } = runner.handle(Request::Prepare {
                variant: variant.clone(),
            }) {
                eprintln!("skipped {variant}: {message}");
                continue;
            }
            group.bench_function(BenchmarkId::from_parameter(&variant), |b| {
                b.iter_custom(|iterations| {
                    let repeat_count = u32::try_from(iterations).unwrap_or(u32::MAX);
                    let measure = Request::Measure {
                        repeat_count,
                        sample_count: 1,
                        poison: false,
                    };
                    Duration::from_secs_f64(device_s(runner.handle(measure)))
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(DeviceTime(WallTime))
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10);
    targets = kernels_on_the_device
}
criterion_main!(benches);
