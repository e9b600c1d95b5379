//! `%CEL(…)%`: the expressions that Istio itself writes, and those that only name a header. There is no evaluator for others yet.

use super::headers::{HeaderOp, Key, MessagePart};
use super::operator::{FilterStateOp, FilterStateShape, Op, Operator};

/// The operator of an expression; none for one that is not among these.
///
/// - `request.headers['x']`
/// - `'k' in filter_state ? filter_state['k'] : r'text'`: where a tunnel goes, or else a service's first address
pub(super) fn compile(expression: &str) -> Option<Op> {
    let expression = expression.trim();
    if let Some(rest) = expression.strip_prefix("request.headers[") {
        let (name, rest) = literal(rest)?;
        let main = Key::parse(name).ok()?;
        let header =
            HeaderOp { part: MessagePart::Request, main, alternative: Key::parse("").ok()?, without_query: false };
        return (rest.trim() == "]" && !name.is_empty()).then_some(Op::Header(header));
    }
    let (key, rest) = literal(expression)?;
    let rest = rest.trim_start().strip_prefix("in ")?.trim_start().strip_prefix("filter_state")?;
    let rest = rest.trim_start().strip_prefix('?')?.trim_start().strip_prefix("filter_state[")?;
    let (same, rest) = literal(rest)?;
    let rest = rest.trim_start().strip_prefix(']')?.trim_start().strip_prefix(':')?.trim_start();
    let (text, rest) = literal(rest.strip_prefix('r').unwrap_or(rest))?;
    if key != same || !rest.trim().is_empty() {
        return None;
    }
    let object = Op::FilterState(FilterStateOp { key: key.into(), shape: FilterStateShape::Plain });
    let operator = |op| Operator { op, max_length: None };
    Some(Op::Coalesce([object, Op::Constant(text.into())].map(operator).into()))
}

/// A string in quotes without escapes, and what follows it.
fn literal(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (inside, rest) = text.get(1..)?.split_once(quote)?;
    (!inside.contains('\\')).then_some((inside, rest))
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn only_whole_expressions_of_these_forms_are_taken() {
        for taken in [
            "request.headers['x-user']",
            "request.headers[\"x-user\"] ",
            "'a.b' in filter_state ? filter_state['a.b']: r'127.2.0.10:9080'",
            "'k' in filter_state?filter_state['k']:'v'",
        ] {
            assert!(compile(taken).is_some(), "{taken}");
        }
        for other in [
            "",
            "request.headers['x-user'] == 'a'",
            "request.headers['']",
            "request.headers[x]",
            "request.method",
            "'a' in filter_state ? filter_state['b'] : 'c'",
            "'a' in filter_state ? filter_state['a'] : 'c' + 'd'",
            "'a\\'' in filter_state ? filter_state['a\\''] : 'c'",
            "'a' in",
        ] {
            assert!(compile(other).is_none(), "{other}");
        }
    }
}
