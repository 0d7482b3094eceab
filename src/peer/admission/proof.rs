//! How the members of a private swarm prove their secret to each other, on each connection.
//!
//! Who dialled opens a bidirectional stream and writes its proof; who was dialled checks it and only
//! then writes its own, so that nobody who dials learns anything that a secret could be guessed by.
//! A proof is an HMAC, keyed with the secret, over keying material that TLS exports for this
//! connection alone, the role of the side that proves, both endpoint ids and the protocol: it can be
//! neither replayed, nor reflected, nor passed on over another connection. The stream is the first of
//! its connection, and the protocol's own begin after it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use iroh::{
    EndpointId,
    endpoint::{Connection, RecvStream, SendStream, Side},
};
use sha2::Sha256;

use crate::swarm::SwarmSecret;

/// Bytes of a proof.
const LENGTH: usize = 32;

/// The label under which TLS exports the keying material.
const LABEL: &[u8] = b"EXPORTER-peerix-swarm-membership-1";

/// Why the other side is not taken for a member.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotProved {
    /// It gave no proof.
    #[error("it gave no proof")]
    Nothing,
    /// Its proof is wrong.
    #[error("its secret is another")]
    Wrong,
}

/// One side's proof.
#[derive(Clone)]
struct Proof(Hmac<Sha256>);

/// Proves the secret to the other side of a new connection and has it proved by it.
///
/// Reads at most the bytes of one proof. To be called on both sides before any other stream is opened
/// or accepted; it waits as long as the other side lets it.
pub(super) async fn prove(
    connection: &Connection,
    own_id: EndpointId,
    secret: &SwarmSecret,
) -> Result<(), NotProved> {
    let mut material = [0; LENGTH];
    connection
        .export_keying_material(&mut material, LABEL, b"")
        .map_err(|_| NotProved::Nothing)?;
    let proof_of = |side: Side| {
        let (dialled, was_dialled) = match connection.side() {
            Side::Client => (own_id, connection.remote_id()),
            Side::Server => (connection.remote_id(), own_id),
        };
        let ids = [dialled, was_dialled];
        Proof::new(secret, &material, side, ids, connection.alpn())
    };
    match connection.side() {
        Side::Client => {
            let opened = connection.open_bi().await;
            let (mut send, mut receive) = opened.map_err(|_| NotProved::Nothing)?;
            write(&mut send, proof_of(Side::Client)?).await?;
            check(&mut receive, proof_of(Side::Server)?).await
        }
        Side::Server => {
            let accepted = connection.accept_bi().await;
            let (mut send, mut receive) = accepted.map_err(|_| NotProved::Nothing)?;
            check(&mut receive, proof_of(Side::Client)?).await?;
            write(&mut send, proof_of(Side::Server)?).await
        }
    }
}

impl Proof {
    fn new(
        secret: &SwarmSecret,
        material: &[u8; LENGTH],
        side: Side,
        ids: [EndpointId; 2],
        alpn: &[u8],
    ) -> Result<Self, NotProved> {
        // HMAC takes keys of any length.
        let keyed = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
        let mut mac = keyed.map_err(|_| NotProved::Nothing)?;
        mac.update(match side {
            Side::Client => b"dialled",
            Side::Server => b"accepts",
        });
        mac.update(material);
        for id in &ids {
            mac.update(id.as_bytes());
        }
        mac.update(alpn);
        Ok(Self(mac))
    }
}

async fn write(send: &mut SendStream, proof: Proof) -> Result<(), NotProved> {
    let bytes = proof.0.finalize().into_bytes();
    let written = send.write_all(&bytes).await;
    written.map_err(|_| NotProved::Nothing)?;
    send.finish().map_err(|_| NotProved::Nothing)
}

/// Reads the other side's proof and compares it in a time that doesn't depend on it.
async fn check(receive: &mut RecvStream, expected: Proof) -> Result<(), NotProved> {
    let mut bytes = [0; LENGTH];
    let read = receive.read_exact(&mut bytes).await;
    read.map_err(|_| NotProved::Nothing)?;
    let checked = expected.0.verify_slice(&bytes);
    checked.map_err(|_| NotProved::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_side_of_one_connection_on_one_protocol() {
        let directory = tempfile::tempdir().unwrap();
        let secret = |byte: u8| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = directory.path().join(byte.to_string());
            std::fs::write(&path, [byte; 40]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            SwarmSecret::load(&path).unwrap()
        };
        let id = |byte| iroh::SecretKey::from_bytes(&[byte; 32]).public();
        let proof = |secret: &SwarmSecret, material, side, ids, alpn: &[u8]| {
            let proof = Proof::new(secret, &[material; LENGTH], side, ids, alpn).unwrap();
            proof.0.finalize().into_bytes().to_vec()
        };
        let (ours, theirs, ids) = (secret(b'a'), secret(b'b'), [id(1), id(2)]);
        let good = proof(&ours, 1, Side::Client, ids, b"x");
        assert_eq!(good, proof(&ours, 1, Side::Client, ids, b"x"));
        for other in [
            proof(&theirs, 1, Side::Client, ids, b"x"),
            proof(&ours, 2, Side::Client, ids, b"x"),
            proof(&ours, 1, Side::Server, ids, b"x"),
            proof(&ours, 1, Side::Client, [ids[1], ids[0]], b"x"),
            proof(&ours, 1, Side::Client, ids, b"y"),
        ] {
            assert_ne!(good, other);
        }
    }
}
