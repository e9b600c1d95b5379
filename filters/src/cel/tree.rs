//! The parsed form of an expression, in the shape of `google.api.expr.v1alpha1.Expr`.

use std::borrow::Cow;

use super::MAX_DEPTH;
use super::value::Value;

/// A part of an expression. Made by [`Tree::new`] only, which keeps it from growing too deep.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub kind: Kind,
    height: u8,
}

/// `Expr.expr_kind`
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `const_expr`
    Const(Value<'static>),
    /// `ident_expr`
    Ident(Box<str>),
    /// `select_expr`; `test_only` is what `has()` makes.
    Select { operand: Box<Tree>, field: Box<str>, test_only: bool },
    /// `call_expr`; operators are functions: `_&&_`, `@in`. `_&&_` and `_||_` take any number of arguments from two on.
    Call { function: Cow<'static, str>, target: Option<Box<Tree>>, args: Vec<Tree> },
    /// `list_expr`
    List(Vec<Tree>),
    /// `struct_expr` without a message's name.
    Map(Vec<(Tree, Tree)>),
}

impl Tree {
    /// A node over its children.
    pub fn new(kind: Kind) -> Result<Tree, &'static str> {
        let tallest = |trees: &[Tree]| trees.iter().map(|t| t.height).max().unwrap_or(0);
        let below = match &kind {
            Kind::Const(_) | Kind::Ident(_) => 0,
            Kind::Select { operand, .. } => operand.height,
            Kind::Call { target, args, .. } => tallest(args).max(target.as_ref().map_or(0, |t| t.height)),
            Kind::List(items) => tallest(items),
            Kind::Map(entries) => entries.iter().map(|(k, v)| k.height.max(v.height)).max().unwrap_or(0),
        };
        if below >= MAX_DEPTH {
            return Err("the expression is nested too deeply");
        }
        Ok(Tree { kind, height: below + 1 })
    }

    /// The call of an operator.
    pub fn operator(function: &'static str, args: Vec<Tree>) -> Result<Tree, &'static str> {
        Tree::new(Kind::Call { function: function.into(), target: None, args })
    }
}
