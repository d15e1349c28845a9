//! Unpredictable bytes from the operating system, fetched in batches a thread.
//!
//! Masking keys must be unpredictable (RFC 6455 section 10.3); request ids only unique. One batch serves both.

use std::cell::RefCell;

const BATCH: usize = 512;

struct Batch {
    bytes: [u8; BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Batch> = const { RefCell::new(Batch { bytes: [0; BATCH], used: BATCH }) };
}

/// `N` (at most 64) fresh bytes, each given out once.
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 64) }
    POOL.with_borrow_mut(|pool| {
        if pool.used + N > BATCH {
            getrandom::fill(&mut pool.bytes).expect("the operating system gives random bytes");
            pool.used = 0;
        }
        let mut out = [0; N];
        out.copy_from_slice(&pool.bytes[pool.used..pool.used + N]);
        pool.bytes[pool.used..pool.used + N].fill(0);
        pool.used += N;
        out
    })
}

/// A request id: 128 random bits in hexadecimal.
pub fn request_id() -> String {
    format!("{:032x}", u128::from_be_bytes(bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice() {
        let ids: std::collections::BTreeSet<String> = (0..2000).map(|_| request_id()).collect();
        assert_eq!(ids.len(), 2000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
