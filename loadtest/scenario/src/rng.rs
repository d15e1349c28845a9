//! A small seeded generator, so that a scenario's schedule is the same on every machine.
//!
//! SplitMix64 (Steele, Lea, Flood 2014). Not for secrets: masks and keys come from the WebSocket library.

/// A stream of numbers that depends on nothing but its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`; different `stream`s of one seed are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xD134_2543_DE82_EF95));
        rng.next();
        rng
    }

    /// A number in 0.0 (included) to 1.0 (excluded).
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_streams_differ() {
        let mut first = Rng::new(7, 1);
        let mut again = Rng::new(7, 1);
        let mut other = Rng::new(7, 2);
        let drawn: Vec<f64> = (0..100).map(|_| first.unit()).collect();
        assert!(drawn.iter().all(|x| *x == again.unit()));
        assert!(drawn.iter().any(|x| *x != other.unit()));
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)));
    }
}
