//! One leg of an AMQP relay: its stream, what waits to be written to it, and what was read from it and not yet used.
//!
//! Unlike in the WebSocket relay, unscanned bytes stay with the leg that they came from: it may leave the session and
//! takes them along.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{Backlog, CHUNK_BYTES};
use crate::io::Io;

/// A leg's stream.
pub struct Side {
    io: Io,
    /// Bytes towards this leg, and bytes from it that are held.
    backlog: Backlog,
    /// The TLS layer may hold bytes that the socket did not take.
    unflushed: bool,
    /// Our end of stream is out.
    finished: bool,
    /// Nothing more comes from it.
    ended: bool,
    /// Nothing goes either way any more.
    broken: bool,
    /// What is held was not handed in since the session last wanted to read.
    pub stale: bool,
}

/// What reading has brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// The end of the stream.
    End,
    /// A reset.
    Broken,
}

impl Side {
    /// A leg over `io`. `unread` was read from it already.
    pub fn new(io: Io, unread: &[u8]) -> Self {
        let mut backlog = Backlog::default();
        backlog.hold(unread);
        Self {
            io,
            backlog,
            unflushed: false,
            finished: false,
            ended: false,
            broken: false,
            stale: !unread.is_empty(),
        }
    }

    /// Bytes that wait to be written.
    pub fn waits(&self) -> usize {
        self.backlog.out().len()
    }

    /// Bytes that were read and not used.
    pub fn held(&self) -> &[u8] {
        self.backlog.held()
    }

    /// Keeps `bytes`, and only them, for later.
    pub fn hold(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() || !self.held().is_empty() {
            self.backlog.hold(bytes);
        }
    }

    /// Our side of the stream has been ended.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Something may still be read.
    pub fn is_readable(&self) -> bool {
        !self.ended
    }

    /// It was given up.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Gives up on the leg. Tells how many bytes did not get there.
    pub fn give_up(&mut self) -> usize {
        (self.broken, self.ended, self.unflushed) = (true, true, false);
        self.backlog.abandon()
    }

    /// Bytes have arrived that were not read yet. A system call.
    pub fn has_unread(&self) -> bool {
        self.io.has_unread()
    }

    /// Reads into `buffer`, at most a chunk.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Read> {
        let room = buffer.len().min(CHUNK_BYTES);
        let mut chunk = ReadBuf::new(&mut buffer[..room]);
        let read = std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk));
        Poll::Ready(match (read, chunk.filled().len()) {
            (Err(_), _) => Read::Broken,
            (Ok(()), 0) => {
                self.ended = true;
                Read::End
            }
            (Ok(()), n) => Read::Bytes(n),
        })
    }

    /// Writes `bytes` behind what waits already, and keeps what the peer does not take. Without a context it only waits.
    ///
    /// # Errors
    /// When the leg is broken.
    pub fn send(&mut self, cx: Option<&mut Context<'_>>, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(cx) = cx.filter(|_| self.waits() == 0) else {
            self.backlog.push(bytes);
            return Ok(());
        };
        match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.backlog.push(&bytes[n..]);
                self.unflushed = self.io.buffers_output();
                self.flush(cx)
            }
            Poll::Ready(result) => {
                self.backlog.push(bytes);
                Err(result.err().unwrap_or_else(|| ErrorKind::WriteZero.into()))
            }
            Poll::Pending => {
                self.backlog.push(bytes);
                Ok(())
            }
        }
    }

    /// Writes what waits. Tells how much of it the peer took.
    ///
    /// # Errors
    /// When the leg is broken.
    pub fn push(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let mut taken = 0;
        while self.waits() > 0 {
            match Pin::new(&mut self.io).poll_write(cx, self.backlog.out()) {
                Poll::Pending => return Ok(taken),
                Poll::Ready(Ok(n)) if n > 0 => {
                    taken += n;
                    self.backlog.advance(n);
                    self.unflushed = self.io.buffers_output();
                }
                Poll::Ready(result) => {
                    return Err(result.err().unwrap_or_else(|| ErrorKind::WriteZero.into()));
                }
            }
        }
        self.flush(cx)?;
        Ok(taken)
    }

    /// Ends our side of the stream once everything is written. True: that happened now.
    ///
    /// # Errors
    /// When the leg is broken.
    pub fn finish(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.finished || self.waits() > 0 {
            return Ok(false);
        }
        if self.broken {
            self.finished = true;
            return Ok(true);
        }
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(result) => {
                self.finished = true;
                result.map(|()| true)
            }
        }
    }

    /// Pushes out what the TLS layer has buffered. A socket that is full is no error: its waker is registered, and the
    /// next turn tries again.
    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.unflushed {
            return Ok(());
        }
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(result) => {
                self.unflushed = false;
                result
            }
            Poll::Pending => Ok(()),
        }
    }
}
