//! An authority of one's own, and what it signs.

use std::{net::IpAddr, path::PathBuf};

use peerix::tracker::relay::CertificateFiles;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority and a certificate that it signed, in files.
pub struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    /// Makes both; the certificate is for `address`.
    pub fn for_address(address: IpAddr) -> Authority {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![address.to_string()]).expect("parameters");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        for (name, text) in [
            ("authority", authority.pem()),
            ("certificate", certificate.pem()),
            ("key", key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(name), text).expect("our own directory");
        }
        Authority { directory }
    }

    /// The file with the authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("authority")
    }

    /// The certificate that it signed, and its key.
    pub fn signed(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: self.directory.path().join("certificate"),
            key: self.directory.path().join("key"),
        }
    }
}
