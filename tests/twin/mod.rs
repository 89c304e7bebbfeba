//! Twins of kernels for matrix units, in ordinary WGSL: types and products of matrices are replaced
//! by places in workgroup memory and functions on them, and all else is the kernel's own text, so
//! that its staging, indices, edges and order of sums can be verified where there are no such units.
//!
//! Each variable that holds matrices has places of its own in every subgroup, whose lanes share the
//! elements. They need no barriers among them where a driver runs the lanes of a subgroup in step, as
//! those for CPUs do. Arrays as values would need no such thing, but drivers take minutes over them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use chipmark::catalogue::{Feature, Kernel, MatrixTile, Tunable};
use regex::{Captures, Regex};

/// Sizes at which twins are small enough for the driver of a CPU, in several proportions.
pub const TWINS: &[&[(&str, &[u32])]] = &[
    &[
        ("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        ("SUBGROUPS", &[2]),
        ("ACCUMULATORS", &[2]),
        ("BLOCKS", &[1]),
        ("SUBGROUPS_M", &[2]),
        ("SUBGROUPS_N", &[1]),
        ("ROWS", &[2]),
        ("COLUMNS", &[2]),
        ("DEPTH", &[16]),
        ("GROUP", &[2]),
        ("HEAD_DIM", &[32]),
        ("KEYS", &[16]),
        ("PARTS", &[2]),
    ],
    &[
        ("SUBGROUP_SIZE", &[32, 8, 4, 16, 64]),
        ("SUBGROUPS", &[2]),
        ("ACCUMULATORS", &[2]),
        ("BLOCKS", &[1]),
        ("SUBGROUPS_M", &[1]),
        ("SUBGROUPS_N", &[4]),
        ("ROWS", &[1]),
        ("COLUMNS", &[1]),
        ("DEPTH", &[32]),
        ("GROUP", &[8]),
        ("HEAD_DIM", &[32]),
        ("KEYS", &[32]),
        ("PARTS", &[1]),
    ],
];

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

/// `kernel` without matrix units. `values` replace those of tunables, so that it stays small enough
/// for the driver of a CPU; a tunable that is not named keeps its own.
pub fn twin(kernel: &Kernel, values: &[(&'static str, &'static [u32])]) -> Kernel {
    let source = kernel.source.replace("enable wgpu_cooperative_matrix;", "");

    // What matrices are loaded from and stored to: whether indices and strides count vectors.
    let vectors: BTreeMap<String, bool> = pattern(r"var<[^>]+> (\w+): array<(vec4<)?")
        .captures_iter(&source)
        .map(|found| (found[1].to_owned(), found.get(2).is_some()))
        .collect();

    // Matrix types: their role, and what they are made of.
    let alias = pattern(r"alias (\w+) = coop_mat(\d+)x\d+<(\w+), ([ABC])>;");
    let mut elements: BTreeMap<String, (bool, String)> = BTreeMap::new();
    let mut side = String::new();
    for found in alias.captures_iter(&source) {
        side = found[2].to_owned();
        elements.insert(found[1].to_owned(), (&found[4] == "C", found[3].to_owned()));
    }
    assert!(!side.is_empty(), "{} has no matrices", kernel.name);

    // Variables that hold matrices, and how many each.
    let mut variables: BTreeMap<String, (String, String)> = BTreeMap::new();
    for found in pattern(r"var (\w+): array<(Matrix\w), ([^>]+)>;").captures_iter(&source) {
        let variable = (found[2].to_owned(), found[3].to_owned());
        variables.insert(found[1].to_owned(), variable);
    }
    for found in pattern(r"let (\w+) = coopLoadT?<(\w+)>").captures_iter(&source) {
        let variable = (found[2].to_owned(), "1u".to_owned());
        let before = variables.insert(found[1].to_owned(), variable);
        assert!(before.is_none(), "{} has two {}", kernel.name, &found[1]);
    }

    let source = pattern(r"for \(var (\w+) = 0u;")
        .replace_all(&source, "for (var $1 = twin_nothing;")
        .into_owned();
    let mut functions = BTreeSet::new();
    let mut text = alias.replace_all(&source, "alias $1 = u32;").into_owned();
    let load = r"coopLoad(T?)<(\w+)>\(&(\w+)\[([^\]]+)\], ";
    let mut loads = |found: &Captures<'_>, first: usize, to: &str| {
        let name = format!(
            "twin_load{}_{}_{}",
            &found[first],
            &found[first + 1],
            &found[first + 2]
        );
        let array = &found[first + 2];
        let from = element(array, vectors[array], !found[first].is_empty());
        let arena = arena(elements[&found[first + 1]].0);
        functions.insert(format!(
            "fn {name}(place: u32, at: u32, stride: u32) -> u32 {{
    for (var e = twin_lane; e < twin_side * twin_side; e += twin_lanes) {{
        let row = e / TWIN_SIDE;
        let column = e % TWIN_SIDE;
        {arena}[place + e] = {from};
    }}
    return place;
}}
"
        ));
        format!("{name}({to}, u32({}), ", &found[first + 3])
    };
    text = pattern(&format!(r"(\w+)\[([^\]]+)\] =(\s+){load}"))
        .replace_all(&text, |found: &Captures<'_>| {
            let (variable, index) = (&found[1], &found[2]);
            let call = loads(found, 4, &place(variable, index));
            format!("{variable}[{index}] ={}{call}", &found[3])
        })
        .into_owned();
    text = pattern(&format!(r"let (\w+) = {load}"))
        .replace_all(&text, |found: &Captures<'_>| {
            format!(
                "let {} = {}",
                &found[1],
                loads(found, 2, &place(&found[1], "0u"))
            )
        })
        .into_owned();
    text = pattern(r"(\w+)\[([^\]]+)\] = MatrixC\(\);")
        .replace_all(&text, |found: &Captures<'_>| {
            let to = place(&found[1], &found[2]);
            format!("{}[{}] = twin_zero({to});", &found[1], &found[2])
        })
        .into_owned();
    // A place may have got a name before a matrix is stored there.
    text = pattern(r"coopStore(T?)\((\w+), (&\w+\[[^\]]+\]), ")
        .replace_all(&text, "let to = $3; coopStore$1($2, to, ")
        .into_owned();
    text = pattern(r"let to = &(\w+)\[([^\]]+)\];(\s*)coopStore(T?)\((\w+), to, ")
        .replace_all(&text, |found: &Captures<'_>| {
            let name = format!("twin_store{}_{}", &found[4], &found[1]);
            let to = element(&found[1], vectors[&found[1]], !found[4].is_empty());
            functions.insert(format!(
                "fn {name}(matrix: u32, at: u32, stride: u32) {{
    for (var e = twin_lane; e < twin_side * twin_side; e += twin_lanes) {{
        let row = e / TWIN_SIDE;
        let column = e % TWIN_SIDE;
        {to} = twin_sums[matrix + e];
    }}
}}
"
            ));
            format!("{}{name}({}, u32({}), ", &found[3], &found[5], &found[2])
        })
        .into_owned();
    text = text.replace("coopMultiplyAdd(", "twin_multiply_add(");
    assert!(!text.contains("coop"), "{}: {text}", kernel.name);

    assert_eq!(text.matches("\n) {\n").count(), 1, "{}", kernel.name);
    let mut begin = String::new();
    for (variable, builtin) in [
        ("twin_lane", "subgroup_invocation_id"),
        ("twin_lanes", "subgroup_size"),
        ("twin_subgroup", "subgroup_id"),
    ] {
        let found = pattern(&format!(r"@builtin\({builtin}\) (\w+)"));
        let argument = match found.captures(&text) {
            Some(found) => found[1].to_owned(),
            None => {
                let argument = format!("    @builtin({builtin}) {builtin}: u32,\n) {{\n");
                text = text.replace("\n) {\n", &format!("\n{argument}"));
                builtin.to_owned()
            }
        };
        writeln!(begin, "{variable} = {argument};").unwrap();
    }
    text = text.replace("\n) {\n", &format!("\n) {{\n{begin}twin_side = {side}u;\n"));

    let mut counts = ["0u".to_owned(), "0u".to_owned()];
    for (name, (ty, count)) in &variables {
        let sum = elements[ty].0;
        let first = &mut counts[usize::from(sum)];
        let all = ["TWIN_FACTORS", "TWIN_SUMS"][usize::from(sum)];
        writeln!(
            text,
            "const TWIN_{name} = {first}; const TWIN_IN_{name} = {all};"
        )
        .unwrap();
        *first = format!("TWIN_{name} + ({count})");
    }
    let element_of = |sum: bool| {
        let mut found = elements.values().filter(|(role, _)| *role == sum);
        found.next().unwrap().1.clone()
    };
    let (factor, sum) = (element_of(false), element_of(true));
    write!(
        text,
        "const TWIN_FACTORS = {};
const TWIN_SUMS = {};
const TWIN_SIDE = {side}u;
const TWIN_SQUARE = TWIN_SIDE * TWIN_SIDE;
// Where lanes are fewer than the kernel is laid out for, as in a test, there are more subgroups.
const TWIN_SUBGROUPS = THREADS / min(SUBGROUP_SIZE, 8u);
var<private> twin_lane: u32;
var<private> twin_lanes: u32;
var<private> twin_subgroup: u32;
// Not constants: unrolled, the driver of a CPU would take minutes.
var<private> twin_side: u32;
var<private> twin_nothing: u32;
var<workgroup> twin_factors: array<{factor}, TWIN_SUBGROUPS * TWIN_FACTORS * TWIN_SQUARE>;
var<workgroup> twin_sums: array<{sum}, TWIN_SUBGROUPS * TWIN_SUMS * TWIN_SQUARE>;
fn twin_zero(place: u32) -> u32 {{
    for (var e = twin_lane; e < twin_side * twin_side; e += twin_lanes) {{
        twin_sums[place + e] = {sum}();
    }}
    return place;
}}
fn twin_multiply_add(left: u32, right: u32, added: u32) -> u32 {{
    for (var e = twin_lane; e < twin_side * twin_side; e += twin_lanes) {{
        var sum = twin_sums[added + e];
        for (var i = 0u; i < twin_side; i++) {{
            sum += {sum}(twin_factors[left + e / TWIN_SIDE * TWIN_SIDE + i])
                * {sum}(twin_factors[right + i * TWIN_SIDE + e % TWIN_SIDE]);
        }}
        twin_sums[added + e] = sum;
    }}
    return added;
}}
",
        counts[0], counts[1],
    )
    .unwrap();
    for function in functions {
        text += &function;
    }
    Kernel {
        source: Cow::Owned(text),
        tunables: replaced(kernel, values),
        features: &[Feature::Subgroup],
        ..kernel.clone()
    }
}

#[allow(dead_code)] // one of the tests that share this asks for twins alone
/// `kernel` for units that multiply 8 x 8, if it is written for those that multiply 16 x 16: the same
/// text and the same instructions, so that a driver can be asked which has only the former. `values` as
/// for [`twin`].
pub fn narrowed(kernel: &Kernel, values: &[(&'static str, &'static [u32])]) -> Kernel {
    let narrow = |feature: &Feature| match *feature {
        Feature::MatrixOfDtype(16) => Feature::MatrixOfDtype(8),
        Feature::CooperativeMatrix(tile) => {
            Feature::CooperativeMatrix(MatrixTile { size: 8, ..tile })
        }
        other => other,
    };
    let mut source = kernel.source.to_string();
    if source.contains("coop_mat16x16") {
        source = source
            .replace("const BLOCK = 16u;", "const BLOCK = 8u;")
            .replace("coop_mat16x16", "coop_mat8x8");
    }
    assert!(source.contains("coop_mat8x8"), "{}", kernel.name);
    Kernel {
        source: Cow::Owned(source),
        tunables: replaced(kernel, values),
        features: kernel
            .features
            .iter()
            .map(narrow)
            .collect::<Vec<_>>()
            .leak(),
        ..kernel.clone()
    }
}

/// The kernel's tunables with other values for those that are named.
fn replaced(kernel: &Kernel, values: &[(&'static str, &'static [u32])]) -> &'static [Tunable] {
    let of = |tunable: &Tunable| {
        let named = values.iter().find(|(name, _)| *name == tunable.name);
        // A panel is no shallower than a block of weights that share a scale.
        let by_blocks = tunable.name == "DEPTH" && kernel.source.contains("DEPTH % SCALED == 0u");
        let named = named.filter(|_| !by_blocks);
        Tunable {
            name: tunable.name,
            values: named.map_or(tunable.values, |&(_, values)| values),
        }
    };
    kernel.tunables.iter().map(of).collect::<Vec<_>>().leak()
}

/// Where the matrices of a role are.
fn arena(sum: bool) -> &'static str {
    if sum { "twin_sums" } else { "twin_factors" }
}

/// The place of a matrix that a variable holds.
fn place(variable: &str, index: &str) -> String {
    format!("(twin_subgroup * TWIN_IN_{variable} + TWIN_{variable} + {index}) * TWIN_SQUARE")
}

/// The element in `row` and `column` of a matrix that lies in `array` from `at`.
fn element(array: &str, vectors: bool, row_major: bool) -> String {
    let (slow, fast) = if row_major {
        ("row", "column")
    } else {
        ("column", "row")
    };
    if vectors {
        format!("{array}[at + {slow} * stride + {fast} / 4u][{fast} % 4u]")
    } else {
        format!("{array}[at + {slow} * stride + {fast}]")
    }
}
