//! Certificates as URL-encoded PEM, as XFCC's `Cert` and `Chain` and `%DOWNSTREAM_PEER_CERT%` carry them.

use std::ops::Deref;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One certificate or a chain; the text is made when it is first read, for most connections never read it.
#[derive(Clone, Debug, Default)]
pub struct Pem {
    der: Vec<Box<[u8]>>,
    text: OnceLock<String>,
}

impl Pem {
    /// The PEM of DER-encoded certificates, in their order.
    pub fn of<T: AsRef<[u8]>>(certificates: impl IntoIterator<Item = T>) -> Pem {
        Pem { der: certificates.into_iter().map(|c| c.as_ref().into()).collect(), text: OnceLock::new() }
    }

    /// The URL-encoded text.
    pub fn as_str(&self) -> &str {
        self.text.get_or_init(|| self.der.iter().map(|der| encode(der)).collect())
    }
}

impl Deref for Pem {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl<T: Into<String>> From<T> for Pem {
    fn from(text: T) -> Pem {
        Pem { der: Vec::new(), text: OnceLock::from(text.into()) }
    }
}

impl PartialEq for Pem {
    fn eq(&self, other: &Pem) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pem {}

/// What the encoding replaces; everything else of PEM is safe in a URL.
const ESCAPES: [(char, &str); 5] = [('\n', "%0A"), (' ', "%20"), ('+', "%2B"), ('/', "%2F"), ('=', "%3D")];

/// Base64 characters on a line (RFC 7468, section 2).
const LINE: usize = 64;

fn encode(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (i, c) in STANDARD.encode(der).chars().enumerate() {
        if i > 0 && i % LINE == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    let mut out = String::with_capacity(pem.len() + pem.len() / 8);
    for c in pem.chars() {
        match ESCAPES.iter().find(|(from, _)| *from == c) {
            Some((_, to)) => out.push_str(to),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_url_encoded_in_lines_of_64() {
        let pem = Pem::of([[0xfb_u8; 49]]);
        assert!(pem.starts_with("-----BEGIN%20CERTIFICATE-----%0A%2B"), "{}", &*pem);
        assert!(pem.ends_with("%2Bw%3D%3D%0A-----END%20CERTIFICATE-----%0A"), "{}", &*pem);
        let text =
            pem.replace("%0A", "\n").replace("%2B", "+").replace("%2F", "/").replace("%20", " ").replace("%3D", "=");
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [27, 64, 4, 25]);
        assert_eq!(Pem::of([[1_u8], [2]]).matches("BEGIN").count(), 2);
    }
}
