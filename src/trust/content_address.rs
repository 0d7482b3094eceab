//! Content addresses that prove a store path.

use peerix_store::nix::{CAHash, NixHash, PathInfo, StoreDir};

/// Returns the content address of `info` in Nix's canonical spelling if it proves the path.
///
/// Only `fixed:r:sha256` can: its hash must be the NAR hash, and hash, references and name must
/// recompute the store path. Nix takes such a path without a signature. A path that contains a
/// reference to itself is addressed by a hash with those bytes blanked, which says nothing of the
/// NAR hash, so it needs a signature like any other.
#[must_use]
pub fn proven_content_address(info: &PathInfo) -> Option<String> {
    let claimed = CAHash::parse(info.content_address.as_deref()?).ok()?;
    let CAHash::Nar(NixHash::Sha256(digest)) = &claimed else {
        return None;
    };
    if digest != info.nar_hash.as_bytes() || info.references.contains(&info.store_path) {
        return None;
    }
    let recomputed = StoreDir::default()
        .build_ca_path(info.store_path.name(), &claimed, &info.references, false)
        .ok()?;
    (recomputed == info.store_path).then(|| claimed.to_nix_string())
}
