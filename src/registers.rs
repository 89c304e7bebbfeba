//! How many registers the local variables of a program need at one time, told from its module: no
//! driver says so before it has compiled, and most not even then.

use std::collections::BTreeMap;

use naga::{
    Arena, ArraySize, Block, EntryPoint, Expression, Function, Handle, LocalVariable, Module,
    Statement, Type, TypeInner,
};

/// The constant by which a kernel knows how many lanes share a matrix.
const SUBGROUP_SIZE: &str = "SUBGROUP_SIZE";

/// Registers of 32 bits that an entry point needs for its arrays, vectors and matrices, with the
/// widest function of its module; `constants` are those of the module.
#[must_use]
pub fn count(module: &Module, entry: &EntryPoint, constants: &BTreeMap<String, u32>) -> u32 {
    let lanes = constants.get(SUBGROUP_SIZE).copied();
    let called = (module.functions.iter()).map(|(_, f)| words(module, f, lanes));
    words(module, &entry.function, lanes) + called.max().unwrap_or(0)
}

/// The most registers that arrays, vectors and matrices of a function need at one time. Scalars and
/// intermediate values come on top, so this is rather too low; where a driver finds that two of them
/// can share registers although both are in use between the same statements, it is too high.
fn words(module: &Module, function: &Function, lanes: Option<u32>) -> u32 {
    let mut life = Life {
        function,
        now: 0,
        loops: Vec::new(),
        ranges: vec![None; function.local_variables.len()],
    };
    life.walk(&function.body);
    let alive: Vec<(u32, u32, u32)> = life
        .ranges
        .iter()
        .zip(function.local_variables.iter())
        .filter_map(|(range, (_, variable))| {
            let range = range.as_ref()?;
            let words = words_of(&module.types, variable.ty, lanes)?;
            Some((range.first, range.last, words))
        })
        .collect();
    alive
        .iter()
        .map(|&(at, ..)| {
            let now = alive
                .iter()
                .filter(|(first, last, _)| (*first..=*last).contains(&at));
            now.map(|(.., words)| words).sum()
        })
        .max()
        .unwrap_or(0)
}

/// Words of 32 bits that a value of this type takes of one lane; none for scalars.
fn words_of(types: &naga::UniqueArena<Type>, ty: Handle<Type>, lanes: Option<u32>) -> Option<u32> {
    let packed = |count: u32, scalar: naga::Scalar| (count * u32::from(scalar.width)).div_ceil(4);
    match types[ty].inner {
        TypeInner::Vector { size, scalar } => Some(packed(size as u32, scalar)),
        TypeInner::Matrix {
            columns,
            rows,
            scalar,
        } => Some(packed(columns as u32 * rows as u32, scalar)),
        TypeInner::CooperativeMatrix {
            columns,
            rows,
            scalar,
            ..
        } => {
            let elements = columns as u32 * rows as u32;
            Some(packed(elements.div_ceil(lanes?.max(1)), scalar))
        }
        TypeInner::Array {
            base,
            size: ArraySize::Constant(count),
            ..
        } => {
            let one = match types[base].inner {
                TypeInner::Scalar(scalar) => u32::from(scalar.width).div_ceil(4),
                _ => words_of(types, base, lanes)?,
            };
            Some(one.saturating_mul(count.get()))
        }
        _ => None,
    }
}

/// From where to where in a function a local variable is in use.
#[derive(Clone)]
struct Range {
    first: u32,
    last: u32,
    /// The loops around its first mention, by the place where each begins.
    loops: Vec<u32>,
}

/// A walk through a function, statement by statement.
struct Life<'a> {
    function: &'a Function,
    now: u32,
    loops: Vec<u32>,
    ranges: Vec<Option<Range>>,
}

impl Life<'_> {
    fn walk(&mut self, block: &Block) {
        for statement in block {
            self.now += 1;
            match statement {
                Statement::Emit(range) => {
                    for expression in range.clone() {
                        if let Expression::Load { pointer } = self.function.expressions[expression]
                        {
                            self.mention(pointer);
                        }
                    }
                }
                Statement::Store { pointer, .. } => self.mention(*pointer),
                Statement::Call { arguments, .. } => {
                    for &argument in arguments {
                        self.mention(argument);
                    }
                }
                Statement::Block(block) => self.walk(block),
                Statement::If { accept, reject, .. } => {
                    self.walk(accept);
                    self.walk(reject);
                }
                Statement::Switch { cases, .. } => {
                    for case in cases {
                        self.walk(&case.body);
                    }
                }
                Statement::Loop {
                    body, continuing, ..
                } => {
                    let begin = self.now;
                    self.loops.push(begin);
                    self.walk(body);
                    self.walk(continuing);
                    self.loops.pop();
                    self.now += 1;
                    // What was there before the loop and is used in it is needed by its next turn.
                    for range in self.ranges.iter_mut().flatten() {
                        if range.last >= begin && !range.loops.contains(&begin) {
                            range.last = self.now;
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Notes a variable that `pointer` leads to.
    fn mention(&mut self, pointer: Handle<Expression>) {
        let Some(local) = root(&self.function.expressions, pointer) else {
            return;
        };
        let (now, loops) = (self.now, &self.loops);
        let range = self.ranges[local.index()].get_or_insert_with(|| Range {
            first: now,
            last: now,
            loops: loops.clone(),
        });
        range.last = now;
    }
}

/// The local variable of which `pointer` names a part.
fn root(
    expressions: &Arena<Expression>,
    mut pointer: Handle<Expression>,
) -> Option<Handle<LocalVariable>> {
    loop {
        match expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => {
                pointer = base;
            }
            Expression::LocalVariable(local) => return Some(local),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_those_of_what_is_in_use_at_one_time() {
        let needed = |source: &str| {
            let module = naga::front::wgsl::parse_str(source).unwrap();
            words(&module, &module.entry_points[0].function, Some(32))
        };
        let source = |body: &str| {
            format!(
                "@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) {{ {body} }}"
            )
        };
        let apart = "{ var a: array<vec4<f32>, 8>; a[i] = x[i]; x[0] = a[0]; }
            { var b: array<vec4<f32>, 4>; b[i] = x[i]; x[1] = b[0]; }";
        assert_eq!(needed(&source(apart)), 32);
        let together = "var a: array<vec4<f32>, 8>; var b: array<vec4<f32>, 4>;
            a[i] = x[i]; b[i] = x[i]; x[0] = a[0]; x[1] = b[0];";
        assert_eq!(needed(&source(together)), 48);
        // What a loop reads each turn lives as long as the loop, what it makes each turn does not
        // outlive what it is made for.
        let carried = "var a: array<vec4<f32>, 8>; a[i] = x[i];
            for (var t = 0u; t < 9u; t++) { x[t] = a[0]; var b = array<vec4<f32>, 4>(); b[i] = x[t]; x[t] = b[1]; }";
        assert_eq!(needed(&source(carried)), 48);
        assert_eq!(
            needed(&source(
                "var a: array<f32, 8>; a[i] = x[i].x; x[0].x = a[1];"
            )),
            8
        );
    }
}
