//! Which country an address is in, told by a database on this machine and by nobody else.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use maxminddb::Reader;
use serde::Deserialize;

use crate::peer::path;

/// Longest database that is read into memory, in bytes: the free ones have some 8 MB.
const MAX_SIZE: u64 = 256 << 20;

/// What stands for a country where an address is private.
const LAN: &str = "LAN";

/// Tells countries of addresses. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Countries(Option<Arc<Reader<Vec<u8>>>>);

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    country: Option<Country<'a>>,
    #[serde(borrow)]
    registered_country: Option<Country<'a>>,
}

#[derive(Deserialize)]
struct Country<'a> {
    iso_code: Option<&'a str>,
}

impl Countries {
    /// Reads a database in MaxMind's format; without one, or with a bad one, which is warned of,
    /// only private addresses are told from others.
    #[must_use]
    pub fn open(database: Option<&Path>) -> Self {
        let Some(path) = database else {
            return Self::default();
        };
        match read(path) {
            Ok(reader) => Self(Some(Arc::new(reader))),
            Err(reason) => {
                tracing::warn!(
                    path = %path.display(),
                    reason,
                    "no countries are shown: geoip_database must be a file in MaxMind's format (.mmdb)"
                );
                Self::default()
            }
        }
    }

    /// The country of `ip` as two letters, `LAN`, or `None` where that is not known.
    #[must_use]
    pub fn of(&self, ip: IpAddr) -> Option<String> {
        let ip = ip.to_canonical();
        if path::is_private(ip) {
            return Some(LAN.to_owned());
        }
        // A database may be damaged anywhere: what can't be read is not known.
        let found = self.0.as_ref()?.lookup(ip).ok()?;
        let record: Record<'_> = found.decode().ok()??;
        let country = record.country.or(record.registered_country)?;
        let code = country.iso_code?;
        let is_code = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        is_code.then(|| code.to_owned())
    }
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MAX_SIZE {
        return Err("it is no file of a sensible size".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Reader::from_source(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_database_tells_nothing_and_stops_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.mmdb");
        for bytes in [&b""[..], b"nonsense", b"\xab\xcd\xefMaxMind.com"] {
            std::fs::write(&file, bytes).unwrap();
            let countries = Countries::open(Some(&file));
            assert_eq!(countries.of("1.1.1.1".parse().unwrap()), None);
        }
        for path in [directory.path(), &directory.path().join("missing")] {
            assert_eq!(
                Countries::open(Some(path)).of("1.1.1.1".parse().unwrap()),
                None
            );
        }
    }

    fn text(text: &str) -> Vec<u8> {
        [&[0x40 | text.len() as u8], text.as_bytes()].concat()
    }

    fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![0xe0 | entries.len() as u8];
        for (name, value) in entries {
            bytes.extend(text(name));
            bytes.extend(value);
        }
        bytes
    }

    fn number(value: u16) -> Vec<u8> {
        [&[0xa2][..], &value.to_be_bytes()].concat()
    }

    /// A database in MaxMind's format in which 1.0.0.0/8 is in `country`, and all else nowhere.
    fn database(country: &str) -> Vec<u8> {
        const NODES: u32 = 8;
        let mut bytes = Vec::new();
        for depth in 0..NODES {
            // The bits of 1 are seven zeros and a one; behind the tree lie 16 bytes of nothing.
            let (taken, next) = match depth + 1 {
                NODES => (1, NODES + 16),
                next => (0, next),
            };
            for side in 0..2 {
                let record = if side == taken { next } else { NODES };
                bytes.extend(&record.to_be_bytes()[1..]);
            }
        }
        bytes.extend([0; 16]);
        bytes.extend(map(&[("country", map(&[("iso_code", text(country))]))]));
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.extend(map(&[
            ("binary_format_major_version", number(2)),
            ("binary_format_minor_version", number(0)),
            ("build_epoch", vec![0x01, 0x02, 1]),
            ("database_type", text("Test")),
            ("description", map(&[])),
            ("ip_version", number(4)),
            ("languages", vec![0x00, 0x04]),
            ("node_count", [&[0xc4][..], &NODES.to_be_bytes()].concat()),
            ("record_size", number(24)),
        ]));
        bytes
    }

    #[test]
    fn a_database_tells_countries_of_public_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("countries.mmdb");
        let country = |code: &str, ip: &str| {
            std::fs::write(&file, database(code)).unwrap();
            Countries::open(Some(&file)).of(ip.parse().unwrap())
        };
        assert_eq!(country("AU", "1.2.3.4").as_deref(), Some("AU"));
        assert_eq!(country("AU", "::ffff:1.2.3.4").as_deref(), Some("AU"));
        assert_eq!(country("AU", "8.8.8.8"), None);
        assert_eq!(country("AU", "2606:4700::1111"), None);
        assert_eq!(country("AU", "10.0.0.1").as_deref(), Some("LAN"));
        // What it says is shown to people: only letters pass.
        assert_eq!(country("<b>", "1.2.3.4"), None);
    }

    #[test]
    fn private_addresses_are_on_the_lan_without_any_database() {
        let countries = Countries::open(None);
        for ip in ["10.1.2.3", "::1", "fe80::1", "::ffff:192.168.0.1"] {
            assert_eq!(
                countries.of(ip.parse().unwrap()).as_deref(),
                Some("LAN"),
                "{ip}"
            );
        }
    }
}
