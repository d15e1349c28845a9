//! One end of a connection: send, and read exactly what a test expects, with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;
use super::frames::Frame;

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// End of file.
    Fin,
    /// A reset.
    Reset,
}

/// Bare TCP or TLS.
pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A connection.
pub struct Wire {
    stream: Box<dyn Stream>,
    tcp: TcpStream,
    /// Read and not looked at yet.
    read: Vec<u8>,
}

impl Wire {
    /// Over bare TCP.
    pub fn new(tcp: TcpStream) -> Self {
        let stream = tcp.try_clone().expect("a descriptor is free");
        Self::over(tcp, stream)
    }

    /// Over `stream`, which runs on `tcp`.
    pub fn over(tcp: TcpStream, stream: impl Stream + 'static) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        tcp.set_write_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        tcp.set_nodelay(true).expect("a socket takes options");
        Self { stream: Box::new(stream), tcp, read: Vec::new() }
    }

    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).expect("the gateway listens"))
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Writes all of it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes it");
    }

    /// Writes all of it, unless the peer is gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Ends this side; the other goes on.
    pub fn finish(&self) {
        self.tcp.shutdown(Shutdown::Write).expect("it was open");
    }

    /// A head with its blank line.
    pub fn head(&mut self) -> String {
        let end = self.fill_until("a head", |read| find(read, b"\r\n\r\n").map(|at| at + 4));
        String::from_utf8(self.read.drain(..end).collect()).expect("heads are ASCII here")
    }

    /// A head, and the body that its Content-Length announces.
    pub fn message(&mut self) -> (String, String) {
        let head = self.head();
        let length = super::http::header(&head, "content-length").map_or(0, |v| v.parse().expect("a number"));
        let body = String::from_utf8(self.take(length)).expect("bodies are text here");
        (head, body)
    }

    /// Exactly `n` bytes.
    pub fn take(&mut self, n: usize) -> Vec<u8> {
        self.fill_until("bytes", |read| (read.len() >= n).then_some(n));
        self.read.drain(..n).collect()
    }

    /// The next bytes must be these.
    #[track_caller]
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        let found = self.take(expected.len());
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        assert!(at.is_none(), "differs at byte {at:?}: found {}, expected {}", show(&found), show(expected));
    }

    /// A whole frame, unmasked.
    pub fn frame(&mut self) -> Frame {
        let mut frame = None;
        let end = self.fill_until("a frame", |read| {
            let (found, len) = Frame::parse(read)?;
            frame = Some(found);
            Some(len)
        });
        self.read.drain(..end);
        frame.expect("it was parsed")
    }

    /// How the stream ends; anything before that is a failure.
    #[track_caller]
    pub fn end(&mut self) -> End {
        let (rest, end) = self.rest();
        assert!(rest.is_empty(), "unexpected: {}", show(&rest));
        end
    }

    /// The stream must end properly, with nothing before it.
    #[track_caller]
    pub fn expect_fin(&mut self) {
        assert_eq!(self.end(), End::Fin);
    }

    /// Everything until the stream ends, and how that was.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill() {
                Ok(0) => return (std::mem::take(&mut self.read), End::Fin),
                Ok(_) => {}
                Err(error) if is_reset(&error) => return (std::mem::take(&mut self.read), End::Reset),
                Err(error) => panic!("the peer does not end: {error}; so far {}", show(&self.read)),
            }
        }
    }

    /// True once the peer has sent something that was not looked at yet, or has ended.
    pub fn has_something(&mut self) -> bool {
        self.tcp.set_nonblocking(true).expect("a socket can be polled");
        let found = self.fill();
        self.tcp.set_nonblocking(false).expect("a socket can block");
        !self.read.is_empty() || !matches!(found, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    fn fill_until(&mut self, what: &str, mut found: impl FnMut(&[u8]) -> Option<usize>) -> usize {
        loop {
            if let Some(end) = found(&self.read) {
                return end;
            }
            match self.fill() {
                Ok(0) => panic!("end of file instead of {what}; so far {}", show(&self.read)),
                Ok(_) => {}
                Err(error) => panic!("{error} instead of {what}; so far {}", show(&self.read)),
            }
        }
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(n) => {
                    self.read.extend_from_slice(&chunk[..n]);
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Bytes as a person can read them, not too many.
pub fn show(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(400)];
    format!("{} bytes \"{}\"", bytes.len(), start.escape_ascii())
}
