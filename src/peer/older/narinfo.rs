//! `peerix/narinfo/1`: the narinfo of a store path.
//!
//! ```text
//! → hash part, UTF-8, at most 64 bytes, white space around it ignored
//! ← "NOTFOUND", or narinfo text
//! ```

use iroh::{
    endpoint::{Connection, SendStream},
    protocol::{AcceptError, ProtocolHandler},
};
use peerix_store::nix::{PathInfo, StorePathHash};
use tokio::time::timeout;
use tracing::{Instrument, debug, debug_span};

use super::{Older, ServeError};
use crate::{limits, narinfo::older::local_narinfo_text};

/// The protocol's name, first that on the wire of the older program, then that of its documents.
pub const ALPNS: [&[u8]; 2] = [b"peerix/narinfo/1", b"/peerix/narinfo/1.0.0"];

/// The answer for a path that is not here, or not offered.
pub(super) const NOT_FOUND: &[u8] = b"NOTFOUND";

/// Answers askers of narinfos.
#[derive(Debug, Clone)]
pub struct NarInfoServer(pub Older);

impl NarInfoServer {
    async fn serve(self, connection: Connection) {
        let answer = |question, send| self.answer(question, send);
        let served = self
            .0
            .serve(&connection, limits::OLDER_MAX_HASH, answer)
            .await;
        if let Err(error) = served {
            debug!(%error, "no narinfo for an older peer");
        }
    }

    async fn answer(
        &self,
        question: Vec<u8>,
        mut send: SendStream,
    ) -> Result<SendStream, ServeError> {
        let text = std::str::from_utf8(&question).map_err(|_| ServeError::Malformed)?;
        let path_hash = text.trim().parse().map_err(|_| ServeError::Malformed)?;
        let found = self.find(path_hash).await;
        let answer = found.as_ref().map_or(NOT_FOUND, |text| text.as_bytes());
        timeout(limits::OLDER_IO_TIMEOUT, send.write_all(answer))
            .await
            .map_err(|_| ServeError::Stalled)?
            .map_err(|_| ServeError::Gone)?;
        Ok(send)
    }

    async fn find(&self, path_hash: StorePathHash) -> Option<String> {
        let older = &self.0.0;
        older.uploads.check().ok()?;
        let nar = older.store.nar(path_hash).await.ok().flatten()?;
        if !older.offer.is_offered(&older.store, &nar.info) {
            return None;
        }
        let text = text(&older.offer.told(&older.store, &nar));
        if text.len() > limits::OLDER_MAX_NARINFO {
            return None;
        }
        older.metrics.narinfos_served.inc();
        Some(text)
    }
}

impl ProtocolHandler for NarInfoServer {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let span = debug_span!("older narinfo", peer = %connection.remote_id().fmt_short());
        // A panic in a handler would end the router: it stays in a task of its own.
        let task = tokio::spawn(self.clone().serve(connection).instrument(span));
        let _ = task.await;
        Ok(())
    }
}

/// The narinfo as the older program writes it for a peer: its URL is the NAR's name alone.
fn text(info: &PathInfo) -> String {
    local_narinfo_text(info).replacen("\nURL: local/nar/", "\nURL: ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        narinfo::older::nar_name,
        trust::testing::{SOURCE, path_info},
    };

    #[test]
    fn the_text_says_the_same_as_the_real_nix_s() {
        let info = path_info(SOURCE);
        let ours: peerix_store::nix::NarInfo = text(&info).parse().unwrap();
        assert_eq!(ours.store_path(), &info.store_path);
        assert_eq!(ours.references(), &info.references);
        assert_eq!(ours.nar_size(), info.nar_size);
        assert_eq!(ours.url(), nar_name(&info.store_path));
        assert_eq!(ours.compression().as_str(), "none");
    }
}
