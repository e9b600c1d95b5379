//! What logs, headers and policies read of certificates and sessions.

use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConnection, CommonState, ServerConnection};
use waypost_filters::connection::{CertificateInfo, Pem, TlsSession};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::FromDer;
use x509_parser::der_parser::oid;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::client::ClientTls;
use super::names;
use super::san::{self, San};
use super::server::ServerTls;

/// The session of a finished downstream handshake.
pub fn session_of_server(connection: &ServerConnection, tls: &ServerTls) -> TlsSession {
    let local = tls.identity(connection.server_name(), connection.negotiated_cipher_suite());
    let validated = tls.validates(connection.peer_certificates().unwrap_or_default(), UnixTime::now());
    session(connection, local, validated)
}

/// The session of a finished upstream handshake.
pub fn session_of_client(connection: &ClientConnection, tls: &ClientTls) -> TlsSession {
    let validated = tls.validates(connection.peer_certificates().unwrap_or_default(), UnixTime::now());
    session(connection, tls.identity(), validated)
}

fn session(state: &CommonState, local: Option<Arc<CertificateInfo>>, peer_validated: bool) -> TlsSession {
    let peer = state.peer_certificates().and_then(certificate_info).map(Arc::new);
    TlsSession {
        version: state.protocol_version().map_or("", names::version),
        cipher: state.negotiated_cipher_suite().map_or("", |suite| names::cipher(suite.suite())),
        alpn: state.alpn_protocol().and_then(|p| std::str::from_utf8(p).ok()).map(Arc::from),
        peer,
        local,
        peer_validated,
        session_id: String::new(),
    }
}

/// What a chain's first certificate says; none if it cannot be read.
pub fn certificate_info(chain: &[CertificateDer<'_>]) -> Option<CertificateInfo> {
    let leaf = chain.first()?;
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let mut info = CertificateInfo {
        subject: rfc2253(certificate.subject()),
        issuer: rfc2253(certificate.issuer()),
        sha256: hex(digest::digest(&SHA256, leaf).as_ref()),
        sha1: hex(digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, leaf).as_ref()),
        // DER puts a zero before a first byte that would look negative.
        serial: hex(certificate.raw_serial().strip_prefix(&[0]).unwrap_or(certificate.raw_serial())),
        pem_encoded: Pem::of([leaf]),
        chain_pem_encoded: Pem::of(chain),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        ..CertificateInfo::default()
    };
    for name in san::names(&certificate) {
        match name {
            San::Uri(s) => info.uri_sans.push(s),
            San::Dns(s) => info.dns_sans.push(s),
            San::Ip(s) => info.ip_sans.push(s),
            San::Email(s) => info.email_sans.push(s),
            San::Other(..) => {}
        }
    }
    Some(info)
}

/// The common name of a chain's first certificate.
pub(super) fn common_name(chain: &[CertificateDer<'_>]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A distinguished name as OpenSSL prints it with `XN_FLAG_RFC2253`: last part first, short names, escapes.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<Vec<_>> = name.iter().map(|part| part.iter().collect()).collect();
    for part in parts.iter().rev() {
        for (i, attribute) in part.iter().rev().enumerate() {
            if !text.is_empty() {
                text.push(if i == 0 { ',' } else { '+' });
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match short_name(attribute) {
        Some(name) => text.push_str(name),
        None => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    match attribute.as_str() {
        Ok(value) if short_name(attribute).is_some() => escape(text, value),
        // An unknown type, or a value that is no string: its DER form in hex.
        _ => {
            text.push('#');
            let value = attribute.attr_value();
            let (tag, data) = (value.tag().0, value.data);
            let header = u8::try_from(tag).into_iter().chain(length(data.len()));
            text.push_str(&hex(&header.chain(data.iter().copied()).collect::<Vec<_>>()).to_ascii_uppercase());
        }
    }
}

/// A DER length; names are far shorter than 2^16.
fn length(n: usize) -> Vec<u8> {
    match u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes() {
        [0, low] if low < 0x80 => vec![low],
        [0, low] => vec![0x81, low],
        [high, low] => vec![0x82, high, low],
    }
}

fn short_name(attribute: &AttributeTypeAndValue<'_>) -> Option<&'static str> {
    let names = [
        (oid!(2.5.4.3), "CN"),
        (oid!(2.5.4.4), "SN"),
        (oid!(2.5.4.5), "serialNumber"),
        (oid!(2.5.4.6), "C"),
        (oid!(2.5.4.7), "L"),
        (oid!(2.5.4.8), "ST"),
        (oid!(2.5.4.9), "street"),
        (oid!(2.5.4.10), "O"),
        (oid!(2.5.4.11), "OU"),
        (oid!(2.5.4.12), "title"),
        (oid!(2.5.4.13), "description"),
        (oid!(2.5.4.17), "postalCode"),
        (oid!(2.5.4.42), "GN"),
        (oid!(2.5.4.43), "initials"),
        (oid!(2.5.4.46), "dnQualifier"),
        (oid!(0.9.2342.19200300.100.1.1), "UID"),
        (oid!(0.9.2342.19200300.100.1.25), "DC"),
        (oid!(1.2.840.113549.1.9.1), "emailAddress"),
    ];
    names.iter().find(|(oid, _)| oid == attribute.attr_type()).map(|(_, name)| *name)
}

/// RFC 2253, 2.4, with control characters and bytes outside ASCII in hex.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', byte.into()]),
            b' ' if i == 0 || i == last => text.push_str("\\ "),
            b'#' if i == 0 => text.push_str("\\#"),
            0x20..=0x7e => text.push(byte.into()),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}
