//! `:path`: fragments, escaped slashes, `normalize_path` and `merge_slashes`.
//!
//! The canonical form is that of Envoy, which is that of Chromium's URL library and not quite RFC 3986: `\` is a slash, `%2e` is a dot,
//! unreserved characters lose their escapes, characters that no URL has get one, and the `;parameters` of a dot segment are dropped with it.
//! The query is never touched.

use std::borrow::Cow;

use crate::http::config::{EscapedSlashes, PathOptions};

/// What is done with a request for the sake of its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathAction {
    /// It stays as it is.
    Keep,
    /// It goes on with this path.
    Replace(Vec<u8>),
    /// The client is sent to this path (307).
    Redirect(Vec<u8>),
    /// 400
    Reject,
}

/// Decides about a path with its query.
pub fn normalize(path: &[u8], options: &PathOptions) -> PathAction {
    let original = path;
    let path = match memchr::memchr(b'#', path) {
        Some(at) if options.strip_fragment => path.get(..at).unwrap_or(path),
        Some(_) => return PathAction::Reject,
        None => path,
    };
    if options.escaped_slashes == EscapedSlashes::Keep && !options.normalize && !options.merge_slashes {
        return if path.len() == original.len() { PathAction::Keep } else { PathAction::Replace(path.to_vec()) };
    }
    let (segments, query) = path.split_at(memchr::memchr(b'?', path).unwrap_or(path.len()));
    let mut segments = Cow::Borrowed(segments);
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&segments)
    {
        match options.escaped_slashes {
            EscapedSlashes::Reject => return PathAction::Reject,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::Keep => {}
        }
        segments = Cow::Owned(unescaped);
    }
    if options.normalize && !is_canonical(&segments) {
        let Some(canonical) = canonicalize(&segments) else { return PathAction::Reject };
        segments = Cow::Owned(canonical);
    }
    if options.merge_slashes
        && let Some(merged) = merge_slashes(&segments)
    {
        segments = Cow::Owned(merged);
    }
    let changed = match segments {
        // A redirect always comes with something unescaped.
        Cow::Borrowed(_) if path.len() == original.len() => return PathAction::Keep,
        segments => [&segments, query].concat(),
    };
    if redirect { PathAction::Redirect(changed) } else { PathAction::Replace(changed) }
}

/// `%2f` and `%5c` as `/` and `\`; none where there is neither.
fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let (before, from) = rest.split_at(at);
        let slash = match from {
            [_, b'2', b'f' | b'F', ..] => b'/',
            [_, b'5', b'c' | b'C', ..] => b'\\',
            _ => {
                if let Some(out) = &mut out {
                    out.extend_from_slice(before);
                    out.push(b'%');
                }
                rest = from.get(1..).unwrap_or_default();
                continue;
            }
        };
        let kept = path.len() - rest.len();
        let out = out.get_or_insert_with(|| path.get(..kept).unwrap_or_default().to_vec());
        out.extend_from_slice(before);
        out.push(slash);
        rest = from.get(3..).unwrap_or_default();
    }
    if let Some(out) = &mut out {
        out.extend_from_slice(rest);
    }
    out
}

/// Whether canonicalization surely changes nothing: only ordinary characters, and no segment that begins with a dot.
fn is_canonical(path: &[u8]) -> bool {
    let mut last = 0;
    path.iter().all(|&b| {
        let ordinary = matches!(class(b), Class::Keep | Class::Unescape) && !(b == b'.' && last == b'/');
        last = b;
        ordinary
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Unreserved: kept, and its escape is undone.
    Unescape,
    /// Kept, and so is its escape.
    Keep,
    /// Has to be escaped; its escape is kept.
    Escape,
    /// `\` and `%`.
    Special,
    /// NUL: in no path, escaped or not.
    Invalid,
}

const fn class(b: u8) -> Class {
    match b {
        0 => Class::Invalid,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Unescape,
        b'\\' | b'%' => Class::Special,
        b'"' | b'#' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 1..=b' ' | 0x7f..=0xff => Class::Escape,
        _ => Class::Keep,
    }
}

/// The canonical form of a path without query; none where there is none.
fn canonicalize(path: &[u8]) -> Option<Vec<u8>> {
    let stripped = strip_dot_parameters(path);
    let path: &[u8] = &stripped;
    // Bytes above ASCII come from HTTP/2 only. They are escaped, but have to be text.
    if !path.is_ascii() {
        std::str::from_utf8(path).ok()?;
    }
    let mut out = Vec::with_capacity(path.len() + 8);
    let mut rest = path;
    let mut lone_percent = None;
    while let Some((&b, after)) = rest.split_first() {
        if let Some(after_dot) = skip_dot(rest) {
            rest = if out.last() == Some(&b'/') {
                dot_segment(after_dot, &mut out)
            } else {
                plain_dot(after_dot, &mut out)
            };
            continue;
        }
        rest = after;
        match (class(b), escaped(after)) {
            (Class::Invalid, _) => return None,
            (Class::Escape, _) => escape(b, &mut out),
            (Class::Special, _) if b == b'\\' => out.push(b'/'),
            (Class::Special, Some((value, after))) => {
                rest = after;
                match class(value) {
                    Class::Invalid => return None,
                    Class::Unescape => {
                        out.push(value);
                        keep_lone_percent(lone_percent, after, &mut out);
                    }
                    _ => out.extend(path.iter().skip(path.len() - after.len() - 3).take(3)),
                }
            }
            // A `%` without two digits behind it is left alone.
            (Class::Special, None) => {
                lone_percent = Some(out.len());
                out.push(b);
            }
            (Class::Keep | Class::Unescape, _) => out.push(b),
        }
    }
    Some(out)
}

/// Escapes a lone `%` that came to stand before two digits when one of them lost its escape: `%2%41` must not become an escape itself.
fn keep_lone_percent(at: Option<usize>, rest: &[u8], out: &mut Vec<u8>) {
    let Some(at) = at else { return };
    let mut digits = out.iter().skip(at + 1).chain(rest.first());
    let (Some(high), Some(low)) = (digits.next(), digits.next()) else { return };
    // Digits that stood there from the first have nothing to do with it: the unescaped one is the last of `out`.
    if out.len() <= at + 3 && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() {
        out.splice(at + 1..at + 1, *b"25");
    }
}

/// Takes `;parameters` off the segments `.` and `..`, as servers that know such parameters do before they resolve dots.
fn strip_dot_parameters(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.windows(2).any(|w| w == b".;") {
        return Cow::Borrowed(path);
    }
    let segments = path.split(|&b| b == b'/').map(|segment| match segment {
        [b'.', b';', ..] => &b"."[..],
        [b'.', b'.', b';', ..] => &b".."[..],
        _ => segment,
    });
    Cow::Owned(segments.collect::<Vec<_>>().join(&b'/'))
}

/// What follows a dot, escaped or not.
fn skip_dot(path: &[u8]) -> Option<&[u8]> {
    match path {
        [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// What follows a slash of either kind, or the end.
fn skip_slash(path: &[u8]) -> Option<&[u8]> {
    match path {
        [] => Some(path),
        [b'/' | b'\\', rest @ ..] => Some(rest),
        _ => None,
    }
}

fn plain_dot<'a>(after: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    out.push(b'.');
    after
}

/// Resolves a segment that begins with a dot, `out` ending in a slash.
fn dot_segment<'a>(after: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    if let Some(rest) = skip_slash(after) {
        return rest;
    }
    if let Some(rest) = skip_dot(after).and_then(skip_slash) {
        // The first slash stays, whatever goes up.
        out.pop();
        out.truncate(out.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1));
        if out.is_empty() {
            out.push(b'/');
        }
        return rest;
    }
    plain_dot(after, out)
}

/// The byte of two hexadecimal digits, and what follows them.
fn escaped(path: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], rest) = path.split_first_chunk::<2>()?;
    let digit = |b: u8| char::from(b).to_digit(16);
    Some((u8::try_from(digit(high)? * 16 + digit(low)?).ok()?, rest))
}

fn escape(b: u8, out: &mut Vec<u8>) {
    let digit = |d: u8| if d < 10 { b'0' + d } else { b'A' + d - 10 };
    out.extend_from_slice(&[b'%', digit(b >> 4), digit(b & 15)]);
}

/// Runs of slashes as one; none where there is no run. A path of slashes alone keeps its first and its last, as in Envoy.
fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    if !path.windows(2).any(|w| w == b"//") {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    if path.first() == Some(&b'/') {
        out.push(b'/');
    }
    for (i, segment) in path.split(|&b| b == b'/').filter(|s| !s.is_empty()).enumerate() {
        if i > 0 {
            out.push(b'/');
        }
        out.extend_from_slice(segment);
    }
    if path.last() == Some(&b'/') {
        out.push(b'/');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: &str) -> PathOptions {
        let escaped_slashes = match mode {
            "unesc" | "unescn" => EscapedSlashes::UnescapeAndForward,
            "redir" => EscapedSlashes::UnescapeAndRedirect,
            "rej" => EscapedSlashes::Reject,
            _ => EscapedSlashes::Keep,
        };
        PathOptions {
            normalize: matches!(mode, "norm" | "normm" | "unescn" | "redir"),
            merge_slashes: matches!(mode, "merge" | "normm" | "unescn" | "redir"),
            escaped_slashes,
            strip_fragment: false,
        }
    }

    fn show(path: &str, action: PathAction) -> String {
        let text = |p: Vec<u8>| String::from_utf8_lossy(&p).into_owned();
        match action {
            PathAction::Keep => path.to_owned(),
            PathAction::Replace(p) => text(p),
            PathAction::Redirect(p) => format!("307 {}", text(p)),
            PathAction::Reject => "400".to_owned(),
        }
    }

    /// `path_golden.tsv` holds what Envoy 1.40 did: options, path sent, path that arrived (or `400`, or `307` and where to).
    #[test]
    fn paths_come_out_as_they_do_in_envoy() {
        let mut wrong = Vec::new();
        let golden = include_str!("path_golden.tsv");
        for line in golden.lines() {
            let [mode, path, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let got = show(path, normalize(path.as_bytes(), &options(mode)));
            if got != expected {
                wrong.push(format!("{mode} {path}: {got}, Envoy {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), golden.lines().count(), wrong.join("\n"));
    }

    #[test]
    fn what_is_canonical_is_not_copied() {
        for mode in ["norm", "normm", "unescn", "redir", "rej", "merge", "unesc"] {
            for path in ["/", "/a/b.c/d~e?x=%2f//..", "/a;b=c/d@e:f,g(h)", "/..a/b"] {
                let action = normalize(path.as_bytes(), &options(mode));
                // A segment that begins with a dot takes the long way round.
                let kept = action == PathAction::Keep || action == PathAction::Replace(path.into());
                assert!(kept && (action == PathAction::Keep || path.contains("/..a")), "{mode} {path} {action:?}");
            }
        }
    }

    #[test]
    fn a_fragment_is_refused_or_cut_off() {
        let strip = PathOptions { strip_fragment: true, ..PathOptions::default() };
        assert_eq!(normalize(b"/a?b#c", &strip), PathAction::Replace(b"/a?b".to_vec()));
        assert_eq!(normalize(b"/a?b#c", &PathOptions::default()), PathAction::Reject);
        let both = PathOptions { strip_fragment: true, ..options("norm") };
        assert_eq!(normalize(b"/a/b#/../c", &both), PathAction::Replace(b"/a/b".to_vec()));
    }

    #[test]
    fn bytes_above_ascii_are_escaped_if_they_are_text() {
        let path = "/é\u{7f}".as_bytes();
        assert_eq!(normalize(path, &options("norm")), PathAction::Replace(b"/%C3%A9%7F".to_vec()));
        assert_eq!(normalize(b"/\xff", &options("norm")), PathAction::Reject);
        assert_eq!(normalize(b"/\xff", &options("merge")), PathAction::Keep);
    }

    #[test]
    fn random_paths_neither_panic_nor_escape_the_root_and_a_second_pass_changes_nothing_but_escapes() {
        let alphabet = b"/./..\\%2ef5c;?#ab\x00\xff\xc3\xa9 ~|%41";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..200_000 {
            let mut path = vec![b'/'];
            path.extend((0..next() % 24).map(|_| alphabet[next() % alphabet.len()]));
            for mode in ["norm", "normm", "merge", "unescn", "redir", "rej"] {
                match normalize(&path, &options(mode)) {
                    PathAction::Replace(p) | PathAction::Redirect(p) => {
                        assert_eq!(p.first(), Some(&b'/'), "{mode} {path:?}");
                        let bare = p.split(|&b| b == b'?').next().unwrap_or_default();
                        if options(mode).normalize {
                            let dots = bare.split(|&b| b == b'/').any(|s| s == b"." || s == b"..");
                            assert!(
                                !dots,
                                "{mode} {:?} {:?}",
                                String::from_utf8_lossy(&path),
                                String::from_utf8_lossy(&p)
                            );
                        }
                    }
                    PathAction::Keep | PathAction::Reject => {}
                }
            }
        }
    }
}
