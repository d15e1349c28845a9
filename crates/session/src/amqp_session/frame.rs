//! A frame as it stands in what a leg has sent, and frames of ours one after the other.

/// The whole frames in `bytes`, with their channels.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [_, id_high, id_low, size @ ..] = *bytes.first_chunk::<{ amqp::HEADER_BYTES }>()?;
        let len = u32::from_be_bytes(size) as usize + amqp::FRAME_OVERHEAD;
        let (frame, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        Some((u16::from_be_bytes([id_high, id_low]), frame))
    })
}

/// A frame, or its beginning.
pub(super) struct Frame<'a> {
    pub kind: amqp::Kind,
    pub channel: u16,
    /// Bytes of its whole payload.
    pub size: u32,
    /// What is here of it, header included. A method that is followed is whole.
    pub bytes: &'a mut [u8],
}

impl Frame<'_> {
    /// Its payload, as far as it is here.
    pub fn payload(&self) -> &[u8] {
        let end = self.bytes.len().min(amqp::HEADER_BYTES + self.size as usize);
        &self.bytes[amqp::HEADER_BYTES..end]
    }
}
