//! Common Expression Language, as far as Envoy lets configurations use it: `%CEL(…)%` and the expression filter of access logs.
//!
//! A text is parsed into a [`tree::Tree`], which has the shape of `google.api.expr.v1alpha1.Expr` (operators are calls of functions such as
//! `_&&_`), so that a message of that kind can become the same tree. The tree is compiled once into nodes in which attributes, header names and
//! constant patterns are resolved; evaluation reads a [`FormatContext`] and borrows from it.
//!
//! What there is:
//! - literals: `null`, `true`, `1`, `0x1f`, `1u`, `1.5e3`, strings and bytes (`'a'`, `"a"`, `'''a'''`, `r'a'`, `b'a'`, escapes), `[…]`, `{…}`;
//! - operators: `!` `-` `*` `/` `%` `+` `<` `<=` `>` `>=` `==` `!=` `in` `&&` `||` `?:`, `a.b`, `a[b]`, `has(a.b)`. Numbers of different kinds
//!   compare and do not add. `&&` and `||` take no notice of an error on one side where the other side decides;
//! - functions: `size`, `startsWith`, `endsWith`, `contains`, `matches` (RE2, a partial match), `int`, `uint`, `double`, `bool`, `bytes`, `type`,
//!   `dyn`, `duration`, `timestamp`, the getters of these two in UTC; `string` and `+` on strings where `cel_config` enables them, as in Envoy;
//! - attributes: `request`, `response`, `connection`, `upstream`, `source`, `destination`, `xds`, `metadata`, `filter_state`,
//!   `upstream_filter_state` (see `attributes`).
//!
//! Refused when it is loaded: unknown functions, macros that loop (Envoy has comprehensions disabled), messages, optional syntax, and attributes
//! that Envoy knows and there is no data for here. Other unknown names are errors when they are evaluated, as in Envoy. What errs is not true
//! in a filter and missing in a format.
//!
//! One thing is not as in Envoy 1.40: an address in filter state prints as that address, although it has fields (`ip`, `port`). Envoy prints
//! `CelMap value`, with which the expression that istiod itself sends (`set_dst_address`) sets nothing.

mod attributes;
mod compile;
mod convert;
mod eval;
mod functions;
mod headers;
mod literal;
mod map;
mod moment;
mod number;
mod parse;
mod print;
mod token;
mod tree;
mod value;

#[cfg(test)]
mod tests;

use crate::format::FormatContext;
use compile::Node;
use value::Value;
use waypost_xds::envoy::config::core::v3::CelExpressionConfig;

/// Bytes of an expression: expressions are written by hand, and this bounds what evaluating one can cost.
const MAX_TEXT: usize = 16 << 10;

/// How deep an expression may be nested: parsing and evaluation recurse.
const MAX_DEPTH: u8 = 100;

/// An expression that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CelError(String);

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct EvalError(&'static str);

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// `config.core.v3.CelExpressionConfig`: what Envoy enables only where it is asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `enable_string_conversion`: the function `string`.
    pub string_conversion: bool,
    /// `enable_string_concat`: `+` on strings.
    pub string_concat: bool,
}

/// Whether an expression was refused because it reads an attribute that Envoy knows and there is no data for here, whatever was put in front
/// of the reason.
pub fn is_no_data(reason: &str) -> bool {
    reason.contains("failed to create an expression: attribute ")
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    root: Node,
}

impl From<CelExpressionConfig> for Options {
    fn from(config: CelExpressionConfig) -> Options {
        // The functions that `enable_string_functions` adds are refused where they are called.
        let CelExpressionConfig { enable_string_conversion, enable_string_concat, enable_string_functions: _ } = config;
        Options { string_conversion: enable_string_conversion, string_concat: enable_string_concat }
    }
}

impl Expression {
    /// Compiles a text.
    pub fn parse(text: &str, options: Options) -> Result<Expression, CelError> {
        let tree = parse::parse(text).map_err(|e| CelError(format!("Not able to parse expression: {e}")))?;
        let root = compile::compile(tree, options)
            .map_err(|reason| CelError(format!("failed to create an expression: {reason}")))?;
        Ok(Expression { root })
    }

    /// Whether the value is `true`; an error and any other value is not.
    pub fn is_true(&self, cx: &FormatContext<'_>) -> bool {
        matches!(self.root.eval(cx), Ok(Value::Bool(true)))
    }

    /// Appends the value as text; false, with nothing appended, where there is none.
    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        self.root.eval(cx).is_ok_and(|value| {
            print::text(&value, out);
            true
        })
    }

    /// Appends the value as JSON; false, with nothing appended, where there is none or JSON has no such thing.
    pub fn json(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let there = self.root.eval(cx).is_ok_and(|value| print::json(&value, cx, out));
        if !there {
            out.truncate(start);
        }
        there
    }
}
