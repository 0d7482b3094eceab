//! Who of those that fetch one blob at once gets which part of it from its source.
//!
//! Where several machines fetch the same blob, each would ask the one that has it for the same
//! bytes in the same order, and none could help another. So every unit of the blob is one
//! fetcher's to get first, by rendezvous hashing over those that are known to fetch it: each
//! comes to the same answer without a word, and a fetcher that comes or goes moves only its own
//! units. (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.)

use bao_tree::ByteRanges;
use iroh::EndpointId;

/// Units of a blob: few enough to be told apart quickly, many enough to be spread evenly.
const UNITS: u64 = 256;
const SMALLEST_UNIT: u64 = 256 * 1024;
const LARGEST_UNIT: u64 = 4 * 1024 * 1024;

/// The length of a unit of a blob of `size` bytes: the same for everyone.
pub(super) fn unit(size: u64) -> u64 {
    (size / UNITS)
        .next_power_of_two()
        .clamp(SMALLEST_UNIT, LARGEST_UNIT)
}

/// Which of `me` and `others` is to get the unit number `index` first.
pub(super) fn first(me: EndpointId, others: &[EndpointId], index: u64) -> EndpointId {
    let weight = |id: &EndpointId| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(id.as_bytes());
        hasher.update(&index.to_le_bytes());
        *hasher.finalize().as_bytes()
    };
    let others = others.iter().copied();
    others.chain([me]).max_by_key(|id| weight(id)).unwrap_or(me)
}

/// The part of a blob of `size` bytes that `me` gets first, in units of [`unit`].
pub(super) fn share(me: EndpointId, others: &[EndpointId], size: u64) -> ByteRanges {
    let unit = unit(size);
    let mut mine = ByteRanges::empty();
    for index in 0..size.div_ceil(unit) {
        if first(me, others, index) == me {
            let start = index * unit;
            mine |= ByteRanges::from(start..(start + unit).min(size));
        }
    }
    mine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u8) -> Vec<EndpointId> {
        let key = |byte| iroh::SecretKey::from_bytes(&[byte; 32]).public();
        (1..=n).map(key).collect()
    }

    fn without(ids: &[EndpointId], gone: usize) -> Vec<EndpointId> {
        let mut rest = ids.to_vec();
        rest.remove(gone);
        rest
    }

    #[test]
    fn every_byte_is_exactly_one_fetchers_and_shares_are_even() {
        let (ids, size) = (ids(8), 100_000_000);
        let mut all = ByteRanges::empty();
        for (at, id) in ids.iter().enumerate() {
            let share = share(*id, &without(&ids, at), size);
            assert!(all.is_disjoint(&share));
            let bytes: u64 = share.boundaries().chunks(2).map(|b| b[1] - b[0]).sum();
            assert!((6_000_000..22_000_000).contains(&bytes), "{bytes}");
            all |= share;
        }
        assert_eq!(all, ByteRanges::from(0..size));
    }

    #[test]
    fn one_that_goes_leaves_the_shares_of_the_rest_as_they_were() {
        let (ids, size) = (ids(5), 50_000_000);
        let before = share(ids[0], &without(&ids, 0), size);
        let rest: Vec<EndpointId> = ids[1..4].to_vec();
        let after = share(ids[0], &rest, size);
        assert!(before.is_subset(&after));
    }

    #[test]
    fn alone_all_is_mine() {
        let mine = share(ids(1)[0], &[], 1_000_000);
        assert_eq!(mine, ByteRanges::from(0..1_000_000));
    }
}
