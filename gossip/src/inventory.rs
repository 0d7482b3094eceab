//! A set of store path hashes as a static filter: binary fuse with 16-bit fingerprints.
//!
//! About 20 bits a path at 20,000 paths; one path in 65,536 that is not in the set looks as if it
//! were. The encoding is a header of 40 bytes and the fingerprints, all little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `PXINV2\0\0` |
//! | 8..16 | number of paths |
//! | 16..24 | salt: the first half of the key of the SipHash-1-3 that makes filter keys of path hashes |
//! | 24..32 | seed of the filter |
//! | 32..36 | segment length, a power of two |
//! | 36..40 | number of fingerprints |
//!
//! The second half of that key are the first eight bytes. Graf and Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters", 2022.

use siphasher::sip::SipHasher13;
use thiserror::Error;
use xorf::BinaryFuse16;

/// The 20 bytes before the dash of a store path.
pub type PathHash = [u8; 20];

/// The largest encoding that is read from a stranger, in bytes: about 3.5 million paths.
pub const MAX_INVENTORY_SIZE: usize = 8 * 1024 * 1024;

const MAGIC: [u8; 8] = *b"PXINV2\0\0";
const HEADER: usize = 40;
const MIN_SEGMENT: u32 = 4;
const MAX_SEGMENT: u32 = 262_144;

/// A compact set of path hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    count: u64,
    salt: u64,
    seed: u64,
    segment_length: u32,
    fingerprints: Box<[u16]>,
}

/// Why an inventory could not be built or read.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InventoryError {
    /// More bytes than a stranger may make us hold.
    #[error("an inventory of {size} bytes exceeds the limit of {MAX_INVENTORY_SIZE}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not an inventory of this version.
    #[error("not an inventory of a version that this program reads")]
    Foreign,
    /// The header does not fit what follows.
    #[error("an inventory's header does not fit its length")]
    Malformed,
    /// No filter was found for these paths.
    #[error("no filter could be built for these paths")]
    Unbuildable,
}

impl Inventory {
    /// Builds the inventory of `paths`; order and repetitions don't matter.
    ///
    /// The same paths and salt always give the same bytes.
    ///
    /// # Errors
    /// [`InventoryError::Unbuildable`] should the construction not converge: another salt does.
    pub fn build(
        paths: impl IntoIterator<Item = PathHash>,
        salt: u64,
    ) -> Result<Self, InventoryError> {
        let mut keys: Vec<u64> = paths.into_iter().map(|path| key(&path, salt)).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(Self {
                count: 0,
                salt,
                seed: 0,
                segment_length: MIN_SEGMENT,
                fingerprints: Box::default(),
            });
        }
        let filter =
            BinaryFuse16::try_from(keys.as_slice()).map_err(|_| InventoryError::Unbuildable)?;
        Ok(Self {
            count: keys.len() as u64,
            salt,
            seed: filter.descriptor.seed,
            segment_length: filter.descriptor.segment_length,
            fingerprints: filter.fingerprints,
        })
    }

    /// Whether the path may be in the set; never false for one that is.
    pub fn may_contain(&self, path: &PathHash) -> bool {
        let length = self.segment_length;
        let Ok(total) = u32::try_from(self.fingerprints.len()) else {
            return false;
        };
        let Some(starts) = total.checked_sub(2 * length).filter(|starts| *starts > 0) else {
            return false;
        };
        let hash = mix(key(path, self.salt), self.seed);
        let first = ((u128::from(hash) * u128::from(starts)) >> 64) as u32;
        let mask = length - 1;
        let second = (first + length) ^ ((hash >> 18) as u32 & mask);
        let third = (first + 2 * length) ^ (hash as u32 & mask);
        let at = |index: u32| self.fingerprints.get(index as usize).copied().unwrap_or(0);
        let fingerprint = (hash ^ (hash >> 32)) as u16;
        fingerprint == at(first) ^ at(second) ^ at(third)
    }

    /// The number of paths.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether it holds no path.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Encodes it, as the module's table says.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.fingerprints.len() * 2);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&self.seed.to_le_bytes());
        bytes.extend_from_slice(&self.segment_length.to_le_bytes());
        bytes.extend_from_slice(&(self.fingerprints.len() as u32).to_le_bytes());
        for fingerprint in &self.fingerprints {
            bytes.extend_from_slice(&fingerprint.to_le_bytes());
        }
        bytes
    }

    /// Reads an inventory from a stranger.
    ///
    /// # Errors
    /// [`InventoryError`] for anything but one whole inventory of a sane shape; memory is at most
    /// that of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InventoryError> {
        if bytes.len() > MAX_INVENTORY_SIZE {
            return Err(InventoryError::TooLarge { size: bytes.len() });
        }
        let (header, rest) = bytes
            .split_at_checked(HEADER)
            .ok_or(InventoryError::Malformed)?;
        if header[..8] != MAGIC {
            return Err(InventoryError::Foreign);
        }
        let long = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let short = |at: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(field)
        };
        let (count, segment_length, total) = (long(8), short(32), short(36));
        let shaped = segment_length.is_power_of_two()
            && (MIN_SEGMENT..=MAX_SEGMENT).contains(&segment_length)
            && rest.len() == total as usize * 2
            && total % segment_length == 0
            && if count == 0 {
                total == 0
            } else {
                total > 2 * segment_length
            };
        // A filter has more fingerprints than paths: a larger count is a lie.
        if !shaped || count > u64::from(total) {
            return Err(InventoryError::Malformed);
        }
        let pairs = rest.chunks_exact(2);
        Ok(Self {
            count,
            salt: long(16),
            seed: long(24),
            segment_length,
            fingerprints: pairs
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect(),
        })
    }
}

/// A filter key of a path hash: SipHash-1-3 under the salt, so that nobody can choose paths that
/// collide everywhere. A lookup asks a thousand filters, each with a salt of its own.
fn key(path: &PathHash, salt: u64) -> u64 {
    SipHasher13::new_with_keys(salt, u64::from_le_bytes(MAGIC)).hash(path)
}

/// MurmurHash3's 64-bit finaliser over key and seed, as binary fuse filters have it.
fn mix(key: u64, seed: u64) -> u64 {
    let mut hash = key.wrapping_add(seed);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xorf::Filter;

    use super::*;

    fn paths(count: u32, set: u8) -> Vec<PathHash> {
        let path = |i: u32| {
            let mut path = [set; 20];
            path[..4].copy_from_slice(&i.to_le_bytes());
            path
        };
        (0..count).map(path).collect()
    }

    #[test]
    fn every_path_is_found_and_few_others() {
        for count in [1, 2, 3, 100, 20_000] {
            let inventory = Inventory::build(paths(count, 1), 7).unwrap();
            assert_eq!(inventory.len(), u64::from(count));
            assert!(
                paths(count, 1)
                    .iter()
                    .all(|path| inventory.may_contain(path)),
                "{count}"
            );
            let strangers = paths(200_000, 2);
            let hits = strangers
                .iter()
                .filter(|path| inventory.may_contain(path))
                .count();
            // Three are expected; twenty has a chance below one in a billion.
            assert!(hits < 20, "{hits} false hits at {count}");
        }
    }

    #[test]
    fn twenty_thousand_paths_take_about_twenty_bits_each() {
        let bytes = Inventory::build(paths(20_000, 1), 7).unwrap().to_bytes();
        let bits = bytes.len() as f64 * 8.0 / 20_000.0;
        assert!((18.0..20.5).contains(&bits), "{bits}");
    }

    #[test]
    fn order_and_repetitions_do_not_change_the_bytes() {
        let forward = Inventory::build(paths(1000, 1), 7).unwrap();
        let twice = paths(1000, 1).into_iter().rev().chain(paths(10, 1));
        assert_eq!(
            forward.to_bytes(),
            Inventory::build(twice, 7).unwrap().to_bytes()
        );
    }

    #[test]
    fn our_reader_agrees_with_the_library_that_built_the_filter() {
        let keys: Vec<u64> = paths(5000, 1).iter().map(|path| key(path, 7)).collect();
        let library = BinaryFuse16::try_from(keys.as_slice()).unwrap();
        let ours = Inventory::build(paths(5000, 1), 7).unwrap();
        for path in paths(100_000, 2) {
            assert_eq!(ours.may_contain(&path), library.contains(&key(&path, 7)));
        }
    }

    #[test]
    fn an_empty_inventory_contains_nothing() {
        let empty = Inventory::build([], 7).unwrap();
        assert!(empty.is_empty());
        assert!(paths(1000, 1).iter().all(|path| !empty.may_contain(path)));
        assert_eq!(Inventory::from_bytes(&empty.to_bytes()).unwrap(), empty);
    }

    #[test]
    fn foreign_and_bent_headers_are_refused() {
        let good = Inventory::build(paths(100, 1), 7).unwrap().to_bytes();
        assert_eq!(
            Inventory::from_bytes(&good[..39]),
            Err(InventoryError::Malformed)
        );
        assert_eq!(
            Inventory::from_bytes(&good[..good.len() - 1]),
            Err(InventoryError::Malformed)
        );
        let mut other = good.clone();
        other[5] = b'1';
        assert_eq!(Inventory::from_bytes(&other), Err(InventoryError::Foreign));
        for (at, value) in [(32, 3u32), (32, 0), (32, 1 << 30), (36, 1), (36, u32::MAX)] {
            let mut bent = good.clone();
            bent[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(Inventory::from_bytes(&bent), Err(InventoryError::Malformed));
        }
        let mut boastful = good;
        boastful[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(
            Inventory::from_bytes(&boastful),
            Err(InventoryError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn whatever_a_stranger_sends_is_read_without_a_panic(
            mut tail in proptest::collection::vec(any::<u8>(), 0..400),
            flips in proptest::collection::vec((0usize..40, any::<u8>()), 0..8),
            probe in any::<[u8; 20]>(),
        ) {
            let mut bytes = Inventory::build(paths(50, 1), 7).unwrap().to_bytes();
            for (at, value) in flips {
                bytes[at] = value;
            }
            bytes.append(&mut tail);
            if let Ok(inventory) = Inventory::from_bytes(&bytes) {
                inventory.may_contain(&probe);
                prop_assert_eq!(inventory.to_bytes(), bytes);
            }
        }
    }
}
