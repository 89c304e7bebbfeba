//! clpeak: the JSON document of version 3 (`clpeak/run`, a tree of devices, tests and metrics), and
//! the XML of version 1, which has the same tree as elements.

use quick_xml::events::{BytesStart, Event};

use super::{At, Found, Source};
use crate::error::Result;
use crate::protocol::Device;
use crate::report::{Claim, Host};

const PROGRAM: &str = "clpeak";

/// The one version of the document: clpeak itself rejects any other.
const FORMAT_VERSION: u64 = 3;

pub fn read(source: &Source<'_>) -> Result<Vec<Found>> {
    if source.text.trim_start().starts_with('<') {
        xml(source)
    } else {
        json(source)
    }
}

/// What a quantity of clpeak's is called here, and the unit of one.
fn quantity(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "flops" | "ops" => ("operations_per_second", "op/s"),
        "bytes_per_second" => ("bytes_per_second", "B/s"),
        "seconds" => ("duration", "s"),
        "items_per_second" => ("items_per_second", "1/s"),
        _ => return None,
    })
}

fn json(source: &Source<'_>) -> Result<Vec<Found>> {
    let value = source.json()?;
    let root = At::root(source, &value);
    let schema = root.get("schema")?;
    if schema.text()? != "clpeak/run" {
        return Err(schema.refuse(&format!("is {}, not \"clpeak/run\"", schema.value)));
    }
    let version = root.get("format_version")?;
    if version.value.as_u64() != Some(FORMAT_VERSION) {
        return Err(version.refuse(&format!(
            "is {}, and {FORMAT_VERSION} is the one that is known",
            version.value
        )));
    }
    let host = root.maybe("host").map(|at| host(&at)).transpose()?;
    let at = root.text_of("generated_at")?.map(str::to_owned);
    let program_version = root.text_of("clpeak_version")?.map(str::to_owned);
    let seconds = root.maybe("duration_s").map(|at| at.number()).transpose()?;
    let devices = root.get("devices")?.items()?;
    let found = devices.iter().map(|device| {
        let mut claims = Vec::new();
        for test in device.get("tests")?.items()? {
            for metric in test.get("metrics")?.items()? {
                claims.push(claim(&test, &metric, program_version.clone())?);
            }
        }
        Ok(Found {
            device: Device {
                name: device.get("name")?.text()?.to_owned(),
                backend: device.get("backend")?.text()?.to_lowercase(),
                driver: device.text_of("driver")?.unwrap_or_default().to_owned(),
                device_type: match device.text_of("type")? {
                    Some("cpu") => "cpu".to_owned(),
                    _ => "other".to_owned(),
                },
                runner: PROGRAM.to_owned(),
                ..Device::default()
            },
            host: host.clone(),
            at: at.clone(),
            duration_s: seconds.unwrap_or(0.0),
            program: PROGRAM,
            claims,
        })
    });
    found.collect()
}

fn host(at: &At<'_>) -> Result<Host> {
    let text = |key: &str| Ok(at.text_of(key)?.unwrap_or("unknown").to_owned());
    let count = |key: &str| at.maybe(key).and_then(|at| at.value.as_u64()).unwrap_or(0);
    let version = at.text_of("os_version")?.unwrap_or_default();
    Ok(Host {
        os: format!("{} {version}", text("os")?).trim().to_owned(),
        kernel: "unknown".to_owned(),
        cpu: text("cpu")?,
        cpu_count: count("logical_cores"),
        memory_bytes: count("memory_bytes"),
    })
}

/// A reading, whose unit is its own or else that of its test.
fn claim(test: &At<'_>, metric: &At<'_>, source_version: Option<String>) -> Result<Claim> {
    let with_unit = if metric.maybe("unit").is_some() {
        metric
    } else {
        test
    };
    let stated_unit = with_unit.get("unit")?.text()?;
    // Files of a version 3 that was not yet released have figures in the unit and its scale; those
    // after it are in base units.
    let scale = with_unit.maybe("scale").map(|at| at.number()).transpose()?;
    let name = with_unit.get("quantity")?.text()?;
    let (quantity, unit, scale) = match quantity(name) {
        Some((quantity, unit)) => (quantity, unit, scale.unwrap_or(1.0)),
        None => (name, stated_unit, 1.0),
    };
    let variant = test.text_of("variant")?.unwrap_or_default();
    let reading = metric.maybe("value");
    let value = reading.as_ref().map(At::number).transpose()?;
    let reason = match value {
        Some(_) => None,
        None => Some(format!(
            "{}: {}",
            metric.get("status")?.text()?,
            metric.text_of("reason")?.unwrap_or("no reason given")
        )),
    };
    Ok(Claim {
        source: PROGRAM.to_owned(),
        source_version,
        op: test.get("id")?.text()?.to_owned(),
        case: variant.to_owned(),
        figure: metric.get("id")?.text()?.to_owned(),
        quantity: quantity.to_owned(),
        value: value.map(|value| value * scale),
        unit: unit.to_owned(),
        stated: reading.map(|at| format!("{} {stated_unit}", at.digits())),
        reason,
    })
}

/// What a unit of the XML stands for: quantity, unit, and how many of it one is.
fn unit(token: &str) -> Option<(&'static str, &'static str, f64)> {
    Some(match token {
        "gflops" | "giops" | "gops" => ("operations_per_second", "op/s", 1e9),
        "tflops" | "tops" => ("operations_per_second", "op/s", 1e12),
        "gbps" => ("bytes_per_second", "B/s", 1e9),
        "us" => ("duration", "s", 1e-6),
        "ns" => ("duration", "s", 1e-9),
        _ => return None,
    })
}

/// Elements that are open: their names, and of a test its unit.
struct Open {
    name: String,
    unit: Option<String>,
}

fn xml(source: &Source<'_>) -> Result<Vec<Found>> {
    let mut reader = quick_xml::Reader::from_str(source.text);
    let mut open: Vec<Open> = Vec::new();
    let mut backend = String::new();
    let mut found: Vec<Found> = Vec::new();
    loop {
        let line = |at: u64| {
            let at = usize::try_from(at)
                .unwrap_or(usize::MAX)
                .min(source.text.len());
            source.text.as_bytes()[..at]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
                + 1
        };
        let event = reader.read_event().map_err(|error| {
            let at = line(reader.error_position());
            source.refuse(&format!("line {at} is not XML: {error}"))
        })?;
        let place = format!("line {}", line(reader.buffer_position()));
        match event {
            Event::Start(element) => {
                let name = String::from_utf8_lossy(element.name().as_ref()).into_owned();
                let attribute = |key: &str| attribute(source, &place, &element, key);
                let mut test_unit = None;
                match (open.len(), &*name) {
                    (0, "clpeak") => {}
                    (1, "platform") => {
                        let api = attribute("backend")?;
                        backend = api.unwrap_or_else(|| "opencl".to_owned()).to_lowercase();
                    }
                    (2, "device") => found.push(Found {
                        device: Device {
                            name: attribute("name")?.ok_or_else(|| {
                                source.refuse(&format!("{place}: device has no name"))
                            })?,
                            backend: backend.clone(),
                            driver: attribute("driver_version")?.unwrap_or_default(),
                            device_type: "other".to_owned(),
                            runner: PROGRAM.to_owned(),
                            ..Device::default()
                        },
                        host: None,
                        at: None,
                        duration_s: 0.0,
                        program: PROGRAM,
                        claims: Vec::new(),
                    }),
                    (3, _) => {
                        test_unit = Some(attribute("unit")?.ok_or_else(|| {
                            source.refuse(&format!("{place}: test {name} has no unit"))
                        })?);
                    }
                    (4, _) => {}
                    (depth, _) => {
                        return Err(source.refuse(&format!(
                            "{place}: element {name} at depth {depth} is none of clpeak's"
                        )));
                    }
                }
                open.push(Open {
                    name,
                    unit: test_unit,
                });
            }
            Event::Text(text) => {
                let text = text
                    .decode()
                    .map_err(|error| source.refuse(&format!("{place}: {error}")))?;
                let text = text.trim();
                if text.is_empty() {
                    continue;
                }
                // A test with one figure has it as its text, without an element of its own.
                let (Some(test), Some(last), Some(of)) =
                    (open.get(3), open.last(), found.last_mut())
                else {
                    return Err(source.refuse(&format!("{place}: {text:?} is in no test")));
                };
                let stated_unit = test.unit.clone().unwrap_or_default();
                let value: f64 = text
                    .parse()
                    .ok()
                    .filter(|value: &f64| value.is_finite() && *value >= 0.0)
                    .ok_or_else(|| {
                        source.refuse(&format!(
                            "{place}: {} is {text:?}, not a number of zero or more",
                            last.name
                        ))
                    })?;
                let (quantity, unit, scale) =
                    unit(&stated_unit).unwrap_or(("unknown", &stated_unit, 1.0));
                of.claims.push(Claim {
                    source: PROGRAM.to_owned(),
                    source_version: None,
                    op: test.name.clone(),
                    case: String::new(),
                    figure: last.name.clone(),
                    quantity: quantity.to_owned(),
                    value: Some(value * scale),
                    unit: unit.to_owned(),
                    stated: Some(format!("{text} {stated_unit}")),
                    reason: None,
                });
            }
            Event::End(_) => {
                open.pop();
            }
            Event::Eof => break,
            Event::Decl(_) | Event::Comment(_) | Event::Empty(_) => {}
            // clpeak writes none of these, and entities are a way to do harm.
            Event::DocType(_) | Event::GeneralRef(_) | Event::CData(_) | Event::PI(_) => {
                return Err(source.refuse(&format!(
                    "{place}: it has a document type, an entity, CDATA or an instruction, as no file of clpeak's"
                )));
            }
        }
    }
    match open.last() {
        Some(last) => Err(source.refuse(&format!(
            "it ends inside of {}; copy the whole file",
            last.name
        ))),
        None => Ok(found),
    }
}

fn attribute(
    source: &Source<'_>,
    place: &str,
    element: &BytesStart<'_>,
    key: &str,
) -> Result<Option<String>> {
    let refuse = |error: String| source.refuse(&format!("{place}: attribute {key}: {error}"));
    let found = element
        .try_get_attribute(key)
        .map_err(|error| refuse(error.to_string()))?;
    found
        .map(|attribute| {
            attribute
                .normalized_value(quick_xml::XmlVersion::Explicit1_0)
                .map(|value| value.trim().to_owned())
                .map_err(|error| refuse(error.to_string()))
        })
        .transpose()
}
