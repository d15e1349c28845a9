//! Where bytes stay: one read buffer a thread, and what a peer would not take yet.

use std::cell::RefCell;

/// Room in front of what is read, for the beginning of a frame header or control frame that was kept.
pub const HEADROOM: usize = 192;
/// Bytes read at once.
pub const CHUNK_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's read buffer: [`HEADROOM`] + [`CHUNK_BYTES`] long.
pub fn with<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    with_bytes(HEADROOM + CHUNK_BYTES, f)
}

/// Lends the thread's read buffer, `bytes` of it.
pub fn with_bytes<R>(bytes: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    // Taken out while lent, so that a nested call gets one of its own instead of a panic.
    let mut buffer = BUFFER.take();
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    let result = f(&mut buffer[..bytes]);
    BUFFER.set(buffer);
    result
}

/// One direction's bytes that could not go on at once. Empty, and without an allocation, nearly always.
#[derive(Debug, Default)]
pub struct Backlog {
    inner: Option<Box<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Scanned, to be written; the first `written` bytes already are.
    out: Vec<u8>,
    written: usize,
    /// Not scanned. Over WebSocket an incomplete header or control frame: at most [`ws::CONTROL_FRAME_BYTES_MAX`] bytes.
    held: Vec<u8>,
}

impl Backlog {
    /// What waits to be written.
    pub fn out(&self) -> &[u8] {
        self.inner.as_ref().map_or(&[], |inner| &inner.out[inner.written..])
    }

    /// Adds to what waits to be written.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.inner.get_or_insert_default().out.extend_from_slice(bytes);
        }
    }

    /// The first `n` bytes of [`Self::out`] were written.
    pub fn advance(&mut self, n: usize) {
        if let Some(inner) = &mut self.inner {
            inner.written += n;
            debug_assert!(inner.written <= inner.out.len());
            if inner.written == inner.out.len() {
                inner.out = Vec::new();
                inner.written = 0;
            }
        }
        self.shrink();
    }

    /// Gives up on what waits to be written; tells how many bytes that was.
    pub fn abandon(&mut self) -> usize {
        let n = self.out().len();
        self.advance(n);
        n
    }

    /// Bytes kept unscanned.
    pub fn held(&self) -> &[u8] {
        self.inner.as_ref().map_or(&[], |inner| &inner.held)
    }

    /// Keeps `bytes`, and only them, unscanned.
    pub fn hold(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            if let Some(inner) = &mut self.inner {
                inner.held = Vec::new();
            }
            return self.shrink();
        }
        let inner = self.inner.get_or_insert_default();
        inner.held.clear();
        inner.held.extend_from_slice(bytes);
    }

    fn shrink(&mut self) {
        if self.inner.as_ref().is_some_and(|inner| inner.out.is_empty() && inner.held.is_empty()) {
            self.inner = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_backlog_holds_no_memory() {
        let mut backlog = Backlog::default();
        backlog.push(b"abc");
        backlog.hold(b"x");
        backlog.advance(2);
        assert_eq!((backlog.out(), backlog.held()), (&b"c"[..], &b"x"[..]));
        backlog.advance(1);
        assert!(backlog.inner.is_some());
        backlog.hold(b"");
        assert!(backlog.inner.is_none());
    }
}
