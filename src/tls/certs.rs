//! What the admin endpoint `/certs` shows (`admin.v3.Certificates`).

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use waypost_filters::connection::CertificateInfo;

/// The certificates of one TLS context (`admin.v3.Certificate`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextCertificates {
    /// `ca_cert`: the first certificate of the trusted CA.
    pub ca_cert: Vec<CertificateDetails>,
    /// `cert_chain`: the leaf of each own certificate.
    pub cert_chain: Vec<CertificateDetails>,
}

/// `admin.v3.CertificateDetails`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateDetails {
    /// The file, or `<inline>`.
    pub path: String,
    /// Hex, lower case.
    pub serial_number: String,
    /// `dns`, `uri` or `ip_address`, with the name, in the order of these kinds.
    pub subject_alt_names: Vec<(&'static str, String)>,
    /// Seconds since the epoch.
    pub valid_from: i64,
    /// Seconds since the epoch.
    pub expiration_time: i64,
}

impl CertificateDetails {
    pub(super) fn of(info: &CertificateInfo, origin: &str) -> CertificateDetails {
        let kinds = [("dns", &info.dns_sans), ("uri", &info.uri_sans), ("ip_address", &info.ip_sans)];
        CertificateDetails {
            path: origin.to_owned(),
            serial_number: info.serial.clone(),
            subject_alt_names: kinds
                .into_iter()
                .flat_map(|(kind, names)| names.iter().map(move |n| (kind, n.clone())))
                .collect(),
            valid_from: info.not_before,
            expiration_time: info.not_after,
        }
    }

    /// Whole days that are left; 0 once it has expired.
    pub fn days_until_expiration(&self, now: SystemTime) -> u64 {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        u64::try_from(self.expiration_time).unwrap_or_default().saturating_sub(now) / (24 * 60 * 60)
    }

    fn json(&self, now: SystemTime) -> Value {
        json!({
            "path": self.path,
            "serial_number": self.serial_number,
            "subject_alt_names": self.subject_alt_names.iter().map(|(kind, name)| json!({*kind: name})).collect::<Vec<_>>(),
            "days_until_expiration": self.days_until_expiration(now).to_string(),
            "valid_from": rfc3339(self.valid_from),
            "expiration_time": rfc3339(self.expiration_time),
        })
    }
}

impl ContextCertificates {
    /// One entry of `certificates` in the answer of `/certs`.
    pub fn json(&self, now: SystemTime) -> Value {
        let list = |details: &[CertificateDetails]| details.iter().map(|d| d.json(now)).collect::<Vec<_>>();
        json!({"ca_cert": list(&self.ca_cert), "cert_chain": list(&self.cert_chain)})
    }
}

fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_default()
}
