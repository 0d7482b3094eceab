//! The files of the page, as `scripts/dashboard` built them.

use std::sync::LazyLock;

/// The page; `%TOKEN%` stands for the token of its buttons.
pub const PAGE: &str = include_str!("../../dashboard/dist/index.html");

/// A file of the page, as it is and compressed.
pub struct Asset {
    /// The last part of its URL.
    pub name: &'static str,
    /// Its content type.
    pub content_type: &'static str,
    /// As it is.
    pub plain: &'static [u8],
    /// With brotli.
    pub brotli: &'static [u8],
    /// With gzip.
    pub gzip: &'static [u8],
    etag: LazyLock<String>,
}

macro_rules! asset {
    ($name:literal, $content_type:literal) => {
        Asset {
            name: $name,
            content_type: $content_type,
            plain: include_bytes!(concat!("../../dashboard/dist/", $name)),
            brotli: include_bytes!(concat!("../../dashboard/dist/", $name, ".br")),
            gzip: include_bytes!(concat!("../../dashboard/dist/", $name, ".gz")),
            etag: LazyLock::new(|| etag(include_bytes!(concat!("../../dashboard/dist/", $name)))),
        }
    };
}

static ASSETS: [Asset; 3] = [
    asset!("app.js", "text/javascript; charset=utf-8"),
    asset!("app.css", "text/css; charset=utf-8"),
    asset!("icon.svg", "image/svg+xml"),
];

fn etag(bytes: &[u8]) -> String {
    let hash = blake3::hash(bytes).to_hex();
    hash.as_str().get(..32).unwrap_or_default().to_owned()
}

impl Asset {
    /// Returns the file of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.name == name)
    }

    /// The file in the best coding that `accepted` names, and that coding.
    #[must_use]
    pub fn coded(&self, accepted: &str) -> (&'static [u8], Option<&'static str>) {
        let is_accepted = |coding: &str| {
            accepted.split(',').any(|item| {
                let mut parts = item.split(';').map(str::trim);
                let is_named = parts
                    .next()
                    .is_some_and(|name| name.eq_ignore_ascii_case(coding));
                is_named
                    && !parts.any(|weight| matches!(weight, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
            })
        };
        if is_accepted("br") {
            (self.brotli, Some("br"))
        } else if is_accepted("gzip") {
            (self.gzip, Some("gzip"))
        } else {
            (self.plain, None)
        }
    }

    /// The entity tag of the file in a coding.
    #[must_use]
    pub fn etag(&self, coding: Option<&str>) -> String {
        match coding {
            Some(coding) => format!("\"{}-{coding}\"", *self.etag),
            None => format!("\"{}\"", *self.etag),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::BrotliDecoder;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn compressed_files_are_the_files() {
        for asset in &ASSETS {
            let mut brotli = BrotliDecoder::new(Vec::new());
            brotli.write_all(asset.brotli).await.unwrap();
            brotli.shutdown().await.unwrap();
            assert!(
                brotli.into_inner() == asset.plain,
                "{}: build anew",
                asset.name
            );
            // Nothing here reads gzip; its end tells the length. `scripts/dashboard` compares all.
            let length = asset
                .gzip
                .last_chunk()
                .map(|length| u32::from_le_bytes(*length));
            assert_eq!(length, Some(asset.plain.len() as u32), "{}", asset.name);
        }
    }

    #[test]
    fn all_of_it_is_small() {
        let compressed: usize = ASSETS.iter().map(|asset| asset.gzip.len()).sum();
        assert!(compressed + PAGE.len() < 150_000, "{compressed} bytes");
    }

    #[test]
    fn a_coding_is_used_only_where_it_is_accepted() {
        let asset = Asset::named("app.js").unwrap();
        assert_eq!(asset.coded("gzip, deflate, br").1, Some("br"));
        assert_eq!(asset.coded("gzip;q=1.0, br;q=0").1, Some("gzip"));
        assert_eq!(asset.coded("").1, None);
        assert_ne!(asset.etag(Some("br")), asset.etag(None));
    }
}
