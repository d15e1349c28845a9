//! A message: whose it is, which one, and bytes that tell whether it arrived whole.

/// Queue, publisher, number: 4 + 4 + 8 bytes.
const HEAD: usize = 16;

/// Which message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// Index of the queue.
    pub queue: u32,
    /// Index of the publisher of that queue.
    pub publisher: u32,
    /// The publisher's number; never used twice.
    pub number: u64,
}

/// A message of `bytes` bytes.
pub fn write(label: Label, bytes: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes.max(HEAD));
    message.extend_from_slice(&label.queue.to_be_bytes());
    message.extend_from_slice(&label.publisher.to_be_bytes());
    message.extend_from_slice(&label.number.to_be_bytes());
    message.extend((HEAD..bytes).map(|at| filler(label.number, at)));
    message
}

/// Whose it is; `None`: it is not what [`write()`] made of `bytes` bytes.
pub fn read(message: &[u8], bytes: usize) -> Option<Label> {
    let (head, rest) = message.split_at_checked(HEAD)?;
    let label = Label {
        queue: u32::from_be_bytes(head[..4].try_into().ok()?),
        publisher: u32::from_be_bytes(head[4..8].try_into().ok()?),
        number: u64::from_be_bytes(head[8..].try_into().ok()?),
    };
    let whole = message.len() == bytes.max(HEAD)
        && rest.iter().enumerate().all(|(at, byte)| *byte == filler(label.number, HEAD + at));
    whole.then_some(label)
}

fn filler(number: u64, at: usize) -> u8 {
    (number as u8).wrapping_mul(31).wrapping_add(at as u8) ^ (at >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { queue: 3, publisher: 1, number: 70_000 };

    #[test]
    fn a_message_that_arrives_whole_tells_whose_it_is() {
        for bytes in [32, 33, 5_000] {
            assert_eq!(read(&write(LABEL, bytes), bytes), Some(LABEL));
        }
    }

    #[test]
    fn a_message_that_is_cut_or_changed_anywhere_is_damaged() {
        let message = write(LABEL, 600);
        assert_eq!(read(&message[..599], 600), None);
        assert_eq!(read(&[], 600), None);
        for at in 16..600 {
            let mut changed = message.clone();
            changed[at] ^= 1;
            assert_eq!(read(&changed, 600), None, "byte {at}");
        }
    }
}
