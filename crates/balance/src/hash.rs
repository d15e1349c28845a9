//! Consistent hashing: how keys become points, and the ring on which endpoints own arcs.
//!
//! Each endpoint has points on a ring of 2^32; a key belongs to the endpoint of the next point. When an endpoint
//! comes or goes, only the keys of its own arcs change hands (Karger et al., 1997). The bound on an endpoint's load,
//! beyond which a key goes to the next one on the ring (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with
//! Bounded Loads", 2016), is in `pick`: it needs the counts.

use crate::slot::Slot;

/// Points of an endpoint of average weight. The bound on the load evens out what so few leave uneven.
const POINTS: f64 = 20.0;
/// Points of one endpoint, however heavy.
const POINTS_MAX: f64 = 2_000.0;

/// The point of a key: the same in every replica and every version.
///
/// FNV-1a (Fowler, Noll, Vo) followed by a finalizer, because FNV's high bits alone are uneven for short keys. It
/// keeps nobody from choosing keys that meet; the bound on an endpoint's load does.
pub fn hash_key(key: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    mix(hash)
}

/// SplitMix64's finalizer (Steele, Lea, Flood, 2014): a bijection in which every bit of the input reaches every bit
/// of the output.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Who owns which arc.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    /// Ordered; the second is the endpoint's index. Half of a point's bits suffice, and find faster.
    points: Vec<(u32, u32)>,
}

impl Ring {
    /// Of all endpoints, whatever their state: one that is away for a while gets its keys back.
    pub(crate) fn new(slots: &[Slot]) -> Self {
        let weights: u64 = slots.iter().map(|slot| u64::from(slot.weight.value())).sum();
        let mean = weights as f64 / slots.len().max(1) as f64;
        let mut points = Vec::new();
        for (index, slot) in (0u32..).zip(slots) {
            let count =
                (POINTS * f64::from(slot.weight.value()) / mean).round().clamp(1.0, POINTS_MAX) as u64;
            let start = hash_key(slot.id.as_str().as_bytes());
            // The first points of an endpoint are the same whatever their number, so a change of the mean moves few keys.
            points.extend((0..count).map(|n| (upper(mix(start.wrapping_add(mix(n + 1)))), index)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// The owners from the key's point on, once around; an endpoint comes up as often as it has points.
    pub(crate) fn owners(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.points.partition_point(|(point, _)| *point < upper(hash));
        let (before, behind) = self.points.split_at(first);
        behind.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

/// The upper half of a hash.
const fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use model::{Endpoint, Weight};

    use super::*;

    fn slots(names: &[(&str, u16)]) -> Vec<Slot> {
        let slot = |(name, weight): &(&str, u16)| {
            let weight = Weight::new(*weight).unwrap();
            let endpoint = Endpoint { weight, ..Endpoint::new(*name, "127.0.0.1:80".parse().unwrap()) };
            Slot::new(&endpoint)
        };
        names.iter().map(slot).collect()
    }

    fn owner<'a>(ring: &Ring, slots: &'a [Slot], key: u64) -> &'a str {
        slots[ring.owners(hash_key(&key.to_le_bytes())).next().unwrap()].id.as_str()
    }

    #[test]
    fn a_key_has_the_same_point_for_ever() {
        let points = [b"".as_slice(), b"a", b"tenant-42"].map(hash_key);
        assert_eq!(points, [17_665_956_581_633_026_203, 198_367_012_849_983_736, 6_741_133_026_525_241_303]);
    }

    #[test]
    fn only_the_keys_of_a_new_endpoint_change_hands() {
        let (three, four) =
            (slots(&[("a", 1), ("b", 1), ("c", 1)]), slots(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
        let (before, after) = (Ring::new(&three), Ring::new(&four));
        let mut gained = 0;
        for key in 0..10_000 {
            let (old, new) = (owner(&before, &three, key), owner(&after, &four, key));
            assert!(old == new || new == "d", "key {key} went from {old} to {new}");
            gained += u32::from(new == "d");
        }
        assert!((1_500..3_500).contains(&gained), "d owns {gained} of 10000");
    }

    #[test]
    fn weight_widens_the_arcs() {
        let slots = slots(&[("a", 1), ("b", 4)]);
        let ring = Ring::new(&slots);
        let b = (0..10_000).filter(|key| owner(&ring, &slots, *key) == "b").count();
        assert!((7_000..9_000).contains(&b), "b owns {b} of 10000");
    }
}
