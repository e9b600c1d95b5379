//! BoringSSL's names for what rustls negotiates: configuration, access logs and stats use them.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite};

/// TLS 1.2 suites in Envoy's default order, with BoringSSL's names.
pub(super) const TLS12: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
];

/// TLS 1.3 suites in BoringSSL's order; the API cannot choose among them.
pub(super) const TLS13: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// Suites that BoringSSL has and rustls leaves out, as they lack forward secrecy or use CBC. A list may name them beside better ones.
pub(super) const LEFT_OUT: [&str; 14] = [
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "AES128-SHA256",
    "AES256-SHA256",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-PSK-CHACHA20-POLY1305",
];

/// Key exchange groups by BoringSSL's names.
pub(super) const GROUPS: [(&str, NamedGroup, &dyn SupportedKxGroup); 4] = [
    ("X25519", NamedGroup::X25519, kx_group::X25519),
    ("P-256", NamedGroup::secp256r1, kx_group::SECP256R1),
    ("P-384", NamedGroup::secp384r1, kx_group::SECP384R1),
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768, kx_group::X25519MLKEM768),
];

/// A suite's name (`SSL_CIPHER_get_name`).
pub(super) fn cipher(suite: CipherSuite) -> &'static str {
    TLS13.iter().chain(&TLS12).find(|(_, s)| s.suite() == suite).map_or("", |(name, _)| name)
}

/// A version's name (`SSL_get_version`).
pub(super) fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "",
    }
}
