//! An answer of an endpoint.

use http::StatusCode;
use serde_json::Value;

/// An answer of an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The status.
    pub status: StatusCode,
    /// `content-type`
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// What Envoy says of text.
const TEXT: &str = "text/plain; charset=UTF-8";

impl Page {
    /// Text, 200.
    pub fn text(body: impl Into<String>) -> Page {
        Page::status(StatusCode::OK, body)
    }

    /// Text with a status.
    pub fn status(status: StatusCode, body: impl Into<String>) -> Page {
        Page { status, content_type: TEXT, body: body.into() }
    }

    /// 400 with a reason.
    pub fn bad_request(body: impl Into<String>) -> Page {
        Page::status(StatusCode::BAD_REQUEST, body)
    }

    /// `OK`, as most of what changes something says.
    pub fn ok() -> Page {
        Page::text("OK\n")
    }

    /// JSON as Envoy prints messages.
    pub fn json(value: &Value) -> Page {
        Page { status: StatusCode::OK, content_type: "application/json", body: super::json::pretty(value) }
    }

    /// JSON that is written already.
    pub fn raw_json(body: String) -> Page {
        Page { status: StatusCode::OK, content_type: "application/json", body }
    }

    /// HTML; what it is made of must have gone through [`escape`].
    pub fn html(body: String) -> Page {
        Page { status: StatusCode::OK, content_type: "text/html; charset=UTF-8", body }
    }
}

/// Text within HTML. Stat names hold what configuration and peers put there (CVE-2026-73546).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
