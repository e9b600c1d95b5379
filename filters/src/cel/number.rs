//! Numbers: comparison across their kinds, and arithmetic within one.

use std::cmp::Ordering;

use super::value::Value;
use super::{EvalError, Evaluated};

const OVERLOAD: EvalError = EvalError("no such overload");
const OVERFLOW: EvalError = EvalError("overflow");

/// An operator on two numbers, durations or moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// None where one is no number; `Some(None)` where one is NaN.
pub(super) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    let whole = |v: &Value<'_>| match v {
        Value::Int(n) => Some(i128::from(*n)),
        Value::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    Some(match (whole(a), whole(b), a, b) {
        (Some(a), Some(b), ..) => Some(a.cmp(&b)),
        (Some(a), None, _, Value::Double(b)) => with_double(a, *b),
        (None, Some(b), Value::Double(a), _) => with_double(b, *a).map(Ordering::reverse),
        (None, None, Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        _ => return None,
    })
}

/// Exact, where a conversion to double would lose digits.
fn with_double(n: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // A conversion keeps to the limits of i128, which are far outside those of n.
    #[allow(clippy::cast_possible_truncation, reason = "the fraction is looked at below")]
    let whole = double as i128;
    Some(n.cmp(&whole).then_with(|| 0.0_f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)))
}

/// The value of `a op b`.
pub(super) fn calculate<'a>(op: Arithmetic, a: &Value<'_>, b: &Value<'_>) -> Evaluated<'a> {
    use Arithmetic::{Add, Divide, Modulo, Multiply, Subtract};
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => match op {
            Add => a.checked_add(*b),
            Subtract => a.checked_sub(*b),
            Multiply => a.checked_mul(*b),
            Divide | Modulo if *b == 0 => return Err(EvalError("divide by zero")),
            Divide => a.checked_div(*b),
            Modulo => a.checked_rem(*b),
        }
        .map(Value::Int)
        .ok_or(OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => match op {
            Add => a.checked_add(*b),
            Subtract => a.checked_sub(*b),
            Multiply => a.checked_mul(*b),
            Divide | Modulo if *b == 0 => return Err(EvalError("divide by zero")),
            Divide => a.checked_div(*b),
            Modulo => a.checked_rem(*b),
        }
        .map(Value::Uint)
        .ok_or(OVERFLOW),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(match op {
            Add => a + b,
            Subtract => a - b,
            Multiply => a * b,
            Divide => a / b,
            Modulo => return Err(OVERLOAD),
        })),
        (Value::Duration(a), Value::Duration(b)) => match op {
            Add => a.checked_add(*b),
            Subtract => a.checked_sub(*b),
            _ => return Err(OVERLOAD),
        }
        .map(Value::Duration)
        .ok_or(OVERFLOW),
        (Value::Timestamp(a), Value::Duration(b)) => match op {
            Add => a.checked_add(*b),
            Subtract => a.checked_sub(*b),
            _ => return Err(OVERLOAD),
        }
        .map(Value::Timestamp)
        .ok_or(OVERFLOW),
        (Value::Duration(a), Value::Timestamp(b)) if op == Add => {
            a.checked_add(*b).map(Value::Timestamp).ok_or(OVERFLOW)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) if op == Subtract => {
            a.checked_sub(*b).map(Value::Duration).ok_or(OVERFLOW)
        }
        _ => Err(OVERLOAD),
    }
}

/// `-a`
pub(super) fn negate<'a>(a: &Value<'_>) -> Evaluated<'a> {
    match a {
        Value::Int(n) => n.checked_neg().map(Value::Int).ok_or(OVERFLOW),
        Value::Double(n) => Ok(Value::Double(-n)),
        _ => Err(OVERLOAD),
    }
}
