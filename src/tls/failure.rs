//! Why a handshake failed, in BoringSSL's words: `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`, `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved};

use super::verify::Refused;

/// `ERR_PACK(ERR_LIB_SSL, reason)`.
const SSL: u32 = 16 << 24;

/// A TLS alert of the peer is reason 1000 and its number.
const ALERT: u32 = 1000;

/// The reason of an error of a TLS stream; none where it was no TLS error, but one of the connection below.
pub fn io_reason(error: &std::io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(reason)
}

/// The reason of a failed handshake, as Envoy logs it.
pub fn reason(error: &Error) -> String {
    let (code, name, detail) = words(error);
    let detail = detail.map(|d| format!(":{}", d.replace(' ', "_"))).unwrap_or_default();
    format!("TLS_error:|{}:SSL_routines:OPENSSL_internal:{name}{detail}:TLS_error_end", SSL + code)
}

fn words(error: &Error) -> (u32, String, Option<String>) {
    let plain = |code, name: &str| (code, name.to_owned(), None);
    match error {
        Error::InvalidCertificate(e) => {
            (125, "CERTIFICATE_VERIFY_FAILED".into(), Some(format!("verify cert failed: {}", cause(e))))
        }
        Error::NoCertificatesPresented => (
            192,
            "PEER_DID_NOT_RETURN_A_CERTIFICATE".into(),
            Some("peer did not provide required client certificate".into()),
        ),
        Error::AlertReceived(alert) => alert_words(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            plain(247, "WRONG_VERSION_NUMBER")
        }
        Error::InvalidMessage(InvalidMessage::MessageTooLarge | InvalidMessage::HandshakePayloadTooLarge) => {
            plain(149, "EXCESSIVE_MESSAGE_SIZE")
        }
        Error::InvalidMessage(_) => plain(137, "DECODE_ERROR"),
        Error::PeerSentOversizedRecord => plain(136, "DATA_LENGTH_TOO_LONG"),
        Error::PeerIncompatible(e) => match e {
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => plain(240, "UNSUPPORTED_PROTOCOL"),
            PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
                plain(266, "NO_SHARED_GROUP")
            }
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon => plain(253, "NO_COMMON_SIGNATURE_ALGORITHMS"),
            _ => plain(184, "NO_SHARED_CIPHER"),
        },
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            plain(259, "INVALID_ALPN_PROTOCOL")
        }
        Error::DecryptError => plain(139, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        Error::InappropriateMessage { .. } => plain(245, "UNEXPECTED_RECORD"),
        Error::InappropriateHandshakeMessage { .. } => plain(244, "UNEXPECTED_MESSAGE"),
        Error::NoApplicationProtocol => plain(307, "NO_APPLICATION_PROTOCOL"),
        other => (68, "INTERNAL_ERROR".into(), Some(other.to_string())),
    }
}

/// BoringSSL's texts (`X509_verify_cert_error_string`). The depth is that of the leaf: rustls does not tell another.
fn cause(error: &CertificateError) -> String {
    let text = match error {
        CertificateError::Other(OtherError(other)) => {
            if let Some(refused) = other.downcast_ref::<Refused>() {
                return refused.to_string();
            }
            match other.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::MaximumPathDepthExceeded) => "certificate chain too long",
                Some(webpki::Error::PathLenConstraintViolated) => "path length constraint exceeded",
                Some(webpki::Error::EndEntityUsedAsCa) => "invalid CA certificate",
                Some(webpki::Error::NameConstraintViolation) => "permitted subtree violation",
                _ => return format!("X509_verify_cert: certificate verification error at depth 0: {other}"),
            }
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate is not yet valid",
        CertificateError::UnknownIssuer => "unable to get local issuer certificate",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownRevocationStatus => "unable to get certificate CRL",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "CRL has expired"
        }
        CertificateError::BadSignature => "certificate signature failure",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsupported certificate purpose"
        }
        CertificateError::UnhandledCriticalExtension => "unhandled critical extension",
        other => return format!("X509_verify_cert: certificate verification error at depth 0: {other}"),
    };
    format!("X509_verify_cert: certificate verification error at depth 0: {text}")
}

fn alert_words(alert: AlertDescription) -> (u32, String, Option<String>) {
    let name = match u8::from(alert) {
        0 => "SSLV3_ALERT_CLOSE_NOTIFY",
        10 => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        20 => "SSLV3_ALERT_BAD_RECORD_MAC",
        21 => "TLSV1_ALERT_DECRYPTION_FAILED",
        22 => "TLSV1_ALERT_RECORD_OVERFLOW",
        30 => "SSLV3_ALERT_DECOMPRESSION_FAILURE",
        40 => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        41 => "SSLV3_ALERT_NO_CERTIFICATE",
        42 => "SSLV3_ALERT_BAD_CERTIFICATE",
        43 => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        44 => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        45 => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        46 => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        47 => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        48 => "TLSV1_ALERT_UNKNOWN_CA",
        49 => "TLSV1_ALERT_ACCESS_DENIED",
        50 => "TLSV1_ALERT_DECODE_ERROR",
        51 => "TLSV1_ALERT_DECRYPT_ERROR",
        70 => "TLSV1_ALERT_PROTOCOL_VERSION",
        71 => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        80 => "TLSV1_ALERT_INTERNAL_ERROR",
        86 => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        90 => "TLSV1_ALERT_USER_CANCELLED",
        100 => "TLSV1_ALERT_NO_RENEGOTIATION",
        110 => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        111 => "TLSV1_ALERT_CERTIFICATE_UNOBTAINABLE",
        112 => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        113 => "TLSV1_ALERT_BAD_CERTIFICATE_STATUS_RESPONSE",
        114 => "TLSV1_ALERT_BAD_CERTIFICATE_HASH_VALUE",
        115 => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        116 => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        120 => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        121 => "TLSV1_ALERT_ECH_REQUIRED",
        other => return (ALERT + u32::from(other), format!("UNKNOWN_ALERT_{other}"), None),
    };
    (ALERT + u32::from(u8::from(alert)), name.to_owned(), None)
}
