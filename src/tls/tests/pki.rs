//! A certificate authority for tests, and handshakes without sockets.

use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::{ClientConnection, ServerConnection};
use waypost_xds::envoy::config::core::v3::{DataSource, data_source::Specifier};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;
use waypost_xds::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use crate::tls::{ClientTls, SecretStore, ServerTls, Target};

pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain and its key.
#[derive(Clone)]
pub struct Leaf {
    pub chain: String,
    pub key: String,
    pub serial: SerialNumber,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        Ca::build(name, None, |_| {})
    }

    pub fn build(name: &str, parent: Option<&Ca>, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Org");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = match parent {
            Some(parent) => params.signed_by(&key, &parent.issuer).unwrap().pem(),
            None => params.self_signed(&key).unwrap().pem(),
        };
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    /// A SPIFFE certificate: URI names, no subject.
    pub fn spiffe(&self, id: &str) -> Leaf {
        self.leaf(|p| p.subject_alt_names = vec![uri(id)])
    }

    pub fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        self.leaf_for(&rcgen::PKCS_ECDSA_P256_SHA256, change)
    }

    pub fn leaf_for(
        &self,
        algorithm: &'static rcgen::SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(KeyPair::generate().unwrap().public_key_raw()[1..17].to_vec()));
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { chain, key: key.serialize_pem(), serial: params.serial_number.unwrap() }
    }

    pub fn crl(&self, revoked: &[&Leaf], expired: bool) -> String {
        let revoked_certs = revoked.iter().map(|leaf| RevokedCertParams {
            serial_number: leaf.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(if expired { 2024 } else { 4000 }, 2, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Leaf {
    pub fn with_intermediate(mut self, ca: &Ca) -> Leaf {
        self.chain.push_str(&ca.pem);
        self
    }
}

pub fn uri(id: &str) -> SanType {
    SanType::URI(Ia5String::try_from(id).unwrap())
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

/// A subject alternative name extension with one name of a tag, whatever its bytes.
pub fn raw_san(tag: u8, name: &[u8]) -> CustomExtension {
    let content = [&[0x30, name.len() as u8 + 2, 0x80 | tag, name.len() as u8], name].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
    extension.set_criticality(true);
    extension
}

pub fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
}

pub fn file(path: &std::path::Path) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::Filename(path.to_str().unwrap().to_owned())),
        ..DataSource::default()
    })
}

pub fn certificate(leaf: &Leaf) -> api::TlsCertificate {
    api::TlsCertificate { certificate_chain: inline(&leaf.chain), private_key: inline(&leaf.key), ..Default::default() }
}

pub fn san(kind: api::subject_alt_name_matcher::SanType, pattern: MatchPattern) -> api::SubjectAltNameMatcher {
    let matcher = Some(StringMatcher { ignore_case: false, match_pattern: Some(pattern) });
    api::SubjectAltNameMatcher { san_type: kind.into(), matcher, oid: String::new() }
}

pub fn uri_prefix(prefix: &str) -> api::SubjectAltNameMatcher {
    san(api::subject_alt_name_matcher::SanType::Uri, MatchPattern::Prefix(prefix.into()))
}

pub fn trust(ca: &Ca) -> api::CertificateValidationContext {
    api::CertificateValidationContext { trusted_ca: inline(&ca.pem), ..Default::default() }
}

pub fn common(leaves: &[&Leaf], validation: Option<api::CertificateValidationContext>) -> api::CommonTlsContext {
    let versions = api::TlsParameters {
        tls_maximum_protocol_version: api::tls_parameters::TlsProtocol::TlSv13.into(),
        ..Default::default()
    };
    api::CommonTlsContext {
        tls_params: Some(versions),
        tls_certificates: leaves.iter().map(|l| certificate(l)).collect(),
        validation_context_type: validation.map(api::common_tls_context::ValidationContextType::ValidationContext),
        ..Default::default()
    }
}

pub fn server(context: api::CommonTlsContext, require: bool) -> Arc<ServerTls> {
    let context = api::DownstreamTlsContext {
        common_tls_context: Some(context),
        require_client_certificate: Some(waypost_xds::google::protobuf::BoolValue { value: require }),
        ..Default::default()
    };
    ServerTls::compile(context, &SecretStore::default(), "server").unwrap()
}

pub fn client(context: api::CommonTlsContext, sni: &str) -> Arc<ClientTls> {
    let context = api::UpstreamTlsContext { common_tls_context: Some(context), sni: sni.into(), ..Default::default() };
    ClientTls::compile(context, &SecretStore::default(), "client").unwrap()
}

/// Both ends of a finished handshake, or what each end says went wrong.
pub type Outcome = Result<(ClientConnection, ServerConnection), (Option<rustls::Error>, Option<rustls::Error>)>;

pub fn handshake(client: &ClientTls, server: &ServerTls) -> Outcome {
    handshake_to(client, server, Target::default())
}

pub fn handshake_to(client: &ClientTls, server: &ServerTls, target: Target<'_>) -> Outcome {
    let (config, name) = client.connect(target).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(server.config().unwrap()).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    // A handshake takes three flights; a fourth carries alerts and tickets.
    for _ in 0..6 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        feed(&mut server, &flight, &mut server_error);
        flight.clear();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        feed(&mut client, &flight, &mut client_error);
    }
    if client_error.is_none() && server_error.is_none() && !client.is_handshaking() && !server.is_handshaking() {
        Ok((client, server))
    } else {
        Err((client_error, server_error))
    }
}

fn feed<D>(
    connection: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    mut bytes: &[u8],
    error: &mut Option<rustls::Error>,
) {
    while !bytes.is_empty() && error.is_none() {
        connection.read_tls(&mut bytes).unwrap();
        *error = connection.process_new_packets().err();
    }
}
