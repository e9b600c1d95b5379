//! A request's path and query parameters.

/// A path and its decoded parameters, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The path without the query.
    pub path: String,
    params: Vec<(String, String)>,
}

impl Query {
    /// Takes a request target apart.
    pub fn parse(target: &str) -> Query {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Query { path: path.to_owned(), params: pairs(query) }
    }

    /// The parameters as pairs; one without `=` is empty.
    pub fn params(&self) -> &[(String, String)] {
        &self.params
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a parameter is there, with whatever value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds the parameters of a form in the body.
    pub fn add_form(&mut self, body: &str) {
        self.params.extend(pairs(body));
    }
}

fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(n, v)| (decode(n), decode(v)))
        .collect()
}

/// Percent-decoding; what is not two hexadecimal digits stays as it is, and so does `+`.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(h), Some(l)) => {
                // Two digits are at most 255.
                out.push((h * 16 + l) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
