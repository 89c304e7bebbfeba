//! Writing a function anew with some of its expressions, locals and stores left out or replaced.

use std::collections::HashMap;

use naga::{
    Arena, Block, Expression, Function, Handle, LocalVariable, Span, Statement, SwitchCase, Type,
};

use super::split::{Path, Split};
use super::walk::{emit, root_local, statement_result, visit_operands, visit_statement_operands};

/// Copies a function, leaving out what is not needed and taking arrays apart.
pub(super) struct Rebuild<'a> {
    source: &'a Function,
    needed: Vec<bool>,
    splits: HashMap<Handle<LocalVariable>, Split>,
    pub(super) paths: Vec<Option<Path>>,
    locals: Arena<LocalVariable>,
    local_map: Vec<Option<Handle<LocalVariable>>>,
    /// The pointers to the locals that stand for the elements of split arrays.
    elements: HashMap<Path, Handle<Expression>>,
    zeros: HashMap<Handle<Type>, Handle<Expression>>,
    expressions: Arena<Expression>,
    map: Vec<Option<Handle<Expression>>>,
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(
        source: &'a Function,
        needed: Vec<bool>,
        read: &[bool],
        splits: HashMap<Handle<LocalVariable>, Split>,
    ) -> Self {
        let mut locals = Arena::new();
        let mut local_map = vec![None; source.local_variables.len()];
        for (old, local) in source.local_variables.iter() {
            if read[old.index()] && !splits.contains_key(&old) {
                let span = source.local_variables.get_span(old);
                local_map[old.index()] = Some(locals.append(local.clone(), span));
            }
        }
        Self {
            source,
            needed,
            splits,
            paths: vec![None; source.expressions.len()],
            locals,
            local_map,
            elements: HashMap::new(),
            zeros: HashMap::new(),
            expressions: Arena::new(),
            map: vec![None; source.expressions.len()],
        }
    }

    pub(super) fn run(mut self) -> Function {
        let source = self.source;
        for (old, expression) in source.expressions.iter() {
            if !expression.needs_pre_emit() || !self.needed[old.index()] {
                continue;
            }
            let expression = match *expression {
                Expression::LocalVariable(local) => match self.local_map[local.index()] {
                    Some(local) => Expression::LocalVariable(local),
                    None => continue,
                },
                ref other => other.clone(),
            };
            let span = source.expressions.get_span(old);
            self.map[old.index()] = Some(self.expressions.append(expression, span));
        }
        for (old, local) in source.local_variables.iter() {
            if let Some(new) = self.local_map[old.index()] {
                let init = local.init.map(|init| self.operand(init));
                self.locals.get_mut(new).init = init;
            } else if let Some(split) = self.splits.remove(&old) {
                self.declare_elements(old, &split);
                self.splits.insert(old, split);
            }
        }

        let mut body = Block::new();
        self.block(&source.body, &mut body);
        let named_expressions = source
            .named_expressions
            .iter()
            .filter_map(|(old, name)| {
                let new = self.map[old.index()]?;
                Some((new, name.clone()))
            })
            .collect();
        Function {
            name: source.name.clone(),
            arguments: source.arguments.clone(),
            result: source.result.clone(),
            local_variables: self.locals,
            expressions: self.expressions,
            named_expressions,
            body,
            diagnostic_filter_leaf: source.diagnostic_filter_leaf,
        }
    }

    fn declare_elements(&mut self, old: Handle<LocalVariable>, split: &Split) {
        let local = &self.source.local_variables[old];
        let span = self.source.local_variables.get_span(old);
        for path in split.elements(&[]) {
            let name = local.name.as_ref().map(|name| {
                path.iter()
                    .fold(name.clone(), |name, index| format!("{name}_{index}"))
            });
            let init = local.init.and_then(|init| self.init_element(init, &path));
            let new = self.locals.append(
                LocalVariable {
                    name,
                    ty: split.types[split.depth()],
                    init,
                },
                span,
            );
            let pointer = self
                .expressions
                .append(Expression::LocalVariable(new), span);
            self.elements.insert((old, path), pointer);
        }
    }

    /// The initial value of the element at `path` of `init`; none where that is zero, which is how
    /// a local starts anyway.
    fn init_element(
        &mut self,
        init: Handle<Expression>,
        path: &[u32],
    ) -> Option<Handle<Expression>> {
        match (path.split_first(), &self.source.expressions[init]) {
            (_, Expression::ZeroValue(_)) => None,
            (Some((&index, rest)), Expression::Compose { components, .. }) => {
                let component = *components.get(index as usize)?;
                self.init_element(component, rest)
            }
            _ => Some(self.operand(init)),
        }
    }

    fn operand(&mut self, old: Handle<Expression>) -> Handle<Expression> {
        if let Some(new) = self.map[old.index()] {
            return new;
        }
        // A constant expression that is not emitted.
        let mut expression = self.source.expressions[old].clone();
        visit_operands(&mut expression, &mut |operand| {
            *operand = self.operand(*operand);
        });
        let span = self.source.expressions.get_span(old);
        let new = self.expressions.append(expression, span);
        self.map[old.index()] = Some(new);
        new
    }

    fn block(&mut self, source: &Block, out: &mut Block) {
        for (statement, &span) in source.span_iter() {
            match *statement {
                Statement::Emit(ref range) => {
                    for old in range.clone() {
                        self.evaluate(old, out);
                    }
                }
                Statement::Block(ref block) => self.block(block, out),
                Statement::If {
                    condition,
                    ref accept,
                    ref reject,
                } => {
                    let condition = self.operand(condition);
                    let accept = self.nested(accept);
                    let reject = self.nested(reject);
                    if !accept.is_empty() || !reject.is_empty() {
                        out.push(
                            Statement::If {
                                condition,
                                accept,
                                reject,
                            },
                            span,
                        );
                    }
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
                            body: self.nested(&case.body),
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
                    let body = self.nested(body);
                    let continuing = self.nested(continuing);
                    let break_if = break_if.map(|condition| self.operand(condition));
                    out.push(
                        Statement::Loop {
                            body,
                            continuing,
                            break_if,
                        },
                        span,
                    );
                }
                Statement::Store { pointer, value } => self.store(pointer, value, span, out),
                _ => {
                    let mut statement = statement.clone();
                    visit_statement_operands(&mut statement, &mut |handle| {
                        *handle = self.operand(*handle);
                    });
                    if let Some(result) = statement_result(&mut statement) {
                        let old = *result;
                        *result = self.expressions.append(
                            self.source.expressions[old].clone(),
                            self.source.expressions.get_span(old),
                        );
                        self.map[old.index()] = Some(*result);
                    }
                    out.push(statement, span);
                }
            }
        }
    }

    fn nested(&mut self, source: &Block) -> Block {
        let mut out = Block::new();
        self.block(source, &mut out);
        out
    }

    fn evaluate(&mut self, old: Handle<Expression>, out: &mut Block) {
        if !self.needed[old.index()] {
            return;
        }
        if let Some(path) = &self.paths[old.index()]
            && let Some(split) = self.splits.get(&path.0)
            && path.1.len() <= split.depth()
        {
            // A pointer to an element becomes the element's local. One to a whole array has no
            // place in the output; its uses are taken apart.
            self.map[old.index()] = self.elements.get(path).copied();
            return;
        }
        let mut expression = self.source.expressions[old].clone();
        visit_operands(&mut expression, &mut |operand| {
            *operand = self.operand(*operand);
        });
        let span = self.source.expressions.get_span(old);
        self.map[old.index()] = Some(self.emitted(expression, span, out));
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

    fn store(
        &mut self,
        pointer: Handle<Expression>,
        value: Handle<Expression>,
        span: Span,
        out: &mut Block,
    ) {
        let expressions = &self.source.expressions;
        if let Some(local) = root_local(|handle| &expressions[handle], pointer)
            && self.local_map[local.index()].is_none()
            && !self.splits.contains_key(&local)
        {
            return;
        }
        if let Some((local, prefix)) = self.paths[pointer.index()].clone()
            && let Some(split) = self.splits.get(&local)
            && prefix.len() < split.depth()
        {
            let ty = split.types[split.depth()];
            for path in split.elements(&prefix) {
                let Some(&pointer) = self.elements.get(&(local, path.clone())) else {
                    continue;
                };
                let value = self.element_value(value, &path[prefix.len()..], ty, span, out);
                out.push(Statement::Store { pointer, value }, span);
            }
            return;
        }
        let pointer = self.operand(pointer);
        let value = self.operand(value);
        out.push(Statement::Store { pointer, value }, span);
    }

    /// The element at `path` of the value `old`; `ty` is the element's type.
    fn element_value(
        &mut self,
        old: Handle<Expression>,
        path: &[u32],
        ty: Handle<Type>,
        span: Span,
        out: &mut Block,
    ) -> Handle<Expression> {
        match (path.split_first(), &self.source.expressions[old]) {
            (None, _) => self.operand(old),
            (_, Expression::ZeroValue(_)) => {
                let expressions = &mut self.expressions;
                *self
                    .zeros
                    .entry(ty)
                    .or_insert_with(|| expressions.append(Expression::ZeroValue(ty), span))
            }
            (Some((&index, rest)), Expression::Compose { components, .. }) => {
                let component = components[index as usize];
                self.element_value(component, rest, ty, span, out)
            }
            _ => {
                let mut base = self.operand(old);
                for &index in path {
                    base = self.emitted(Expression::AccessIndex { base, index }, span, out);
                }
                base
            }
        }
    }
}
