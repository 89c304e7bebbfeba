//! Turning a kernel's source into a variant, and reading from it what it will need.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use naga::valid::{Capabilities, ValidationFlags, Validator};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::input::Element;
use crate::op::Dtype;
use crate::protocol::Tunables;
use crate::registers;

/// What a specialised module says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reflection {
    /// Module constants that are unsigned integers, by name, evaluated.
    pub constants: BTreeMap<String, u32>,
    /// Workgroup size of each entry point by name.
    pub workgroup_sizes: BTreeMap<String, [u32; 3]>,
    /// Bytes of workgroup memory the whole module declares.
    pub workgroup_bytes: u32,
    /// Registers of 32 bits that each entry point needs for arrays, vectors and matrices, by name.
    pub register_counts: BTreeMap<String, u32>,
}

/// A kernel's module with its tunables fixed.
#[derive(Clone, Debug)]
pub struct Specialised {
    /// The text, line for line that of the file.
    pub source: String,
    /// The same as naga's IR, validated.
    pub module: naga::Module,
    /// What it needs.
    pub reflection: Reflection,
}

/// How a source says what inputs and sums are made of, if it is written for several types.
const INPUT: &str = "alias Input = ";
const SUM: &str = "alias Sum = ";

/// The type of a WGSL shader that holds one element, where there is one.
fn wgsl(element: Element) -> Option<&'static str> {
    match element {
        Element::F32 => Some("f32"),
        Element::F16 => Some("f16"),
        Element::I32 => Some("i32"),
        _ => None,
    }
}

/// Whether a source, in this dtype, computes in f16 and so needs a device that does.
#[must_use]
pub fn needs_f16(source: &str, dtype: Dtype) -> bool {
    source.lines().any(|line| {
        line.starts_with("enable f16;")
            || line.starts_with(INPUT) && dtype.input() == Element::F16
            || line.starts_with(SUM) && dtype.output() == Element::F16
    })
}

/// Rewrites the value on the one line that declares each tunable, and the element types on the lines
/// `alias Input = ...;` and `alias Sum = ...;` where there are such; line numbers never move.
///
/// # Errors
/// When a tunable is declared nowhere or twice, or its line is not a plain `const NAME = 1u;`.
pub fn specialise(name: &str, source: &str, tunables: &Tunables, dtype: Dtype) -> Result<String> {
    let mut lines: Vec<String> = source.lines().map(str::to_owned).collect();
    for (start, element) in [(INPUT, dtype.input()), (SUM, dtype.output())] {
        for line in lines.iter_mut().filter(|line| line.starts_with(start)) {
            let (_, rest) = line[start.len()..].split_once(';').ok_or_else(|| {
                Error::internal(format!("{name}: the line `{start}...` has no semicolon"))
            })?;
            let ty = wgsl(element).ok_or_else(|| {
                Error::internal(format!("{name}: {} is no type of WGSL", element.label()))
            })?;
            *line = format!("{start}{ty};{rest}");
        }
    }
    if needs_f16(source, dtype)
        && !lines.iter().any(|line| line.starts_with("enable f16;"))
        && let Some(first) = lines.first_mut()
    {
        *first = format!("enable f16; {first}");
    }
    for (tunable, value) in tunables {
        let start = format!("const {tunable} = ");
        let mut declarations = lines.iter_mut().filter(|line| line.starts_with(&start));
        let line = declarations.next().ok_or_else(|| {
            Error::internal(format!("{name} declares no line `{start}...;` to set"))
        })?;
        if declarations.next().is_some() {
            return Err(Error::internal(format!("{name} declares {tunable} twice")));
        }
        let (old, rest) = line[start.len()..].split_once(';').ok_or_else(|| {
            Error::internal(format!("{name}: the line of {tunable} has no semicolon"))
        })?;
        if old
            .strip_suffix('u')
            .is_none_or(|digits| digits.parse::<u32>().is_err())
        {
            return Err(Error::internal(format!(
                "{name}: {tunable} is {old:?}, not a literal such as 8u"
            )));
        }
        *line = format!("{start}{value}u;{rest}");
    }
    let mut text = lines.join("\n");
    text.push('\n');
    Ok(text)
}

/// Specialises, parses, validates and reflects a kernel's source.
///
/// # Errors
/// When the combination is refused by a `const_assert` or the module is not valid WGSL; the
/// message is naga's first line.
pub fn build(name: &str, source: &str, tunables: &Tunables, dtype: Dtype) -> Result<Specialised> {
    let source = specialise(name, source, tunables, dtype)?;
    let refuse = |message: String| {
        Error::usage(format!(
            "{name}: {}",
            message.lines().next().unwrap_or_default()
        ))
    };
    let module =
        naga::front::wgsl::parse_str(&source).map_err(|e| refuse(e.message().to_owned()))?;
    Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| refuse(chain(&e)))?;
    let reflection = reflect(&module);
    Ok(Specialised {
        source,
        module,
        reflection,
    })
}

/// The reflection of a variant, or why it is none.
type Read = std::result::Result<Arc<Reflection>, String>;

/// What was read by this process, by the hash of all it depends on. Every case asks anew which of
/// hundreds of variants fit it, and to parse them takes a good part of a second.
static READ: LazyLock<Mutex<HashMap<[u8; 32], Read>>> = LazyLock::new(Mutex::default);

/// The reflection of what [`build`] makes, of which the module is forgotten.
///
/// # Errors
/// As [`build`], the message alone.
pub fn reflection(name: &str, source: &str, tunables: &Tunables, dtype: Dtype) -> Read {
    let mut hash = Sha256::new();
    // The name is in what is refused.
    for part in [name, source, &dtype.to_string()] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    for (tunable, value) in tunables {
        hash.update(tunable.len().to_le_bytes());
        hash.update(tunable);
        hash.update(value.to_le_bytes());
    }
    let key = hash.finalize().into();
    let read = || READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = read().get(&key) {
        return known.clone();
    }
    let found = build(name, source, tunables, dtype)
        .map(|built| Arc::new(built.reflection))
        .map_err(|error| error.message);
    read().insert(key, found.clone());
    found
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn reflect(module: &naga::Module) -> Reflection {
    let mut reflection = Reflection::default();
    for (_, constant) in module.constants.iter() {
        if let (Some(name), naga::Expression::Literal(literal)) =
            (&constant.name, &module.global_expressions[constant.init])
        {
            let value = match *literal {
                naga::Literal::U32(value) => Some(value),
                naga::Literal::I32(value) => u32::try_from(value).ok(),
                naga::Literal::AbstractInt(value) => u32::try_from(value).ok(),
                _ => None,
            };
            if let Some(value) = value {
                reflection.constants.insert(name.clone(), value);
            }
        }
    }
    for entry in &module.entry_points {
        reflection
            .workgroup_sizes
            .insert(entry.name.clone(), entry.workgroup_size);
        let count = registers::count(module, entry, &reflection.constants);
        reflection.register_counts.insert(entry.name.clone(), count);
    }
    let mut layouter = naga::proc::Layouter::default();
    if layouter.update(module.to_ctx()).is_ok() {
        // Rounded up per variable as Vulkan counts it.
        reflection.workgroup_bytes = module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
            .map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16))
            .sum();
    }
    reflection
}

/// Lower-case hexadecimal SHA-256 of a text.
#[must_use]
pub fn sha256(text: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(text)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOURCE: &str = "const TILE = 8u; // side\nconst AREA = TILE * TILE;\nvar<workgroup> tile: array<f32, AREA>;\n\n@compute @workgroup_size(TILE, 2)\nfn main() {\n    tile[0] = 1.0;\n}\n";

    fn set(name: &str, value: u32) -> Tunables {
        Tunables::from([(name.to_owned(), value)])
    }

    #[test]
    fn reflection_evaluates_constants_sizes_and_workgroup_memory() {
        let built = build("t", SOURCE, &set("TILE", 16), Dtype::F32).unwrap();
        assert_eq!(built.reflection.constants["AREA"], 256);
        assert_eq!(built.reflection.workgroup_sizes["main"], [16, 2, 1]);
        assert_eq!(built.reflection.workgroup_bytes, 1024);
    }

    #[test]
    fn a_missing_duplicate_or_computed_tunable_is_an_error() {
        let message = |source: &str, name: &str| {
            let refused = specialise("t", source, &set(name, 1), Dtype::F32);
            refused.unwrap_err().message
        };
        assert!(message(SOURCE, "NONE").contains("declares no line"));
        assert!(message(SOURCE, "AREA").contains("not a literal"));
        assert!(message("const A = 1u;\nconst A = 2u;\n", "A").contains("twice"));
    }

    #[test]
    fn element_types_follow_the_dtype_and_lines_stay_where_they_are() {
        let source = "// A product.\nalias Input = f32; // of the operands\nalias Sum = f32;\n\nvar<private> x: vec4<Input>;\nvar<private> sum: Sum;\n";
        for (dtype, types) in [
            (Dtype::F32, ["f32", "f32"]),
            (Dtype::F16, ["f16", "f32"]),
            (Dtype::F16F16, ["f16", "f16"]),
            (Dtype::W4A16, ["f16", "f32"]),
        ] {
            let built = build("t", source, &Tunables::new(), dtype).unwrap();
            let lines: Vec<&str> = built.source.lines().collect();
            assert_eq!(
                lines[1],
                format!("alias Input = {}; // of the operands", types[0])
            );
            assert_eq!(lines[2], format!("alias Sum = {};", types[1]));
            let enabled = lines[0] == "enable f16; // A product.";
            assert_eq!(enabled, dtype != Dtype::F32);
            assert_eq!(needs_f16(source, dtype), enabled);
            assert_eq!(lines.len(), source.lines().count());
        }
        assert!(build("t", source, &Tunables::new(), Dtype::I8).is_err());
    }

    #[test]
    fn a_const_assert_refuses_an_illegal_combination() {
        let source = format!("{SOURCE}const_assert TILE <= 32u;\n");
        assert!(build("t", &source, &set("TILE", 32), Dtype::F32).is_ok());
        assert!(build("t", &source, &set("TILE", 64), Dtype::F32).is_err());
    }

    #[test]
    fn what_is_read_twice_is_what_was_built_for_that_source_type_and_value() {
        let asserted = format!("{SOURCE}const_assert TILE <= 32u;\n");
        for (source, value) in [(SOURCE, 4), (&asserted, 4), (SOURCE, 64), (&asserted, 64)] {
            let built = build("t", source, &set("TILE", value), Dtype::F32);
            let built = built.map(|b| b.reflection).map_err(|error| error.message);
            for _ in 0..2 {
                let read = reflection("t", source, &set("TILE", value), Dtype::F32);
                assert_eq!(read.map(|read| (*read).clone()), built);
            }
        }
        let typed = "alias Input = f32;\nvar<workgroup> all: array<vec4<Input>, 4>;\n@compute @workgroup_size(1)\nfn main() {\n    all[0] = vec4<Input>();\n}\n";
        let bytes = |dtype| {
            reflection("t", typed, &Tunables::new(), dtype)
                .unwrap()
                .workgroup_bytes
        };
        assert_eq!([bytes(Dtype::F32), bytes(Dtype::F16)], [64, 32]);
    }

    proptest! {
        #[test]
        fn specialising_changes_one_value_and_no_line(value in any::<u32>()) {
            let text = specialise("t", SOURCE, &set("TILE", value), Dtype::F16).unwrap();
            prop_assert_eq!(text.lines().count(), SOURCE.lines().count());
            let changed: Vec<_> = text.lines().zip(SOURCE.lines()).filter(|(a, b)| a != b).collect();
            prop_assert!(changed.len() <= 1);
            let line = format!("const TILE = {value}u; // side");
            prop_assert_eq!(text.lines().next().unwrap(), line.as_str());
            // Setting it back gives the source back, so nothing else was touched.
            prop_assert_eq!(specialise("t", &text, &set("TILE", 8), Dtype::F16).unwrap(), SOURCE);
        }
    }
}
