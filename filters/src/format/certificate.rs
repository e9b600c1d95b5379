//! What operators print of certificates.

use super::FormatContext;
use super::operator::append;
use crate::connection::{CertificateInfo, TlsSession};

pub(super) type CertificateFn = for<'a> fn(&FormatContext<'a>) -> Option<&'a CertificateInfo>;

/// An operator on one side's certificate of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct CertificateOp {
    pub which: CertificateFn,
    pub field: Field,
}

/// A field of a certificate; an empty one is missing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Text(fn(&CertificateInfo) -> &str),
    /// Joined by commas.
    List(fn(&CertificateInfo) -> &Vec<String>),
}

impl CertificateOp {
    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let Some(certificate) = (self.which)(cx) else { return false };
        match self.field {
            Field::Text(f) => {
                let text = f(certificate);
                !text.is_empty() && append(out, text.as_bytes())
            }
            Field::List(f) => {
                let list = f(certificate);
                for (i, item) in list.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(item.as_bytes());
                }
                !list.is_empty()
            }
        }
    }
}

/// The field that the end of an operator's name stands for, `URI_SAN` say.
pub(super) fn field(name: &str) -> Option<Field> {
    Some(match name {
        "URI_SAN" => Field::List(|c| &c.uri_sans),
        "DNS_SAN" => Field::List(|c| &c.dns_sans),
        "IP_SAN" => Field::List(|c| &c.ip_sans),
        "EMAIL_SAN" => Field::List(|c| &c.email_sans),
        "SUBJECT" => Field::Text(|c| &c.subject),
        "ISSUER" => Field::Text(|c| &c.issuer),
        "SERIAL" => Field::Text(|c| &c.serial),
        "FINGERPRINT_256" => Field::Text(|c| &c.sha256),
        "FINGERPRINT_1" => Field::Text(|c| &c.sha1),
        "CERT" => Field::Text(|c| &c.pem_encoded),
        _ => return None,
    })
}

pub(super) fn downstream<'a>(cx: &FormatContext<'a>) -> Option<&'a TlsSession> {
    cx.info.connection.tls.as_deref()
}

pub(super) fn upstream<'a>(cx: &FormatContext<'a>) -> Option<&'a TlsSession> {
    cx.info.upstream.tls.as_deref()
}

pub(super) fn downstream_peer<'a>(cx: &FormatContext<'a>) -> Option<&'a CertificateInfo> {
    downstream(cx)?.peer.as_deref()
}

pub(super) fn downstream_local<'a>(cx: &FormatContext<'a>) -> Option<&'a CertificateInfo> {
    downstream(cx)?.local.as_deref()
}

pub(super) fn upstream_peer<'a>(cx: &FormatContext<'a>) -> Option<&'a CertificateInfo> {
    upstream(cx)?.peer.as_deref()
}

pub(super) fn upstream_local<'a>(cx: &FormatContext<'a>) -> Option<&'a CertificateInfo> {
    upstream(cx)?.local.as_deref()
}
