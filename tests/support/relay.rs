//! A relay of our own, and an authority that signs its certificate.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::mpsc,
};

use peerix::tracker::{
    api::RelayInfo,
    relay::{CLIENT_RATE, CertificateFiles, DEFAULT_QUIC_PORT, Relay, RelayOptions},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::sync::oneshot;

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

/// A relay in a thread of its own, on the host where it is started; ends when it is dropped.
pub struct RelayServer {
    info: RelayInfo,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RelayServer {
    /// Starts one that anybody may use, with TLS and address discovery under its usual port where
    /// there is a certificate.
    pub fn start(address: SocketAddr, certificate: Option<CertificateFiles>) -> RelayServer {
        let (end, ended) = oneshot::channel::<()>();
        let (started, starting) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            super::hostile::runtime().block_on(async {
                let options = RelayOptions {
                    address,
                    quic_port: DEFAULT_QUIC_PORT,
                    url: None,
                    certificate,
                    client_rate: CLIENT_RATE,
                };
                let relay = Relay::start(options, None).await.expect("a relay");
                started.send(relay.info()).expect("who started it");
                let _ = ended.await;
                relay.shutdown().await;
            });
        });
        RelayServer {
            info: starting.recv().expect("a relay"),
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.info.url.to_string()
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
