//! `peerix/nar/1`: the NAR of a store path.
//!
//! ```text
//! → NAR URL, UTF-8, at most 1024 bytes: base64 of the absolute path, "/" as "_", then ".nar"
//! ← length, 8 bytes big-endian | the NAR, uncompressed
//! ```

use std::time::Instant;

use futures_util::StreamExt as _;
use iroh::{
    endpoint::{Connection, SendStream},
    protocol::{AcceptError, ProtocolHandler},
};
use peerix_store::{
    NarState,
    nix::{StorePath, StorePathHash},
};
use tokio::time::timeout;
use tracing::{Instrument, debug, debug_span};

use super::{Older, ServeError};
use crate::{limits, narinfo::older::store_path_of_nar_name, peer::provider::is_public};

/// The protocol's name, first that on the wire of the older program, then that of its documents.
pub const ALPNS: [&[u8]; 2] = [b"peerix/nar/1", b"/peerix/nar/1.0.0"];

/// Sends NARs to askers.
#[derive(Debug, Clone)]
pub struct NarServer(pub Older);

impl NarServer {
    async fn serve(self, connection: Connection) {
        let answer = |question, send| self.send(&connection, question, send);
        let served = self
            .0
            .serve(&connection, limits::OLDER_MAX_URL, answer)
            .await;
        if let Err(error) = served {
            debug!(%error, "no NAR for an older peer");
        }
    }

    /// Streams a NAR; where that fails on the way the stream is reset, so that its end is missed.
    async fn send(
        &self,
        connection: &Connection,
        question: Vec<u8>,
        mut send: SendStream,
    ) -> Result<SendStream, ServeError> {
        let older = &self.0.0;
        let path = path_of(&question).ok_or(ServeError::Malformed)?;
        let turn = timeout(limits::OLDER_IO_TIMEOUT, older.nars.acquire()).await;
        let _slot = turn
            .map_err(|_| ServeError::Busy)?
            .map_err(|_| ServeError::Gone)?;
        older.uploads.check().map_err(|_| ServeError::Busy)?;
        let path_hash = StorePathHash::from(&path);
        let nar = older.store.nar(path_hash).await.ok().flatten();
        let nar = nar
            .filter(|nar| nar.info.store_path == path)
            .filter(|nar| older.offer.is_offered(&older.store, &nar.info))
            .ok_or(ServeError::NotOffered)?;
        let peer = connection.remote_id();
        // Sending it for the first time hashes it too.
        let is_hashed = matches!(nar.state, NarState::Ready(_));
        if !is_hashed
            && !older
                .budgets
                .may_hash(peer, nar.info.nar_size, Instant::now())
        {
            return Err(ServeError::Busy);
        }
        let _kept = older.store.keep_while_read(&nar);
        let reader = older.store.open_nar(path_hash).await;
        let reader = reader.map_err(|_| ServeError::NotOffered)?;
        let size = reader.size();
        let public = is_public(connection);
        let piece = older.uploads.piece(public);

        write(&mut send, &size.to_be_bytes()).await?;
        let mut bytes = reader.stream(0..size);
        while let Some(read) = bytes.next().await {
            let read = match read {
                Ok(read) => read,
                Err(error) => {
                    let _ = send.reset(1u32.into());
                    return Err(error.into());
                }
            };
            for piece in read.chunks(piece) {
                let size = piece.len() as u64;
                if older.uploads.wait(peer, public, size).await.is_err() {
                    let _ = send.reset(1u32.into());
                    return Err(ServeError::Busy);
                }
                write(&mut send, piece).await?;
                older.metrics.bytes_sent.inc_by(size);
                (older.sent)(peer, size);
            }
        }
        older.metrics.nars_served.inc();
        older
            .metrics
            .note_served(&nar.info, &peer.to_string(), size);
        Ok(send)
    }
}

impl ProtocolHandler for NarServer {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let span = debug_span!("older NAR", peer = %connection.remote_id().fmt_short());
        // A panic in a handler would end the router: it stays in a task of its own.
        let task = tokio::spawn(self.clone().serve(connection).instrument(span));
        let _ = task.await;
        Ok(())
    }
}

async fn write(send: &mut SendStream, bytes: &[u8]) -> Result<(), ServeError> {
    timeout(limits::BLOB_WRITE_TIMEOUT, send.write_all(bytes))
        .await
        .map_err(|_| ServeError::Stalled)?
        .map_err(|_| ServeError::Gone)
}

/// The store path of a question.
fn path_of(question: &[u8]) -> Option<StorePath> {
    store_path_of_nar_name(std::str::from_utf8(question).ok()?.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::narinfo::older::nar_name;

    const PATH: &str = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-python3.12-json";
    const URL: &str =
        "L25peC9zdG9yZS8xN2JoNjkxdnprcWs4aHYxaTd4aWFxZmY4NWI4NWJyMy1weXRob24zLjEyLWpzb24=.nar";

    #[test]
    fn a_url_is_the_recorded_one() {
        let path = StorePath::from_absolute_path(PATH.as_bytes()).unwrap();
        assert_eq!(nar_name(&path), URL);
        assert_eq!(path_of(URL.as_bytes()), Some(path));
    }

    #[test]
    fn a_path_with_a_slash_in_its_base64_survives() {
        let path = StorePath::from_parts([255; 20], "a?x=1").unwrap();
        assert_eq!(path_of(nar_name(&path).as_bytes()), Some(path));
    }

    proptest! {
        #[test]
        fn no_question_panics(question in proptest::collection::vec(any::<u8>(), 0..1024)) {
            let _ = path_of(&question);
        }
    }
}
