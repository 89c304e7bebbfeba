//! Replaces loops whose trip count is known by their turns, on naga's IR.
//!
//! Register-tile kernels are written as plain loops with constant trip counts over local
//! arrays. naga emits every loop as `while (true)`, and many drivers then keep the arrays in
//! memory instead of in registers, which costs an order of magnitude. Writing the turns out by
//! hand would hide the kernel behind its own size, so the source keeps its loops and this pass
//! writes the turns out just before the module goes to the driver.
//!
//! The pass walks a function statement by statement, in the order of execution, and builds a new
//! function with a fresh expression arena. On the way it remembers which integer and boolean
//! locals hold a known value:
//!
//! * A load of such a local becomes a literal, and arithmetic on literals is done on the spot. An
//!   index that became a literal turns `Access` into `AccessIndex`, which is what lets a driver
//!   keep an array in registers.
//! * An `if` or a `switch` on a known value leaves only the branch that is taken.
//! * A loop is tried turn by turn: its body is written out, then its `continuing` block, then its
//!   body again, until a `break` is met for certain. If the way through the loop depends on
//!   something unknown, or there are too many turns, the trial is thrown away and the loop stays
//!   as it was, with every local that it writes forgotten first. No pattern is looked for, so
//!   `for`, `while` and `loop` with `break if` are all the same here.
//!
//! Expressions in naga's IR are evaluated where they are emitted. The map from old expressions to
//! new ones is therefore filled at each `Emit`, anew in every turn, so that a value loaded before
//! a store stays the value from before the store.
//!
//! Afterwards expressions and stores that nothing needs any more are swept away, and on request
//! local arrays that are only reached by constant indices are split into one local an element.
//!
//! Where a value that became constant would be refused by the validator although it was accepted
//! as a run-time value (an index out of bounds, a zero divisor, a shift by the width or more), the
//! result that WGSL prescribes or permits at run time is written instead.

mod fold;
mod rebuild;
mod split;
mod sweep;
pub(crate) mod walk;

use std::collections::HashMap;

use naga::front::Typifier;
use naga::proc::{HashableLiteral, ResolveContext};
use naga::{
    Arena, ArraySize, BinaryOperator, Block, Expression, Function, GatherMode, Handle, Literal,
    Module, Scalar, ScalarKind, Span, Statement, SwitchCase, SwitchValue, Type, TypeInner,
    UniqueArena,
};

use fold::{fold_as, fold_binary, fold_math, fold_unary, is_tracked, zero_literal};
use split::split_arrays;
use sweep::sweep;
use walk::{emit, root_local, statement_result, visit_operands, visit_statement_operands};

/// Limits and choices for [`unroll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnrollOptions {
    /// The most turns a loop may have to be replaced by them.
    pub max_turns: u32,
    /// The most expressions a function may grow to. Loops that would go past it stay loops.
    pub max_expressions: usize,
    /// Whether local arrays that are only reached by constant indices are split into one local an
    /// element.
    pub split_arrays: bool,
}

impl Default for UnrollOptions {
    fn default() -> Self {
        Self {
            max_turns: 64,
            max_expressions: 200_000,
            split_arrays: false,
        }
    }
}

/// What [`unroll`] did to a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnrollStats {
    /// Loops replaced by their turns. A loop inside an unrolled loop counts once a turn of that.
    pub loops_unrolled: u32,
    /// Loops left in the output.
    pub loops_kept: u32,
    /// Trials given up because the function would have outgrown
    /// [`UnrollOptions::max_expressions`].
    pub over_budget: u32,
    /// `if` and `switch` statements of which only the branch taken is left.
    pub branches_pruned: u32,
    /// Shuffles by a lane that became a constant, now broadcasts.
    pub shuffles_broadcast: u32,
    /// Local arrays split into one local an element.
    pub arrays_split: u32,
}

/// Unrolls the loops with known trip counts in every function and entry point of `module`.
///
/// The module must be valid; the result is valid then as well and computes the same. A resource
/// that only a branch known not to be taken refers to is not used by the result any more.
#[must_use]
pub fn unroll(module: &Module, options: &UnrollOptions) -> (Module, UnrollStats) {
    let mut stats = UnrollStats::default();
    let mut output = module.clone();
    // The types, constants and signatures that a function refers to do not change, so every
    // function is rebuilt against the module as it came in.
    for (handle, function) in output.functions.iter_mut() {
        *function = rebuild(module, &module.functions[handle], options, &mut stats);
    }
    for (entry, source) in output.entry_points.iter_mut().zip(&module.entry_points) {
        entry.function = rebuild(module, &source.function, options, &mut stats);
    }
    (output, stats)
}

/// Runs all steps on one function.
fn rebuild(
    module: &Module,
    source: &Function,
    options: &UnrollOptions,
    stats: &mut UnrollStats,
) -> Function {
    let mut own = UnrollStats::default();
    let Some(unrolled) = Unroller::new(module, source, options)
        .and_then(|mut unroller| unroller.run().ok().inspect(|_| own = unroller.stats))
    else {
        // Only an ill-formed function gets here; it is the validator's to complain about.
        return source.clone();
    };
    let mut function = sweep(&unrolled);
    if options.split_arrays {
        let (split, count) = split_arrays(&module.types, &function);
        own.arrays_split = count;
        // Elements that are written but never read are locals of their own now.
        function = sweep(&split);
    }
    stats.loops_unrolled += own.loops_unrolled;
    stats.loops_kept += own.loops_kept;
    stats.over_budget += own.over_budget;
    stats.branches_pruned += own.branches_pruned;
    stats.shuffles_broadcast += own.shuffles_broadcast;
    stats.arrays_split += own.arrays_split;
    function
}

/// Why a trial is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abort {
    /// The way through the construct is not known for certain.
    Shape,
    /// The function would grow past its limit.
    Budget,
}

/// How control leaves a piece of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// It goes on behind the piece.
    Fall,
    /// It leaves the construct being written out.
    Break,
    /// It goes on to the `continuing` block of the loop being written out.
    Continue,
    /// It has gone elsewhere by a statement that is part of the output.
    Gone,
}

/// What to do about a `break`, `continue` or `return`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Its target is in the output as well, so it is copied.
    Copy,
    /// Its target is being written out and it is met for certain, so it only steers the writing.
    Follow,
    /// Its target is being written out, but whether it is met is not known.
    Forbid,
}

#[derive(Clone, Copy, Debug)]
struct Exits {
    on_break: Exit,
    on_continue: Exit,
    on_return: Exit,
}

/// A point to go back to when a trial is given up.
struct Mark {
    nodes: usize,
    names: usize,
    known: Vec<Option<Literal>>,
    stats: UnrollStats,
}

struct Unroller<'a> {
    module: &'a Module,
    source: &'a Function,
    options: &'a UnrollOptions,
    /// Types of the expressions of `source`; a new expression has the type of its old one.
    types: Typifier,
    /// The new arena. It is a plain vector because a trial given up has to be cut off again.
    nodes: Vec<(Expression, Span)>,
    /// `handles[i]` is the handle of `nodes[i]`; may be longer than `nodes`.
    handles: Vec<Handle<Expression>>,
    /// Only here to make handles.
    dispenser: Arena<Expression>,
    /// From old expressions to new ones.
    map: Vec<Option<Handle<Expression>>>,
    literals: HashMap<HashableLiteral, Handle<Expression>>,
    names: Vec<(Handle<Expression>, String)>,
    /// The value of each local, where it is known.
    known: Vec<Option<Literal>>,
    /// How many loops around the current statement are being written out on trial.
    trials: u32,
    stats: UnrollStats,
}

impl<'a> Unroller<'a> {
    fn new(module: &'a Module, source: &'a Function, options: &'a UnrollOptions) -> Option<Self> {
        let mut types = Typifier::new();
        let context =
            ResolveContext::with_locals(module, &source.local_variables, &source.arguments);
        if let Some((last, _)) = source.expressions.iter().next_back() {
            types.grow(last, &source.expressions, &context).ok()?;
        }
        Some(Self {
            module,
            source,
            options,
            types,
            nodes: Vec::new(),
            handles: Vec::new(),
            dispenser: Arena::new(),
            map: vec![None; source.expressions.len()],
            literals: HashMap::new(),
            names: Vec::new(),
            known: vec![None; source.local_variables.len()],
            trials: 0,
            stats: UnrollStats::default(),
        })
    }

    fn run(&mut self) -> Result<Function, Abort> {
        let source = self.source;
        for (old, expression) in source.expressions.iter() {
            if expression.needs_pre_emit() {
                let new = self.declare(expression, source.expressions.get_span(old));
                self.map[old.index()] = Some(new);
            }
        }

        let mut local_variables = source.local_variables.clone();
        for (handle, local) in local_variables.iter_mut() {
            self.known[handle.index()] = match local.init {
                // A local without an initial value starts as zero.
                None => zero_literal(&self.module.types[local.ty].inner),
                Some(old) => {
                    let init = self.operand(old)?;
                    local.init = Some(init);
                    self.literal(init).filter(|&literal| is_tracked(literal))
                }
            };
        }

        let mut body = Block::new();
        let exits = Exits {
            on_break: Exit::Copy,
            on_continue: Exit::Copy,
            on_return: Exit::Copy,
        };
        self.block(&source.body, &mut body, exits)?;

        let mut expressions = Arena::new();
        for (expression, span) in self.nodes.drain(..) {
            expressions.append(expression, span);
        }
        Ok(Function {
            name: source.name.clone(),
            arguments: source.arguments.clone(),
            result: source.result.clone(),
            local_variables,
            expressions,
            named_expressions: self.names.drain(..).collect(),
            body,
            diagnostic_filter_leaf: source.diagnostic_filter_leaf,
        })
    }

    // --- Expressions

    fn push(&mut self, expression: Expression, span: Span) -> Handle<Expression> {
        let index = self.nodes.len();
        self.nodes.push((expression, span));
        if let Some(&handle) = self.handles.get(index) {
            return handle;
        }
        let handle = self
            .dispenser
            .append(Expression::Literal(Literal::Bool(false)), Span::UNDEFINED);
        self.handles.push(handle);
        handle
    }

    fn node(&self, new: Handle<Expression>) -> &Expression {
        &self.nodes[new.index()].0
    }

    fn literal(&self, new: Handle<Expression>) -> Option<Literal> {
        match *self.node(new) {
            Expression::Literal(literal) => Some(literal),
            _ => None,
        }
    }

    fn intern(&mut self, literal: Literal, span: Span) -> Handle<Expression> {
        let key = HashableLiteral::from(literal);
        if let Some(&handle) = self.literals.get(&key) {
            return handle;
        }
        let handle = self.push(Expression::Literal(literal), span);
        self.literals.insert(key, handle);
        handle
    }

    /// Copies an expression that is never emitted. Integer constants become plain literals, so
    /// that there is one form to look for.
    fn declare(&mut self, expression: &Expression, span: Span) -> Handle<Expression> {
        let literal = match *expression {
            Expression::Literal(literal) => Some(literal),
            Expression::ZeroValue(ty) => zero_literal(&self.module.types[ty].inner),
            Expression::Constant(constant) => {
                let init = self.module.constants[constant].init;
                match self.module.global_expressions[init] {
                    Expression::Literal(literal) => Some(literal).filter(|&l| is_tracked(l)),
                    Expression::ZeroValue(ty) => zero_literal(&self.module.types[ty].inner),
                    _ => None,
                }
            }
            _ => None,
        };
        match literal {
            Some(literal) => self.intern(literal, span),
            None => self.push(expression.clone(), span),
        }
    }

    /// The new expression that stands for `old`.
    fn operand(&mut self, old: Handle<Expression>) -> Result<Handle<Expression>, Abort> {
        if let Some(new) = self.map[old.index()] {
            return Ok(new);
        }
        // Constant expressions, such as the initial value of a local, need not be emitted.
        let mut expression = self.source.expressions[old].clone();
        if !matches!(
            expression,
            Expression::Compose { .. }
                | Expression::Splat { .. }
                | Expression::Swizzle { .. }
                | Expression::AccessIndex { .. }
                | Expression::Unary { .. }
                | Expression::Binary { .. }
                | Expression::Select { .. }
                | Expression::Relational { .. }
                | Expression::Math { .. }
                | Expression::As { .. }
        ) {
            return Err(Abort::Shape);
        }
        self.map_operands(&mut expression)?;
        let new = self.push(expression, self.source.expressions.get_span(old));
        self.map[old.index()] = Some(new);
        Ok(new)
    }

    fn map_operands(&mut self, expression: &mut Expression) -> Result<(), Abort> {
        let mut outcome = Ok(());
        visit_operands(expression, &mut |handle| match self.operand(*handle) {
            Ok(new) => *handle = new,
            Err(abort) => outcome = Err(abort),
        });
        outcome
    }

    /// Evaluates `old` at the end of `out`.
    fn evaluate(&mut self, old: Handle<Expression>, out: &mut Block) -> Result<(), Abort> {
        let span = self.source.expressions.get_span(old);
        let mut expression = self.source.expressions[old].clone();
        self.map_operands(&mut expression)?;
        let length = self.nodes.len();
        let new = self.simplify(old, expression, span, out);
        self.map[old.index()] = Some(new);
        // A name belongs to the first expression that gets it, not to one that already stood for
        // something else, nor to a literal, which is written in place.
        if new.index() >= length
            && !self.node(new).needs_pre_emit()
            && let Some(name) = self.source.named_expressions.get(&old)
        {
            self.names.push((new, name.clone()));
        }
        Ok(())
    }

    fn emitted(
        &mut self,
        expression: Expression,
        span: Span,
        out: &mut Block,
    ) -> Handle<Expression> {
        let new = self.push(expression, span);
        emit(out, new, span);
        new
    }

    /// Writes `expression`, the mapped form of `old`, in the simplest way there is.
    fn simplify(
        &mut self,
        old: Handle<Expression>,
        mut expression: Expression,
        span: Span,
        out: &mut Block,
    ) -> Handle<Expression> {
        let folded = match expression {
            Expression::Load { pointer } => match *self.node(pointer) {
                Expression::LocalVariable(local) => self.known[local.index()],
                _ => None,
            },
            Expression::Unary { op, expr } => {
                self.literal(expr).and_then(|value| fold_unary(op, value))
            }
            Expression::Binary { op, left, right } => self
                .literal(left)
                .zip(self.literal(right))
                .and_then(|(left, right)| fold_binary(op, left, right)),
            Expression::Math {
                fun,
                arg,
                arg1,
                arg2,
                arg3: None,
            } => {
                let value = |argument: Option<Handle<Expression>>| match argument {
                    None => Some(None),
                    Some(handle) => self.literal(handle).map(Some),
                };
                match (value(Some(arg)), value(arg1), value(arg2)) {
                    (Some(a), Some(b), Some(c)) => fold_math(fun, [a, b, c]),
                    _ => None,
                }
            }
            Expression::As {
                expr,
                kind,
                convert,
            } => self
                .literal(expr)
                .and_then(|value| fold_as(value, kind, convert)),
            _ => None,
        };
        if let Some(literal) = folded {
            return self.intern(literal, span);
        }

        if let Expression::Access { base, index } = expression {
            expression = self.constant_access(old, base, index, span);
        }
        match expression {
            Expression::Select {
                condition,
                accept,
                reject,
            } => match self.literal(condition) {
                Some(Literal::Bool(true)) => return accept,
                Some(Literal::Bool(false)) => return reject,
                _ => {}
            },
            Expression::AccessIndex { base, index } => {
                if let Some(part) = self.part(base, index) {
                    return part;
                }
            }
            Expression::Binary { op, left, right } => {
                if let Some(same) = self.identity(op, left, right) {
                    return same;
                }
                let right = self.allowed_right(op, old, right, span, out);
                expression = Expression::Binary { op, left, right };
            }
            _ => {}
        }
        self.emitted(expression, span, out)
    }

    /// `Access` with an index that became a literal.
    fn constant_access(
        &mut self,
        old: Handle<Expression>,
        base: Handle<Expression>,
        index: Handle<Expression>,
        span: Span,
    ) -> Expression {
        let number = match self.literal(index) {
            Some(Literal::U32(number)) => number,
            // As an unsigned number a negative index is out of bounds like any other.
            Some(Literal::I32(number)) => number.cast_unsigned(),
            _ => return Expression::Access { base, index },
        };
        let Expression::Access { base: old_base, .. } = self.source.expressions[old] else {
            return Expression::Access { base, index };
        };
        let types = &self.module.types;
        match index_length(types, self.types[old_base].inner_with(types)) {
            // WGSL lets an access out of bounds go to any element, but the validator refuses it
            // where it can see it. The last element is what wgpu's own bounds check picks.
            Length::Known(length) => Expression::AccessIndex {
                base,
                index: number.min(length - 1),
            },
            // A writer multiplies the index by the stride while writing, and must not overflow.
            Length::Runtime if number <= 0xffff => Expression::AccessIndex {
                base,
                index: number,
            },
            Length::Runtime | Length::Other => {
                let index = self.intern(Literal::U32(number), span);
                Expression::Access { base, index }
            }
        }
    }

    /// Element `index` of `base`, if that was put together from its elements.
    fn part(&self, base: Handle<Expression>, index: u32) -> Option<Handle<Expression>> {
        match *self.node(base) {
            Expression::Compose { ty, ref components } => {
                let whole = match self.module.types[ty].inner {
                    TypeInner::Vector { size, .. } => components.len() == size as usize,
                    TypeInner::Array { .. } | TypeInner::Struct { .. } => true,
                    _ => false,
                };
                components.get(index as usize).copied().filter(|_| whole)
            }
            Expression::Splat { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The operand that the operation leaves as it is, if the other one is neutral.
    fn identity(
        &self,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Option<Handle<Expression>> {
        let is = |operand: Handle<Expression>, number: u32| match self.literal(operand) {
            Some(Literal::U32(value)) => value == number,
            Some(Literal::I32(value)) => value.cast_unsigned() == number,
            _ => false,
        };
        match op {
            BinaryOperator::Add if is(left, 0) => Some(right),
            BinaryOperator::Add | BinaryOperator::Subtract if is(right, 0) => Some(left),
            BinaryOperator::Multiply if is(left, 1) => Some(right),
            BinaryOperator::Multiply if is(right, 1) => Some(left),
            BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight if is(right, 0) => Some(left),
            _ => None,
        }
    }

    /// The right operand of `op` in a form that the validator takes: it refuses an integer divisor
    /// of zero and a shift by the width or more where it can see them.
    fn allowed_right(
        &mut self,
        op: BinaryOperator,
        old: Handle<Expression>,
        right: Handle<Expression>,
        span: Span,
        out: &mut Block,
    ) -> Handle<Expression> {
        let types = &self.module.types;
        let scalar = self.types[old].inner_with(types).scalar();
        let Some(Scalar {
            kind: ScalarKind::Uint | ScalarKind::Sint,
            width,
        }) = scalar
        else {
            return right;
        };
        let bits = u32::from(width) * 8;
        match op {
            // Dividing by one gives what dividing by zero does: the dividend, and no remainder.
            BinaryOperator::Divide | BinaryOperator::Modulo => {
                let fix = |literal| match literal {
                    Literal::U32(0) => Some(Literal::U32(1)),
                    Literal::I32(0) => Some(Literal::I32(1)),
                    Literal::U64(0) => Some(Literal::U64(1)),
                    Literal::I64(0) => Some(Literal::I64(1)),
                    _ => None,
                };
                self.with_literals(right, &fix, span, out).unwrap_or(right)
            }
            BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight => {
                let fix = |literal| match literal {
                    Literal::U32(amount) if amount >= bits => Some(Literal::U32(amount % bits)),
                    _ => None,
                };
                self.with_literals(right, &fix, span, out).unwrap_or(right)
            }
            _ => right,
        }
    }

    /// `handle` with the literals in it replaced as `fix` has it; nothing if none is.
    fn with_literals(
        &mut self,
        handle: Handle<Expression>,
        fix: &dyn Fn(Literal) -> Option<Literal>,
        span: Span,
        out: &mut Block,
    ) -> Option<Handle<Expression>> {
        match self.node(handle).clone() {
            Expression::Literal(literal) => {
                let literal = fix(literal)?;
                Some(self.intern(literal, span))
            }
            Expression::ZeroValue(ty) => {
                let TypeInner::Vector { size, scalar } = self.module.types[ty].inner else {
                    return None;
                };
                let literal = fix(Literal::zero(scalar)?)?;
                let value = self.intern(literal, span);
                Some(self.emitted(Expression::Splat { size, value }, span, out))
            }
            Expression::Splat { size, value } => {
                let value = self.with_literals(value, fix, span, out)?;
                Some(self.emitted(Expression::Splat { size, value }, span, out))
            }
            Expression::Compose { ty, mut components } => {
                let mut changed = false;
                for component in &mut components {
                    if let Some(new) = self.with_literals(*component, fix, span, out) {
                        *component = new;
                        changed = true;
                    }
                }
                changed.then(|| self.emitted(Expression::Compose { ty, components }, span, out))
            }
            _ => None,
        }
    }

    // --- Statements

    fn block(&mut self, source: &Block, out: &mut Block, exits: Exits) -> Result<Flow, Abort> {
        for (statement, &span) in source.span_iter() {
            let flow = self.statement(statement, span, out, exits)?;
            if flow != Flow::Fall {
                // What stands behind it is never reached.
                return Ok(flow);
            }
        }
        Ok(Flow::Fall)
    }

    fn statement(
        &mut self,
        statement: &Statement,
        span: Span,
        out: &mut Block,
        exits: Exits,
    ) -> Result<Flow, Abort> {
        let leave = |exit, flow, out: &mut Block| match exit {
            Exit::Copy => {
                out.push(statement.clone(), span);
                Ok(Flow::Gone)
            }
            Exit::Follow => Ok(flow),
            Exit::Forbid => Err(Abort::Shape),
        };
        match *statement {
            Statement::Emit(ref range) => {
                for old in range.clone() {
                    self.evaluate(old, out)?;
                }
                Ok(Flow::Fall)
            }
            Statement::Block(ref block) => self.block(block, out, exits),
            Statement::If {
                condition,
                ref accept,
                ref reject,
            } => {
                let condition = self.operand(condition)?;
                match self.literal(condition) {
                    Some(Literal::Bool(taken)) => {
                        self.stats.branches_pruned += 1;
                        self.block(if taken { accept } else { reject }, out, exits)
                    }
                    _ => self.branch(condition, accept, reject, span, out, exits),
                }
            }
            Statement::Switch {
                selector,
                ref cases,
            } => self.switch(selector, cases, span, out, exits),
            Statement::Loop {
                ref body,
                ref continuing,
                break_if,
            } => {
                let mark = self.mark();
                let mut turns = Block::new();
                self.trials += 1;
                let outcome = self.turns(body, continuing, break_if, &mut turns, exits);
                self.trials -= 1;
                match outcome {
                    Ok(flow) => {
                        self.stats.loops_unrolled += 1;
                        out.extend_block(turns);
                        Ok(flow)
                    }
                    Err(abort) => {
                        self.give_up(mark, abort)?;
                        self.kept_loop(body, continuing, break_if, span, out, exits)
                    }
                }
            }
            Statement::Break => leave(exits.on_break, Flow::Break, out),
            Statement::Continue => leave(exits.on_continue, Flow::Continue, out),
            Statement::Return { .. } | Statement::Kill if exits.on_return == Exit::Forbid => {
                Err(Abort::Shape)
            }
            Statement::Return { value } => {
                let value = value.map(|value| self.operand(value)).transpose()?;
                out.push(Statement::Return { value }, span);
                Ok(Flow::Gone)
            }
            _ => {
                self.plain(statement.clone(), span, out)?;
                Ok(Flow::Fall)
            }
        }
    }

    /// A statement that steers nothing.
    fn plain(
        &mut self,
        mut statement: Statement,
        span: Span,
        out: &mut Block,
    ) -> Result<(), Abort> {
        let mut outcome = Ok(());
        let mut reached = Vec::new();
        visit_statement_operands(&mut statement, &mut |handle| match self.operand(*handle) {
            Ok(new) => {
                *handle = new;
                // Whatever the statement does with a pointer into a local, it may write there.
                reached.extend(root_local(|handle| self.node(handle), new));
            }
            Err(abort) => outcome = Err(abort),
        });
        outcome?;
        if let Some(result) = statement_result(&mut statement) {
            let old = *result;
            let new = self.push(
                self.source.expressions[old].clone(),
                self.source.expressions.get_span(old),
            );
            self.map[old.index()] = Some(new);
            if let Some(name) = self.source.named_expressions.get(&old) {
                self.names.push((new, name.clone()));
            }
            *result = new;
        }
        for local in reached {
            self.known[local.index()] = None;
        }
        match statement {
            Statement::Store { pointer, value } => {
                if let Expression::LocalVariable(local) = *self.node(pointer) {
                    self.known[local.index()] =
                        self.literal(value).filter(|&literal| is_tracked(literal));
                }
            }
            // WGSL wants the lane of a broadcast written as a constant, so a kernel that reads
            // lane after lane in a loop has to ask for a shuffle. It also wants the lane below 128.
            Statement::SubgroupGather { ref mut mode, .. } => {
                if let GatherMode::Shuffle(lane) = *mode
                    && let Some(Literal::U32(0..128)) = self.literal(lane)
                {
                    *mode = GatherMode::Broadcast(lane);
                    self.stats.shuffles_broadcast += 1;
                }
            }
            _ => {}
        }
        out.push(statement, span);
        Ok(())
    }

    /// What leaving means inside a construct that stays in the output and may or may not be
    /// entered.
    fn conditional(&self, exits: Exits) -> Exits {
        let weaken = |exit| match exit {
            Exit::Follow => Exit::Forbid,
            other => other,
        };
        Exits {
            on_break: weaken(exits.on_break),
            on_continue: weaken(exits.on_continue),
            // The validator takes a loop body once, as though nothing before it could have
            // returned. With a return on the way, the second of two turns would stand in control
            // flow that is not uniform, where it refuses barriers.
            on_return: if self.trials > 0 {
                Exit::Forbid
            } else {
                exits.on_return
            },
        }
    }

    /// An `if` whose condition is not known.
    fn branch(
        &mut self,
        condition: Handle<Expression>,
        accept: &Block,
        reject: &Block,
        span: Span,
        out: &mut Block,
        exits: Exits,
    ) -> Result<Flow, Abort> {
        let exits = self.conditional(exits);
        let before = self.known.clone();
        let mut new_accept = Block::new();
        let accept_flow = self.block(accept, &mut new_accept, exits)?;
        let after_accept = std::mem::replace(&mut self.known, before);
        let mut new_reject = Block::new();
        let reject_flow = self.block(reject, &mut new_reject, exits)?;
        out.push(
            Statement::If {
                condition,
                accept: new_accept,
                reject: new_reject,
            },
            span,
        );
        match (accept_flow == Flow::Fall, reject_flow == Flow::Fall) {
            (true, true) => {
                for (after_reject, after_accept) in self.known.iter_mut().zip(after_accept) {
                    if *after_reject != after_accept {
                        *after_reject = None;
                    }
                }
            }
            (true, false) => self.known = after_accept,
            (false, true) => {}
            (false, false) => return Ok(Flow::Gone),
        }
        Ok(Flow::Fall)
    }

    fn switch(
        &mut self,
        selector: Handle<Expression>,
        cases: &[SwitchCase],
        span: Span,
        out: &mut Block,
        exits: Exits,
    ) -> Result<Flow, Abort> {
        let selector = self.operand(selector)?;
        let value = match self.literal(selector) {
            Some(Literal::U32(value)) => Some(SwitchValue::U32(value)),
            Some(Literal::I32(value)) => Some(SwitchValue::I32(value)),
            _ => None,
        };
        let find = |value| cases.iter().position(|case| case.value == value);
        let start = value.and_then(|value| find(value).or_else(|| find(SwitchValue::Default)));
        if let Some(start) = start {
            let mark = self.mark();
            let mut taken = Block::new();
            match self.case(&cases[start..], &mut taken, exits) {
                Ok(flow) => {
                    self.stats.branches_pruned += 1;
                    out.extend_block(taken);
                    return Ok(flow);
                }
                Err(abort) => self.give_up(mark, abort)?,
            }
        }

        let exits = Exits {
            on_break: Exit::Copy,
            ..self.conditional(exits)
        };
        let before = self.known.clone();
        let mut after = before.clone();
        for case in cases {
            self.forget_written(&case.body, &mut after);
        }
        let mut new_cases = Vec::with_capacity(cases.len());
        let mut fell_through = false;
        for case in cases {
            self.known
                .clone_from(if fell_through { &after } else { &before });
            let mut body = Block::new();
            self.block(&case.body, &mut body, exits)?;
            fell_through = case.fall_through;
            new_cases.push(SwitchCase {
                value: case.value,
                body,
                fall_through: case.fall_through,
            });
        }
        self.known = after;
        out.push(
            Statement::Switch {
                selector,
                cases: new_cases,
            },
            span,
        );
        Ok(Flow::Fall)
    }

    /// Writes out the first of `cases` and those it falls through to.
    fn case(&mut self, cases: &[SwitchCase], out: &mut Block, exits: Exits) -> Result<Flow, Abort> {
        let exits = Exits {
            on_break: Exit::Follow,
            ..exits
        };
        for case in cases {
            match self.block(&case.body, out, exits)? {
                Flow::Fall if case.fall_through => {}
                Flow::Fall | Flow::Break => return Ok(Flow::Fall),
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Fall)
    }

    /// Writes out a loop turn by turn.
    fn turns(
        &mut self,
        body: &Block,
        continuing: &Block,
        break_if: Option<Handle<Expression>>,
        out: &mut Block,
        exits: Exits,
    ) -> Result<Flow, Abort> {
        let in_body = Exits {
            on_break: Exit::Follow,
            on_continue: Exit::Follow,
            on_return: exits.on_return,
        };
        let in_continuing = Exits {
            on_break: Exit::Forbid,
            on_continue: Exit::Forbid,
            on_return: Exit::Forbid,
        };
        let mut turns = 0;
        loop {
            match self.block(body, out, in_body)? {
                Flow::Break => return Ok(Flow::Fall),
                Flow::Gone => return Ok(Flow::Gone),
                Flow::Fall | Flow::Continue => {}
            }
            turns += 1;
            if turns > self.options.max_turns {
                return Err(Abort::Shape);
            }
            if self.block(continuing, out, in_continuing)? != Flow::Fall {
                return Err(Abort::Shape);
            }
            if let Some(condition) = break_if {
                let condition = self.operand(condition)?;
                match self.literal(condition) {
                    Some(Literal::Bool(true)) => return Ok(Flow::Fall),
                    Some(Literal::Bool(false)) => {}
                    _ => return Err(Abort::Shape),
                }
            }
            if self.nodes.len() > self.options.max_expressions {
                return Err(Abort::Budget);
            }
        }
    }

    /// A loop that stays a loop.
    fn kept_loop(
        &mut self,
        body: &Block,
        continuing: &Block,
        break_if: Option<Handle<Expression>>,
        span: Span,
        out: &mut Block,
        exits: Exits,
    ) -> Result<Flow, Abort> {
        self.stats.loops_kept += 1;
        let exits = Exits {
            on_break: Exit::Copy,
            on_continue: Exit::Copy,
            ..self.conditional(exits)
        };
        // What a turn writes is not known at the start of the next one, nor behind the loop, which
        // may be left from anywhere in it.
        let mut always = self.known.clone();
        self.forget_written(body, &mut always);
        self.forget_written(continuing, &mut always);

        self.known.clone_from(&always);
        let mut new_body = Block::new();
        self.block(body, &mut new_body, exits)?;
        self.known.clone_from(&always);
        let mut new_continuing = Block::new();
        self.block(continuing, &mut new_continuing, exits)?;
        let break_if = break_if
            .map(|condition| self.operand(condition))
            .transpose()?;
        self.known = always;
        out.push(
            Statement::Loop {
                body: new_body,
                continuing: new_continuing,
                break_if,
            },
            span,
        );
        Ok(Flow::Fall)
    }

    // --- Bookkeeping

    fn mark(&self) -> Mark {
        Mark {
            nodes: self.nodes.len(),
            names: self.names.len(),
            known: self.known.clone(),
            stats: self.stats,
        }
    }

    /// Takes back everything since `mark`. Running out of room inside another trial ends that one
    /// as well: an inner loop left over in some of the turns of an outer one is worth less than
    /// the inner loop unrolled in an outer one that stays.
    fn give_up(&mut self, mark: Mark, abort: Abort) -> Result<(), Abort> {
        let over_budget = self.stats.over_budget;
        self.nodes.truncate(mark.nodes);
        self.names.truncate(mark.names);
        self.known = mark.known;
        self.stats = mark.stats;
        let stays = |handle: Handle<Expression>| handle.index() < mark.nodes;
        self.literals.retain(|_, handle| stays(*handle));
        for new in &mut self.map {
            *new = new.filter(|&handle| stays(handle));
        }
        if abort == Abort::Budget {
            if self.trials > 0 {
                return Err(abort);
            }
            self.stats.over_budget = over_budget + 1;
        }
        Ok(())
    }

    /// Forgets every local in `known` that a statement in `block` may write to.
    fn forget_written(&self, block: &Block, known: &mut [Option<Literal>]) {
        for statement in block {
            match *statement {
                Statement::Emit(_) => {}
                Statement::Block(ref block) => self.forget_written(block, known),
                Statement::If {
                    condition: _,
                    ref accept,
                    ref reject,
                } => {
                    self.forget_written(accept, known);
                    self.forget_written(reject, known);
                }
                Statement::Switch {
                    selector: _,
                    ref cases,
                } => {
                    for case in cases {
                        self.forget_written(&case.body, known);
                    }
                }
                Statement::Loop {
                    ref body,
                    ref continuing,
                    break_if: _,
                } => {
                    self.forget_written(body, known);
                    self.forget_written(continuing, known);
                }
                _ => visit_statement_operands(&mut statement.clone(), &mut |handle| {
                    let expressions = &self.source.expressions;
                    if let Some(local) = root_local(|handle| &expressions[handle], *handle) {
                        known[local.index()] = None;
                    }
                }),
            }
        }
    }
}

/// How many elements there are to index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Known(u32),
    /// As many as the buffer has room for.
    Runtime,
    /// Known only to a later stage, or not an array in memory at all.
    Other,
}

fn index_length(types: &UniqueArena<Type>, inner: &TypeInner) -> Length {
    match *inner {
        TypeInner::Vector { size, .. }
        | TypeInner::ValuePointer {
            size: Some(size), ..
        } => Length::Known(size as u32),
        TypeInner::Matrix { columns, .. } => Length::Known(columns as u32),
        TypeInner::Array { size, .. } => match size {
            ArraySize::Constant(size) => Length::Known(size.get()),
            ArraySize::Dynamic => Length::Runtime,
            ArraySize::Pending(_) => Length::Other,
        },
        TypeInner::Pointer { base, .. } => index_length(types, &types[base].inner),
        _ => Length::Other,
    }
}

#[cfg(test)]
mod tests;
