//! Subject alternative names and their matchers (`SubjectAltNameMatcher`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{
    SubjectAltNameMatcher, subject_alt_name_matcher::SanType,
};
use waypost_xds::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, FromDer};
use x509_parser::extensions::GeneralName;

use crate::config::ConfigError;

/// A subject alternative name. One with a NUL inside is none: what comes after it was hidden from other readers (CVE-2025-66220).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum San {
    Email(String),
    Dns(String),
    Uri(String),
    Ip(String),
    /// The OID and the value, if that is a string.
    Other(String, String),
}

impl San {
    /// The name itself.
    pub fn text(&self) -> &str {
        match self {
            San::Email(s) | San::Dns(s) | San::Uri(s) | San::Ip(s) | San::Other(_, s) => s,
        }
    }
}

/// The names of a certificate in their order.
pub(super) fn names(certificate: &X509Certificate<'_>) -> Vec<San> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(san).filter(|s| !s.text().contains('\0')).collect()
}

fn san(name: &GeneralName<'_>) -> Option<San> {
    Some(match name {
        GeneralName::RFC822Name(s) => San::Email((*s).to_owned()),
        GeneralName::DNSName(s) => San::Dns((*s).to_owned()),
        GeneralName::URI(s) => San::Uri((*s).to_owned()),
        GeneralName::IPAddress(bytes) => San::Ip(ip(bytes)?.to_string()),
        GeneralName::OtherName(oid, value) => San::Other(oid.to_id_string(), other(value)?),
        _ => return None,
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

/// `[0] EXPLICIT value` (RFC 5280, 4.2.1.6), where the value is a string of one byte to a character or UTF-8.
fn other(value: &[u8]) -> Option<String> {
    let (_, explicit) = Any::from_der(value).ok()?;
    let (_, inner) = Any::from_der(explicit.data).ok()?;
    // UTF8String, NumericString, PrintableString, IA5String, VisibleString.
    matches!(inner.tag().0, 12 | 18 | 19 | 22 | 26).then(|| std::str::from_utf8(inner.data).ok().map(str::to_owned))?
}

/// A compiled `SubjectAltNameMatcher`.
#[derive(Debug)]
pub(super) struct SanMatcher {
    kind: SanType,
    /// Of `OTHER_NAME`.
    oid: String,
    text: Text,
}

#[derive(Debug)]
enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    ExactIgnoreCase(String),
    PrefixIgnoreCase(String),
    SuffixIgnoreCase(String),
    ContainsIgnoreCase(String),
    Regex(Regex),
}

impl SanMatcher {
    pub fn compile(matcher: &SubjectAltNameMatcher, path: &str) -> Result<SanMatcher, ConfigError> {
        let SubjectAltNameMatcher { san_type, matcher, oid } = matcher;
        let kind = SanType::try_from(*san_type).unwrap_or_default();
        if kind == SanType::Unspecified {
            return Err(ConfigError::new(format!("{path}.san_type"), "must be given"));
        }
        if (kind == SanType::OtherName) == oid.is_empty() {
            return Err(ConfigError::new(format!("{path}.oid"), "must be given with OTHER_NAME, and only then"));
        }
        let text = matcher.as_ref().ok_or_else(|| ConfigError::new(format!("{path}.matcher"), "must be given"))?;
        Ok(SanMatcher { kind, oid: oid.clone(), text: Text::compile(text, &format!("{path}.matcher"))? })
    }

    /// The deprecated `match_subject_alt_names`: a matcher for each of four types.
    pub fn any_type(matcher: &StringMatcher, path: &str) -> Result<Vec<SanMatcher>, ConfigError> {
        [SanType::Dns, SanType::Uri, SanType::Email, SanType::IpAddress]
            .into_iter()
            .map(|kind| Ok(SanMatcher { kind, oid: String::new(), text: Text::compile(matcher, path)? }))
            .collect()
    }

    pub fn matches(&self, san: &San) -> bool {
        match (self.kind, san) {
            // An exact DNS matcher is a host name, and the certificate may hold a wildcard for it.
            (SanType::Dns, San::Dns(pattern)) => match &self.text {
                Text::Exact(host) => dns_matches(host, pattern),
                text => text.matches(pattern),
            },
            (SanType::Email, San::Email(s)) | (SanType::Uri, San::Uri(s)) | (SanType::IpAddress, San::Ip(s)) => {
                self.text.matches(s)
            }
            (SanType::OtherName, San::Other(oid, s)) => *oid == self.oid && self.text.matches(s),
            _ => false,
        }
    }
}

impl Text {
    fn compile(matcher: &StringMatcher, path: &str) -> Result<Text, ConfigError> {
        let StringMatcher { ignore_case, match_pattern } = matcher;
        let lower = |s: &String| s.to_ascii_lowercase();
        Ok(match (match_pattern.as_ref(), ignore_case) {
            (Some(MatchPattern::Exact(s)), false) => Text::Exact(s.clone()),
            (Some(MatchPattern::Exact(s)), true) => Text::ExactIgnoreCase(lower(s)),
            (Some(MatchPattern::Prefix(s)), false) => Text::Prefix(s.clone()),
            (Some(MatchPattern::Prefix(s)), true) => Text::PrefixIgnoreCase(lower(s)),
            (Some(MatchPattern::Suffix(s)), false) => Text::Suffix(s.clone()),
            (Some(MatchPattern::Suffix(s)), true) => Text::SuffixIgnoreCase(lower(s)),
            (Some(MatchPattern::Contains(s)), false) => Text::Contains(s.clone()),
            (Some(MatchPattern::Contains(s)), true) => Text::ContainsIgnoreCase(lower(s)),
            // `ignore_case` has no effect on a regex.
            (Some(MatchPattern::SafeRegex(RegexMatcher { regex, engine_type: _ })), _) => {
                let whole = Regex::new(&format!(r"\A(?:{regex})\z"));
                Text::Regex(whole.map_err(|e| ConfigError::new(format!("{path}.safe_regex.regex"), e.to_string()))?)
            }
            (Some(MatchPattern::Custom(_)), _) => return Err(ConfigError::unsupported(format!("{path}.custom"))),
            (None, _) => return Err(ConfigError::new(path, "match pattern must be given")),
        })
    }

    fn matches(&self, s: &str) -> bool {
        match self {
            Text::Exact(t) => s == t,
            Text::Prefix(t) => s.starts_with(t.as_str()),
            Text::Suffix(t) => s.ends_with(t.as_str()),
            Text::Contains(t) => s.contains(t.as_str()),
            Text::ExactIgnoreCase(t) => s.eq_ignore_ascii_case(t),
            Text::PrefixIgnoreCase(t) => s.to_ascii_lowercase().starts_with(t.as_str()),
            Text::SuffixIgnoreCase(t) => s.to_ascii_lowercase().ends_with(t.as_str()),
            Text::ContainsIgnoreCase(t) => s.to_ascii_lowercase().contains(t.as_str()),
            Text::Regex(r) => r.is_match(s),
        }
    }
}

/// Whether a certificate's DNS name, perhaps with a wildcard in its left-most label, stands for a host (`Utility::dnsNameMatch`).
pub(super) fn dns_matches(host: &str, pattern: &str) -> bool {
    let (host, pattern) = (host.to_ascii_lowercase(), pattern.to_ascii_lowercase());
    if host == pattern {
        return true;
    }
    let (Some((label, domain)), Some((wild, rest))) = (host.split_once('.'), pattern.split_once('.')) else {
        return false;
    };
    // RFC 6125, 6.4.3: one wildcard, and none inside an A-label.
    match wild.split_once('*') {
        Some((before, after)) => {
            let once = !after.contains('*') && !rest.contains('*') && !wild.starts_with("xn--");
            let fits =
                wild == "*" || wild.len() <= label.len() + 1 && label.starts_with(before) && label.ends_with(after);
            once && domain == rest && fits
        }
        None => false,
    }
}

/// What `auto_san_validation` asks for: the name stands in the certificate, as a DNS name or as any other kind.
pub(super) fn is_for(sans: &[San], name: &str) -> bool {
    sans.iter().any(|san| match san {
        San::Dns(pattern) => dns_matches(name, pattern),
        San::Uri(s) | San::Ip(s) => s == name,
        San::Email(_) | San::Other(..) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(kind: SanType, pattern: MatchPattern, ignore_case: bool) -> SanMatcher {
        let matcher = Some(StringMatcher { ignore_case, match_pattern: Some(pattern) });
        SanMatcher::compile(&SubjectAltNameMatcher { san_type: kind.into(), matcher, oid: String::new() }, "p").unwrap()
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (host, pattern, want) in [
            ("a.example.com", "A.Example.com", true),
            ("a.example.com", "*.example.com", true),
            ("a.b.example.com", "*.example.com", false),
            ("example.com", "*.example.com", false),
            ("foo.example.com", "f*.example.com", true),
            ("foo.example.com", "*oo.example.com", true),
            ("fo.example.com", "fo*o.example.com", false),
            ("foo.example.com", "*o*.example.com", false),
            ("xn--a.example.com", "xn--*.example.com", false),
            ("a.b.com", "a.*.com", false),
            ("com", "*", false),
        ] {
            assert_eq!(dns_matches(host, pattern), want, "{host} {pattern}");
        }
    }

    #[test]
    fn matchers_see_their_own_type_only() {
        let uri = San::Uri("spiffe://td/ns/a/sa/b".into());
        assert!(matcher(SanType::Uri, MatchPattern::Prefix("spiffe://td/".into()), false).matches(&uri));
        assert!(matcher(SanType::Uri, MatchPattern::Suffix("/SA/B".into()), true).matches(&uri));
        assert!(!matcher(SanType::Uri, MatchPattern::Suffix("/SA/B".into()), false).matches(&uri));
        assert!(!matcher(SanType::Dns, MatchPattern::Prefix("spiffe://td/".into()), false).matches(&uri));
        let regex = |r: &str| MatchPattern::SafeRegex(RegexMatcher { regex: r.into(), engine_type: None });
        assert!(matcher(SanType::Uri, regex("spiffe://td/ns/.*"), false).matches(&uri));
        assert!(!matcher(SanType::Uri, regex("spiffe://td"), false).matches(&uri));
        let wild = San::Dns("*.example.com".into());
        assert!(matcher(SanType::Dns, MatchPattern::Exact("a.example.com".into()), false).matches(&wild));
        assert!(!matcher(SanType::Dns, MatchPattern::Exact("a.example.com".into()), true).matches(&wild));
    }

    #[test]
    fn a_type_must_be_given_and_an_oid_goes_with_other_names() {
        let m = |san_type: SanType, oid: &str| SubjectAltNameMatcher {
            san_type: san_type.into(),
            matcher: Some(StringMatcher { ignore_case: false, match_pattern: Some(MatchPattern::Exact("a".into())) }),
            oid: oid.into(),
        };
        assert_eq!(SanMatcher::compile(&m(SanType::Unspecified, ""), "p").unwrap_err().path, "p.san_type");
        assert_eq!(SanMatcher::compile(&m(SanType::OtherName, ""), "p").unwrap_err().path, "p.oid");
        let upn = SanMatcher::compile(&m(SanType::OtherName, "1.3.6.1.4.1.311.20.2.3"), "p").unwrap();
        assert!(upn.matches(&San::Other("1.3.6.1.4.1.311.20.2.3".into(), "a".into())));
        assert!(!upn.matches(&San::Other("1.2.3".into(), "a".into())));
    }
}
