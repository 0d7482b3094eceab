//! The text of a narinfo, and the fingerprint that its signatures cover.

pub mod older;

use std::fmt::Write as _;

use peerix_store::nix::{NixSignature, PathInfo};

use crate::trust::proven_content_address;

/// Most signatures that a narinfo of ours carries; a path has one or two.
pub const MAX_SIGNATURES: usize = 16;

/// Longest name of a key in a signature, in bytes.
const MAX_KEY_NAME: usize = 256;

/// Returns the narinfo text that Nix reads: one `Key: value` per line, none of them blank.
///
/// It is made of the signed fields alone, whatever its source said beside them: the URL depends on
/// store path hash and NAR hash only (Nix keeps it for 30 days), `FileHash` and `FileSize` are the
/// NAR's as nothing is compressed, and `CA` is written only where the path, its references and its
/// NAR hash prove it. Signatures that are not well formed are left out.
#[must_use]
pub fn narinfo_text(info: &PathInfo) -> String {
    let mut text = String::with_capacity(512 + 64 * info.references.len());
    let nar_hash = info.nar_hash.nix_base32();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "StorePath: {path}\nURL: {url}\nCompression: none\nFileHash: sha256:{nar_hash}\n\
         FileSize: {size}\nNarHash: sha256:{nar_hash}\nNarSize: {size}\nReferences:",
        path = info.store_path.to_absolute_path(),
        url = nar_url(info),
        size = info.nar_size,
    );
    if info.references.is_empty() {
        text.push(' ');
    }
    for reference in &info.references {
        text.push(' ');
        text.push_str(&reference.to_basename());
    }
    text.push('\n');
    write_provenance(&mut text, info);
    text
}

/// Writes the last lines of a narinfo: deriver, signatures, and the content address if it proves
/// itself.
fn write_provenance(text: &mut String, info: &PathInfo) {
    // Writing to a String cannot fail.
    if let Some(deriver) = &info.deriver {
        let _ = writeln!(text, "Deriver: {}", deriver.to_basename());
    }
    for signature in well_formed_signatures(&info.signatures) {
        let _ = writeln!(text, "Sig: {signature}");
    }
    if let Some(content_address) = proven_content_address(info) {
        let _ = writeln!(text, "CA: {content_address}");
    }
}

/// Returns where a NAR is under the cache's URL: `nar/<nar hash>.nar?hash=<store path hash>`.
#[must_use]
pub fn nar_url(info: &PathInfo) -> String {
    format!(
        "nar/{}.nar?hash={}",
        info.nar_hash.nix_base32(),
        info.path_hash()
    )
}

/// Returns the string that signatures cover:
/// `1;<store path>;<NAR hash>;<NAR size>;<references, full paths, sorted>`.
#[must_use]
pub fn fingerprint(info: &PathInfo) -> String {
    let mut text = String::with_capacity(192 + 80 * info.references.len());
    let _ = write!(
        text,
        "1;{};{};{};",
        info.store_path.to_absolute_path(),
        info.nar_hash,
        info.nar_size
    );
    for (position, reference) in info.references.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(&reference.to_absolute_path());
    }
    text
}

/// Yields the signatures that may stand in a line of a narinfo, in canonical base64, at most
/// [`MAX_SIGNATURES`] of them.
///
/// A peer's signature is any string: one with a line break would be further fields.
pub(crate) fn well_formed_signatures(
    signatures: &[String],
) -> impl Iterator<Item = NixSignature> + '_ {
    signatures
        .iter()
        .filter_map(|signature| NixSignature::parse(signature).ok())
        .filter(|signature| is_key_name(&signature.key_name) && signature.encoded.len() == 88)
        .take(MAX_SIGNATURES)
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_KEY_NAME
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use peerix_store::nix::{NarHash, NarInfo, StorePath};
    use proptest::prelude::*;

    use super::*;
    use crate::trust::testing::{ADDRESSED, SIGNED, SOURCE, made_up, path_info};

    #[test]
    fn the_text_is_the_real_nix_s_but_for_the_url() {
        for narinfo in [SOURCE, ADDRESSED] {
            let info = path_info(narinfo);
            let ours = narinfo_text(&info);
            let plain = ours.replace(&format!("?hash={}", info.path_hash()), "");
            assert_eq!(plain, narinfo);
        }
    }

    #[test]
    fn a_text_address_needs_the_signature_and_is_left_out() {
        let ours = narinfo_text(&path_info(SIGNED));
        assert!(ours.contains("\nSig: vector-1:"), "{ours}");
        assert!(!ours.contains("\nCA:"), "{ours}");
    }

    #[test]
    fn a_name_with_a_question_mark_does_not_reach_the_url() {
        let store_path = StorePath::from_parts([9; 20], "edge-question?x=1").unwrap();
        let info = PathInfo {
            store_path,
            ..made_up(9, [1; 32], 96)
        };
        let hash = info.path_hash();
        assert_eq!(
            nar_url(&info),
            format!("nar/{}.nar?hash={hash}", info.nar_hash.nix_base32())
        );
    }

    #[test]
    fn the_fingerprint_of_a_path_without_references_ends_in_a_semicolon() {
        let info = made_up(0, [0; 32], 96);
        let zeros = "0".repeat(52);
        assert_eq!(
            fingerprint(&info),
            format!(
                "1;/nix/store/{}-made-up-1.0;sha256:{zeros};96;",
                "0".repeat(32)
            )
        );
    }

    fn any_path() -> impl Strategy<Value = StorePath> {
        (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,40}")
            .prop_map(|(digest, name)| StorePath::from_parts(digest, &name).unwrap())
    }

    prop_compose! {
        fn any_info()(
            store_path in any_path(),
            nar_hash in any::<[u8; 32]>(),
            nar_size in 1..=u64::MAX,
            references in proptest::collection::btree_set(any_path(), 0..6),
            deriver in proptest::option::of(any_path()),
            signatures in proptest::collection::vec(
                prop_oneof![
                    any::<String>(),
                    "[a-z.]{1,20}-1:[A-Za-z0-9+/]{85}[AQgw]==",
                    "a\nURL: [a-z]{1,9}:[A-Za-z0-9+/]{85}A==",
                ],
                0..4,
            ),
            content_address in proptest::option::of(any::<String>()),
        ) -> PathInfo {
            let nar_hash = NarHash::from_bytes(nar_hash);
            PathInfo {
                store_path, nar_hash, nar_size, references, deriver, signatures, content_address,
                registration_time: 0,
            }
        }
    }

    proptest! {
        #[test]
        fn the_text_says_what_the_fields_say_and_no_more(info in any_info()) {
            let text = narinfo_text(&info);
            prop_assert!(text.ends_with('\n') && !text.contains("\n\n") && !text.contains('\r'));
            let parsed: NarInfo = text.parse().unwrap();
            prop_assert_eq!(parsed.store_path(), &info.store_path);
            prop_assert_eq!(parsed.nar_hash().to_nix_nixbase32_string(), info.nar_hash.to_string());
            prop_assert_eq!(parsed.nar_size(), info.nar_size);
            prop_assert_eq!(parsed.file_size(), Some(info.nar_size));
            prop_assert_eq!(parsed.references(), &info.references);
            prop_assert_eq!(parsed.deriver(), info.deriver.as_ref());
            prop_assert_eq!(parsed.url(), nar_url(&info));
            prop_assert_eq!(parsed.compression().as_str(), "none");
            prop_assert_eq!(parsed.content_address(), None);
            prop_assert!(parsed.extensions().is_empty());
            for signature in parsed.signatures() {
                prop_assert!(info.signatures.contains(&signature.to_nix_string()));
            }
            let store_dir = peerix_store::nix::StoreDir::default();
            prop_assert_eq!(fingerprint(&info), parsed.fingerprint(&store_dir));
        }
    }
}
