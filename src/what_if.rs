//! What-if variants of a kernel, made on naga's IR after unrolling: the same program with one part of
//! its work taken out, so that the time that is left says what the part cost.
//!
//! Their results are wrong by design. They exist for `chipmark diagnose` alone: nothing that they
//! compute is checked, and no time of theirs enters a report, a search or a cache.
//!
//! * [`math_only`] sends every load at a run-time place of a storage array or a texture that the pass
//!   does not write to one of its first elements. What is read then lies in the nearest cache, and
//!   arithmetic, workgroup memory, barriers and stores stay. The place is clamped and not masked: of a
//!   place that a loop moves in steps of a power of two, a mask would leave nothing that changes, and a
//!   compiler would take the load out of the loop.
//! * [`loads_only`] takes multiply-adds out, and keeps as few as it takes for every loaded value to be
//!   needed. What is loaded can so not be dropped by a compiler, and comes to the sums as before.
//! * [`unique`] changes nothing that is computed, only what a compiler sees: no cache of a driver's
//!   can know the program.

use std::collections::{HashMap, HashSet};

use naga::front::Typifier;
use naga::proc::ResolveContext;
use naga::{
    AddressSpace, Arena, ArraySize, BinaryOperator, Block, Expression, Function, Handle, Literal,
    LocalVariable, MathFunction, Module, ScalarKind, Span, Statement, SwitchCase, Type, TypeInner,
    UniqueArena,
};

use crate::unroll::walk::{
    emit, root, root_local, statement_result, visit_operands, visit_statement_operands,
};

/// A variable of a module.
type Global = Handle<naga::GlobalVariable>;

/// The last element that a load of [`math_only`] may read; of a texture the last row and column.
const LAST: u8 = 31;

/// How much of what a pass looks for it has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Places that were found.
    pub found: u32,
    /// Places that were changed.
    pub changed: u32,
}

/// The module with its loads from storage and textures that their pass does not write sent to a few
/// elements; counts such loads' places.
#[must_use]
pub fn math_only(module: &Module) -> (Module, Changed) {
    let helpers = module.functions.iter();
    let by_helpers: HashSet<_> = helpers.flat_map(|(_, f)| written(f, &f.body)).collect();
    rewrite(module, |function, _| near(module, function, &by_helpers))
}

/// The variable of the module that `pointer` points into, if it points into one.
fn root_global(source: &Function, pointer: Handle<Expression>) -> Option<Global> {
    match *root(|handle| &source.expressions[handle], pointer) {
        Expression::GlobalVariable(global) => Some(global),
        _ => None,
    }
}

/// What a block of a function writes of the module's variables, those of its calls left out.
fn written(source: &Function, block: &Block) -> HashSet<Global> {
    let mut all = HashSet::new();
    for statement in block {
        match statement {
            Statement::Store { pointer, .. } | Statement::Atomic { pointer, .. } => {
                all.extend(root_global(source, *pointer));
            }
            Statement::CooperativeStore { data, .. } => {
                all.extend(root_global(source, data.pointer));
            }
            Statement::ImageStore { image, .. } | Statement::ImageAtomic { image, .. } => {
                all.extend(root_global(source, *image));
            }
            Statement::Block(inner) => all.extend(written(source, inner)),
            Statement::If { accept, reject, .. } => {
                all.extend(written(source, accept));
                all.extend(written(source, reject));
            }
            Statement::Switch { cases, .. } => {
                all.extend(cases.iter().flat_map(|case| written(source, &case.body)));
            }
            Statement::Loop {
                body, continuing, ..
            } => {
                all.extend(written(source, body));
                all.extend(written(source, continuing));
            }
            _ => {}
        }
    }
    all
}

/// The module with the multiply-adds left out that no loaded value needs; counts them by lane.
#[must_use]
pub fn loads_only(module: &Module) -> (Module, Changed) {
    rewrite(module, |function, types| few(module, function, types))
}

/// Applies a pass to every function; one that is ill-formed stays as it is, for the validator.
fn rewrite(
    module: &Module,
    pass: impl Fn(&Function, &mut UniqueArena<Type>) -> Option<(Function, Changed)>,
) -> (Module, Changed) {
    let mut output = module.clone();
    let mut total = Changed::default();
    let types = &mut output.types;
    let functions = output.functions.iter_mut().map(|(_, function)| function);
    let entries = output.entry_points.iter_mut();
    for function in functions.chain(entries.map(|entry| &mut entry.function)) {
        if let Some((new, changed)) = pass(function, types) {
            *function = new;
            total.found += changed.found;
            total.changed += changed.changed;
        }
    }
    (output, total)
}

/// The module with a comparison of a parameter with `word` at the start of each entry point, which
/// must never hold; `None` where it has no parameters.
#[must_use]
pub fn unique(module: &Module, word: u32) -> Option<Module> {
    let (params, variable) = module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.space == AddressSpace::Uniform)?;
    // The way from the block to its first word.
    let mut depth = 0;
    let mut inner = module.types[variable.ty].inner.clone();
    loop {
        inner = match inner {
            TypeInner::Struct { ref members, .. } => {
                module.types[members.first()?.ty].inner.clone()
            }
            TypeInner::Array { base, .. } => module.types[base].inner.clone(),
            TypeInner::Vector { scalar, .. } => TypeInner::Scalar(scalar),
            TypeInner::Scalar(naga::Scalar::U32) => break,
            _ => return None,
        };
        depth += 1;
    }
    let mut output = module.clone();
    for entry in &mut output.entry_points {
        let function = &mut entry.function;
        let span = Span::UNDEFINED;
        let mut start = Block::new();
        let expressions = &mut function.expressions;
        let mut pointer = expressions.append(Expression::GlobalVariable(params), span);
        let never = expressions.append(Expression::Literal(Literal::U32(word)), span);
        let mut emitted = |expression| {
            let handle = expressions.append(expression, span);
            emit(&mut start, handle, span);
            handle
        };
        for _ in 0..depth {
            let (base, index) = (pointer, 0);
            pointer = emitted(Expression::AccessIndex { base, index });
        }
        let left = emitted(Expression::Load { pointer });
        let condition = emitted(Expression::Binary {
            op: BinaryOperator::Equal,
            left,
            right: never,
        });
        let mut accept = Block::new();
        accept.push(Statement::Return { value: None }, span);
        start.push(
            Statement::If {
                condition,
                accept,
                reject: Block::new(),
            },
            span,
        );
        start.extend_block(std::mem::take(&mut function.body));
        function.body = start;
    }
    Some(output)
}

/// The types of a function's expressions.
fn typed(module: &Module, function: &Function) -> Option<Typifier> {
    let mut types = Typifier::new();
    let context =
        ResolveContext::with_locals(module, &function.local_variables, &function.arguments);
    if let Some((last, _)) = function.expressions.iter().next_back() {
        types.grow(last, &function.expressions, &context).ok()?;
    }
    Some(types)
}

/// [`math_only`] on one function of a module whose helpers write `by_helpers`.
fn near(
    module: &Module,
    source: &Function,
    by_helpers: &HashSet<Global>,
) -> Option<(Function, Changed)> {
    let types = typed(module, source)?;
    let type_of = |handle: Handle<Expression>| types.get(handle, &module.types);
    let own = written(source, &source.body);
    let is_array = |pointer: Handle<Expression>| match *type_of(pointer) {
        TypeInner::Pointer {
            base,
            space: AddressSpace::Storage { .. },
        } => matches!(
            module.types[base].inner,
            TypeInner::Array {
                size: ArraySize::Dynamic,
                ..
            }
        ),
        _ => false,
    };
    let is_only_read = |pointer: Handle<Expression>| {
        root_global(source, pointer)
            .is_some_and(|global| !own.contains(&global) && !by_helpers.contains(&global))
    };
    let mut changed = Changed::default();
    let mut change = |copy: &mut Copy<'_>, old: Handle<Expression>, span: Span, out: &mut Block| {
        let place = match source.expressions[old] {
            Expression::Access { base, index } if is_array(base) && is_only_read(base) => index,
            Expression::ImageLoad {
                image, coordinate, ..
            } if is_only_read(image) => coordinate,
            // A place that the program itself fixes is read from a cache as it is.
            _ => return None,
        };
        changed.found += 1;
        let (scalar, size) = match *type_of(place) {
            TypeInner::Scalar(scalar) => (scalar, None),
            TypeInner::Vector { size, scalar } => (scalar, Some(size)),
            _ => return None,
        };
        let last = match scalar {
            naga::Scalar::U32 => Literal::U32(u32::from(LAST)),
            naga::Scalar::I32 => Literal::I32(i32::from(LAST)),
            _ => return None,
        };
        changed.changed += 1;
        let mut expression = copy.mapped(old);
        let mut last = copy.expressions.append(Expression::Literal(last), span);
        if let Some(size) = size {
            last = copy.emitted(Expression::Splat { size, value: last }, span, out);
        }
        let place = copy.operand(place);
        let near = copy.emitted(
            Expression::Math {
                fun: MathFunction::Min,
                arg: place,
                arg1: Some(last),
                arg2: None,
                arg3: None,
            },
            span,
            out,
        );
        match &mut expression {
            Expression::Access { index, .. } => *index = near,
            Expression::ImageLoad { coordinate, .. } => *coordinate = near,
            _ => unreachable!("what is changed is one of the two"),
        }
        Some(copy.emitted(expression, span, out))
    };
    let function = Copy::new(source).run(&mut change);
    Some((function, changed))
}

/// A value that a multiply-add takes, down to one component of what it was made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Atom {
    /// A component of an expression.
    Value(Handle<Expression>, u32),
    /// A place in a local variable, with how often the variable had been written.
    Place(Handle<LocalVariable>, Vec<u32>, u32),
}

/// One lane of a multiply-add: what its two factors are made of.
struct Lane {
    factors: [Vec<Atom>; 2],
}

/// A multiply-add.
struct Product {
    handle: Handle<Expression>,
    lanes: Vec<Lane>,
}

/// The two factors of a product.
type Factors = [Handle<Expression>; 2];

/// How a multiply-add takes its factors.
enum Work {
    /// Lane by lane.
    ByLane(Factors),
    /// All components of both go into each lane, of which these are the factors.
    Whole(Vec<Factors>),
}

/// The parts of a multiply-add: its factors and the sum that it adds to.
struct Parts {
    work: Work,
    sum: Handle<Expression>,
}

/// Finds out which lanes of which multiply-adds have to stay.
struct Selection<'a> {
    module: &'a Module,
    source: &'a Function,
    types: &'a Typifier,
    /// Where a load of a local read, by load.
    loaded: HashMap<Handle<Expression>, (Handle<LocalVariable>, Vec<u32>, u32)>,
    /// How often each local had been written, counted over all of them.
    versions: Vec<u32>,
    version: u32,
    consumed: HashSet<Atom>,
    /// Multiply-adds of the straight piece of program that is being read.
    pending: Vec<Product>,
    /// For each multiply-add, the lanes that stay.
    kept: HashMap<Handle<Expression>, Vec<bool>>,
}

impl Selection<'_> {
    fn inner(&self, handle: Handle<Expression>) -> &TypeInner {
        self.types.get(handle, &self.module.types)
    }

    /// How many lanes a value has; `None` if it is no scalar and no vector.
    fn width(&self, handle: Handle<Expression>) -> Option<u32> {
        match *self.inner(handle) {
            TypeInner::Scalar(_) => Some(1),
            TypeInner::Vector { size, .. } => Some(size as u32),
            _ => None,
        }
    }

    /// The parts of `handle`, if it is a multiply-add that can be left out.
    fn parts(&self, handle: Handle<Expression>) -> Option<Parts> {
        let expressions = &self.source.expressions;
        match expressions[handle] {
            Expression::Math {
                fun: MathFunction::Fma,
                arg,
                arg1: Some(arg1),
                arg2: Some(sum),
                ..
            } => Some(Parts {
                work: Work::ByLane([arg, arg1]),
                sum,
            }),
            Expression::CooperativeMultiplyAdd { a, b, c } => Some(Parts {
                work: Work::Whole(vec![[a, b]]),
                sum: c,
            }),
            Expression::Binary {
                op: BinaryOperator::Add,
                left,
                right,
            } => {
                // Integer products are how places are computed; only dot products of bytes are work.
                let is_float = matches!(
                    self.inner(handle),
                    TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. }
                        if scalar.kind == ScalarKind::Float
                );
                let product = |handle: Handle<Expression>| match expressions[handle] {
                    Expression::Binary {
                        op: BinaryOperator::Multiply,
                        left,
                        right,
                    } if is_float && self.width(left).is_some() && self.width(right).is_some() => {
                        Some(Work::ByLane([left, right]))
                    }
                    // Several dot products may be added as one vector.
                    Expression::Compose { ref components, .. } => {
                        let dots = components.iter().map(|&handle| self.dot(handle));
                        dots.collect::<Option<Vec<_>>>().map(Work::Whole)
                    }
                    _ => self.dot(handle).map(|factors| Work::Whole(vec![factors])),
                };
                let (work, sum) = match (product(left), product(right)) {
                    (Some(found), None) => (found, right),
                    (None, Some(found)) => (found, left),
                    // Two products that are added: neither is a sum that was there before.
                    _ => return None,
                };
                Some(Parts { work, sum })
            }
            _ => None,
        }
    }

    /// The factors of `handle`, if it is a dot product.
    fn dot(&self, handle: Handle<Expression>) -> Option<Factors> {
        match self.source.expressions[handle] {
            Expression::Math {
                fun: MathFunction::Dot | MathFunction::Dot4I8Packed | MathFunction::Dot4U8Packed,
                arg,
                arg1: Some(arg1),
                ..
            } => Some([arg, arg1]),
            _ => None,
        }
    }

    /// What one lane of a value is made of; `None` for a constant.
    fn atom(&self, handle: Handle<Expression>, lane: u32) -> Option<Atom> {
        let value = Some(Atom::Value(handle, lane));
        match self.source.expressions[handle] {
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::Override(_)
            | Expression::ZeroValue(_) => None,
            Expression::Splat { value, .. } => self.atom(value, 0),
            Expression::Swizzle {
                vector, pattern, ..
            } => self.atom(vector, pattern[lane as usize] as u32),
            Expression::As { expr, .. } if self.width(expr) == self.width(handle) => {
                self.atom(expr, lane)
            }
            Expression::Unary { expr, .. } => self.atom(expr, lane),
            Expression::AccessIndex { base, index }
                if matches!(self.inner(base), TypeInner::Vector { .. }) =>
            {
                self.atom(base, index)
            }
            Expression::Compose { ref components, .. } if self.width(handle).is_some() => {
                let mut left = lane;
                for &component in components {
                    match self.width(component) {
                        Some(width) if left < width => return self.atom(component, left),
                        Some(width) => left -= width,
                        None => return value,
                    }
                }
                value
            }
            Expression::Load { .. } => match self.loaded.get(&handle) {
                Some((local, path, version)) => {
                    let mut path = path.clone();
                    if matches!(self.inner(handle), TypeInner::Vector { .. }) {
                        path.push(lane);
                    }
                    Some(Atom::Place(*local, path, *version))
                }
                None => value,
            },
            _ => value,
        }
    }

    /// All that a value is made of.
    fn atoms(&self, handle: Handle<Expression>) -> Vec<Atom> {
        let width = self.width(handle).unwrap_or(1);
        (0..width)
            .filter_map(|lane| self.atom(handle, lane))
            .collect()
    }

    fn product(&self, handle: Handle<Expression>) -> Option<Product> {
        let lanes = match self.parts(handle)?.work {
            Work::Whole(all) => all
                .into_iter()
                .map(|factors| Lane {
                    factors: factors.map(|factor| self.atoms(factor)),
                })
                .collect(),
            Work::ByLane(factors) => {
                let of = |factor, lane| {
                    // A scalar goes into every lane.
                    let lone = self.width(factor) == Some(1);
                    let lane = if lone { 0 } else { lane };
                    self.atom(factor, lane).into_iter().collect()
                };
                (0..self.width(handle)?)
                    .map(|lane| Lane {
                        factors: factors.map(|factor| of(factor, lane)),
                    })
                    .collect()
            }
        };
        Some(Product { handle, lanes })
    }

    /// Decides about the pending multiply-adds. First those stay of which both factors are new, for
    /// one operation then serves two values; then those of which one still is.
    fn settle(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for product in &pending {
            let count = product.lanes.len();
            self.kept
                .entry(product.handle)
                .or_insert(vec![false; count]);
        }
        for both in [true, false] {
            for product in &pending {
                for (lane, index) in product.lanes.iter().zip(0usize..) {
                    let mut fresh = lane
                        .factors
                        .iter()
                        .map(|atoms| atoms.iter().any(|atom| !self.consumed.contains(atom)));
                    let wanted = if both {
                        fresh.all(|fresh| fresh)
                    } else {
                        fresh.any(|fresh| fresh)
                    };
                    if !wanted {
                        continue;
                    }
                    self.consumed.extend(lane.factors.iter().flatten().cloned());
                    if let Some(kept) = self.kept.get_mut(&product.handle) {
                        kept[index] = true;
                    }
                }
            }
        }
    }

    /// A local has another value than before.
    fn written(&mut self, pointer: Handle<Expression>) {
        let expressions = &self.source.expressions;
        if let Some(local) = root_local(|handle| &expressions[handle], pointer) {
            self.version += 1;
            self.versions[local.index()] = self.version;
        }
    }

    /// Everything that `block` may write has another value than before.
    fn written_in(&mut self, block: &Block) {
        for statement in block {
            match *statement {
                Statement::Emit(_) => {}
                Statement::Block(ref block) => self.written_in(block),
                Statement::If {
                    ref accept,
                    ref reject,
                    ..
                } => {
                    self.written_in(accept);
                    self.written_in(reject);
                }
                Statement::Switch { ref cases, .. } => {
                    for case in cases {
                        self.written_in(&case.body);
                    }
                }
                Statement::Loop {
                    ref body,
                    ref continuing,
                    ..
                } => {
                    self.written_in(body);
                    self.written_in(continuing);
                }
                _ => visit_statement_operands(&mut statement.clone(), &mut |handle| {
                    self.written(*handle);
                }),
            }
        }
    }

    fn block(&mut self, block: &Block) {
        for statement in block {
            match *statement {
                Statement::Emit(ref range) => {
                    for handle in range.clone() {
                        self.evaluated(handle);
                    }
                }
                Statement::Block(ref block) => self.block(block),
                Statement::If {
                    ref accept,
                    ref reject,
                    ..
                } => {
                    self.settle();
                    let before = self.consumed.clone();
                    self.block(accept);
                    self.settle();
                    let after = std::mem::replace(&mut self.consumed, before);
                    self.block(reject);
                    self.settle();
                    // What only one of the ways has needed is still to be needed by the other.
                    self.consumed.retain(|atom| after.contains(atom));
                }
                Statement::Switch { ref cases, .. } => {
                    self.settle();
                    let before = self.consumed.clone();
                    for case in cases {
                        self.consumed.clone_from(&before);
                        self.written_in(&case.body);
                        self.block(&case.body);
                        self.settle();
                    }
                    self.consumed = before;
                    for case in cases {
                        self.written_in(&case.body);
                    }
                }
                Statement::Loop {
                    ref body,
                    ref continuing,
                    ..
                } => {
                    self.settle();
                    let before = self.consumed.clone();
                    // At the start of a turn locals hold what an earlier turn left.
                    self.written_in(body);
                    self.written_in(continuing);
                    self.block(body);
                    self.block(continuing);
                    self.settle();
                    // There may have been no turn at all.
                    self.consumed = before;
                    self.written_in(body);
                    self.written_in(continuing);
                }
                _ => visit_statement_operands(&mut statement.clone(), &mut |handle| {
                    self.written(*handle);
                }),
            }
        }
    }

    fn evaluated(&mut self, handle: Handle<Expression>) {
        if let Expression::Load { pointer } = self.source.expressions[handle]
            && let Some((local, path)) = self.place(pointer)
        {
            let version = self.versions[local.index()];
            self.loaded.insert(handle, (local, path, version));
        }
        self.pending.extend(self.product(handle));
    }

    /// The place in a local that a pointer means, where the program fixes it.
    fn place(&self, pointer: Handle<Expression>) -> Option<(Handle<LocalVariable>, Vec<u32>)> {
        match self.source.expressions[pointer] {
            Expression::LocalVariable(local) => Some((local, Vec::new())),
            Expression::AccessIndex { base, index } => {
                let (local, mut path) = self.place(base)?;
                path.push(index);
                Some((local, path))
            }
            _ => None,
        }
    }
}

/// [`loads_only`] on one function.
fn few(
    module: &Module,
    source: &Function,
    arena: &mut UniqueArena<Type>,
) -> Option<(Function, Changed)> {
    let types = typed(module, source)?;
    let mut selection = Selection {
        module,
        source,
        types: &types,
        loaded: HashMap::new(),
        versions: vec![0; source.local_variables.len()],
        version: 0,
        consumed: HashSet::new(),
        pending: Vec::new(),
        kept: HashMap::new(),
    };
    selection.block(&source.body);
    selection.settle();
    let lanes = || selection.kept.values().flatten();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let changed = Changed {
        found: count(lanes().count()),
        changed: count(lanes().filter(|kept| !**kept).count()),
    };
    let mut change = |copy: &mut Copy<'_>, old: Handle<Expression>, span: Span, out: &mut Block| {
        let kept = selection.kept.get(&old)?;
        if kept.iter().all(|kept| *kept) {
            return None;
        }
        let parts = selection.parts(old)?;
        let sum = copy.operand(parts.sum);
        // A lone number that is added to a vector has to become one.
        let alike = selection.width(parts.sum) == selection.width(old);
        if !kept.contains(&true) && alike {
            return Some(sum);
        }
        let inner = types.get(old, &module.types).clone();
        let TypeInner::Vector { size, scalar } = inner else {
            return None;
        };
        let ty = arena.insert(
            Type {
                name: None,
                inner: TypeInner::Vector { size, scalar },
            },
            Span::UNDEFINED,
        );
        let whole = copy.copied(old, span, out);
        let components = (0u32..)
            .zip(kept)
            .map(|(index, kept)| {
                let base = if *kept { whole } else { sum };
                if !*kept && !alike {
                    return sum;
                }
                copy.emitted(Expression::AccessIndex { base, index }, span, out)
            })
            .collect();
        Some(copy.emitted(Expression::Compose { ty, components }, span, out))
    };
    let function = Copy::new(source).run(&mut change);
    Some((function, changed))
}

/// Writes the expression that stands for an old one, unless it may be copied.
type Change<'c> = dyn FnMut(&mut Copy<'_>, Handle<Expression>, Span, &mut Block) -> Option<Handle<Expression>>
    + 'c;

/// Copies a function statement by statement, with some of its expressions changed.
struct Copy<'a> {
    source: &'a Function,
    expressions: Arena<Expression>,
    map: Vec<Option<Handle<Expression>>>,
}

impl<'a> Copy<'a> {
    fn new(source: &'a Function) -> Self {
        Self {
            source,
            expressions: Arena::new(),
            map: vec![None; source.expressions.len()],
        }
    }

    fn run(mut self, change: &mut Change<'_>) -> Function {
        let source = self.source;
        for (old, expression) in source.expressions.iter() {
            if expression.needs_pre_emit() {
                let span = source.expressions.get_span(old);
                self.map[old.index()] = Some(self.expressions.append(expression.clone(), span));
            }
        }
        let mut local_variables = source.local_variables.clone();
        for (_, local) in local_variables.iter_mut() {
            local.init = local.init.map(|init| self.operand(init));
        }
        let body = self.block(&source.body, change);
        let named = source.named_expressions.iter();
        // What is written in place has no name.
        let named_expressions = named
            .filter_map(|(old, name)| Some((self.map[old.index()]?, name.clone())))
            .filter(|(new, _)| !self.expressions[*new].needs_pre_emit())
            .collect();
        Function {
            local_variables,
            expressions: self.expressions,
            named_expressions,
            body,
            ..source.clone()
        }
    }

    fn operand(&mut self, old: Handle<Expression>) -> Handle<Expression> {
        if let Some(new) = self.map[old.index()] {
            return new;
        }
        // A constant expression that is not emitted.
        let expression = self.mapped(old);
        let span = self.source.expressions.get_span(old);
        let new = self.expressions.append(expression, span);
        self.map[old.index()] = Some(new);
        new
    }

    /// An old expression with its operands replaced by what stands for them.
    fn mapped(&mut self, old: Handle<Expression>) -> Expression {
        let mut expression = self.source.expressions[old].clone();
        visit_operands(&mut expression, &mut |operand| {
            *operand = self.operand(*operand);
        });
        expression
    }

    fn copied(
        &mut self,
        old: Handle<Expression>,
        span: Span,
        out: &mut Block,
    ) -> Handle<Expression> {
        let expression = self.mapped(old);
        self.emitted(expression, span, out)
    }

    fn emitted(
        &mut self,
        expression: Expression,
        span: Span,
        out: &mut Block,
    ) -> Handle<Expression> {
        let new = self.expressions.append(expression, span);
        emit(out, new, span);
        new
    }

    fn block(&mut self, source: &Block, change: &mut Change<'_>) -> Block {
        let mut out = Block::new();
        for (statement, &span) in source.span_iter() {
            match *statement {
                Statement::Emit(ref range) => {
                    for old in range.clone() {
                        let span = self.source.expressions.get_span(old);
                        let new = change(self, old, span, &mut out);
                        let new = new.unwrap_or_else(|| self.copied(old, span, &mut out));
                        self.map[old.index()] = Some(new);
                    }
                }
                Statement::Block(ref block) => {
                    let block = self.block(block, change);
                    out.push(Statement::Block(block), span);
                }
                Statement::If {
                    condition,
                    ref accept,
                    ref reject,
                } => {
                    let condition = self.operand(condition);
                    let accept = self.block(accept, change);
                    let reject = self.block(reject, change);
                    let statement = Statement::If {
                        condition,
                        accept,
                        reject,
                    };
                    out.push(statement, span);
                }
                Statement::Switch {
                    selector,
                    ref cases,
                } => {
                    let selector = self.operand(selector);
                    let cases = cases
                        .iter()
                        .map(|case| SwitchCase {
                            value: case.value,
                            body: self.block(&case.body, change),
                            fall_through: case.fall_through,
                        })
                        .collect();
                    out.push(Statement::Switch { selector, cases }, span);
                }
                Statement::Loop {
                    ref body,
                    ref continuing,
                    break_if,
                } => {
                    let body = self.block(body, change);
                    let continuing = self.block(continuing, change);
                    let break_if = break_if.map(|condition| self.operand(condition));
                    let statement = Statement::Loop {
                        body,
                        continuing,
                        break_if,
                    };
                    out.push(statement, span);
                }
                _ => {
                    let mut statement = statement.clone();
                    visit_statement_operands(&mut statement, &mut |handle| {
                        *handle = self.operand(*handle);
                    });
                    if let Some(result) = statement_result(&mut statement) {
                        let old = *result;
                        let span = self.source.expressions.get_span(old);
                        *result = self
                            .expressions
                            .append(self.source.expressions[old].clone(), span);
                        self.map[old.index()] = Some(*result);
                    }
                    out.push(statement, span);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::kernels;
    use crate::shader;
    use crate::unroll::{UnrollOptions, unroll};
    use crate::variant::combinations;
    use naga::back::spv;
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    /// Whether a module is valid and passes the SPIR-V writer.
    fn passes(module: &Module, what: &str) {
        let info = Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(module)
            .unwrap_or_else(|error| panic!("{what}: {:?}", error.into_inner()));
        for entry in &module.entry_points {
            let stage = spv::PipelineOptions {
                shader_stage: naga::ShaderStage::Compute,
                entry_point: entry.name.clone(),
            };
            let words = spv::write_vec(module, &info, &spv::Options::default(), Some(&stage));
            assert!(words.is_ok(), "{what}: {words:?}");
        }
    }

    /// The first variant of every kernel in every dtype, unrolled.
    fn catalogue() -> impl Iterator<Item = (String, Module)> {
        kernels().into_iter().flat_map(|kernel| {
            let tunables = combinations(&kernel);
            kernel
                .dtypes
                .iter()
                .filter_map(|dtype| {
                    let mut sets = tunables.iter();
                    let built = sets.find_map(|set| {
                        shader::build(&kernel.name, &kernel.source, set, *dtype).ok()
                    })?;
                    let options = UnrollOptions {
                        max_expressions: 20_000,
                        ..UnrollOptions::default()
                    };
                    let name = format!("{} in {dtype}", kernel.name);
                    Some((name, unroll(&built.module, &options).0))
                })
                .collect::<Vec<_>>()
        })
    }

    #[test]
    fn every_kernel_of_the_catalogue_stays_valid_whatever_is_taken_out() {
        let (mut near, mut few) = (0, 0);
        for (name, module) in catalogue() {
            let (math, found) = math_only(&module);
            near += u32::from(found.changed > 0);
            passes(&math, &format!("{name}, math_only"));
            let (loads, found) = loads_only(&module);
            few += u32::from(found.changed > 0);
            assert!(found.changed <= found.found, "{name}");
            // Where a value serves many sums, most of the arithmetic goes.
            let tiles = ["register_tile", "matrix_tile", "dot4_tile"];
            if tiles.iter().any(|tile| name.contains(tile)) {
                let most = 2 * found.changed >= found.found && found.changed > 0;
                assert!(most, "{name}: {found:?}");
            }
            passes(&loads, &format!("{name}, loads_only"));
            let cold = unique(&module, 0x8000_0001).unwrap_or_else(|| panic!("{name}"));
            passes(&cold, &format!("{name}, cold"));
        }
        assert!(near > 50 && few > 30, "{near} and {few} were changed");
    }

    fn parsed(source: &str) -> Module {
        let module = naga::front::wgsl::parse_str(source).unwrap();
        unroll(&module, &UnrollOptions::default()).0
    }

    /// A tile of 4 x 2 sums from workgroup memory, as register tiles are written.
    const TILE: &str = "
        @group(0) @binding(0) var<uniform> d: vec4<u32>;
        @group(0) @binding(1) var<storage, read> a: array<f32>;
        @group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
        @group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;
        @compute @workgroup_size(8)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            var sums: array<array<vec4<f32>, 2>, 4>;
            for (var k = 0u; k < d.x; k++) {
                var left: array<f32, 4>;
                for (var row = 0u; row < 4u; row++) { left[row] = a[id.x + row * d.x + k]; }
                for (var column = 0u; column < 2u; column++) {
                    let right = b[k * d.y + column + id.y];
                    for (var row = 0u; row < 4u; row++) {
                        sums[row][column] = fma(vec4(left[row]), right, sums[row][column]);
                    }
                }
            }
            for (var row = 0u; row < 4u; row++) {
                c[id.x * 8u + row] = sums[row][0] + sums[row][1];
            }
        }";

    #[test]
    fn as_few_multiply_adds_stay_as_it_takes_to_need_every_loaded_value() {
        let module = parsed(TILE);
        let (changed, found) = loads_only(&module);
        passes(&changed, "tile");
        // Eight of b serve for four of a as well.
        assert_eq!((found.found, found.found - found.changed), (32, 8));
        let (changed, found) = math_only(&module);
        passes(&changed, "tile");
        assert_eq!((found.found, found.changed), (6, 6));
    }

    #[test]
    fn sums_of_products_and_dot_products_count_and_places_are_left_alone() {
        let source = |line: &str| {
            format!(
                "@group(0) @binding(0) var<uniform> d: vec4<u32>;
                 @group(0) @binding(1) var<storage, read> x: array<u32>;
                 @group(0) @binding(2) var<storage, read_write> o: array<f32>;
                 @compute @workgroup_size(8)
                 fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                     let u = x[id.x * d.x + id.y];
                     let f = f32(u);
                     var sum = 0.0;
                     // An integer that is known to be zero would be left out of its sum.
                     var count = i32(d.z);
                     {line}
                     o[id.x * d.y + id.z] = sum + f32(count);
                 }}"
            )
        };
        let left = |line: &str| {
            let (module, found) = loads_only(&parsed(&source(line)));
            passes(&module, line);
            (found.found, found.changed)
        };
        assert_eq!(left("sum = sum + f * 2.0;"), (1, 0));
        assert_eq!(left("sum += f * 2.0; sum += f * 3.0;"), (2, 1));
        assert_eq!(
            left("count += dot4I8Packed(u, u); sum = fma(f, f, sum);"),
            (2, 1)
        );
        assert_eq!(left("sum = f * 2.0 + f * f;"), (0, 0));
        // Dot products that are added as a vector are several.
        assert_eq!(
            left(
                "var all = vec2(count); all += vec2(dot4I8Packed(u, u), dot4I8Packed(u, 3u)); count = all.x + all.y;"
            ),
            (2, 1)
        );
        // What a loop keeps is needed in every turn; what a branch needs is not needed by the other.
        assert_eq!(
            left("for (var i = 0u; i < d.x; i++) { sum += f32(x[i]) * f; sum += f * f; }"),
            (2, 1)
        );
        assert_eq!(
            left("if (u > 3u) { sum += f * 2.0; } else { sum += f * 3.0; }"),
            (2, 0)
        );
    }

    #[test]
    fn a_local_that_was_written_anew_is_needed_anew() {
        let source = "
            @group(0) @binding(0) var<uniform> d: vec4<u32>;
            @group(0) @binding(1) var<storage, read> x: array<f32>;
            @group(0) @binding(2) var<storage, read_write> o: array<f32>;
            @compute @workgroup_size(8)
            fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                var value = x[id.x];
                var sum = 0.0;
                sum = fma(value, 2.0, sum);
                sum = fma(value, 3.0, sum);
                value = x[id.y];
                sum = fma(value, 2.0, sum);
                for (var i = 0u; i < d.x; i++) {
                    sum = fma(value, 2.0, sum);
                    value = x[i];
                }
                o[id.x] = sum;
            }";
        let (module, found) = loads_only(&parsed(source));
        passes(&module, "written anew");
        assert_eq!((found.found, found.changed), (4, 1));
    }

    #[test]
    fn what_an_earlier_pass_laid_out_is_an_input_of_the_next_in_a_buffer_or_a_texture() {
        let source = "
            @group(0) @binding(0) var<uniform> d: vec4<u32>;
            @group(0) @binding(1) var<storage, read> x: array<f32>;
            @group(0) @binding(2) var<storage, read_write> o: array<f32>;
            @group(0) @binding(3) var<storage, read_write> scratch: array<f32>;
            @group(0) @binding(4) var texels: texture_2d<f32>;
            @group(0) @binding(5) var packed: texture_storage_2d<rgba32float, read>;
            @compute @workgroup_size(8)
            fn lay_out(@builtin(global_invocation_id) id: vec3<u32>) {
                if (id.x < d.x) { scratch[id.x] = x[id.y] + scratch[id.z]; }
            }
            @compute @workgroup_size(8)
            fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                let laid_out = textureLoad(texels, id.xy, 0) + textureLoad(packed, id.xy);
                o[id.x] = scratch[id.y] + laid_out.x;
            }";
        let (module, found) = math_only(&parsed(source));
        passes(&module, "two passes");
        // In the first pass x alone, in the second one all three.
        assert_eq!((found.found, found.changed), (4, 4));
    }

    #[test]
    fn what_is_written_or_fixed_by_the_program_is_read_where_it_lies() {
        let source = "
            @group(0) @binding(0) var<uniform> d: vec4<u32>;
            @group(0) @binding(1) var<storage, read> x: array<f32>;
            @group(0) @binding(2) var<storage, read_write> o: array<f32>;
            var<workgroup> w: array<f32, 64>;
            @compute @workgroup_size(8)
            fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                w[id.x] = o[id.x] + x[0];
                workgroupBarrier();
                o[id.x] = w[id.y];
            }";
        let module = parsed(source);
        assert_eq!(math_only(&module).1, Changed::default());
        assert_eq!(loads_only(&module).1, Changed::default());
    }

    #[test]
    fn a_program_without_parameters_cannot_be_made_unique_and_two_words_make_two_programs() {
        let plain = parsed("@compute @workgroup_size(1) fn main() {}");
        assert!(unique(&plain, 1).is_none());
        let text = |word| format!("{:?}", unique(&parsed(TILE), word).unwrap().entry_points);
        assert_ne!(text(0x8000_0001), text(0x8000_0002));
    }
}
