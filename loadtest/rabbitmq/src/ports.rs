//! Ports that the system picks and that stay ours until the process that is to listen there does, seconds later.
//!
//! A socket that is bound and does not listen reserves its port: nobody else is given it, and a server that sets
//! SO_REUSEADDR, as Erlang's do, may still listen there.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use socket2::{Domain, Socket, Type};

/// A reserved port of 127.0.0.1.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Holds the reservation.
    _socket: Socket,
}

impl Port {
    /// A free port of the system's choice.
    ///
    /// # Errors
    /// When there is none.
    pub fn pick() -> anyhow::Result<Self> {
        let pick = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            let number = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
            std::io::Result::Ok(Self { number, _socket: socket })
        };
        pick().context("no free port on 127.0.0.1")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_given_to_nobody_else_but_may_be_listened_on() {
        let port = Port::pick().unwrap();
        let others: Vec<Port> = (0..50).map(|_| Port::pick().unwrap()).collect();
        assert!(others.iter().all(|other| other.number() != port.number()));
        // The standard library sets SO_REUSEADDR, as Erlang does.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    }
}
