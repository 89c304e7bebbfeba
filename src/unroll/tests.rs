#![allow(clippy::unwrap_used)]

use naga::{AtomicFunction, MathFunction, UnaryOperator};

use super::split::visit_all;
use super::*;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use proptest::prelude::*;
use std::fmt::Write as _;

// --- A small interpreter of the part of naga's IR that the tests use.

#[derive(Clone, Debug, PartialEq)]
enum Value {
    U(u32),
    I(i32),
    F(f32),
    B(bool),
    Many(Vec<Value>),
    Pointer(usize, Vec<usize>),
}

#[derive(Debug)]
struct OutOfFuel;

enum Next {
    On,
    Break,
    Continue,
    Return(Option<Value>),
}

struct Machine<'a> {
    module: &'a Module,
    objects: Vec<Value>,
    globals: Vec<usize>,
    fuel: u32,
}

struct Frame<'a> {
    function: &'a Function,
    arguments: Vec<Value>,
    locals: Vec<usize>,
    values: Vec<Option<Value>>,
}

impl<'a> Machine<'a> {
    /// Runs the entry point with every storage buffer holding `input` and gives back what the
    /// buffers hold then.
    fn run(module: &'a Module, input: &[u32], fuel: u32) -> Result<Vec<Value>, OutOfFuel> {
        let mut machine = Machine {
            module,
            objects: Vec::new(),
            globals: Vec::new(),
            fuel,
        };
        for (_, global) in module.global_variables.iter() {
            let value = match module.types[global.ty].inner {
                TypeInner::Array { base, .. } if global.binding.is_some() => Value::Many(
                    input
                        .iter()
                        .map(|&word| match module.types[base].inner {
                            TypeInner::Scalar(Scalar::F32) => Value::F(word as f32),
                            _ => Value::U(word),
                        })
                        .collect(),
                ),
                _ => machine.zero(global.ty),
            };
            machine.globals.push(machine.objects.len());
            machine.objects.push(value);
        }
        let count = machine.objects.len();
        machine.call(&module.entry_points[0].function, Vec::new())?;
        machine.objects.truncate(count);
        Ok(machine.objects)
    }

    fn zero(&self, ty: Handle<Type>) -> Value {
        match self.module.types[ty].inner {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => zero_scalar(scalar),
            TypeInner::Vector { size, scalar } => {
                Value::Many(vec![zero_scalar(scalar); size as usize])
            }
            TypeInner::Array { base, size, .. } => match size {
                ArraySize::Constant(size) => {
                    Value::Many(vec![self.zero(base); size.get() as usize])
                }
                _ => panic!("an array without a length"),
            },
            TypeInner::Struct { ref members, .. } => {
                Value::Many(members.iter().map(|member| self.zero(member.ty)).collect())
            }
            ref other => panic!("no zero of {other:?}"),
        }
    }

    fn call(
        &mut self,
        function: &'a Function,
        arguments: Vec<Value>,
    ) -> Result<Option<Value>, OutOfFuel> {
        let mut frame = Frame {
            function,
            arguments,
            locals: Vec::new(),
            values: vec![None; function.expressions.len()],
        };
        for (_, local) in function.local_variables.iter() {
            let value = match local.init {
                None => self.zero(local.ty),
                Some(init) => self.value(&mut frame, init),
            };
            frame.locals.push(self.objects.len());
            self.objects.push(value);
        }
        match self.block(&mut frame, &function.body)? {
            Next::Return(value) => Ok(value),
            _ => Ok(None),
        }
    }

    fn value(&self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Value {
        if let Some(value) = &frame.values[handle.index()] {
            return value.clone();
        }
        let expression = &frame.function.expressions[handle];
        assert!(
            expression.needs_pre_emit() || matches!(expression, Expression::Compose { .. }),
            "{expression:?} is used before it is emitted"
        );
        self.compute(frame, expression)
    }

    fn compute(&self, frame: &mut Frame<'a>, expression: &'a Expression) -> Value {
        use Expression as E;
        match *expression {
            E::Literal(literal) => match literal {
                Literal::U32(a) => Value::U(a),
                Literal::I32(a) => Value::I(a),
                Literal::F32(a) => Value::F(a),
                Literal::Bool(a) => Value::B(a),
                other => panic!("{other:?}"),
            },
            E::Constant(constant) => {
                let init = self.module.constants[constant].init;
                self.global(init)
            }
            E::ZeroValue(ty) => self.zero(ty),
            E::Compose { ref components, .. } => {
                // A vector may be put together from shorter ones.
                let mut parts = Vec::new();
                for &component in components {
                    parts.push(self.value(frame, component));
                }
                Value::Many(parts)
            }
            E::Splat { size, value } => Value::Many(vec![self.value(frame, value); size as usize]),
            E::FunctionArgument(index) => frame.arguments[index as usize].clone(),
            E::GlobalVariable(global) => Value::Pointer(self.globals[global.index()], Vec::new()),
            E::LocalVariable(local) => Value::Pointer(frame.locals[local.index()], Vec::new()),
            E::Access { base, index } => {
                let index = match self.value(frame, index) {
                    Value::U(a) => a,
                    Value::I(a) => a.cast_unsigned(),
                    other => panic!("{other:?}"),
                };
                let base = self.value(frame, base);
                self.access(base, index as usize)
            }
            E::AccessIndex { base, index } => {
                let base = self.value(frame, base);
                self.access(base, index as usize)
            }
            E::Load { pointer } => match self.value(frame, pointer) {
                Value::Pointer(object, path) => self.place(object, &path).clone(),
                other => panic!("{other:?}"),
            },
            E::Unary { op, expr } => {
                let value = self.value(frame, expr);
                unary(op, value)
            }
            E::Binary { op, left, right } => {
                let left = self.value(frame, left);
                let right = self.value(frame, right);
                binary(op, left, right)
            }
            E::Select {
                condition,
                accept,
                reject,
            } => match self.value(frame, condition) {
                Value::B(true) => self.value(frame, accept),
                Value::B(false) => self.value(frame, reject),
                other => panic!("{other:?}"),
            },
            E::Math {
                fun,
                arg,
                arg1,
                arg2,
                ..
            } => {
                let a = self.value(frame, arg);
                let b = arg1.map(|arg| self.value(frame, arg));
                let c = arg2.map(|arg| self.value(frame, arg));
                math(fun, a, b, c)
            }
            E::As {
                expr,
                kind,
                convert,
            } => {
                let value = self.value(frame, expr);
                convert_value(value, kind, convert.is_some())
            }
            ref other => panic!("{other:?}"),
        }
    }

    fn global(&self, handle: Handle<Expression>) -> Value {
        match self.module.global_expressions[handle] {
            Expression::Literal(Literal::U32(a)) => Value::U(a),
            Expression::Literal(Literal::I32(a)) => Value::I(a),
            Expression::Literal(Literal::F32(a)) => Value::F(a),
            Expression::Literal(Literal::Bool(a)) => Value::B(a),
            Expression::ZeroValue(ty) => self.zero(ty),
            Expression::Compose { ref components, .. } => {
                Value::Many(components.iter().map(|&part| self.global(part)).collect())
            }
            ref other => panic!("{other:?}"),
        }
    }

    fn access(&self, base: Value, index: usize) -> Value {
        match base {
            Value::Many(parts) => parts[index.min(parts.len() - 1)].clone(),
            Value::Pointer(object, mut path) => {
                let Value::Many(parts) = self.place(object, &path) else {
                    panic!("an index into a scalar");
                };
                path.push(index.min(parts.len() - 1));
                Value::Pointer(object, path)
            }
            other => panic!("{other:?}"),
        }
    }

    fn place(&self, object: usize, path: &[usize]) -> &Value {
        path.iter()
            .fold(&self.objects[object], |place, &index| match place {
                Value::Many(parts) => &parts[index],
                other => panic!("{other:?}"),
            })
    }

    fn store(&mut self, pointer: Value, value: Value) {
        let Value::Pointer(object, path) = pointer else {
            panic!("a store through {pointer:?}");
        };
        let place = path
            .iter()
            .fold(&mut self.objects[object], |place, &index| match place {
                Value::Many(parts) => &mut parts[index],
                other => panic!("{other:?}"),
            });
        *place = value;
    }

    fn block(&mut self, frame: &mut Frame<'a>, block: &'a Block) -> Result<Next, OutOfFuel> {
        for statement in block {
            self.fuel = self.fuel.checked_sub(1).ok_or(OutOfFuel)?;
            match *statement {
                Statement::Emit(ref range) => {
                    for handle in range.clone() {
                        let expression = &frame.function.expressions[handle];
                        assert!(!expression.needs_pre_emit());
                        let value = self.compute(frame, expression);
                        frame.values[handle.index()] = Some(value);
                    }
                }
                Statement::Block(ref block) => match self.block(frame, block)? {
                    Next::On => {}
                    next => return Ok(next),
                },
                Statement::If {
                    condition,
                    ref accept,
                    ref reject,
                } => {
                    let taken = self.value(frame, condition) == Value::B(true);
                    match self.block(frame, if taken { accept } else { reject })? {
                        Next::On => {}
                        next => return Ok(next),
                    }
                }
                Statement::Switch {
                    selector,
                    ref cases,
                } => {
                    let value = match self.value(frame, selector) {
                        Value::U(a) => SwitchValue::U32(a),
                        Value::I(a) => SwitchValue::I32(a),
                        other => panic!("{other:?}"),
                    };
                    let find = |value| cases.iter().position(|case| case.value == value);
                    let start = find(value).or(find(SwitchValue::Default)).unwrap();
                    for case in &cases[start..] {
                        match self.block(frame, &case.body)? {
                            Next::On if case.fall_through => {}
                            Next::On | Next::Break => break,
                            next => return Ok(next),
                        }
                    }
                }
                Statement::Loop {
                    ref body,
                    ref continuing,
                    break_if,
                } => loop {
                    self.fuel = self.fuel.checked_sub(1).ok_or(OutOfFuel)?;
                    match self.block(frame, body)? {
                        Next::On | Next::Continue => {}
                        Next::Break => break,
                        next => return Ok(next),
                    }
                    self.block(frame, continuing)?;
                    if let Some(condition) = break_if
                        && self.value(frame, condition) == Value::B(true)
                    {
                        break;
                    }
                },
                Statement::Break => return Ok(Next::Break),
                Statement::Continue => return Ok(Next::Continue),
                Statement::Return { value } => {
                    let value = value.map(|value| self.value(frame, value));
                    return Ok(Next::Return(value));
                }
                Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) => {}
                Statement::Store { pointer, value } => {
                    let pointer = self.value(frame, pointer);
                    let value = self.value(frame, value);
                    self.store(pointer, value);
                }
                Statement::Atomic {
                    pointer,
                    fun: AtomicFunction::Add,
                    value,
                    result,
                } => {
                    let pointer = self.value(frame, pointer);
                    let value = self.value(frame, value);
                    let Value::Pointer(object, path) = &pointer else {
                        panic!("{pointer:?}");
                    };
                    let before = self.place(*object, path).clone();
                    let after = binary(BinaryOperator::Add, before.clone(), value);
                    self.store(pointer, after);
                    if let Some(result) = result {
                        frame.values[result.index()] = Some(before);
                    }
                }
                Statement::Call {
                    function,
                    ref arguments,
                    result,
                } => {
                    let mut values = Vec::new();
                    for &argument in arguments {
                        values.push(self.value(frame, argument));
                    }
                    let value = self.call(&self.module.functions[function], values)?;
                    if let Some(result) = result {
                        frame.values[result.index()] = value;
                    }
                }
                ref other => panic!("{other:?}"),
            }
        }
        Ok(Next::On)
    }
}

fn zero_scalar(scalar: Scalar) -> Value {
    match scalar {
        Scalar::U32 => Value::U(0),
        Scalar::I32 => Value::I(0),
        Scalar::F32 => Value::F(0.0),
        Scalar::BOOL => Value::B(false),
        other => panic!("{other:?}"),
    }
}

fn unary(op: UnaryOperator, value: Value) -> Value {
    use naga::UnaryOperator as U;
    match (op, value) {
        (U::Negate, Value::I(a)) => Value::I(a.wrapping_neg()),
        (U::Negate, Value::F(a)) => Value::F(-a),
        (U::BitwiseNot, Value::I(a)) => Value::I(!a),
        (U::BitwiseNot, Value::U(a)) => Value::U(!a),
        (U::LogicalNot, Value::B(a)) => Value::B(!a),
        (op, Value::Many(parts)) => {
            Value::Many(parts.into_iter().map(|part| unary(op, part)).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// Written on its own rather than by way of `fold_binary`, whose results it is to check.
fn binary(op: BinaryOperator, left: Value, right: Value) -> Value {
    use BinaryOperator as B;
    match (left, right) {
        (Value::Many(left), Value::Many(right)) => Value::Many(
            left.into_iter()
                .zip(right)
                .map(|(left, right)| binary(op, left, right))
                .collect(),
        ),
        (Value::Many(left), right) => Value::Many(
            left.into_iter()
                .map(|left| binary(op, left, right.clone()))
                .collect(),
        ),
        (left, Value::Many(right)) => Value::Many(
            right
                .into_iter()
                .map(|right| binary(op, left.clone(), right))
                .collect(),
        ),
        (Value::F(a), Value::F(b)) => match op {
            B::Add => Value::F(a + b),
            B::Subtract => Value::F(a - b),
            B::Multiply => Value::F(a * b),
            B::Less => Value::B(a < b),
            B::Greater => Value::B(a > b),
            other => panic!("{other:?}"),
        },
        (Value::B(a), Value::B(b)) => Value::B(match op {
            B::Equal => a == b,
            B::NotEqual => a != b,
            B::And | B::LogicalAnd => a && b,
            B::InclusiveOr | B::LogicalOr => a || b,
            other => panic!("{other:?}"),
        }),
        (Value::I(a), Value::U(b)) => {
            let (wide, amount) = (i64::from(a), b % 32);
            match op {
                B::ShiftLeft => Value::I((wide << amount) as i32),
                B::ShiftRight => Value::I((wide >> amount) as i32),
                other => panic!("{other:?}"),
            }
        }
        (Value::U(a), Value::U(b)) => match integer(op, i128::from(a), i128::from(b)) {
            Ok(number) => Value::U(number as u32),
            Err(truth) => Value::B(truth),
        },
        (Value::I(a), Value::I(b)) => match integer(op, i128::from(a), i128::from(b)) {
            Ok(number) => Value::I(number as i32),
            Err(truth) => Value::B(truth),
        },
        other => panic!("{op:?} of {other:?}"),
    }
}

/// In numbers so wide that nothing overflows before the result is cut to size.
fn integer(op: BinaryOperator, a: i128, b: i128) -> Result<i128, bool> {
    use BinaryOperator as B;
    match op {
        B::Add => Ok(a + b),
        B::Subtract => Ok(a - b),
        B::Multiply => Ok(a * b),
        B::Divide => Ok(if b == 0 { a } else { a / b }),
        B::Modulo => Ok(if b == 0 { 0 } else { a % b }),
        B::And => Ok(a & b),
        B::InclusiveOr => Ok(a | b),
        B::ExclusiveOr => Ok(a ^ b),
        B::ShiftLeft => Ok(a << (b & 31)),
        B::ShiftRight => Ok(a >> (b & 31)),
        B::Equal => Err(a == b),
        B::NotEqual => Err(a != b),
        B::Less => Err(a < b),
        B::LessEqual => Err(a <= b),
        B::Greater => Err(a > b),
        B::GreaterEqual => Err(a >= b),
        B::LogicalAnd | B::LogicalOr => panic!("{op:?}"),
    }
}

fn math(fun: MathFunction, a: Value, b: Option<Value>, c: Option<Value>) -> Value {
    use naga::MathFunction as M;
    match (fun, a, b, c) {
        (M::Fma, Value::Many(a), Some(Value::Many(b)), Some(Value::Many(c))) => Value::Many(
            a.into_iter()
                .zip(b.into_iter().zip(c))
                .map(|(a, (b, c))| math(M::Fma, a, Some(b), Some(c)))
                .collect(),
        ),
        (M::Fma, Value::F(a), Some(Value::F(b)), Some(Value::F(c))) => Value::F(a.mul_add(b, c)),
        (M::Abs, Value::I(a), None, None) => Value::I(if a < 0 {
            0 - i64::from(a)
        } else {
            i64::from(a)
        } as i32),
        (M::Min, Value::U(a), Some(Value::U(b)), None) => Value::U(if a < b { a } else { b }),
        (M::Max, Value::U(a), Some(Value::U(b)), None) => Value::U(if a > b { a } else { b }),
        (M::Min, Value::I(a), Some(Value::I(b)), None) => Value::I(if a < b { a } else { b }),
        (M::Max, Value::I(a), Some(Value::I(b)), None) => Value::I(if a > b { a } else { b }),
        (M::Clamp, a, Some(low), Some(high)) => {
            let raised = math(M::Max, a, Some(low), None);
            math(M::Min, raised, Some(high), None)
        }
        other => panic!("{other:?}"),
    }
}

fn convert_value(value: Value, kind: ScalarKind, convert: bool) -> Value {
    match (kind, value) {
        (ScalarKind::Uint, Value::U(a)) => Value::U(a),
        (ScalarKind::Uint, Value::I(a)) => Value::U(a as u32),
        (ScalarKind::Uint, Value::B(a)) => Value::U(a.into()),
        (ScalarKind::Sint, Value::U(a)) => Value::I(a as i32),
        (ScalarKind::Sint, Value::I(a)) => Value::I(a),
        (ScalarKind::Sint, Value::B(a)) => Value::I(a.into()),
        (ScalarKind::Bool, Value::U(a)) => Value::B(a != 0),
        (ScalarKind::Bool, Value::I(a)) => Value::B(a != 0),
        (ScalarKind::Float, Value::U(a)) if convert => Value::F(a as f32),
        (ScalarKind::Float, Value::I(a)) if convert => Value::F(a as f32),
        other => panic!("{other:?}"),
    }
}

// --- Helpers

const INPUT: [u32; 16] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3];

fn parse(source: &str) -> Module {
    naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{}\n{source}", error.emit_to_string(source)))
}

fn validate(module: &Module) -> ModuleInfo {
    Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(module)
        .unwrap_or_else(|error| panic!("{error:?}\n{:#?}", module.entry_points[0].function))
}

/// Every writer has its own idea of what may stand where.
fn write_everywhere(module: &Module, info: &ModuleInfo) {
    let name = module.entry_points[0].name.clone();
    let options = naga::back::spv::Options {
        lang_version: (1, 3),
        ..Default::default()
    };
    naga::back::spv::write_vec(module, info, &options, None).unwrap();

    let options = naga::back::msl::Options {
        lang_version: (2, 4),
        ..Default::default()
    };
    naga::back::msl::write_string(module, info, &options, &Default::default()).unwrap();

    let mut text = String::new();
    let options = naga::back::hlsl::Options {
        shader_model: naga::back::hlsl::ShaderModel::V6_0,
        ..Default::default()
    };
    let pipeline = Default::default();
    naga::back::hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap();

    let mut text = String::new();
    let options = naga::back::glsl::Options {
        version: naga::back::glsl::Version::Desktop(460),
        ..Default::default()
    };
    let pipeline = naga::back::glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: name,
        multiview: None,
    };
    naga::back::glsl::Writer::new(
        &mut text,
        module,
        info,
        &options,
        &pipeline,
        naga::proc::BoundsCheckPolicies::default(),
    )
    .unwrap()
    .write()
    .unwrap();
}

/// Unrolls `source` with and without splitting arrays; the result must be valid, writable in
/// every language, and compute the same.
fn unrolled_with(source: &str, options: UnrollOptions) -> (Module, UnrollStats) {
    let plain = parse(source);
    validate(&plain);
    let expected = Machine::run(&plain, &INPUT, 100_000).unwrap();
    let mut result = None;
    for split_arrays in [true, false] {
        let options = UnrollOptions {
            split_arrays,
            ..options
        };
        let (module, stats) = unroll(&plain, &options);
        write_everywhere(&module, &validate(&module));
        assert_eq!(Machine::run(&module, &INPUT, 100_000).unwrap(), expected);
        assert_eq!(count(&module, is_loop), stats.loops_kept);
        result = Some((module, stats));
    }
    result.unwrap()
}

fn unrolled(source: &str) -> (Module, UnrollStats) {
    unrolled_with(source, UnrollOptions::default())
}

fn split(source: &str) -> (Module, UnrollStats) {
    unrolled(source);
    let options = UnrollOptions {
        split_arrays: true,
        ..UnrollOptions::default()
    };
    unroll(&parse(source), &options)
}

/// A compute shader around `body`, with helpers and buffers for all tests.
fn shader(body: &str) -> String {
    format!(
        "@group(0) @binding(0) var<storage, read_write> buf: array<u32, 16>;
         @group(0) @binding(1) var<storage, read_write> flo: array<f32, 16>;
         var<workgroup> shared_words: array<u32, 16>;
         const FOUR = 4u;
         fn bump(p: ptr<function, u32>, by: u32) -> u32 {{ *p = *p + by; return *p * 3u; }}
         fn turn(p: ptr<function, i32>) {{ *p = 1 - *p; }}
         fn total(n: u32) -> u32 {{
             var sum = n;
             for (var i = 0u; i < 4u; i++) {{ if (i == n) {{ return sum; }} sum += i; }}
             return sum;
         }}
         @compute @workgroup_size(1) fn main() {{\n{body}\n}}"
    )
}

fn is_loop(statement: &Statement) -> bool {
    matches!(statement, Statement::Loop { .. })
}

/// How many statements like this there are in all functions.
fn count(module: &Module, like: fn(&Statement) -> bool) -> u32 {
    let entries = module.entry_points.iter().map(|entry| &entry.function);
    let functions = module.functions.iter().map(|(_, function)| function);
    let mut count = 0;
    for function in entries.chain(functions) {
        visit_all(&function.body, &mut |statement| {
            count += u32::from(like(statement));
        });
    }
    count
}

fn main_of(module: &Module) -> &Function {
    &module.entry_points[0].function
}

fn count_expressions(module: &Module, like: fn(&Expression) -> bool) -> usize {
    main_of(module)
        .expressions
        .iter()
        .filter(|(_, expression)| like(expression))
        .count()
}

fn is_access(expression: &Expression) -> bool {
    matches!(expression, Expression::Access { .. })
}

/// Loops unrolled and kept in the entry point alone: `total` in [`shader`] keeps a loop with a
/// return in it.
fn loops(body: &str) -> (u32, u32) {
    let (_, stats) = unrolled(&shader(body));
    (stats.loops_unrolled, stats.loops_kept - 1)
}

// --- Which loops are unrolled

#[test]
fn a_loop_with_a_known_trip_count_is_replaced_by_its_turns() {
    let body = "for (var i = 0u; i < 5u; i++) { buf[i + 1u] += i * 7u; }";
    assert_eq!(loops(body), (1, 0));
    let (module, _) = unrolled(&shader(body));
    let is_store = |s: &Statement| matches!(s, Statement::Store { .. });
    let mut stores = 0;
    visit_all(&main_of(&module).body, &mut |s| {
        stores += u32::from(is_store(s))
    });
    assert_eq!(stores, 5, "one store a turn, none to the counter");
    assert_eq!(main_of(&module).local_variables.len(), 0);
    assert_eq!(count_expressions(&module, is_access), 0);
}

#[test]
fn a_loop_may_step_by_two_or_count_down() {
    assert_eq!(
        loops("for (var i = 1u; i < 12u; i += 2u) { buf[i] += i; }"),
        (1, 0)
    );
    assert_eq!(
        loops("for (var i = 5; i >= 0; i--) { buf[i] += u32(i) * 3u; }"),
        (1, 0)
    );
    assert_eq!(
        loops("for (var i = 1u; i < 100u; i *= 3u) { buf[i % 16u] += i; }"),
        (1, 0)
    );
    assert_eq!(
        loops("for (var i = 64u; i > 0u; i >>= 1u) { buf[i % 16u] ^= i; }"),
        (1, 0)
    );
}

#[test]
fn the_bound_may_be_included() {
    assert_eq!(
        loops("for (var i = 0u; i <= FOUR; i++) { buf[i] += i; }"),
        (1, 0)
    );
}

#[test]
fn an_unsigned_counter_that_wraps_below_zero_never_ends_and_is_kept() {
    // Counting down with `i >= 0u` has no end; the source leaves by a break that is unknown.
    let body = "for (var i = 3u; i >= 0u; i--) { if (buf[0] + i > 3u) { break; } }";
    assert_eq!(loops(body), (0, 1));
}

#[test]
fn while_and_loop_are_unrolled_like_for() {
    assert_eq!(
        loops("var k = 0u; while (k < 3u) { buf[k] += k; k += 1u; } buf[9] = k;"),
        (1, 0)
    );
    assert_eq!(
        loops(
            "var k = 0u; loop { buf[k] += 2u; continuing { k++; break if k >= 4u; } } buf[9] = k;"
        ),
        (1, 0)
    );
    assert_eq!(
        loops("var k = 0u; loop { if (k == 3u) { break; } buf[k] = 7u; k++; } buf[9] = k;"),
        (1, 0)
    );
    assert_eq!(
        loops(
            "var k = 9u; loop { if (k < 3u) { buf[0] = k; } else { buf[1] = k; if (k == 5u) { break; } } k--; }"
        ),
        (1, 0)
    );
}

#[test]
fn a_condition_of_two_parts_is_followed() {
    let body = "for (var i = 0u; i < 9u && i * i < 20u; i++) { buf[i] += i; }";
    assert_eq!(loops(body), (1, 0));
    let body = "for (var i = 0u; i < 9u && buf[i] < 9u; i++) { buf[i] += i; }";
    assert_eq!(loops(body), (0, 1));
}

#[test]
fn a_loop_of_no_turns_vanishes() {
    let body = "for (var i = 4u; i < 4u; i++) { buf[i] = 77u; }";
    assert_eq!(loops(body), (1, 0));
    let (module, _) = unrolled(&shader(body));
    assert!(
        main_of(&module)
            .body
            .iter()
            .all(|s| matches!(s, Statement::Return { .. }))
    );
}

#[test]
fn the_turn_limit_is_exact() {
    let body = |n: u32| format!("for (var i = 0u; i < {n}u; i++) {{ buf[i % 16u] += i; }}");
    assert_eq!(loops(&body(63)), (1, 0));
    assert_eq!(loops(&body(64)), (1, 0));
    assert_eq!(loops(&body(65)), (0, 1));
    let body = |n: u32| {
        format!(
            "var k = 0u; loop {{ buf[k % 16u] += k; continuing {{ k++; break if k >= {n}u; }} }}"
        )
    };
    assert_eq!(loops(&body(64)), (1, 0));
    assert_eq!(loops(&body(65)), (0, 1));
    let options = UnrollOptions {
        max_turns: 3,
        ..UnrollOptions::default()
    };
    for (n, kept) in [(3, 1), (4, 2)] {
        let body = format!("for (var i = 0u; i < {n}u; i++) {{ buf[i] += i; }}");
        let (_, stats) = unrolled_with(&shader(&body), options);
        assert_eq!(stats.loops_kept, kept);
    }
}

#[test]
fn an_endless_loop_is_kept() {
    let (module, stats) = unroll(
        &parse("@compute @workgroup_size(1) fn main() { loop { continuing { break if false; } } }"),
        &UnrollOptions::default(),
    );
    validate(&module);
    assert_eq!((stats.loops_unrolled, stats.loops_kept), (0, 1));
}

#[test]
fn a_loop_over_a_run_time_bound_is_kept_and_the_loops_in_it_are_unrolled() {
    let body = "var acc: array<u32, 4>;
        for (var k = 0u; k < buf[0]; k += 1u) {
            for (var i = 0u; i < FOUR; i++) { acc[i] += k * i; }
        }
        for (var i = 0u; i < FOUR; i++) { buf[i] = acc[i]; }";
    assert_eq!(loops(body), (2, 1));
    let (module, _) = unrolled(&shader(body));
    assert_eq!(count_expressions(&module, is_access), 0);
}

#[test]
fn nested_loops_multiply() {
    let body = "for (var i = 0u; i < 3u; i++) { for (var j = 0u; j < 2u; j++) {
        buf[i * 2u + j] += i + j; } }";
    assert_eq!(loops(body), (1 + 3, 0));
}

#[test]
fn an_inner_bound_may_depend_on_the_outer_counter() {
    let body = "for (var i = 0u; i < 4u; i++) { for (var j = i; j < 2u * i; j++) {
        buf[i + j] = buf[i + j] * 3u + j; } }";
    assert_eq!(loops(body), (1 + 4, 0));
}

#[test]
fn an_inner_loop_may_break_and_continue_where_that_is_known() {
    let body = "for (var i = 0u; i < 4u; i++) { for (var j = 0u; j < 9u; j++) {
        if (j == i) { continue; } if (j > i + 2u) { break; } buf[j] += i; } buf[15] += i; }";
    assert_eq!(loops(body), (1 + 4, 0));
}

#[test]
fn a_break_or_continue_under_an_unknown_condition_keeps_its_loop_only() {
    let body = "for (var i = 0u; i < 4u; i++) { for (var j = 0u; j < 3u; j++) {
        if (buf[j] > 4u) { break; } buf[j] += i; } }";
    assert_eq!(loops(body), (1, 4));
    let body = "for (var i = 0u; i < 4u; i++) { for (var j = 0u; j < 3u; j++) {
        if (buf[j] > 4u) { continue; } buf[j] += i; } }";
    assert_eq!(loops(body), (1, 4));
    let body = "for (var i = 0u; i < 4u; i++) { if (buf[i] > 3u) { break; }
        for (var j = 0u; j < 3u; j++) { buf[j] += i; } }";
    assert_eq!(loops(body), (1, 1));
}

#[test]
fn a_return_under_an_unknown_condition_keeps_the_loop() {
    let body = "for (var i = 0u; i < 4u; i++) { if (buf[i] > 3u) { return; } buf[i] = 9u; }";
    assert_eq!(loops(body), (0, 1));
    let body =
        "for (var i = 0u; i < 4u; i++) { buf[i] = 9u; if (i == 2u) { return; } } buf[5] = 1u;";
    assert_eq!(loops(body), (1, 0));
}

#[test]
fn a_counter_changed_in_the_body_is_followed_where_the_change_is_known() {
    let body = "for (var i = 0u; i < 9u; i++) { if (i == 3u) { i = 6u; } buf[i] += i; }";
    assert_eq!(loops(body), (1, 0));
    let body = "for (var i = 0u; i < 9u; i++) { if (buf[i] == 3u) { i += 2u; } buf[i] += i; }";
    assert_eq!(loops(body), (0, 1));
}

#[test]
fn both_branches_leaving_the_same_value_leave_it_known() {
    let body = "var n = 1u; if (buf[0] > 2u) { n = 3u; buf[1] = 5u; } else { n = 3u; }
        for (var i = 0u; i < n; i++) { buf[i + 4u] += i; }";
    assert_eq!(loops(body), (1, 0));
    let body = "var n = 1u; if (buf[0] > 2u) { n = 3u; }
        for (var i = 0u; i < n; i++) { buf[i + 4u] += i; }";
    assert_eq!(loops(body), (0, 1));
    let body = "var n = 1u; if (buf[0] > 9u) { n = 3u; return; }
        for (var i = 0u; i < n; i++) { buf[i + 4u] += i; }";
    assert_eq!(loops(body), (1, 0));
    let body = "var n = 1u; if (buf[0] > 2u) { n = 3u; } else { return; }
        for (var i = 0u; i < n; i++) { buf[i + 4u] += i; }";
    assert_eq!(loops(body), (1, 0));
}

#[test]
fn a_switch_joins_its_cases() {
    let body = "var n = 2u; var m = 2u;
        switch buf[0] { case 1u { n = 3u; } case 3u { n = 4u; } default { buf[1] = 0u; } }
        for (var i = 0u; i < n; i++) { buf[i + 4u] += i; }
        for (var i = 0u; i < m; i++) { buf[i + 8u] += i; }";
    assert_eq!(loops(body), (1, 1));
}

#[test]
fn a_switch_on_a_known_value_leaves_one_case() {
    let body = "for (var i = 0u; i < 4u; i++) {
        switch i { case 0u { buf[1] += 5u; } case 1u, 2u { if (i == 2u) { break; } buf[2] += i; }
            default { buf[3] = i; continue; } }
        buf[4] += 10u; }";
    assert_eq!(loops(body), (1, 0));
    let (module, _) = unrolled(&shader(body));
    assert_eq!(count(&module, |s| matches!(s, Statement::Switch { .. })), 0);
}

#[test]
fn a_switch_with_an_unknown_break_inside_stays_whole() {
    let body = "for (var i = 0u; i < 3u; i++) {
        switch i { case 1u { if (buf[0] == 3u) { break; } buf[2] += i; } default { buf[3] += i; } }
        buf[4] += 10u; }";
    assert_eq!(loops(body), (1, 0));
    let (module, _) = unrolled(&shader(body));
    assert_eq!(count(&module, |s| matches!(s, Statement::Switch { .. })), 1);
}

#[test]
fn what_a_kept_loop_writes_is_unknown_in_and_behind_it() {
    let body = "var n = 2u; var m = 3u;
        while (buf[0] < 6u) {
            for (var i = 0u; i < n; i++) { buf[i + 4u] += 1u; }
            for (var i = 0u; i < m; i++) { buf[i + 8u] += 1u; }
            n += 1u; buf[0] += 1u;
        }
        for (var i = 0u; i < n; i++) { buf[i + 4u] += 1u; }
        for (var i = 0u; i < m; i++) { buf[i + 8u] += 1u; }";
    assert_eq!(loops(body), (2, 3));
    let body = "var n = 2u;
        loop { buf[n] += 1u; continuing { n += 1u; break if n > buf[0]; } }
        for (var i = 0u; i < n; i++) { buf[i + 8u] += 1u; }";
    assert_eq!(loops(body), (0, 2));
    // Left before `continuing` is reached at all.
    let body = "var n = 2u; loop { if (buf[0] == 3u) { break; } continuing { n = 3u; } }
        for (var i = 0u; i < n; i++) { buf[i + 8u] += 1u; }";
    assert_eq!(loops(body), (0, 2));
}

#[test]
fn a_variable_without_a_value_starts_as_zero() {
    let body = "var k: u32; while (k < 3u) { buf[k] += 1u; k++; }";
    assert_eq!(loops(body), (1, 0));
}

#[test]
fn a_trial_given_up_leaves_nothing_behind() {
    let body = "var k = 1u; var n = 2u;
        switch k { case 1u { buf[5] = n; n = 7u; if (buf[0] == 3u) { break; } n = 8u; } default {} }
        buf[6] = n;";
    assert_eq!(loops(body), (0, 0));
    let source = "@group(0) @binding(0) var<storage, read_write> buf: array<f32, 16>;
        @group(0) @binding(1) var image: texture_2d<f32>;
        @group(0) @binding(2) var how: sampler;
        @compute @workgroup_size(1) fn main() { loop {
            let t = textureSampleLevel(image, how, vec2(0.5), 0.0, vec2<i32>(2, 1));
            for (var i = 0; i < 4; i++) { buf[i] += t[i] * f32(i); }
            if (buf[3] > 4.0) { break; } } }";
    let (module, stats) = unroll(&parse(source), &UnrollOptions::default());
    write_everywhere(&module, &validate(&module));
    assert_eq!((stats.loops_unrolled, stats.loops_kept), (1, 1));
}

#[test]
fn a_function_may_write_through_a_pointer() {
    let body = "var n = 2u; let t = bump(&n, 1u); buf[0] = t;
        for (var i = 0u; i < n; i++) { buf[i + 4u] += 1u; }";
    assert_eq!(loops(body), (0, 1));
    let body = "var a = 0u; var s = 0; for (var i = 0u; i < 3u; i++) {
        buf[i] += bump(&a, i); turn(&s); } buf[7] = a; buf[8] = u32(s);";
    assert_eq!(loops(body), (1, 0));
    let body = "for (var i = 0u; i < 3u; i++) { buf[i] += total(i); }";
    assert_eq!(loops(body), (1, 0));
    let body = "for (var i = 0u; i < 6u; i++) { buf[i] += bump(&i, 1u); }";
    assert_eq!(loops(body), (0, 1));
}

#[test]
fn two_loops_may_share_a_variable() {
    let body =
        "var i = 0u; for (; i < 3u; i++) { buf[i] += 1u; } for (; i < 7u; i++) { buf[i] += 2u; }
        buf[9] = i;";
    assert_eq!(loops(body), (2, 0));
}

#[test]
fn shadowed_variables_keep_apart() {
    let body = "var i = 5u; for (var i = 0u; i < 3u; i++) { buf[i] += i; { var i = 9u; i += 1u; buf[i] += i; } }
        buf[7] = i;";
    assert_eq!(loops(body), (1, 0));
}

#[test]
fn a_variable_declared_in_the_body_starts_afresh_each_turn() {
    let body = "for (var i = 0u; i < 3u; i++) { var n: u32; var a: array<u32, 3>;
        for (var j = 0u; j <= i; j++) { n += 2u; a[j] += n; } buf[i] = n + a[0] + a[1] * 5u + a[2] * 7u; }";
    assert_eq!(loops(body), (1 + 3, 0));
}

#[test]
fn a_value_loaded_before_a_store_stays_what_it_was() {
    let body = "var x = 1u; for (var i = 0u; i < 4u; i++) { let old = x; x = x + buf[i]; buf[i + 4u] = old; }
        var y = 1u; for (var i = 0u; i < 4u; i++) { let old = y; y = y + i; buf[i + 8u] = old * y; }";
    assert_eq!(loops(body), (2, 0));
    let body = "var i = 1u; let p = &i; let old = *p; *p = 3u; buf[0] = old * 10u + i;
        for (var k = 0u; k < i; k++) { buf[k + 1u] = old; }";
    assert_eq!(loops(body), (1, 0));
}

#[test]
fn a_barrier_stands_in_every_turn() {
    let body = "for (var i = 0u; i < 3u; i++) { shared_words[i] = buf[i]; workgroupBarrier();
        buf[i + 4u] = shared_words[i] + 1u; workgroupBarrier(); }";
    assert_eq!(loops(body), (1, 0));
    let (module, _) = unrolled(&shader(body));
    assert_eq!(
        count(&module, |s| matches!(s, Statement::ControlBarrier(_))),
        6
    );
}

#[test]
fn an_atomic_has_a_result_of_its_own_in_every_turn() {
    let source = "@group(0) @binding(0) var<storage, read_write> buf: array<u32, 16>;
        var<workgroup> sum: atomic<u32>;
        @compute @workgroup_size(1) fn main() {
            for (var i = 0u; i < 3u; i++) { let old = atomicAdd(&sum, i + 2u); buf[i] = old; } }";
    let (module, stats) = unrolled(source);
    assert_eq!((stats.loops_unrolled, stats.loops_kept), (1, 0));
    let is_result = |e: &Expression| matches!(e, Expression::AtomicResult { .. });
    assert_eq!(count_expressions(&module, is_result), 3);
}

// --- Subgroups

fn gathers(source: &str) -> (Vec<GatherMode>, Module, UnrollStats) {
    let (module, stats) = unroll(&parse(source), &UnrollOptions::default());
    write_subgroups(&module, &validate(&module));
    let mut modes = Vec::new();
    visit_all(&main_of(&module).body, &mut |statement| {
        if let Statement::SubgroupGather { mode, .. } = statement {
            modes.push(*mode);
        }
    });
    (modes, module, stats)
}

fn write_subgroups(module: &Module, info: &ModuleInfo) {
    let options = naga::back::spv::Options {
        lang_version: (1, 3),
        ..Default::default()
    };
    naga::back::spv::write_vec(module, info, &options, None).unwrap();
}

#[test]
fn a_shuffle_by_the_turn_becomes_a_broadcast() {
    let source = "@group(0) @binding(0) var<storage, read_write> buf: array<f32>;
        @compute @workgroup_size(32) fn main(@builtin(subgroup_invocation_id) lane: u32) {
            let x = buf[lane]; var sum = 0.0;
            for (var i = 0u; i < 8u; i++) { sum += subgroupShuffle(x, i); }
            sum += subgroupShuffle(x, lane ^ 1u);
            for (var i = 1u; i < 3u; i++) { sum += subgroupShuffleXor(x, i); }
            buf[lane] = sum; }";
    let (modes, module, stats) = gathers(source);
    assert_eq!(stats.shuffles_broadcast, 8);
    for (turn, mode) in modes.iter().enumerate() {
        match *mode {
            GatherMode::Broadcast(lane) if turn < 8 => assert_eq!(
                main_of(&module).expressions[lane],
                Expression::Literal(Literal::U32(turn as u32))
            ),
            GatherMode::Shuffle(_) => assert_eq!(turn, 8),
            GatherMode::ShuffleXor(_) => assert!(turn > 8),
            other => panic!("{other:?} in turn {turn}"),
        }
    }
    assert_eq!(modes.len(), 11);
}

#[test]
fn a_lane_that_a_broadcast_cannot_name_stays_a_shuffle() {
    let source = |lane: u32| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> buf: array<f32>;
            @compute @workgroup_size(32) fn main(@builtin(subgroup_invocation_id) id: u32) {{
                var lane = {lane}u; buf[id] = subgroupShuffle(buf[id], lane); }}"
        )
    };
    let (modes, _, _) = gathers(&source(127));
    assert!(matches!(modes[..], [GatherMode::Broadcast(_)]));
    let (modes, _, _) = gathers(&source(128));
    assert!(matches!(modes[..], [GatherMode::Shuffle(_)]));
}

// --- Values that the validator refuses once it sees them

#[test]
fn an_index_out_of_bounds_is_clamped() {
    let body = "var a: array<u32, 4>; var v: vec4<u32>; var n = 7u; var m = -1; a[3] = 1u;
        a[n] += 3u; a[m] += 5u; v[n] = 2u; buf[0] = a[3] + v.w; buf[n * 9u] = 4u;";
    assert_eq!(loops(body), (0, 0));
}

#[test]
fn an_index_into_an_array_without_a_length_need_not_be_in_bounds() {
    let source = "@group(0) @binding(0) var<storage, read_write> buf: array<u32>;
        @compute @workgroup_size(1) fn main() { var n = 4294967295u; var m = -1; buf[n] = 1u; buf[m] = 2u; }";
    unrolled(source);
}

#[test]
fn a_division_by_a_known_zero_does_what_it_does_at_run_time() {
    let body = "var z = 0u; var s = 0; var v = vec2<u32>(buf[3], 8u); let x = buf[1] + 6u;
        buf[0] = x / z; buf[1] = x % z; buf[2] = 9u / z + 7u % z;
        buf[3] = u32((i32(buf[4]) / s) + (i32(buf[4]) % s) + (7 / s));
        v = v / vec2<u32>(z, 2u); buf[4] = v.x + v.y; v = v % vec2<u32>(z); buf[5] = v.x + v.y;";
    assert_eq!(loops(body), (0, 0));
}

#[test]
fn a_shift_by_a_known_amount_takes_it_modulo_the_width() {
    let body = "var n = 33u; var s = -5; let x = buf[1];
        buf[0] = x << n; buf[1] = 3u << n; buf[2] = u32(s >> n); buf[3] = u32(i32(x) >> (n + 1u));
        let v = vec2<u32>(x, 7u) << vec2<u32>(n, 1u); buf[4] = v.x + v.y;
        var w = 32u; buf[5] = x << w; buf[6] = x >> (w - 1u);";
    assert_eq!(loops(body), (0, 0));
}

// --- Folding

#[test]
fn arithmetic_on_known_integers_leaves_no_arithmetic() {
    let body = "var a = 4294967290u; var b = 7; var c = false; var n = 0u;
        for (var i = 1u; i < 5u; i++) {
            a = (a + i * 3u) ^ (i << 2u); a = max(a, 2u) - min(i, 3u); a = clamp(a, 5u, 4294967295u) | (i & 1u);
            b = -b * 3 - i32(i); b = abs(b) % 11; b = clamp(b, -2, 9) + max(b, i32(~i)) - min(b, 1);
            c = (a > 7u) != (b <= 3); c = !c || (c && b == 2);
            n += select(1u, u32(c) + 2u, a % 3u == 1u) + u32(bool(b)) + bitcast<u32>(b) / 3u;
        }
        buf[0] = a; buf[1] = u32(b); buf[2] = u32(c); buf[3] = n; flo[0] = f32(b);";
    assert_eq!(loops(body), (1, 0));
    let (module, _) = unrolled(&shader(body));
    let is_work = |e: &Expression| {
        matches!(
            e,
            Expression::Binary { .. }
                | Expression::Math { .. }
                | Expression::As { .. }
                | Expression::Select { .. }
        )
    };
    assert_eq!(count_expressions(&module, is_work), 0);
}

#[test]
fn integers_fold_as_the_interpreter_computes_them() {
    let numbers = [
        0,
        1,
        2,
        3,
        31,
        32,
        33,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff_u32,
    ];
    let operators = {
        use BinaryOperator as B;
        [
            B::Add,
            B::Subtract,
            B::Multiply,
            B::Divide,
            B::Modulo,
            B::Equal,
            B::NotEqual,
            B::Less,
            B::LessEqual,
            B::Greater,
            B::GreaterEqual,
            B::And,
            B::ExclusiveOr,
            B::InclusiveOr,
            B::ShiftLeft,
            B::ShiftRight,
        ]
    };
    let show = |literal| match literal {
        Literal::U32(a) => Value::U(a),
        Literal::I32(a) => Value::I(a),
        Literal::Bool(a) => Value::B(a),
        other => panic!("{other:?}"),
    };
    for op in operators {
        let is_shift = matches!(op, BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight);
        for a in numbers {
            for b in numbers {
                let (left, right) = (Literal::U32(a), Literal::U32(b));
                let folded = fold_binary(op, left, right).unwrap();
                assert_eq!(
                    show(folded),
                    binary(op, show(left), show(right)),
                    "{op:?} {a} {b}"
                );
                let left = Literal::I32(a.cast_signed());
                let right = if is_shift {
                    right
                } else {
                    Literal::I32(b.cast_signed())
                };
                let folded = fold_binary(op, left, right).unwrap();
                assert_eq!(
                    show(folded),
                    binary(op, show(left), show(right)),
                    "{op:?} {a} {b}"
                );
            }
        }
    }
}

#[test]
fn only_integers_that_a_float_holds_exactly_are_converted() {
    let exact = Literal::U32(1 << 24);
    assert_eq!(
        fold_as(exact, ScalarKind::Float, Some(4)),
        Some(Literal::F32(16_777_216.0))
    );
    assert_eq!(
        fold_as(Literal::U32((1 << 24) + 1), ScalarKind::Float, Some(4)),
        None
    );
    assert_eq!(fold_as(exact, ScalarKind::Float, None), None);
    assert_eq!(fold_as(exact, ScalarKind::Float, Some(2)), None);
    assert_eq!(
        fold_as(Literal::I32(-(1 << 24) - 1), ScalarKind::Float, Some(4)),
        None
    );
}

#[test]
fn neutral_operands_go_and_others_stay() {
    let body = "var z = 0u; var o = 1u; let x = buf[2];
        buf[0] = (z + x) * o + z; buf[1] = (x - z) << z; buf[3] = z - x; buf[4] = o << x; buf[5] = o + x * z;";
    loops(body);
    let (module, _) = unrolled(&shader(body));
    let is_binary = |e: &Expression| matches!(e, Expression::Binary { .. });
    assert_eq!(count_expressions(&module, is_binary), 4);
}

#[test]
fn the_part_of_a_vector_put_together_is_the_part_put_in() {
    let body = "for (var i = 0u; i < 2u; i++) { let at = vec2<u32>(i, i + 3u); buf[at.x] += at.y;
        let w = vec3<u32>(at, buf[0]); buf[w.z % 16u] += w.y + w[i]; }";
    assert_eq!(loops(body), (1, 0));
}

// --- What must not change

#[test]
fn overrides_are_not_known() {
    let source =
        "override n: u32 = 3u; @group(0) @binding(0) var<storage, read_write> buf: array<u32, 16>;
        @compute @workgroup_size(1) fn main() { for (var i = 0u; i < n; i++) { buf[i] = i; } }";
    let (module, stats) = unroll(&parse(source), &UnrollOptions::default());
    validate(&module);
    assert_eq!((stats.loops_unrolled, stats.loops_kept), (0, 1));
}

#[test]
fn a_resource_that_is_only_mentioned_stays_used() {
    let source = "@group(0) @binding(0) var<storage, read> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @compute @workgroup_size(1) fn main() {
            _ = a[3]; for (var i = 0u; i < 4u; i++) { let unused = b[i]; } }";
    let plain = parse(source);
    let (module, _) = unroll(&plain, &UnrollOptions::default());
    let before = validate(&plain);
    let after = validate(&module);
    for (handle, _) in plain.global_variables.iter() {
        assert_eq!(
            before.get_entry_point(0)[handle],
            after.get_entry_point(0)[handle]
        );
    }
}

#[test]
fn names_are_kept_for_what_is_still_computed() {
    let body = "for (var i = 0u; i < 2u; i++) { let known = i * 2u; let unknown = buf[known] + 1u; buf[known] = unknown; }";
    let (module, _) = unrolled(&shader(body));
    let names: Vec<&str> = main_of(&module)
        .named_expressions
        .values()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["unknown", "unknown"]);
    let body = "var no = false; let first = buf[0]; let second = select(first, 1u, no); buf[1] = second + first;";
    let (module, _) = unrolled(&shader(body));
    let names: Vec<&str> = main_of(&module)
        .named_expressions
        .values()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["first"]);
}

#[test]
fn the_signature_and_the_filters_of_a_function_stay() {
    let source = "@group(0) @binding(0) var<storage, read_write> buf: array<u32>;
        @compute @workgroup_size(4) @diagnostic(off, derivative_uniformity)
        fn main(@builtin(local_invocation_index) id: u32) { var i = id; buf[i] = 1u; }";
    let plain = parse(source);
    let (module, stats) = unroll(&plain, &UnrollOptions::default());
    validate(&module);
    let (before, after) = (main_of(&plain), main_of(&module));
    assert_eq!(before.name, after.name);
    assert_eq!(before.arguments.len(), after.arguments.len());
    assert!(before.diagnostic_filter_leaf.is_some());
    assert_eq!(before.diagnostic_filter_leaf, after.diagnostic_filter_leaf);
    assert_eq!(stats, UnrollStats::default());
}

// --- The budget

#[test]
fn a_function_that_would_outgrow_its_budget_keeps_its_outer_loops() {
    let body = "for (var k = 0u; k < 32u; k++) { for (var i = 0u; i < 8u; i++) { for (var j = 0u; j < 8u; j++) {
        buf[(i + j) % 16u] += buf[k % 16u] * (i + buf[j]); } } }
        for (var i = 0u; i < 3u; i++) { buf[i] += 1u; }";
    let options = UnrollOptions {
        max_expressions: 2_000,
        ..UnrollOptions::default()
    };
    let plain = parse(&shader(body));
    let (module, stats) = unroll(&plain, &options);
    write_everywhere(&module, &validate(&module));
    assert_eq!(stats.over_budget, 1);
    assert_eq!(
        stats.loops_kept, 2,
        "the outermost, and the one with a return in it"
    );
    assert_eq!(stats.loops_unrolled, 1 + 8 + 1);
    assert!(main_of(&module).expressions.len() < 2_500);
    assert_eq!(
        Machine::run(&plain, &INPUT, 1_000_000).unwrap(),
        Machine::run(&module, &INPUT, 1_000_000).unwrap()
    );
}

// --- Splitting arrays

#[test]
fn an_array_reached_by_constants_is_split() {
    let body = "var acc: array<u32, 4>; for (var i = 0u; i < 4u; i++) { acc[i] += buf[i] * 2u; }
        for (var i = 0u; i < 4u; i++) { buf[i + 4u] = acc[3u - i]; }";
    let (module, stats) = split(&shader(body));
    assert_eq!(stats.arrays_split, 1);
    let names: Vec<_> = main_of(&module)
        .local_variables
        .iter()
        .map(|(_, local)| local.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["acc_0", "acc_1", "acc_2", "acc_3"]);
}

#[test]
fn nested_arrays_are_split_as_deep_as_constants_reach() {
    let body = "var a: array<array<u32, 3>, 2>; var b: array<array<vec4<f32>, 2>, 2>; var n = buf[0];
        for (var i = 0u; i < 2u; i++) { for (var j = 0u; j < 3u; j++) { a[i][j] += buf[j] * i; } a[i][n % 3u] += 7u; }
        for (var i = 0u; i < 2u; i++) { for (var j = 0u; j < 2u; j++) { b[i][j] += vec4<f32>(f32(i)); b[i][j][n % 4u] = 2.0; b[i][j].y = flo[j]; } }
        buf[0] = a[0][2] + a[1][1]; flo[2] = b[1][0].x + b[0][1].z + b[1][1].w;";
    let (module, stats) = split(&shader(body));
    assert_eq!(stats.arrays_split, 2);
    let arrays = main_of(&module)
        .local_variables
        .iter()
        .filter(|(_, local)| matches!(module.types[local.ty].inner, TypeInner::Array { .. }))
        .count();
    assert_eq!(
        arrays, 2,
        "the rows of `a`, each indexed by something unknown"
    );
}

#[test]
fn an_array_indexed_by_something_unknown_stays() {
    let body = "var a: array<u32, 4>; a[1] = 5u; a[buf[0] % 4u] = 3u; buf[1] = a[1] + a[3];";
    assert_eq!(split(&shader(body)).1.arrays_split, 0);
}

#[test]
fn whole_arrays_stored_are_taken_apart_with_their_array() {
    let body = "for (var k = 0u; k < buf[0]; k++) {
            var a: array<u32, 3>; var b: array<array<u32, 2>, 2>;
            a[k % 1u] += k; buf[k] += a[0] + a[1];
            b = array<array<u32, 2>, 2>(array<u32, 2>(k, 1u), array<u32, 2>(2u, buf[3])); b[1][0] += 1u;
            b[0] = array<u32, 2>(5u, k + 4u);
            for (var i = 0u; i < 2u; i++) { buf[i + 9u] += b[i][1] + b[1][i]; }
        }
        var c = array<u32, 3>(4u, 5u, 6u); c[1] += 1u; buf[4] = c[0] + c[1] * 2u + c[2];";
    assert_eq!(
        split(&shader(body)).1.arrays_split,
        2,
        "`b` and `c`; `a` has an unknown index"
    );
}

#[test]
fn an_array_read_whole_stays_and_one_stored_whole_from_it_is_split() {
    let body =
        "var a: array<u32, 3>; var b: array<u32, 3>; a[1] = buf[1]; a[2] = 4u; b = a; b[0] += 2u;
        buf[5] = b[0] + b[1] * 2u + b[2] * 3u;";
    assert_eq!(split(&shader(body)).1.arrays_split, 1);
}

#[test]
fn an_array_with_an_initial_value_that_cannot_be_taken_apart_stays() {
    let source = "@group(0) @binding(0) var<storage, read_write> buf: array<u32, 16>;
        const FIRST = array<u32, 3>(4u, 5u, 6u);
        @compute @workgroup_size(1) fn main() { var a = FIRST; a[1] += 1u;
            buf[0] = a[0] + a[1] * 7u + a[2] * 31u; }";
    let (module, _) = split(source);
    validate(&module);
}

// --- A kernel of the kind that this is for

const TILE: &str = "
    const TILE = 8u;
    @group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read> b: array<f32>;
    @group(0) @binding(2) var<storage, read_write> c: array<f32>;
    @group(0) @binding(3) var<uniform> k_size: u32;
    @compute @workgroup_size(8, 8) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        var acc: array<f32, 64>;
        for (var k = 0u; k < k_size; k++) {
            var ra: array<f32, TILE>; var rb: array<f32, TILE>;
            for (var i = 0u; i < TILE; i++) { ra[i] = a[(id.y * TILE + i) * k_size + k]; }
            for (var j = 0u; j < TILE; j++) { rb[j] = b[k * 1024u + id.x * TILE + j]; }
            for (var i = 0u; i < TILE; i++) { for (var j = 0u; j < TILE; j++) {
                acc[i * TILE + j] = fma(ra[i], rb[j], acc[i * TILE + j]); } }
        }
        for (var i = 0u; i < TILE; i++) { for (var j = 0u; j < TILE; j++) {
            c[(id.y * TILE + i) * 1024u + id.x * TILE + j] = acc[i * TILE + j]; } }
    }";

#[test]
fn a_register_tile_ends_up_in_scalars() {
    let options = UnrollOptions {
        split_arrays: true,
        ..UnrollOptions::default()
    };
    let (module, stats) = unroll(&parse(TILE), &options);
    write_everywhere(&module, &validate(&module));
    assert_eq!((stats.loops_unrolled, stats.loops_kept), (2 + 9 + 9, 1));
    assert_eq!(stats.arrays_split, 3);
    let locals = &main_of(&module).local_variables;
    assert_eq!(locals.len(), 64 + 8 + 8 + 1);
    assert!(
        locals
            .iter()
            .all(|(_, local)| matches!(module.types[local.ty].inner, TypeInner::Scalar(_)))
    );
    let is_fma = |e: &Expression| {
        matches!(
            e,
            Expression::Math {
                fun: MathFunction::Fma,
                ..
            }
        )
    };
    assert_eq!(count_expressions(&module, is_fma), 64);
}

#[test]
fn unrolling_twice_changes_nothing_more() {
    for split_arrays in [false, true] {
        let options = UnrollOptions {
            split_arrays,
            ..UnrollOptions::default()
        };
        let (once, _) = unroll(&parse(TILE), &options);
        let (twice, stats) = unroll(&once, &options);
        validate(&twice);
        assert_eq!(stats.loops_unrolled, 0);
        assert_eq!(
            main_of(&once).expressions.len(),
            main_of(&twice).expressions.len()
        );
        assert_eq!(main_of(&once).body.len(), main_of(&twice).body.len());
    }
}

// --- Random programs

/// Writes a random program, drawing every choice from `choices`. Out of choices it takes the
/// first, which is the plainest, so that programs end and shrink.
struct Writer<'a> {
    choices: std::slice::Iter<'a, u8>,
    text: String,
    /// Names of `u32` variables that may be read, and whether they may be written.
    words: Vec<(String, bool)>,
    depth: u32,
    /// Whether a `break` or `continue` may stand here.
    in_loop: bool,
    in_switch: bool,
    fresh: u32,
}

impl Writer<'_> {
    fn program(choices: &[u8]) -> String {
        let mut writer = Writer {
            choices: choices.iter(),
            text: String::new(),
            words: ["x", "y", "z"]
                .iter()
                .map(|name| (name.to_string(), true))
                .collect(),
            depth: 0,
            in_loop: false,
            in_switch: false,
            fresh: 0,
        };
        writer.text.push_str(
            "var x = 0u; var y = 3u; var z: u32; var s = -2; var t: i32; var f: bool;
             var arr: array<u32, 6>; var nest: array<array<u32, 3>, 4>;
             var real: array<f32, 5> = array<f32, 5>(1.0, 2.0, 0.5, 0.0, 3.0);
             var quad: array<vec4<f32>, 3>; var fuel = 0u; var fuel2 = 0u;\n",
        );
        writer.statements(8);
        writer.text.push_str(
            "buf[0] = x; buf[1] ^= y; buf[2] += z; buf[3] = u32(s); buf[4] = u32(t); buf[5] = u32(f);
             for (var i = 0u; i < 6u; i++) { buf[6] = buf[6] * 31u + arr[i]; }
             for (var i = 0u; i < 12u; i++) { buf[7] = buf[7] * 31u + nest[i / 3u][i % 3u]; }
             for (var i = 0u; i < 5u; i++) { flo[i] += real[i]; }
             for (var i = 0u; i < 12u; i++) { flo[i % 16u] += quad[i / 4u][i % 4u]; }\n",
        );
        shader(&writer.text)
    }

    fn pick(&mut self, among: u8) -> u8 {
        self.choices.next().map_or(0, |choice| choice % among)
    }

    fn word_name(&mut self) -> String {
        let index = self.pick(self.words.len() as u8) as usize;
        self.words[index].0.clone()
    }

    fn target(&mut self) -> String {
        let names: Vec<_> = self
            .words
            .iter()
            .filter(|word| word.1)
            .map(|word| word.0.clone())
            .collect();
        names[self.pick(names.len() as u8) as usize].clone()
    }

    /// Never a constant in WGSL's sense, so that nothing is refused while parsing.
    fn word(&mut self, depth: u32) -> String {
        let kinds = if depth == 0 { 3 } else { 12 };
        match self.pick(kinds) {
            0 | 1 => self.word_name(),
            2 => format!("buf[{}]", self.pick(16)),
            3 => format!("arr[{}]", self.index(6, depth)),
            4 => format!("nest[{}][{}]", self.index(4, depth), self.index(3, depth)),
            5 => format!("u32({})", self.int(depth - 1)),
            6 => format!(
                "select({}, {}, {})",
                self.word(depth - 1),
                self.word_or_number(depth - 1),
                self.truth(depth - 1)
            ),
            7 => {
                let fun = ["min", "max"][self.pick(2) as usize];
                format!(
                    "{fun}({}, {})",
                    self.word(depth - 1),
                    self.word_or_number(depth - 1)
                )
            }
            8 => format!(
                "({} {} {})",
                self.word(depth - 1),
                ["/", "%"][self.pick(2) as usize],
                self.divisor(depth - 1)
            ),
            9 => format!(
                "({} {} {})",
                self.word(depth - 1),
                ["<<", ">>"][self.pick(2) as usize],
                self.word_name()
            ),
            _ => {
                let op = ["+", "-", "*", "&", "|", "^"][self.pick(6) as usize];
                format!(
                    "({} {op} {})",
                    self.word(depth - 1),
                    self.word_or_number(depth - 1)
                )
            }
        }
    }

    fn word_or_number(&mut self, depth: u32) -> String {
        match self.pick(3) {
            0 => format!("{}u", self.pick(9)),
            1 => format!(
                "{}u",
                [31, 32, 4_294_967_295, 2_147_483_648_u32][self.pick(4) as usize]
            ),
            _ => self.word(depth),
        }
    }

    fn divisor(&mut self, depth: u32) -> String {
        match self.pick(2) {
            0 => format!("{}u", self.pick(7) + 1),
            _ => self.word(depth),
        }
    }

    fn index(&mut self, length: u8, depth: u32) -> String {
        match self.pick(4) {
            0 => format!("{}u", self.pick(length)),
            1 => self.word_name(),
            2 => format!("{} % {length}u", self.word_name()),
            _ => self.word(depth.saturating_sub(1)),
        }
    }

    fn int(&mut self, depth: u32) -> String {
        let kinds = if depth == 0 { 2 } else { 6 };
        match self.pick(kinds) {
            0 => "s".to_string(),
            1 => "t".to_string(),
            2 => format!("i32({})", self.word(depth - 1)),
            3 => format!("(-{})", self.int(depth - 1)),
            4 => format!("abs({})", self.int(depth - 1)),
            _ => {
                let op = ["+", "-", "*", "/", "%"][self.pick(5) as usize];
                format!("({} {op} {})", self.int(depth - 1), self.int(depth - 1))
            }
        }
    }

    fn truth(&mut self, depth: u32) -> String {
        let kinds = if depth == 0 { 2 } else { 7 };
        match self.pick(kinds) {
            0 => format!("{} == {}u", self.word_name(), self.pick(5)),
            1 => "f".to_string(),
            2 => format!("({} && {})", self.truth(depth - 1), self.truth(depth - 1)),
            3 => format!("({} || {})", self.truth(depth - 1), self.truth(depth - 1)),
            4 => format!("!({})", self.truth(depth - 1)),
            5 => format!("({} > {})", self.int(depth - 1), self.int(depth - 1)),
            _ => {
                let op = ["<", "<=", ">", ">=", "!="][self.pick(5) as usize];
                format!(
                    "({} {op} {})",
                    self.word(depth - 1),
                    self.word_or_number(depth - 1)
                )
            }
        }
    }

    fn real(&mut self) -> String {
        match self.pick(5) {
            0 => format!("flo[{}]", self.pick(16)),
            1 => format!("real[{}]", self.index(5, 1)),
            2 => format!("quad[{}].y", self.index(3, 1)),
            3 => format!("f32({} % 16u)", self.word(1)),
            _ => format!(
                "fma(real[{}], flo[{}], 0.5)",
                self.index(5, 1),
                self.pick(16)
            ),
        }
    }

    fn statements(&mut self, most: u8) {
        let count = self.pick(most) + 1;
        let words = self.words.len();
        for _ in 0..count {
            self.statement();
        }
        self.words.truncate(words);
    }

    fn nested(&mut self) {
        self.depth += 1;
        self.text.push_str("{\n");
        self.statements(4);
        self.text.push_str("}\n");
        self.depth -= 1;
    }

    fn loop_body(&mut self) {
        let before = (self.in_loop, self.in_switch);
        (self.in_loop, self.in_switch) = (true, false);
        self.nested();
        (self.in_loop, self.in_switch) = before;
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).unwrap();
        self.text.push('\n');
    }

    fn statement(&mut self) {
        self.fresh += 1;
        let n = self.fresh;
        let kinds = if self.depth > 3 { 14 } else { 21 };
        match self.pick(kinds) {
            0 => {
                let (target, word) = (self.target(), self.word_or_number(2));
                self.line(format_args!("{target} = {word};"));
            }
            1 => {
                let (target, word) = (self.target(), self.word_or_number(1));
                self.line(format_args!("{target} += {word};"));
            }
            2 => {
                let (at, word) = (self.index(6, 1), self.word_or_number(2));
                self.line(format_args!("arr[{at}] = {word};"));
            }
            3 => {
                let (row, column, word) = (self.index(4, 1), self.index(3, 1), self.word(1));
                self.line(format_args!("nest[{row}][{column}] += {word};"));
            }
            4 => {
                let (at, word) = (self.pick(16), self.word(2));
                self.line(format_args!("buf[{at}] += {word};"));
            }
            5 => {
                let int = self.int(2);
                let target = ["s", "t"][self.pick(2) as usize];
                self.line(format_args!("{target} = {int};"));
            }
            6 => {
                let truth = self.truth(2);
                self.line(format_args!("f = {truth};"));
            }
            7 => {
                let (at, real) = (self.index(5, 1), self.real());
                self.line(format_args!("real[{at}] = {real};"));
            }
            8 => {
                let (at, real) = (self.index(3, 1), self.real());
                let line = match self.pick(3) {
                    0 => format!("quad[{at}] += vec4<f32>({real});"),
                    1 => format!("quad[{at}].z = {real};"),
                    _ => format!("quad[{at}][{}] += {real};", self.index(4, 1)),
                };
                self.line(format_args!("{line}"));
            }
            9 => {
                let line = match self.pick(4) {
                    0 => "arr = array<u32, 6>();".to_string(),
                    1 => format!(
                        "nest[{}] = array<u32, 3>(x, {}, y);",
                        self.index(4, 1),
                        self.word(1)
                    ),
                    2 => "nest[1] = nest[2];".to_string(),
                    _ => format!("arr = array<u32, 6>(x, y, {}, 7u, z, 1u);", self.word(1)),
                };
                self.line(format_args!("{line}"));
            }
            10 => {
                // A value from before a store, used after it.
                let (source, word) = (self.target(), self.word_or_number(1));
                let user = self.target();
                self.line(format_args!(
                    "let old{n} = {source}; {source} = {word}; {user} ^= old{n};"
                ));
                self.words.push((format!("old{n}"), false));
            }
            11 => {
                let (a, b, word) = (self.target(), self.target(), self.word(1));
                self.line(format_args!("{a} = bump(&{b}, {word});"));
            }
            12 => {
                let target = self.target();
                let word = self.word_or_number(1);
                self.line(format_args!("turn(&s); {target} = total({word} % 6u);"));
            }
            13 => {
                let word = self.word_or_number(1);
                self.line(format_args!("var local{n} = {word};"));
                self.words.push((format!("local{n}"), true));
            }
            14 | 15 => {
                let truth = self.truth(2);
                self.line(format_args!("if ({truth})"));
                self.nested();
                if self.pick(2) == 1 {
                    self.line(format_args!("else"));
                    self.nested();
                }
            }
            16 if self.in_loop => {
                let truth = self.truth(1);
                let choice = self.pick(3) as usize;
                let exit = ["break", "continue", "return"][choice];
                self.line(format_args!("if ({truth}) {{ {exit}; }}"));
            }
            17 => {
                let word = self.word(1);
                self.line(format_args!("switch ({word}) % 3u {{ case 0u"));
                let before = self.in_switch;
                self.in_switch = true;
                self.nested();
                self.line(format_args!("case 1u {{"));
                let truth = self.truth(1);
                self.line(format_args!("if ({truth}) {{ break; }}"));
                self.statements(3);
                self.line(format_args!("}} default"));
                self.nested();
                self.line(format_args!("}}"));
                self.in_switch = before;
            }
            18 => {
                // A loop that only a supply of turns of its own ends for certain.
                let fuel = ["fuel", "fuel2"][self.pick(2) as usize];
                let most = self.pick(12) + 1;
                self.line(format_args!(
                    "{fuel} = 0u; loop {{ {fuel} += 1u; if ({fuel} > {most}u) {{ break; }}"
                ));
                self.loop_body();
                match self.pick(3) {
                    0 => {}
                    1 => {
                        let target = self.target();
                        let op = ["+=", "="][self.pick(2) as usize];
                        self.line(format_args!("continuing {{ {target} {op} 1u; }}"));
                    }
                    _ => {
                        let truth = self.truth(1);
                        let target = self.target();
                        self.line(format_args!(
                            "continuing {{ {target} -= 1u; break if {truth}; }}"
                        ));
                    }
                }
                self.line(format_args!("}}"));
            }
            _ => {
                let first = self.pick(4);
                let bound = match self.pick(5) {
                    0 | 1 => format!("{}u", self.pick(6)),
                    2 => "FOUR".to_string(),
                    3 => format!("min({}, 6u)", self.word(1)),
                    _ => self.word_name(),
                };
                let writable = self.pick(5) == 4;
                match self.pick(4) {
                    0 | 1 => self.line(format_args!("for (var at{n} = {first}u; at{n} < {bound}; at{n}++)")),
                    2 => self.line(format_args!("for (var at{n} = {first}u; at{n} <= {bound}; at{n} += 2u)")),
                    _ => self.line(format_args!(
                        "for (var down{n} = {first}; down{n} >= 0; down{n}--) {{ let at{n} = u32(down{n});"
                    )),
                }
                let counts_down = self.text.trim_end().ends_with(';');
                self.words
                    .push((format!("at{n}"), writable && !counts_down));
                self.loop_body();
                self.words.pop();
                if counts_down {
                    self.line(format_args!("}}"));
                }
            }
        }
    }
}

fn compare(source: &str, options: &UnrollOptions) -> Result<(), TestCaseError> {
    let plain = parse(source);
    validate(&plain);
    let Ok(expected) = Machine::run(&plain, &INPUT, 20_000) else {
        // Loops without end are no programs.
        return Err(TestCaseError::reject("runs too long"));
    };
    let (module, stats) = unroll(&plain, options);
    let info = validate(&module);
    write_everywhere(&module, &info);
    let found = Machine::run(&module, &INPUT, 400_000).unwrap();
    // By their text, so that values that are not numbers compare as well.
    prop_assert_eq!(format!("{expected:?}"), format!("{found:?}"));
    prop_assert_eq!(count(&module, is_loop), stats.loops_kept);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_compute_the_same_unrolled(
        choices in prop::collection::vec(any::<u8>(), 0..400),
        split_arrays in any::<bool>(),
        max_turns in prop::sample::select(vec![64, 64, 64, 3, 0]),
        max_expressions in prop::sample::select(vec![200_000, 200_000, 400]),
    ) {
        let source = Writer::program(&choices);
        compare(&source, &UnrollOptions { max_turns, max_expressions, split_arrays })?;
    }
}
