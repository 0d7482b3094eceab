//! Narinfos and NAR names as the older program writes and asks for them.

use std::fmt::Write as _;

use data_encoding::BASE64;
use peerix_store::nix::{NarInfo, PathInfo, StorePath};

use super::write_provenance;

/// Longest name of a NAR that is looked at: a store path of the longest name, in base64.
const MAX_NAME: usize = 400;

/// Returns the name of a path's NAR: its base64 with `/` as `_`, then `.nar`.
#[must_use]
pub fn nar_name(store_path: &StorePath) -> String {
    let path = store_path.to_absolute_path();
    format!("{}.nar", BASE64.encode(path.as_bytes()).replace('/', "_"))
}

/// Returns the store path that a NAR's name stands for, `.nar` or not.
#[must_use]
pub fn store_path_of_nar_name(name: &str) -> Option<StorePath> {
    if name.len() > MAX_NAME {
        return None;
    }
    let name = name.strip_suffix(".nar").unwrap_or(name);
    // What clients may write otherwise in a URL.
    let base64 = name
        .replace('_', "/")
        .replace("%3D", "=")
        .replace("%3d", "=")
        .replace("%2B", "+")
        .replace("%2b", "+");
    let path = BASE64.decode(base64.as_bytes()).ok()?;
    StorePath::from_absolute_path(&path).ok()
}

/// Returns the narinfo that other hosts get at `/local/<hash>.narinfo`.
///
/// The URL is relative to the server's root, as the older program's LAN mode writes it.
#[must_use]
pub fn local_narinfo_text(info: &PathInfo) -> String {
    let mut text = String::with_capacity(512 + 64 * info.references.len());
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "StorePath: {}\nURL: local/nar/{}\nCompression: none\nNarHash: sha256:{}\nNarSize: {}\n",
        info.store_path.to_absolute_path(),
        nar_name(&info.store_path),
        info.nar_hash.nix_base32(),
        info.nar_size,
    );
    if !info.references.is_empty() {
        text.push_str("References:");
        for reference in &info.references {
            text.push(' ');
            text.push_str(&reference.to_basename());
        }
        text.push('\n');
    }
    write_provenance(&mut text, info);
    text
}

/// Reads a narinfo as another machine tells it; `None` where it is none, or compressed.
///
/// Nothing of it is believed yet.
#[must_use]
pub fn parse_narinfo(text: &str) -> Option<PathInfo> {
    let parsed: NarInfo = text.parse().ok()?;
    Some(PathInfo {
        store_path: parsed.store_path().clone(),
        nar_hash: parsed.nar_hash().to_nix_nixbase32_string().parse().ok()?,
        nar_size: parsed.nar_size(),
        references: parsed.references().clone(),
        deriver: None,
        signatures: parsed
            .signatures()
            .iter()
            .map(|signature| signature.to_nix_string())
            .collect(),
        content_address: parsed
            .content_address()
            .map(|address| address.to_nix_string()),
        registration_time: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::testing::{SIGNED, made_up, path_info};

    #[test]
    fn nars_are_named_as_the_older_program_names_them() {
        let path = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello";
        let store_path = StorePath::from_absolute_path(path.as_bytes()).unwrap();
        let name = nar_name(&store_path);
        assert!(name.starts_with("L25peC9zdG9yZS8xN2Jo"), "{name}");
        for spelling in [
            name.clone(),
            name.replace('=', "%3D"),
            name.replace(".nar", ""),
        ] {
            assert_eq!(
                store_path_of_nar_name(&spelling),
                Some(store_path.clone()),
                "{spelling}"
            );
        }
        for wrong in ["", ".nar", "L25peA==.nar", "!!!!.nar", &"A".repeat(404)] {
            assert_eq!(store_path_of_nar_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_lines_stand_in_the_older_programs_order() {
        let info = path_info(SIGNED);
        let text = local_narinfo_text(&info);
        let keys: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(key, _)| key)
            .collect();
        assert_eq!(
            keys[..5],
            ["StorePath", "URL", "Compression", "NarHash", "NarSize"]
        );
        assert!(
            keys.contains(&"Sig") && text.ends_with('\n') && !text.contains("\n\n"),
            "{text}"
        );
        assert!(text.contains(&format!(
            "\nURL: local/nar/{}\n",
            nar_name(&info.store_path)
        )));
        let lone = local_narinfo_text(&made_up(1, [0; 32], 96));
        assert!(!lone.contains("References"));
        assert_eq!(parse_narinfo(&lone).unwrap().nar_size, 96);
        let read = parse_narinfo(&text).unwrap();
        assert_eq!(
            (read.store_path, read.references),
            (info.store_path, info.references)
        );
        assert!(parse_narinfo("StorePath: /etc/passwd\n").is_none());
    }
}
