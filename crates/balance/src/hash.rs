//! Consistent hashing with bounded load: the ring, and how keys become points on it.

/// The point of a key: the same in every replica and every version.
///
/// FNV-1a (Fowler, Noll, Vo) followed by SplitMix64's finalizer, because FNV's high bits alone are uneven for short
/// keys. It keeps nobody from choosing keys that meet; the bound on an endpoint's load does.
pub fn hash_key(key: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    mix(hash)
}

/// SplitMix64's finalizer: a bijection in which every input bit changes every output bit with probability 1/2.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
