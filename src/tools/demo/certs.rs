//! A throw-away root and the workloads' certificates under it.

use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

use crate::tools::error::Error;

/// The service accounts of the demonstration.
pub const ACCOUNTS: [&str; 3] = ["client", "waypoint", "backend"];

/// The identity of an account.
pub fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/demo/sa/{account}")
}

/// Where a certificate, or its key, is.
pub fn file(dir: &Path, name: &str, kind: &str) -> PathBuf {
    dir.join(format!("{name}.{kind}"))
}

/// Writes `ca.pem`, and `NAME.pem` and `NAME.key` for each account (ECDSA P-256, as istiod's).
pub fn write(dir: &Path) -> Result<(), Error> {
    let failed = |e: rcgen::Error| Error::Tls(e.to_string());
    let mut root = CertificateParams::default();
    root.distinguished_name = DistinguishedName::new();
    root.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(failed)?;
    let ca = root.self_signed(&key).map_err(failed)?;
    put(&file(dir, "ca", "pem"), &ca.pem())?;
    let issuer = Issuer::new(root, key);
    for (serial, account) in (2u64..).zip(ACCOUNTS) {
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        let uri = Ia5String::try_from(spiffe(account)).map_err(|e| Error::Tls(e.to_string()))?;
        leaf.subject_alt_names = vec![SanType::URI(uri)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().map_err(failed)?;
        let cert = leaf.signed_by(&key, &issuer).map_err(failed)?;
        put(&file(dir, account, "pem"), &cert.pem())?;
        put(&file(dir, account, "key"), &key.serialize_pem())?;
    }
    Ok(())
}

/// Writes a file that only its owner reads.
pub fn put(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).map_err(|source| Error::File { path: path.to_owned(), source })
}
