//! `request_headers_to_add`, `response_headers_to_remove` and their kin (`HeaderValueOption`).

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::headers::is_joined;
use super::{Format, FormatContext};
use crate::stream::HttpStream;
use waypost_xds::envoy::config::core::v3 as proto;
use waypost_xds::envoy::config::core::v3::header_value_option::HeaderAppendAction;

/// A header rule that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct HeaderOpsError {
    /// The field.
    pub path: String,
    /// Why, in Envoy's words.
    pub reason: String,
}

/// Which message rules are for; it is part of the names of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `request_headers_to_add`, `request_headers_to_remove`
    Request,
    /// `response_headers_to_add`, `response_headers_to_remove`
    Response,
    /// `headers_to_add` of a local reply's mapper, which are for the response.
    LocalReply,
}

/// Compiled header rules of one place (a route, a virtual host, a route configuration).
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    remove: Box<[HeaderName]>,
    add: Box<[Rule]>,
}

#[derive(Clone, Debug)]
struct Rule {
    name: HeaderName,
    /// Whether a second value is appended to the first with a comma.
    is_joined: bool,
    action: Action,
    keep_empty: bool,
    value: RuleValue,
}

/// `append_action`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

#[derive(Clone, Debug)]
enum RuleValue {
    Constant(HeaderValue),
    Format(Format),
}

/// Values that came out of rules, to be set when all are known.
type Values<'a> = SmallVec<[(&'a Rule, HeaderValue); 8]>;

impl HeaderOps {
    /// Compiles `…_headers_to_add` and `…_headers_to_remove`; `path` is that of the message which holds them.
    pub fn compile(
        add: Vec<proto::HeaderValueOption>,
        remove: Vec<String>,
        side: Side,
        path: &str,
    ) -> Result<HeaderOps, HeaderOpsError> {
        let side = match side {
            Side::Request => "request_",
            Side::Response => "response_",
            Side::LocalReply => "",
        };
        let at = |field: &str, i: usize| format!("{path}.{side}headers_to_{field}[{i}]");
        Ok(HeaderOps {
            add: add.into_iter().enumerate().map(|(i, o)| rule(o, &at("add", i))).collect::<Result<_, _>>()?,
            remove: remove.iter().enumerate().map(|(i, n)| removal(n, &at("remove", i))).collect::<Result<_, _>>()?,
        })
    }

    /// One header that is set or added.
    pub fn one_added(option: proto::HeaderValueOption, path: &str) -> Result<HeaderOps, HeaderOpsError> {
        Ok(HeaderOps { add: Box::new([rule(option, path)?]), remove: Box::default() })
    }

    /// One header that is removed.
    pub fn one_removed(name: &str, path: &str) -> Result<HeaderOps, HeaderOpsError> {
        Ok(HeaderOps { remove: Box::new([removal(name, path)?]), add: Box::default() })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Changes the request of a stream.
    pub fn apply_request(&self, stream: &mut HttpStream) {
        self.remove_from(&mut stream.request.headers);
        if !self.add.is_empty() {
            let values = self.values(&FormatContext::of_stream(stream), &stream.request.headers);
            set(&mut stream.request.headers, values);
        }
    }

    /// Changes the response of a stream, if there is one.
    pub fn apply_response(&self, stream: &mut HttpStream) {
        let Some(response) = &mut stream.response else { return };
        self.remove_from(&mut response.headers);
        if self.add.is_empty() {
            return;
        }
        let Some(response) = &stream.response else { return };
        let values = self.values(&FormatContext::of_stream(stream), &response.headers);
        if let Some(response) = &mut stream.response {
            set(&mut response.headers, values);
        }
    }

    fn remove_from(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// All values, made before any is set: a rule does not see what another one does.
    fn values(&self, cx: &FormatContext<'_>, headers: &HeaderMap) -> Values<'_> {
        let mut values = Values::new();
        let mut text = Vec::new();
        for rule in &self.add {
            let wanted = match rule.action {
                Action::Append | Action::Overwrite => true,
                Action::AddIfAbsent => !headers.contains_key(&rule.name),
                Action::OverwriteIfExists => headers.contains_key(&rule.name),
            };
            if !wanted {
                continue;
            }
            let value = match &rule.value {
                RuleValue::Constant(value) => value.clone(),
                RuleValue::Format(format) => {
                    text.clear();
                    format.write_or_empty(&mut text, cx);
                    // What cannot be in a header, such as the line end in a certificate's name, is not put there.
                    match HeaderValue::from_bytes(&text) {
                        Ok(value) => value,
                        Err(_) => continue,
                    }
                }
            };
            if !value.is_empty() || rule.keep_empty {
                values.push((rule, value));
            }
        }
        values
    }
}

/// First what overwrites, then what is added, as Envoy does.
fn set(headers: &mut HeaderMap, values: Values<'_>) {
    let (overwrite, add): (Values<'_>, Values<'_>) =
        values.into_iter().partition(|(rule, _)| matches!(rule.action, Action::Overwrite | Action::OverwriteIfExists));
    for (rule, value) in overwrite {
        headers.insert(&rule.name, value);
    }
    for (rule, value) in add {
        match headers.get_mut(&rule.name) {
            Some(present) if rule.is_joined => {
                let joined = [present.as_bytes(), b",", value.as_bytes()].concat();
                if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                    *present = joined;
                }
            }
            _ => {
                headers.append(&rule.name, value);
            }
        }
    }
}

fn rule(option: proto::HeaderValueOption, path: &str) -> Result<Rule, HeaderOpsError> {
    let fail =
        |field: &str, reason: &str| Err(HeaderOpsError { path: format!("{path}{field}"), reason: reason.to_owned() });
    #[allow(deprecated, reason = "the deprecated field is still supported")]
    let proto::HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let Some(proto::HeaderValue { key, value, raw_value }) = header else {
        return fail(".header", "value is required");
    };
    if key.is_empty() {
        return fail(".header.key", "value length must be at least 1 characters");
    }
    let Some(name) = changeable(&key) else {
        return fail(".header.key", ":-prefixed or host headers may not be modified");
    };
    let Ok(name) = name else {
        return fail(".header.key", "is not a header name");
    };
    let action = match HeaderAppendAction::try_from(append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Action::Append,
        Ok(HeaderAppendAction::AddIfAbsent) => Action::AddIfAbsent,
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Action::Overwrite,
        Ok(HeaderAppendAction::OverwriteIfExists) => Action::OverwriteIfExists,
        Err(_) => return fail(".append_action", "value must be one of the defined enum values"),
    };
    let action = match append {
        Some(_) if action != Action::Append => {
            return fail("", "Both append and append_action are set and it's not allowed");
        }
        Some(append) if !append.value => Action::Overwrite,
        _ => action,
    };
    let text = match (value.is_empty(), raw_value.is_empty()) {
        (false, _) | (true, true) => value,
        (true, false) => match String::from_utf8(raw_value) {
            Ok(text) => text,
            Err(_) => return fail(".header.raw_value", "is not UTF-8, which is not supported yet"),
        },
    };
    let format = match Format::parse(&translate(&text)) {
        Ok(format) => format,
        Err(e) => return fail(".header.value", &e.0),
    };
    let value = match format.constant().map(HeaderValue::from_bytes) {
        Some(Ok(value)) => RuleValue::Constant(value),
        Some(Err(_)) => return fail(".header.value", "has characters that a header cannot have"),
        None => RuleValue::Format(format),
    };
    Ok(Rule { is_joined: is_joined(&name), name, action, keep_empty: keep_empty_value, value })
}

fn removal(name: &str, path: &str) -> Result<HeaderName, HeaderOpsError> {
    let fail = |reason: &str| Err(HeaderOpsError { path: path.to_owned(), reason: reason.to_owned() });
    match changeable(name) {
        _ if name.is_empty() => fail("value length must be at least 1 characters"),
        None => fail(":-prefixed or host headers may not be removed"),
        Some(Ok(name)) => Ok(name),
        Some(Err(())) => fail("is not a header name"),
    }
}

/// The name, unless it is one of those that rules may not touch.
fn changeable(name: &str) -> Option<Result<HeaderName, ()>> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return None;
    }
    Some(HeaderName::from_bytes(name.as_bytes()).map_err(drop))
}

/// The forms of old that header rules still take: `%DYNAMIC_METADATA(["a", "b"])%` and `%PER_REQUEST_STATE(key)%`.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let found = ["%DYNAMIC_METADATA([", "%UPSTREAM_METADATA([", "%PER_REQUEST_STATE("]
            .into_iter()
            .filter_map(|form| rest.find(form).map(|at| (at, form)))
            .min();
        let replaced = found.and_then(|(at, form)| {
            let (before, after) = rest.split_at_checked(at)?;
            let after = after.strip_prefix(form)?;
            if form.ends_with('[') {
                let (list, after) = after.split_once("])%")?;
                let keys: Vec<String> = serde_json::from_str(&format!("[{list}]")).ok()?;
                let name = form.strip_suffix('[')?;
                Some((format!("{before}{name}{})%", keys.join(":")), after))
            } else {
                let (key, after) = after.split_once(")%")?;
                Some((format!("{before}%FILTER_STATE({key}:PLAIN)%"), after))
            }
        });
        match replaced {
            Some((text, after)) => {
                out.push_str(&text);
                rest = after;
            }
            None => {
                out.push_str(rest);
                return out;
            }
        }
    }
}

/// The rules of route, virtual host and route configuration, in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct HeaderOpsChain {
    steps: Box<[Arc<HeaderOps>]>,
}

impl HeaderOpsChain {
    /// Combines rules given from the most specific (weighted cluster, route) to the least (route configuration). That is also the order
    /// of applying, so the least specific has the last word, unless `most_specific_wins` (`most_specific_header_mutations_wins`).
    pub fn new(
        most_specific_first: impl IntoIterator<Item = Arc<HeaderOps>>,
        most_specific_wins: bool,
    ) -> HeaderOpsChain {
        let mut steps: Vec<_> = most_specific_first.into_iter().filter(|ops| !ops.is_empty()).collect();
        if most_specific_wins {
            steps.reverse();
        }
        HeaderOpsChain { steps: steps.into() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Changes the request of a stream.
    pub fn apply_request(&self, stream: &mut HttpStream) {
        for step in &self.steps {
            step.apply_request(stream);
        }
    }

    /// Changes the response of a stream, if there is one.
    pub fn apply_response(&self, stream: &mut HttpStream) {
        for step in &self.steps {
            step.apply_response(stream);
        }
    }
}
