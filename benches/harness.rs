//! What the harness itself costs, without any GPU: plan, protocol, verification, statistics, report.

use std::time::Duration;

use chipmark::input::{Data, Element, Values, keys};
use chipmark::op::{Case, Dtype, OpName, Shape};
use chipmark::plan::plan;
use chipmark::protocol::{Request, Response, Runner, serve};
use chipmark::report::{OutcomeStatus, unmeasured};
use chipmark::runner::native;
use chipmark::stats::Summary;
use chipmark::unroll::{UnrollOptions, unroll};
use chipmark::variant::combinations;
use chipmark::{catalogue, shader};
use criterion::{Criterion, criterion_group, criterion_main};

fn matmul(size: u64) -> Case {
    let shape = Shape::of(&[("m", size), ("n", size), ("k", size)]);
    Case::new(OpName::Matmul, &shape, Dtype::F32).unwrap_or_else(|error| panic!("{error}"))
}

fn planning(c: &mut Criterion) {
    c.bench_function("plan the standard suite", |b| {
        b.iter(|| plan("standard", None))
    });
}

fn verification(c: &mut Criterion) {
    let case = matmul(1024);
    let op = case.op.op();
    let inputs: Vec<Values> = (0..2)
        .map(|tensor| Values::Uniform(keys(1, tensor), 1.0, Element::F32))
        .collect();
    let given = case.given(&inputs, &Data::Uniform);
    let signs = chipmark::runner::signs(7, 1024);
    let rows: Vec<u64> = (0..1024).collect();
    c.bench_function("project a matmul of 1024", |b| {
        b.iter(|| op.project(given, &signs, &rows));
    });
    let positions: Vec<u64> = (0..256).map(|i| i * 4099).collect();
    c.bench_function("reference of 256 elements of a matmul of 1024", |b| {
        b.iter(|| op.reference(given, &positions));
    });
}

fn protocol(c: &mut Criterion) {
    struct Echo;
    impl Runner for Echo {
        fn handle(&mut self, _request: Request) -> Response {
            Response::Samples {
                samples: Vec::new(),
            }
        }
    }
    let request = Request::Case {
        case: matmul(1024),
        seed: 1,
        data: Data::Uniform,
        set_count: 1,
    };
    let line = serde_json::to_string(&request).unwrap_or_default() + "\n";
    c.bench_function("one request and its response", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            serve(&mut Echo, line.as_bytes(), &mut out).map(|()| out.len())
        });
    });
    let mut host = native("host");
    c.bench_function("set up a host case of 64", |b| {
        b.iter(|| {
            host.as_mut().map(|runner| {
                runner.handle(Request::Case {
                    case: matmul(64),
                    seed: 1,
                    data: Data::Uniform,
                    set_count: 1,
                })
            })
        });
    });
}

fn shaders(c: &mut Criterion) {
    let kernels = catalogue::kernels();
    let Some(kernel) = kernels
        .iter()
        .find(|kernel| kernel.name == "matmul/register_tile")
    else {
        return;
    };
    let tunables = combinations(kernel).remove(0);
    c.bench_function("specialise, parse and validate a kernel", |b| {
        b.iter(|| shader::build(&kernel.name, &kernel.source, &tunables, Dtype::F32));
    });
    if let Ok(built) = shader::build(&kernel.name, &kernel.source, &tunables, Dtype::F32) {
        c.bench_function("unroll a register tile", |b| {
            b.iter(|| unroll(&built.module, &UnrollOptions::default()));
        });
    }
}

fn reporting(c: &mut Criterion) {
    let samples: Vec<f64> = (0..200u32)
        .map(|i| 1e-3 + f64::from(i % 17) * 1e-6)
        .collect();
    c.bench_function("summarise 200 samples", |b| {
        b.iter(|| Summary::of(&samples))
    });
    let outcomes: Vec<_> = (1..100)
        .map(|n| {
            unmeasured(
                &matmul(n),
                "wgpu",
                OutcomeStatus::Skipped,
                "bench".to_owned(),
            )
        })
        .collect();
    c.bench_function("write 99 outcomes as JSON", |b| {
        b.iter(|| serde_json::to_string(&outcomes))
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = planning, verification, protocol, shaders, reporting
}
criterion_main!(benches);
