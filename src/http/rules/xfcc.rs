//! `x-forwarded-client-cert` (`forward_client_cert_details`).

use http::{HeaderMap, HeaderName, HeaderValue};
use waypost_filters::connection::{CertificateInfo, TlsSession};

use super::append;
use crate::http::config::{Xfcc, XfccMode};

/// `x-forwarded-client-cert`
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Removes, keeps, sets or appends to the header, as the mode has it. Without a client certificate nothing a client says is believed, but
/// in `ALWAYS_FORWARD_ONLY`.
pub fn apply(headers: &mut HeaderMap, options: &Xfcc, tls: Option<&TlsSession>) {
    if options.mode == XfccMode::AlwaysForwardOnly {
        return;
    }
    let peer = tls.and_then(|session| Some((session.local.as_deref(), session.peer.as_deref()?)));
    match (options.mode, peer) {
        (XfccMode::Sanitize, _) | (_, None) => {
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
        (XfccMode::ForwardOnly | XfccMode::AlwaysForwardOnly, Some(_)) => {}
        (XfccMode::AppendForward, Some((local, peer))) => match element(options, local, peer) {
            Some(element) => append(headers, X_FORWARDED_CLIENT_CERT, ",", &element),
            // A certificate whose text fits no header must not leave the client's word standing alone.
            None => drop(headers.remove(X_FORWARDED_CLIENT_CERT)),
        },
        (XfccMode::SanitizeSet, Some((local, peer))) => match element(options, local, peer) {
            Some(element) => drop(headers.insert(X_FORWARDED_CLIENT_CERT, element)),
            None => drop(headers.remove(X_FORWARDED_CLIENT_CERT)),
        },
    }
}

/// `By=…;Hash=…;…`
fn element(options: &Xfcc, local: Option<&CertificateInfo>, peer: &CertificateInfo) -> Option<HeaderValue> {
    let mut out = Vec::with_capacity(256);
    let mut pair = |key: &str, value: &str, quote: &str| {
        if !out.is_empty() {
            out.push(b';');
        }
        for part in [key, "=", quote, value, quote] {
            out.extend_from_slice(part.as_bytes());
        }
    };
    for uri in local.iter().flat_map(|l| &l.uri_sans) {
        pair("By", uri, "");
    }
    if !peer.sha256.is_empty() {
        pair("Hash", &peer.sha256, "");
    }
    if options.cert && !peer.pem_encoded.is_empty() {
        pair("Cert", &peer.pem_encoded, "\"");
    }
    if options.chain && !peer.chain_pem_encoded.is_empty() {
        pair("Chain", &peer.chain_pem_encoded, "\"");
    }
    // Subject and URI are there even if they are empty.
    if options.subject {
        pair("Subject", &peer.subject, "\"");
    }
    if options.issuer {
        pair("Issuer", &peer.issuer, "\"");
    }
    if options.uri {
        if peer.uri_sans.is_empty() {
            pair("URI", "", "");
        }
        for uri in &peer.uri_sans {
            pair("URI", uri, "");
        }
    }
    if options.dns {
        for dns in &peer.dns_sans {
            pair("DNS", dns, "");
        }
    }
    HeaderValue::from_bytes(&out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn session(client: bool) -> TlsSession {
        let peer = CertificateInfo {
            subject: "CN=client,O=Org".into(),
            uri_sans: vec!["spiffe://td/ns/x/sa/y".into()],
            dns_sans: vec!["a.b".into(), "c.d".into()],
            sha256: "00ff".into(),
            pem_encoded: "PEM".into(),
            ..CertificateInfo::default()
        };
        let local = CertificateInfo { uri_sans: vec!["spiffe://td/ns/w/sa/w".into()], ..CertificateInfo::default() };
        TlsSession { peer: client.then(|| Arc::new(peer)), local: Some(Arc::new(local)), ..TlsSession::default() }
    }

    #[test]
    fn five_modes_with_a_client_that_lies() {
        const OURS: &str =
            r#"By=spiffe://td/ns/w/sa/w;Hash=00ff;Subject="CN=client,O=Org";URI=spiffe://td/ns/x/sa/y;DNS=a.b;DNS=c.d"#;
        let appended = format!("spoof,{OURS}");
        for (mode, mtls, tls, plain) in [
            (XfccMode::Sanitize, None, None, None),
            (XfccMode::ForwardOnly, Some("spoof"), None, None),
            (XfccMode::AppendForward, Some(appended.as_str()), None, None),
            (XfccMode::SanitizeSet, Some(OURS), None, None),
            (XfccMode::AlwaysForwardOnly, Some("spoof"), Some("spoof"), Some("spoof")),
        ] {
            let options = Xfcc { mode, subject: true, uri: true, dns: true, ..Xfcc::default() };
            for (session, expected) in [(Some(session(true)), mtls), (Some(session(false)), tls), (None, plain)] {
                let mut headers = HeaderMap::new();
                headers.insert(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static("spoof"));
                apply(&mut headers, &options, session.as_ref());
                let got = headers.get(X_FORWARDED_CLIENT_CERT).map(|v| v.to_str().unwrap());
                assert_eq!(got, expected, "{mode:?}");
            }
        }
    }

    #[test]
    fn cert_comes_before_subject_and_bad_text_drops_the_header() {
        let options = Xfcc { mode: XfccMode::SanitizeSet, cert: true, subject: true, ..Xfcc::default() };
        let mut headers = HeaderMap::new();
        apply(&mut headers, &options, Some(&session(true)));
        let value = headers.get(X_FORWARDED_CLIENT_CERT).unwrap();
        assert_eq!(value, r#"By=spiffe://td/ns/w/sa/w;Hash=00ff;Cert="PEM";Subject="CN=client,O=Org""#);
        let evil = CertificateInfo { subject: "CN=a\r\nx: y".into(), ..CertificateInfo::default() };
        let evil = TlsSession { peer: Some(Arc::new(evil)), ..TlsSession::default() };
        apply(&mut headers, &Xfcc { mode: XfccMode::AppendForward, ..options }, Some(&evil));
        assert!(!headers.contains_key(X_FORWARDED_CLIENT_CERT));
    }
}
