//! Literals: whole numbers, strings and bytes.

use std::borrow::Cow;

use super::value::Value;

/// A whole number without a sign.
pub(super) fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A whole number with or without a minus in front of it.
pub(super) fn signed(text: &str, negative: bool) -> Option<i64> {
    let n = i128::from(unsigned(text)?);
    i64::try_from(if negative { -n } else { n }).ok()
}

/// A string or bytes at the beginning of a text, and what follows; none if there is something else.
pub(super) fn string(text: &str) -> Result<Option<(Value<'static>, &str)>, String> {
    let prefix = text.bytes().take(3).position(|b| matches!(b, b'\'' | b'"')).unwrap_or(text.len());
    let (raw, bytes) = match text.get(..prefix) {
        Some("") => (false, false),
        Some("r" | "R") => (true, false),
        Some("b" | "B") => (false, true),
        Some("rb" | "rB" | "Rb" | "RB" | "br" | "bR" | "Br" | "BR") => (true, true),
        _ => return Ok(None),
    };
    let rest = text.get(prefix..).unwrap_or_default();
    let Some(quote) = ["'''", "\"\"\"", "'", "\""].into_iter().find(|q| rest.starts_with(q)) else { return Ok(None) };
    let mut rest = rest.strip_prefix(quote).unwrap_or_default();
    let mut out = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            let text = Cow::Owned(out);
            return Ok(Some((if bytes { Value::Bytes(text) } else { Value::String(text) }, after)));
        }
        let mut chars = rest.chars();
        match chars.next() {
            None => return Err("a string does not end".into()),
            Some('\n' | '\r') if quote.len() == 1 => return Err("a string does not end on its line".into()),
            Some('\\') if !raw => rest = escape(chars.as_str(), bytes, &mut out)?,
            Some(c) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = chars.as_str();
            }
        }
    }
}

/// Appends what an escape stands for; `text` begins behind the backslash. The rest is returned.
fn escape<'t>(text: &'t str, bytes: bool, out: &mut Vec<u8>) -> Result<&'t str, String> {
    let invalid = || "invalid escape in a string".to_owned();
    let mut chars = text.chars();
    let first = chars.next().ok_or_else(invalid)?;
    let (start, digits, radix) = match first {
        'x' | 'X' => (1, 2, 16),
        'u' if !bytes => (1, 4, 16),
        'U' if !bytes => (1, 8, 16),
        '0'..='3' => (0, 3, 8),
        _ => {
            out.push(match first {
                '\\' | '?' | '"' | '\'' | '`' => u8::try_from(first).unwrap_or(b'?'),
                'a' => 0x07,
                'b' => 0x08,
                'f' => 0x0c,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 0x0b,
                _ => return Err(invalid()),
            });
            return Ok(chars.as_str());
        }
    };
    let code = text.get(start..start + digits).filter(|d| d.chars().all(|c| c.is_digit(radix))).ok_or_else(invalid)?;
    let code = u32::from_str_radix(code, radix).map_err(|_| invalid())?;
    if bytes {
        out.push(u8::try_from(code).map_err(|_| invalid())?);
    } else {
        let c = char::from_u32(code).ok_or_else(invalid)?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(text.get(start + digits..).unwrap_or_default())
}
