#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::*;
use crate::export::export;

const CLPEAK_JSON: &str = r#"{
  "schema": "clpeak/run",
  "format_version": 3,
  "clpeak_version": "3.0.0-12-gabc1234",
  "generated_at": "2026-08-29T14:03:11Z",
  "duration_s": 148.24,
  "host": {"os": "Linux", "os_version": "6.1", "arch": "x86_64", "cpu": "A CPU", "logical_cores": 16},
  "invocation": {"argv": ["clpeak", "-o", "run.json"]},
  "devices": [
    {
      "backend": "CUDA", "platform": "CUDA", "name": "NVIDIA GeForce RTX 5060", "driver": "580.65.06",
      "type": "gpu", "device_index": 0,
      "properties": [{"key": "Arch", "value": "sm_120"}],
      "tests": [
        {
          "id": "cublas_gemm_fp", "title": "GEMM", "category": "compute", "shape": "heterogeneous",
          "direction": "higher_is_better", "quantity": "flops", "unit": "FLOPS",
          "metrics": [
            {"id": "fp32", "value": 1.487e13},
            {"id": "int8", "value": 2.5e14, "unit": "OPS", "quantity": "ops"},
            {"id": "mxf4", "status": "unsupported", "reason": "no such units"}
          ]
        },
        {
          "id": "kernel_latency", "title": "Latency", "variant": "sm_120", "category": "latency",
          "shape": "homogeneous", "direction": "lower_is_better", "quantity": "seconds", "unit": "us",
          "scale": 1e-06, "metrics": [{"id": "launch", "value": 4.5}]
        },
        {
          "id": "onnx_error", "title": "Error", "category": "ai", "shape": "homogeneous",
          "direction": "lower_is_better", "quantity": "ratio", "unit": "ppm", "scale": 1e-06,
          "metrics": [{"id": "gemm", "value": 12}]
        }
      ]
    },
    {"backend": "CPU", "platform": "CPU", "name": "A CPU", "type": "cpu", "tests": [
      {"id": "memory", "title": "Memory", "category": "bandwidth", "shape": "homogeneous",
       "direction": "higher_is_better", "quantity": "bytes_per_second", "unit": "B/s",
       "metrics": [{"id": "read", "value": 5e10}]}]}
  ]
}"#;

const CLPEAK_XML: &str = r#"<?xml version="1.0" encoding="ISO-8859-1"?>
<clpeak os="Linux x64">
  <platform name="Intel(R) OpenCL">
    <device name="UHD &lt;630&gt; " driver_version="22.43" clock_frequency="1200" clock_frequency_unit="MHz">
      <global_memory_bandwidth unit="gbps">
        <float>25.61</float>
        <float2>26.5</float2>
      </global_memory_bandwidth>
      <single_precision_compute unit="gflops">
        <float>412.2</float>
      </single_precision_compute>
      <kernel_launch_latency unit="us">31.25</kernel_launch_latency>
    </device>
  </platform>
</clpeak>
"#;

const NVBENCH: &str = r#"{
  "meta": {
    "argv": ["./axes", "--json", "out.json"],
    "version": {
      "json": {"major": 1, "minor": 0, "patch": 0, "string": "1.0.0"},
      "nvbench": {"major": 0, "minor": 1, "patch": 0, "string": "0.1.0", "git_is_dirty": false}
    }
  },
  "devices": [{"id": 0, "name": "NVIDIA H100 PCIe", "sm_version": 900}],
  "benchmarks": [
    {
      "name": "copy_sweep_grid_shape", "index": 0, "min_samples": 10, "devices": [0],
      "axes": [{"name": "BlockSize", "type": "int64", "flags": "pow2", "values": []}],
      "states": [
        {
          "name": "Device=0 BlockSize=2^6", "device": 0, "type_config_index": 0,
          "axis_values": [{"name": "BlockSize", "type": "int64", "value": "64"}],
          "summaries": [
            {"tag": "nv/cold/sample_size", "name": "Samples", "hint": "sample_size",
             "data": [{"name": "value", "type": "int64", "value": "1024"}]},
            {"tag": "nv/cold/time/gpu/mean", "name": "GPU Time", "hint": "duration",
             "data": [{"name": "value", "type": "float64", "value": "0.000183"}]},
            {"tag": "nv/cold/time/gpu/stdev/relative", "name": "Noise", "hint": "percentage",
             "data": [{"name": "value", "type": "float64", "value": "inf"}]},
            {"tag": "nv/cold/bw/global/bytes_per_second", "name": "GlobalMem BW", "hint": "byte_rate",
             "data": [{"name": "value", "type": "float64", "value": "1.46e+12"}]}
          ],
          "is_skipped": false
        },
        {
          "name": "Device=0 BlockSize=2^20", "device": 0, "axis_values": null, "summaries": null,
          "is_skipped": true, "skip_reason": "block too large"
        }
      ]
    },
    {"name": "nothing_ran", "index": 1, "axes": null, "states": null}
  ]
}"#;

const LLAMA_SQL: &str = "\
CREATE TABLE IF NOT EXISTS test_backend_ops (
  test_time TEXT,
  n_runs INTEGER
);

INSERT INTO test_backend_ops (test_time, build_commit, backend_name, op_name, op_params, test_mode, supported, passed, error_message, time_us, flops, bandwidth_gb_s, memory_kb, n_runs, device_description, backend_reg_name) VALUES ('2026-09-24T10:56:13Z', 'd006858', 'Vulkan0', 'MUL_MAT', 'type_a=q4_0,type_b=f32,m=4096,n=1,k=14336,bs=[1,1]', 'perf', '1', '1', '', '102.478192', '245572483397.108200', '0.000000', '110680', '11922', '', '');
INSERT INTO test_backend_ops (test_time, build_commit, backend_name, op_name, op_params, test_mode, supported, passed, error_message, time_us, flops, bandwidth_gb_s, memory_kb, n_runs, device_description, backend_reg_name) VALUES ('2026-09-24T10:56:18Z', 'd006858', 'Vulkan0', 'CPY', 'type_src=f32,type_dst=f16', 'perf', '1', '1', '', '10.000000', '0.000000', '2.000000', '4096', '100', '', '');
INSERT INTO test_backend_ops (test_time, build_commit, backend_name, op_name, op_params, test_mode, supported, passed, error_message, time_us, flops, bandwidth_gb_s, memory_kb, n_runs, device_description, backend_reg_name) VALUES ('2026-09-24T10:56:18Z', 'd006858', 'Vulkan0', 'CONV_3D', 'w=1', 'perf', '0', '0', 'not supported', '0.000000', '0.000000', '0.000000', '0', '0', '', '');
";

fn given(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn read(format: &str, text: &str) -> Vec<Report> {
    let (folder, path) = given(text);
    let reports = import(format, &path, "chipmark import").unwrap();
    for report in &reports {
        let written = folder.path().join("report.json");
        fs::write(&written, report.to_json().unwrap()).unwrap();
        let (again, id) = Report::read_with_id(&written).unwrap();
        assert_eq!((&again, &id), (report, &report.report_id));
        assert_eq!(crate::consistency::violations(report), [""; 0]);
    }
    reports
}

/// The line that refuses a text, which must name the file and what would write a good one.
fn refused(format: &str, text: &str) -> String {
    let (_folder, path) = given(text);
    let error = import(format, &path, "").unwrap_err();
    assert_eq!(error.kind, crate::error::ErrorKind::Usage);
    assert!(!error.message.contains('\n'), "{error}");
    assert!(error.message.contains("given: ") && error.message.contains("reads what this writes"));
    error.message
}

/// Figures by what they are, as quantity, value and unit.
fn figures(report: &Report) -> Vec<(String, Option<f64>, String)> {
    let of = |claim: &Claim| {
        let what = format!("{} {}", claim.case_text(), claim.quantity);
        (what, claim.value, claim.unit.clone())
    };
    report.claims.iter().map(of).collect()
}

fn figure(what: &str, value: f64, unit: &str) -> (String, Option<f64>, String) {
    (what.to_owned(), Some(value), unit.to_owned())
}

#[test]
fn clpeak_makes_a_report_a_device_in_base_units() {
    let reports = read("clpeak", CLPEAK_JSON);
    let [gpu, cpu] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!(gpu.device.name, "NVIDIA GeForce RTX 5060");
    assert_eq!(
        (&*gpu.device.backend, &*gpu.started_at),
        ("cuda", "2026-08-29T14:03:11Z")
    );
    assert_eq!((&*gpu.host.os, gpu.host.cpu_count), ("Linux 6.1", 16));
    assert_eq!(gpu.claims[0].program(), "clpeak 3.0.0-12-gabc1234");
    let found = figures(gpu);
    assert_eq!(
        found[0],
        figure(
            "cublas_gemm_fp fp32 operations_per_second",
            1.487e13,
            "op/s"
        )
    );
    assert_eq!(
        found[1],
        figure("cublas_gemm_fp int8 operations_per_second", 2.5e14, "op/s")
    );
    assert_eq!(
        (found[2].1, &*gpu.claims[2].remark()),
        (None, "unsupported: no such units")
    );
    assert_eq!(
        found[3],
        figure("kernel_latency sm_120 launch duration", 4.5e-6, "s")
    );
    assert_eq!(gpu.claims[3].stated.as_deref(), Some("4.5 us"));
    assert_eq!(found[4], figure("onnx_error gemm ratio", 12.0, "ppm"));
    assert_eq!(
        figures(cpu),
        [figure("memory read bytes_per_second", 5e10, "B/s")]
    );
}

#[test]
fn clpeaks_older_xml_is_the_same_tree() {
    let reports = read("clpeak", CLPEAK_XML);
    assert_eq!(reports[0].device.name, "UHD <630>");
    assert_eq!(reports[0].device.driver, "22.43");
    assert_eq!(reports[0].device.backend, "opencl");
    assert_eq!(
        figures(&reports[0]),
        [
            figure(
                "global_memory_bandwidth float bytes_per_second",
                25.61 * 1e9,
                "B/s"
            ),
            figure(
                "global_memory_bandwidth float2 bytes_per_second",
                26.5 * 1e9,
                "B/s"
            ),
            figure(
                "single_precision_compute float operations_per_second",
                412.2 * 1e9,
                "op/s"
            ),
            figure(
                "kernel_launch_latency kernel_launch_latency duration",
                31.25 * 1e-6,
                "s"
            ),
        ]
    );
}

#[test]
fn nvbench_gives_means_and_rates_and_says_what_it_skipped() {
    let reports = read("nvbench", NVBENCH);
    let report = &reports[0];
    assert_eq!(report.device.name, "NVIDIA H100 PCIe");
    let case = "copy_sweep_grid_shape Device=0 BlockSize=2^6";
    assert_eq!(
        figures(report)[..2],
        [
            figure(
                &format!("{case} nv/cold/time/gpu/mean duration"),
                0.000183,
                "s"
            ),
            figure(
                &format!("{case} nv/cold/bw/global/bytes_per_second bytes_per_second"),
                1.46e12,
                "B/s"
            ),
        ]
    );
    assert_eq!(report.claims.len(), 3);
    assert_eq!(report.claims[2].remark(), "skipped: block too large");
}

#[test]
fn llama_cpp_gives_time_and_the_rate_that_a_case_has() {
    let reports = read("llama-cpp", LLAMA_SQL);
    let report = &reports[0];
    assert_eq!(
        (&*report.device.name, &*report.device.backend),
        ("Vulkan0", "vulkan0")
    );
    assert_eq!(report.started_at, "2026-09-24T10:56:13Z");
    let product = "MUL_MAT type_a=q4_0,type_b=f32,m=4096,n=1,k=14336,bs=[1,1]";
    assert_eq!(
        figures(report)[..4],
        [
            figure(
                &format!("{product} time_us duration"),
                102.478192 * 1e-6,
                "s"
            ),
            figure(
                &format!("{product} flops operations_per_second"),
                245_572_483_397.108_2,
                "op/s"
            ),
            figure(
                "CPY type_src=f32,type_dst=f16 time_us duration",
                10.0 * 1e-6,
                "s"
            ),
            figure(
                "CPY type_src=f32,type_dst=f16 bandwidth_gb_s bytes_per_second",
                2_147_483_648.0,
                "B/s"
            ),
        ]
    );
    assert_eq!(report.claims[4].reason.as_deref(), Some("not supported"));
}

#[test]
fn claims_are_shown_as_unverified_and_exported_apart_from_what_was_measured() {
    let report = read("clpeak", CLPEAK_XML).remove(0);
    let shown = table(&report);
    assert!(
        shown.starts_with("UNVERIFIED: what clpeak printed about UHD <630>"),
        "{shown}"
    );
    assert!(shown.contains("412 Gop/s"), "{shown}");
    let named = [("r.json".to_owned(), report)];
    for format in crate::export::names() {
        let done = export(format, &named);
        if !["csv", "jsonl", "parquet"].contains(&format) {
            let refused = done.unwrap_err().message;
            assert!(
                refused.contains("r.json") && refused.contains("csv, jsonl, parquet"),
                "{refused}"
            );
            continue;
        }
        let bytes = done.unwrap();
        if format == "parquet" {
            assert!(bytes.windows(10).any(|part| part == b"unverified"));
            continue;
        }
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let claims = lines
            .iter()
            .filter(|line| line.contains("unverified"))
            .count();
        assert_eq!(claims, 4, "{text}");
        assert!(!text.contains("measured"), "{text}");
    }
    let comparison = crate::compare::compare(
        &[named[0].clone(), named[0].clone()],
        &crate::compare::Terms::default(),
    );
    assert_eq!(comparison.common_case_count, 0, "claims were compared");
}

#[test]
fn what_a_file_says_cannot_steer_a_terminal() {
    let text = CLPEAK_XML.replace("UHD", "\u{1b}[2JUHD&#10;&#27;");
    let report = read("clpeak", &text).remove(0);
    assert!(
        report.device.name.ends_with("<630>"),
        "{:?}",
        report.device.name
    );
    assert!(!table(&report).contains('\u{1b}'));
}

#[test]
fn a_report_without_claims_is_written_as_before() {
    let report = crate::report::empty();
    assert!(!report.to_json().unwrap().contains("claims"));
}

#[test]
fn broken_files_are_refused_with_file_field_and_remedy() {
    for (format, text, wanted) in [
        (
            "clpeak",
            CLPEAK_JSON.replace("\"clpeak/run\"", "\"x\""),
            "schema is \"x\"",
        ),
        (
            "clpeak",
            CLPEAK_JSON.replace("version\": 3,", "version\": 4,"),
            "format_version is 4",
        ),
        (
            "clpeak",
            CLPEAK_JSON.replace("4.5", "\"fast\""),
            "devices[0].tests[1].metrics[0].value is \"fast\"",
        ),
        (
            "clpeak",
            CLPEAK_JSON.replace("4.5", "-4.5"),
            "metrics[0].value is -4.5",
        ),
        (
            "clpeak",
            CLPEAK_JSON.replace("2026-08-29T14", "2026-13-29T14"),
            "which is no moment",
        ),
        (
            "clpeak",
            CLPEAK_JSON[..900].to_owned(),
            "in the middle of the JSON",
        ),
        (
            "clpeak",
            CLPEAK_JSON.replace("\"devices\"", "\"gadgets\""),
            "devices is missing",
        ),
        ("clpeak", CLPEAK_XML[..400].to_owned(), "ends inside of"),
        (
            "clpeak",
            CLPEAK_XML.replace("</clpeak>", ""),
            "ends inside of clpeak",
        ),
        (
            "clpeak",
            CLPEAK_XML.replace("26.5", "nan"),
            "float2 is \"nan\"",
        ),
        (
            "clpeak",
            CLPEAK_XML.replace("<float2>", "<float2><deep>"),
            "element deep at depth 5",
        ),
        (
            "clpeak",
            CLPEAK_XML.replace(" unit=\"us\"", ""),
            "kernel_launch_latency has no unit",
        ),
        (
            "clpeak",
            CLPEAK_XML.replace("<clpeak", "<!DOCTYPE a [<!ENTITY b \"c\">]><clpeak"),
            "document type",
        ),
        ("clpeak", CLPEAK_XML.replace("26.5", "&b;"), "an entity"),
        (
            "clpeak",
            CLPEAK_XML.replace("name=\"UHD", "name=\"&b;UHD"),
            "attribute name",
        ),
        (
            "clpeak",
            "<html></html>".to_owned(),
            "element html at depth 0",
        ),
        ("clpeak", "<clpeak></clpeak>".to_owned(), "no figure"),
        (
            "nvbench",
            NVBENCH.replace("\"major\": 1", "\"major\": 2"),
            "meta.version.json.major is 2",
        ),
        (
            "nvbench",
            NVBENCH.replace("0.000183", "soon"),
            "summaries[1].data[0].value is \"soon\"",
        ),
        (
            "nvbench",
            NVBENCH.replace("\"device\": 0, \"type", "\"device\": 7, \"type"),
            "states[0].device is 7",
        ),
        ("nvbench", "[]".to_owned(), "meta is missing"),
        (
            "llama-cpp",
            "\"op_name\",\"op_params\"\n".to_owned(),
            "the CSV, which has no times",
        ),
        (
            "llama-cpp",
            LLAMA_SQL.replace("'102.478192'", "'quick'"),
            "line 6: time_us is \"quick\"",
        ),
        (
            "llama-cpp",
            LLAMA_SQL.replace("'perf'", "'test'"),
            "test_mode is \"test\"",
        ),
        (
            "llama-cpp",
            LLAMA_SQL.replace("'d006858', ", ""),
            "16 fields and 15 values",
        ),
        ("llama-cpp", LLAMA_SQL[..400].to_owned(), "line 6"),
        ("llama-cpp", String::new(), "no line of it inserts"),
    ] {
        let message = refused(format, &text);
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
    assert!(
        import("xml", Path::new("x"), "")
            .unwrap_err()
            .message
            .contains("clpeak, nvbench")
    );
    assert!(
        import("clpeak", Path::new("no/file"), "")
            .unwrap_err()
            .message
            .contains("no/file")
    );
}
