//! Dropping what nothing needs any more.

use std::collections::HashMap;

use naga::{Block, Expression, Function, Handle, Statement};

use super::walk::{root_local, statement_result, visit_operands, visit_statement_operands};

use super::rebuild::Rebuild;

/// Drops the expressions that nothing needs, the locals that are never read, and the stores to
/// them.
pub(super) fn sweep(source: &Function) -> Function {
    let mut reach = Reach {
        source,
        needed: vec![false; source.expressions.len()],
        read: vec![false; source.local_variables.len()],
        stores: vec![Vec::new(); source.local_variables.len()],
        pending: Vec::new(),
    };
    reach.block(&source.body);
    reach.follow();
    Rebuild::new(source, reach.needed, &reach.read, HashMap::new()).run()
}

/// Finds out what a function needs.
pub(super) struct Reach<'a> {
    source: &'a Function,
    needed: Vec<bool>,
    /// Whether a local is used for anything but being stored to.
    read: Vec<bool>,
    /// The operands of the stores to a local, needed only if the local is.
    stores: Vec<Vec<Handle<Expression>>>,
    pending: Vec<Handle<Expression>>,
}

impl Reach<'_> {
    fn block(&mut self, block: &Block) {
        for statement in block {
            match *statement {
                Statement::Emit(ref range) => {
                    // Which resources a shader uses is part of its interface, so reading one
                    // counts, whatever becomes of the value.
                    for handle in range.clone() {
                        if self.touches_outside(handle) {
                            self.pending.push(handle);
                        }
                    }
                }
                Statement::Block(ref block) => self.block(block),
                Statement::If {
                    condition,
                    ref accept,
                    ref reject,
                } => {
                    self.pending.push(condition);
                    self.block(accept);
                    self.block(reject);
                }
                Statement::Switch {
                    selector,
                    ref cases,
                } => {
                    self.pending.push(selector);
                    for case in cases {
                        self.block(&case.body);
                    }
                }
                Statement::Loop {
                    ref body,
                    ref continuing,
                    break_if,
                } => {
                    self.block(body);
                    self.block(continuing);
                    self.pending.extend(break_if);
                }
                Statement::Store { pointer, value } => {
                    let expressions = &self.source.expressions;
                    let operands = match root_local(|handle| &expressions[handle], pointer) {
                        Some(local) => &mut self.stores[local.index()],
                        None => &mut self.pending,
                    };
                    operands.extend([pointer, value]);
                }
                _ => {
                    let mut statement = statement.clone();
                    visit_statement_operands(&mut statement, &mut |handle| {
                        self.pending.push(*handle);
                    });
                    self.pending
                        .extend(statement_result(&mut statement).copied());
                }
            }
        }
    }

    fn touches_outside(&self, handle: Handle<Expression>) -> bool {
        let expressions = &self.source.expressions;
        match expressions[handle] {
            Expression::Load { pointer } => {
                root_local(|handle| &expressions[handle], pointer).is_none()
            }
            Expression::ImageSample { .. }
            | Expression::ImageLoad { .. }
            | Expression::ImageQuery { .. }
            | Expression::ArrayLength(_)
            | Expression::RayQueryVertexPositions { .. }
            | Expression::RayQueryGetIntersection { .. }
            | Expression::CooperativeLoad { .. } => true,
            _ => false,
        }
    }

    fn follow(&mut self) {
        while let Some(handle) = self.pending.pop() {
            if std::mem::replace(&mut self.needed[handle.index()], true) {
                continue;
            }
            let mut expression = self.source.expressions[handle].clone();
            if let Expression::LocalVariable(local) = expression
                && !std::mem::replace(&mut self.read[local.index()], true)
            {
                self.pending.append(&mut self.stores[local.index()]);
                self.pending.extend(self.source.local_variables[local].init);
            }
            visit_operands(&mut expression, &mut |operand| self.pending.push(*operand));
        }
    }
}
