//! Visiting what expressions and statements refer to.

use naga::{
    AtomicFunction, Block, Expression, GatherMode, Handle, LocalVariable, Range,
    RayPipelineFunction, RayQueryFunction, SampleLevel, Span, Statement,
};

/// Calls `visit` on every expression that `expression` refers to.
pub(crate) fn visit_operands(
    expression: &mut Expression,
    visit: &mut dyn FnMut(&mut Handle<Expression>),
) {
    use Expression as E;
    let mut optional = |operand: &mut Option<Handle<Expression>>| {
        if let Some(handle) = operand {
            visit(handle);
        }
    };
    match expression {
        E::Literal(_)
        | E::Constant(_)
        | E::Override(_)
        | E::ZeroValue(_)
        | E::FunctionArgument(_)
        | E::GlobalVariable(_)
        | E::LocalVariable(_)
        | E::CallResult(_)
        | E::AtomicResult { .. }
        | E::WorkGroupUniformLoadResult { .. }
        | E::RayQueryProceedResult
        | E::SubgroupBallotResult
        | E::SubgroupOperationResult { .. } => {}
        E::Compose { ty: _, components } => components.iter_mut().for_each(visit),
        E::Access { base, index } => {
            visit(base);
            visit(index);
        }
        E::AccessIndex { base, index: _ } => visit(base),
        E::Splat { size: _, value } => visit(value),
        E::Swizzle {
            size: _,
            vector,
            pattern: _,
        } => visit(vector),
        E::Load { pointer } => visit(pointer),
        E::ImageSample {
            image,
            sampler,
            gather: _,
            coordinate,
            array_index,
            offset,
            level,
            depth_ref,
            clamp_to_edge: _,
        } => {
            optional(array_index);
            optional(offset);
            optional(depth_ref);
            visit(image);
            visit(sampler);
            visit(coordinate);
            match level {
                SampleLevel::Auto | SampleLevel::Zero => {}
                SampleLevel::Exact(value) | SampleLevel::Bias(value) => visit(value),
                SampleLevel::Gradient { x, y } => {
                    visit(x);
                    visit(y);
                }
            }
        }
        E::ImageLoad {
            image,
            coordinate,
            array_index,
            sample,
            level,
        } => {
            optional(array_index);
            optional(sample);
            optional(level);
            visit(image);
            visit(coordinate);
        }
        E::ImageQuery { image, query } => {
            if let naga::ImageQuery::Size { level } = query {
                optional(level);
            }
            visit(image);
        }
        E::Unary { op: _, expr } => visit(expr),
        E::Binary { op: _, left, right } => {
            visit(left);
            visit(right);
        }
        E::Select {
            condition,
            accept,
            reject,
        } => {
            visit(condition);
            visit(accept);
            visit(reject);
        }
        E::Derivative {
            axis: _,
            ctrl: _,
            expr,
        } => visit(expr),
        E::Relational { fun: _, argument } => visit(argument),
        E::Math {
            fun: _,
            arg,
            arg1,
            arg2,
            arg3,
        } => {
            optional(arg1);
            optional(arg2);
            optional(arg3);
            visit(arg);
        }
        E::As {
            expr,
            kind: _,
            convert: _,
        } => visit(expr),
        E::ArrayLength(array) => visit(array),
        E::RayQueryVertexPositions {
            query,
            committed: _,
        }
        | E::RayQueryGetIntersection {
            query,
            committed: _,
        } => visit(query),
        E::CooperativeLoad {
            columns: _,
            rows: _,
            role: _,
            data,
        } => {
            visit(&mut data.pointer);
            visit(&mut data.stride);
        }
        E::CooperativeMultiplyAdd { a, b, c } => {
            visit(a);
            visit(b);
            visit(c);
        }
    }
}

/// Calls `visit` on every expression that `statement` reads or writes through. Emitted ranges,
/// nested blocks, the conditions of control flow and results are not among them.
pub(crate) fn visit_statement_operands(
    statement: &mut Statement,
    visit: &mut dyn FnMut(&mut Handle<Expression>),
) {
    use Statement as S;
    match statement {
        S::Emit(_)
        | S::Block(_)
        | S::If { .. }
        | S::Switch { .. }
        | S::Loop { .. }
        | S::Break
        | S::Continue
        | S::Kill
        | S::ControlBarrier(_)
        | S::MemoryBarrier(_) => {}
        S::Return { value } => value.iter_mut().for_each(visit),
        S::Store { pointer, value } => {
            visit(pointer);
            visit(value);
        }
        S::ImageStore {
            image,
            coordinate,
            array_index,
            value,
        } => {
            visit(image);
            visit(coordinate);
            array_index.iter_mut().for_each(&mut *visit);
            visit(value);
        }
        S::Atomic {
            pointer,
            fun,
            value,
            result: _,
        } => {
            visit(pointer);
            if let AtomicFunction::Exchange {
                compare: Some(compare),
            } = fun
            {
                visit(compare);
            }
            visit(value);
        }
        S::ImageAtomic {
            image,
            coordinate,
            array_index,
            fun,
            value,
        } => {
            visit(image);
            visit(coordinate);
            array_index.iter_mut().for_each(&mut *visit);
            if let AtomicFunction::Exchange {
                compare: Some(compare),
            } = fun
            {
                visit(compare);
            }
            visit(value);
        }
        S::WorkGroupUniformLoad { pointer, result: _ } => visit(pointer),
        S::Call {
            function: _,
            arguments,
            result: _,
        } => arguments.iter_mut().for_each(visit),
        S::RayQuery { query, fun } => {
            visit(query);
            match fun {
                RayQueryFunction::Initialize {
                    acceleration_structure,
                    descriptor,
                } => {
                    visit(acceleration_structure);
                    visit(descriptor);
                }
                RayQueryFunction::GenerateIntersection { hit_t } => visit(hit_t),
                RayQueryFunction::Proceed { result: _ }
                | RayQueryFunction::ConfirmIntersection
                | RayQueryFunction::Terminate => {}
            }
        }
        S::RayPipelineFunction(RayPipelineFunction::TraceRay {
            acceleration_structure,
            descriptor,
            payload,
        }) => {
            visit(acceleration_structure);
            visit(descriptor);
            visit(payload);
        }
        S::SubgroupBallot {
            result: _,
            predicate,
        } => predicate.iter_mut().for_each(visit),
        S::SubgroupGather {
            mode,
            argument,
            result: _,
        } => {
            match mode {
                GatherMode::BroadcastFirst | GatherMode::QuadSwap(_) => {}
                GatherMode::Broadcast(index)
                | GatherMode::Shuffle(index)
                | GatherMode::ShuffleDown(index)
                | GatherMode::ShuffleUp(index)
                | GatherMode::ShuffleXor(index)
                | GatherMode::QuadBroadcast(index) => visit(index),
            }
            visit(argument);
        }
        S::SubgroupCollectiveOperation {
            op: _,
            collective_op: _,
            argument,
            result: _,
        } => visit(argument),
        S::CooperativeStore { target, data } => {
            visit(target);
            visit(&mut data.pointer);
            visit(&mut data.stride);
        }
    }
}

/// The expression that stands for the result of `statement`, if it has one.
pub(crate) fn statement_result(statement: &mut Statement) -> Option<&mut Handle<Expression>> {
    use Statement as S;
    match statement {
        S::Atomic { result, .. } | S::Call { result, .. } => result.as_mut(),
        S::WorkGroupUniformLoad { result, .. }
        | S::SubgroupBallot { result, .. }
        | S::SubgroupGather { result, .. }
        | S::SubgroupCollectiveOperation { result, .. } => Some(result),
        S::RayQuery {
            fun: RayQueryFunction::Proceed { result },
            ..
        } => Some(result),
        _ => None,
    }
}

/// The variable that `pointer` points into, as the expression that names it.
pub(crate) fn root<'a>(
    expressions: impl Fn(Handle<Expression>) -> &'a Expression,
    mut pointer: Handle<Expression>,
) -> &'a Expression {
    loop {
        match expressions(pointer) {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => {
                pointer = *base;
            }
            other => return other,
        }
    }
}

/// The local that `pointer` points into, if it is a pointer into a local.
pub(crate) fn root_local<'a>(
    expressions: impl Fn(Handle<Expression>) -> &'a Expression,
    pointer: Handle<Expression>,
) -> Option<Handle<LocalVariable>> {
    match *root(expressions, pointer) {
        Expression::LocalVariable(local) => Some(local),
        _ => None,
    }
}

/// Appends an `Emit` of `handle` to `out`, joining it to an `Emit` that ends just before it.
pub(crate) fn emit(out: &mut Block, handle: Handle<Expression>, span: Span) {
    if let Some(Statement::Emit(range)) = out.last_mut()
        && let Some((first, last)) = range.first_and_last()
        && last.index() + 1 == handle.index()
    {
        *range = Range::new_from_bounds(first, handle);
        return;
    }
    out.push(
        Statement::Emit(Range::new_from_bounds(handle, handle)),
        span,
    );
}

// ---------------------------------------------------------------------------------------------
// Arithmetic on literals
// ---------------------------------------------------------------------------------------------
