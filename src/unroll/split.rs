//! Splitting local arrays into one local an element.

use std::collections::HashMap;

use naga::{
    ArraySize, Block, Expression, Function, Handle, LocalVariable, Statement, Type, TypeInner,
    UniqueArena,
};

use super::walk::{visit_operands, visit_statement_operands};

use super::rebuild::Rebuild;

/// A place in a local: the local and the constant indices that lead there.
pub(super) type Path = (Handle<LocalVariable>, Vec<u32>);

/// A local array that is to become one local an element.
pub(super) struct Split {
    /// Lengths of the levels of array that are taken apart, from the outside in.
    lengths: Vec<u32>,
    /// Types at each level, `types[0]` the local's own.
    pub(super) types: Vec<Handle<Type>>,
}

impl Split {
    pub(super) fn depth(&self) -> usize {
        self.lengths.len()
    }

    /// The paths of all elements below `prefix`, in order.
    pub(super) fn elements(&self, prefix: &[u32]) -> Vec<Vec<u32>> {
        let mut paths = vec![prefix.to_vec()];
        for &length in &self.lengths[prefix.len()..] {
            paths = paths
                .iter()
                .flat_map(|path| {
                    (0..length).map(|index| {
                        let mut path = path.clone();
                        path.push(index);
                        path
                    })
                })
                .collect();
        }
        paths
    }
}

/// The most elements a local array may have to be split.
pub(super) const MAX_SPLIT_ELEMENTS: u64 = 4096;

/// Splits the local arrays that are only reached by constant indices; says how many.
pub(super) fn split_arrays(types: &UniqueArena<Type>, source: &Function) -> (Function, u32) {
    let mut splits = HashMap::new();
    for (local, variable) in source.local_variables.iter() {
        let mut split = Split {
            lengths: Vec::new(),
            types: vec![variable.ty],
        };
        let mut ty = variable.ty;
        while let TypeInner::Array {
            base,
            size: ArraySize::Constant(length),
            ..
        } = types[ty].inner
        {
            split.lengths.push(length.get());
            split.types.push(base);
            ty = base;
        }
        if let Some(init) = variable.init {
            split.limit(init_depth(source, init));
        }
        splits.insert(local, split);
    }

    // Every use other than by a constant index stops the splitting at the level it is at.
    let paths = paths(source);
    let stop = |splits: &mut HashMap<_, Split>, handle: Handle<Expression>| {
        if let Some((local, path)) = &paths[handle.index()]
            && let Some(split) = splits.get_mut(local)
        {
            split.limit(path.len());
        }
    };
    for (_, expression) in source.expressions.iter() {
        if !matches!(expression, Expression::AccessIndex { .. }) {
            visit_operands(&mut expression.clone(), &mut |operand| {
                stop(&mut splits, *operand);
            });
        }
    }
    visit_all(&source.body, &mut |statement| {
        // A store of a whole array is taken apart along with it.
        if !matches!(statement, Statement::Store { .. }) {
            visit_statement_operands(&mut statement.clone(), &mut |operand| {
                stop(&mut splits, *operand);
            });
        }
    });
    splits.retain(|_, split| {
        let elements = split.lengths.iter().map(|&length| u64::from(length));
        let elements = elements.fold(1, u64::saturating_mul);
        split.depth() > 0 && elements <= MAX_SPLIT_ELEMENTS
    });

    if splits.is_empty() {
        return (source.clone(), 0);
    }
    let count = splits.len().try_into().unwrap_or(u32::MAX);
    let needed = vec![true; source.expressions.len()];
    let read = vec![true; source.local_variables.len()];
    let mut rebuild = Rebuild::new(source, needed, &read, splits);
    rebuild.paths = paths;
    (rebuild.run(), count)
}

impl Split {
    fn limit(&mut self, depth: usize) {
        self.lengths.truncate(depth);
    }
}

/// How many levels of the initial value `init` can be taken apart.
pub(super) fn init_depth(source: &Function, init: Handle<Expression>) -> usize {
    match source.expressions[init] {
        Expression::ZeroValue(_) => usize::MAX,
        Expression::Compose { ref components, .. } => components
            .iter()
            .map(|&component| init_depth(source, component))
            .min()
            .unwrap_or(0)
            .saturating_add(1),
        _ => 0,
    }
}

/// For each expression that points into a local by constant indices alone, where it points.
pub(super) fn paths(source: &Function) -> Vec<Option<Path>> {
    let mut paths: Vec<Option<Path>> = Vec::with_capacity(source.expressions.len());
    for (_, expression) in source.expressions.iter() {
        let path = match *expression {
            Expression::LocalVariable(local) => Some((local, Vec::new())),
            Expression::AccessIndex { base, index } => {
                paths[base.index()].as_ref().map(|(local, path)| {
                    let mut path = path.clone();
                    path.push(index);
                    (*local, path)
                })
            }
            _ => None,
        };
        paths.push(path);
    }
    paths
}

/// Calls `visit` on every statement of `block`, nested ones included.
pub(super) fn visit_all(block: &Block, visit: &mut dyn FnMut(&Statement)) {
    for statement in block {
        visit(statement);
        match *statement {
            Statement::Block(ref block) => visit_all(block, visit),
            Statement::If {
                condition: _,
                ref accept,
                ref reject,
            } => {
                visit_all(accept, visit);
                visit_all(reject, visit);
            }
            Statement::Switch {
                selector: _,
                ref cases,
            } => {
                for case in cases {
                    visit_all(&case.body, visit);
                }
            }
            Statement::Loop {
                ref body,
                ref continuing,
                break_if: _,
            } => {
                visit_all(body, visit);
                visit_all(continuing, visit);
            }
            _ => {}
        }
    }
}
