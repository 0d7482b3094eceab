//! What a cache says of one path, and where its NAR is.

use peerix_store::{
    PathInfo,
    nix::{Compression, NarHash, NarInfo, StoreDir, StorePathHash},
};
use reqwest::Url;

use super::decode::Codec;
use crate::metrics::Fault;

/// A narinfo of a cache: well formed, not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The fields.
    pub(super) info: PathInfo,
    /// Where the NAR is, within the cache.
    pub(super) url: Url,
    /// How it is compressed.
    pub(super) codec: Codec,
}

/// Reads a narinfo of the cache at `base`, which ends in a slash.
///
/// # Errors
/// [`Fault::BadData`] for anything that is not the narinfo of `path_hash` as caches write it:
/// carriage returns, repeated fields, a NAR elsewhere than below `base`.
pub(super) fn parse(text: &[u8], base: &Url, path_hash: StorePathHash) -> Result<Record, Fault> {
    if text.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err(Fault::BadData);
    }
    let parsed = NarInfo::parse_in(&StoreDir::default(), text).map_err(|_| Fault::BadData)?;
    let nar_hash: NarHash = parsed
        .nar_hash()
        .to_nix_nixbase32_string()
        .parse()
        .map_err(|_| Fault::BadData)?;
    let signatures = parsed.signatures().iter();
    let address = parsed.content_address();
    let info = PathInfo {
        store_path: parsed.store_path().clone(),
        nar_hash,
        nar_size: parsed.nar_size(),
        references: parsed.references().clone(),
        deriver: parsed.deriver().cloned(),
        signatures: signatures
            .map(|signature| signature.to_nix_string())
            .collect(),
        content_address: address.map(|address| address.to_nix_string()),
        registration_time: 0,
    };
    if info.path_hash() != path_hash {
        return Err(Fault::BadData);
    }
    Ok(Record {
        info,
        url: nar_url(base, parsed.url()).ok_or(Fault::BadData)?,
        codec: codec(parsed.compression()).ok_or(Fault::BadData)?,
    })
}

/// A relative URL below `base`; `None` for whatever leads elsewhere.
fn nar_url(base: &Url, url: &str) -> Option<Url> {
    let is_plain = url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if !is_plain || url.starts_with('/') || Url::parse(url).is_ok() {
        return None;
    }
    let joined = base.join(url).ok()?;
    let is_below = joined.as_str().starts_with(base.as_str());
    // Dots that were folded away led upwards, or nowhere.
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let is_folded = path.to_ascii_lowercase().replace("%2e", ".");
    let has_dots = is_folded
        .split('/')
        .any(|segment| matches!(segment, "." | ".."));
    (is_below && !has_dots && joined.fragment().is_none()).then_some(joined)
}

fn codec(compression: &Compression) -> Option<Codec> {
    Some(match compression {
        Compression::None => Codec::None,
        Compression::Xz => Codec::Xz,
        Compression::Zstd => Codec::Zstd,
        Compression::Bzip2 => Codec::Bzip2,
        Compression::Other(name) if name == "br" => Codec::Brotli,
        Compression::Gzip | Compression::Other(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        narinfo::narinfo_text,
        trust::testing::{SIGNED, path_info},
    };

    fn base() -> Url {
        Url::parse("https://cache.example/some/").unwrap()
    }

    fn parsed(text: &str) -> Result<Record, Fault> {
        parse(text.as_bytes(), &base(), path_info(SIGNED).path_hash())
    }

    #[test]
    fn a_narinfo_names_a_nar_below_its_cache() {
        let record = parsed(SIGNED).unwrap();
        assert_eq!(record.info, path_info(SIGNED));
        assert_eq!(record.codec, Codec::None);
        let url = record.url.as_str();
        assert!(url.starts_with("https://cache.example/some/nar/"), "{url}");
    }

    #[test]
    fn a_nar_elsewhere_is_refused() {
        let real = path_info(SIGNED);
        let text = narinfo_text(&real);
        let line = text.lines().find(|line| line.starts_with("URL: ")).unwrap();
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "https://cache.example/some/nar/1.nar",
            "//evil.example/nar/1.nar",
            "/nar/1.nar",
            "../nar/1.nar",
            "nar/../../1.nar",
            "nar/%2e%2E/%2e./1.nar",
            "nar/./1.nar",
            "nar\\..\\..\\1.nar",
            "file:///etc/passwd",
            "data:,x",
            "nar/1.nar#x",
            "nar/ 1.nar",
        ] {
            let text = text.replace(line, &format!("URL: {url}"));
            assert_eq!(parsed(&text), Err(Fault::BadData), "{url}");
        }
        let text = text.replace(line, "URL: nar/1.nar.xz?x=1");
        assert!(parsed(&text).is_ok());
    }

    #[test]
    fn what_no_cache_writes_is_refused() {
        for text in [
            SIGNED.replace('\n', "\r\n"),
            format!("{SIGNED}NarSize: 1\n"),
            format!("{SIGNED}URL: nar/1.nar\n"),
            SIGNED.replace("NarSize: ", "NarSize: -"),
            SIGNED.replace("Compression: none", "Compression: gzip"),
            "<html>sign in</html>".to_owned(),
            String::new(),
        ] {
            assert_eq!(parsed(&text), Err(Fault::BadData), "{text}");
        }
        let mut not_utf8 = SIGNED.as_bytes().to_vec();
        not_utf8.extend(b"Deriver: \xff\n");
        let path_hash = path_info(SIGNED).path_hash();
        assert!(parse(&not_utf8, &base(), path_hash).is_err());
        let other = StorePathHash::from_bytes([1; 20]);
        assert!(parse(SIGNED.as_bytes(), &base(), other).is_err());
    }
}
