//! Whether a node serves AMQP: the protocol header goes out, and the first frame of a handshake comes back.
//!
//! An open port says less: RabbitMQ under a memory alarm, or one that is stopping, still has it for a while.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for the connection, and for each read.
const WITHIN: Duration = Duration::from_secs(2);
/// A protocol header of AMQP 0-9-1.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// True when Connection.Start was read.
pub fn answers(address: SocketAddr) -> bool {
    start(address).unwrap_or(false)
}

fn start(address: SocketAddr) -> std::io::Result<bool> {
    let mut socket = TcpStream::connect_timeout(&address, WITHIN)?;
    socket.set_read_timeout(Some(WITHIN))?;
    socket.set_write_timeout(Some(WITHIN))?;
    socket.write_all(HEADER)?;
    // Frame type, channel (2), size (4), class (2), method (2).
    let mut head = [0; 11];
    socket.read_exact(&mut head)?;
    Ok(head[..3] == [1, 0, 0] && head[7..] == [0, 10, 0, 10])
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn served(answer: &'static [u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut header = [0; 8];
            socket.read_exact(&mut header).unwrap();
            socket.write_all(answer).unwrap();
            header
        });
        let answered = answers(address);
        assert_eq!(server.join().unwrap(), HEADER);
        answered
    }

    #[test]
    fn only_a_handshake_counts_as_an_answer() {
        assert!(served(b"\x01\x00\x00\x00\x00\x01\x00\x00\x0a\x00\x0a\x00\x09"));
        assert!(!served(b"AMQP\x00\x00\x09\x01more"));
        assert!(!served(b""));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!answers(closed));
    }
}
