//! Arithmetic on literals, as WGSL prescribes it.

use naga::{BinaryOperator, Literal, MathFunction, Scalar, ScalarKind, TypeInner, UnaryOperator};

/// Whether literals of this kind are followed through locals.
pub(super) fn is_tracked(literal: Literal) -> bool {
    matches!(
        literal,
        Literal::U32(_) | Literal::I32(_) | Literal::Bool(_)
    )
}

/// The zero value of the type, if it is one of those followed through locals.
pub(super) fn zero_literal(inner: &TypeInner) -> Option<Literal> {
    match *inner {
        TypeInner::Scalar(Scalar::U32) => Some(Literal::U32(0)),
        TypeInner::Scalar(Scalar::I32) => Some(Literal::I32(0)),
        TypeInner::Scalar(Scalar::BOOL) => Some(Literal::Bool(false)),
        _ => None,
    }
}

pub(super) fn fold_unary(op: UnaryOperator, value: Literal) -> Option<Literal> {
    Some(match (op, value) {
        (UnaryOperator::Negate, Literal::I32(a)) => Literal::I32(a.wrapping_neg()),
        (UnaryOperator::BitwiseNot, Literal::I32(a)) => Literal::I32(!a),
        (UnaryOperator::BitwiseNot, Literal::U32(a)) => Literal::U32(!a),
        (UnaryOperator::LogicalNot, Literal::Bool(a)) => Literal::Bool(!a),
        _ => return None,
    })
}

/// Integer arithmetic as WGSL has it at run time: it wraps, a division by zero gives the dividend
/// and its remainder zero, and a shift takes its amount modulo the width.
pub(super) fn fold_binary(op: BinaryOperator, left: Literal, right: Literal) -> Option<Literal> {
    use BinaryOperator as B;
    use Literal as L;
    Some(match (left, right) {
        (L::U32(a), L::U32(b)) => match op {
            B::Add => L::U32(a.wrapping_add(b)),
            B::Subtract => L::U32(a.wrapping_sub(b)),
            B::Multiply => L::U32(a.wrapping_mul(b)),
            B::Divide => L::U32(a.checked_div(b).unwrap_or(a)),
            B::Modulo => L::U32(a.checked_rem(b).unwrap_or(0)),
            B::And => L::U32(a & b),
            B::InclusiveOr => L::U32(a | b),
            B::ExclusiveOr => L::U32(a ^ b),
            B::ShiftLeft => L::U32(a.wrapping_shl(b)),
            B::ShiftRight => L::U32(a.wrapping_shr(b)),
            B::Equal => L::Bool(a == b),
            B::NotEqual => L::Bool(a != b),
            B::Less => L::Bool(a < b),
            B::LessEqual => L::Bool(a <= b),
            B::Greater => L::Bool(a > b),
            B::GreaterEqual => L::Bool(a >= b),
            B::LogicalAnd | B::LogicalOr => return None,
        },
        (L::I32(a), L::I32(b)) => match op {
            B::Add => L::I32(a.wrapping_add(b)),
            B::Subtract => L::I32(a.wrapping_sub(b)),
            B::Multiply => L::I32(a.wrapping_mul(b)),
            B::Divide if b == 0 => L::I32(a),
            B::Divide => L::I32(a.wrapping_div(b)),
            B::Modulo if b == 0 => L::I32(0),
            B::Modulo => L::I32(a.wrapping_rem(b)),
            B::And => L::I32(a & b),
            B::InclusiveOr => L::I32(a | b),
            B::ExclusiveOr => L::I32(a ^ b),
            B::Equal => L::Bool(a == b),
            B::NotEqual => L::Bool(a != b),
            B::Less => L::Bool(a < b),
            B::LessEqual => L::Bool(a <= b),
            B::Greater => L::Bool(a > b),
            B::GreaterEqual => L::Bool(a >= b),
            B::LogicalAnd | B::LogicalOr | B::ShiftLeft | B::ShiftRight => return None,
        },
        (L::I32(a), L::U32(b)) => match op {
            B::ShiftLeft => L::I32(a.wrapping_shl(b)),
            B::ShiftRight => L::I32(a.wrapping_shr(b)),
            _ => return None,
        },
        (L::Bool(a), L::Bool(b)) => match op {
            B::And | B::LogicalAnd => L::Bool(a & b),
            B::InclusiveOr | B::LogicalOr => L::Bool(a | b),
            B::ExclusiveOr | B::NotEqual => L::Bool(a != b),
            B::Equal => L::Bool(a == b),
            _ => return None,
        },
        _ => return None,
    })
}

pub(super) fn fold_math(fun: MathFunction, arguments: [Option<Literal>; 3]) -> Option<Literal> {
    use Literal as L;
    use MathFunction as M;
    Some(match (fun, arguments) {
        (M::Abs, [Some(L::U32(a)), None, None]) => L::U32(a),
        (M::Abs, [Some(L::I32(a)), None, None]) => L::I32(a.wrapping_abs()),
        (M::Min, [Some(L::U32(a)), Some(L::U32(b)), None]) => L::U32(a.min(b)),
        (M::Min, [Some(L::I32(a)), Some(L::I32(b)), None]) => L::I32(a.min(b)),
        (M::Max, [Some(L::U32(a)), Some(L::U32(b)), None]) => L::U32(a.max(b)),
        (M::Max, [Some(L::I32(a)), Some(L::I32(b)), None]) => L::I32(a.max(b)),
        // WGSL defines clamp as min(max(e, low), high), also where low is above high.
        (M::Clamp, [Some(L::U32(a)), Some(L::U32(low)), Some(L::U32(high))]) => {
            L::U32(a.max(low).min(high))
        }
        (M::Clamp, [Some(L::I32(a)), Some(L::I32(low)), Some(L::I32(high))]) => {
            L::I32(a.max(low).min(high))
        }
        _ => return None,
    })
}

pub(super) fn fold_as(value: Literal, kind: ScalarKind, convert: Option<u8>) -> Option<Literal> {
    use Literal as L;
    Some(match (kind, convert, value) {
        // Between the two integer kinds a conversion keeps the bits, as a bitcast does.
        (ScalarKind::Uint, Some(4) | None, L::U32(a)) => L::U32(a),
        (ScalarKind::Uint, Some(4) | None, L::I32(a)) => L::U32(a.cast_unsigned()),
        (ScalarKind::Sint, Some(4) | None, L::U32(a)) => L::I32(a.cast_signed()),
        (ScalarKind::Sint, Some(4) | None, L::I32(a)) => L::I32(a),
        (ScalarKind::Uint, Some(4), L::Bool(a)) => L::U32(u32::from(a)),
        (ScalarKind::Sint, Some(4), L::Bool(a)) => L::I32(i32::from(a)),
        (ScalarKind::Bool, Some(_), L::U32(a)) => L::Bool(a != 0),
        (ScalarKind::Bool, Some(_), L::I32(a)) => L::Bool(a != 0),
        (ScalarKind::Bool, _, L::Bool(a)) => L::Bool(a),
        // Up to 2^24 the conversion is exact, so that no rounding mode comes into it.
        (ScalarKind::Float, Some(4), L::U32(a)) if a <= 1 << 24 => L::F32(a as f32),
        (ScalarKind::Float, Some(4), L::I32(a)) if a.unsigned_abs() <= 1 << 24 => L::F32(a as f32),
        _ => return None,
    })
}

// ---------------------------------------------------------------------------------------------
// Unrolling
// ---------------------------------------------------------------------------------------------
