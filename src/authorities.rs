//! Certificates of authorities of one's own, trusted for trackers and relays.
//!
//! What a peer is, and every byte that it sends, is proved by its endpoint's key and by hashes, not
//! by these: they say only which tracker and which relay is spoken with.

use std::{
    io,
    path::{Path, PathBuf},
};

use iroh::tls::CaTlsConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// Longest file of certificates that is read, in bytes: far above any that a person makes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Certificates to trust beside the usual ones. Cheap to clone where there are few.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

/// A file of certificates can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificates in {}: {reason}", path.display())]
pub struct AuthoritiesError {
    path: PathBuf,
    reason: String,
}

impl Authorities {
    /// Reads all certificates of a PEM file.
    ///
    /// # Errors
    /// [`AuthoritiesError`] if it can't be read or holds none.
    pub fn load(path: &Path) -> Result<Self, AuthoritiesError> {
        let wrong = |reason: String| AuthoritiesError {
            path: path.to_owned(),
            reason,
        };
        let read = || {
            if std::fs::metadata(path)?.len() > MAX_FILE_SIZE {
                return Err(io::Error::other("it is over 1 MiB long"));
            }
            std::fs::read(path)
        };
        let pem = read().map_err(|error| wrong(error.to_string()))?;
        let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| wrong(error.to_string()))?;
        match certificates.is_empty() {
            true => Err(wrong("there is no certificate in it (PEM)".to_owned())),
            false => Ok(Self(certificates)),
        }
    }

    /// What iroh trusts for relays.
    pub fn for_iroh(&self) -> CaTlsConfig {
        CaTlsConfig::embedded().with_extra_roots(self.0.iter().cloned())
    }

    /// What an HTTP client trusts besides.
    ///
    /// # Errors
    /// For one that TLS can't use.
    pub fn for_http(&self) -> reqwest::Result<Vec<reqwest::Certificate>> {
        let certificates = self.0.iter();
        certificates
            .map(|certificate| reqwest::Certificate::from_der(certificate))
            .collect()
    }
}
