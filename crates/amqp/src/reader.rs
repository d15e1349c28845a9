//! Fields of a method, one after the other (section 4.2.5).

/// Reads fields from a payload. Every call gives `None` when the payload ends too early.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From the beginning of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    /// An octet.
    pub fn u8(&mut self) -> Option<u8> {
        Some(u8::from_be_bytes(self.chunk()?))
    }

    /// A short integer.
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.chunk()?))
    }

    /// A long integer.
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.chunk()?))
    }

    /// A long long integer.
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.chunk()?))
    }

    /// A string of at most 255 bytes. Names are bytes here: nobody is refused for an odd one.
    pub fn short_string(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A string with a 32-bit length.
    pub fn long_string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// A field table: its entries, without the length in front.
    pub fn table(&mut self) -> Option<crate::Table<'a>> {
        self.long_string().map(crate::Table::new)
    }
}
