//! Who the client is, told to an endpoint in front of the first byte: PROXY protocol, version 2.
//!
//! A broker sees the gateway's address otherwise, in its logs and in what it tells of its connections. Off unless a pool
//! asks for it: an endpoint that does not expect it takes it for garbage, and one that does refuses who sends none.
//! Not here: reading it, and version 1.
//!
//! Source: HAProxy, "The PROXY protocol", section 2.2.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What it begins with. No protocol that is relayed begins like this.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2; the connection is the gateway's own.
const LOCAL_COMMAND: u8 = 0x20;
/// Version 2; the connection is made for somebody else.
const PROXY_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header of a connection that the gateway makes for itself, such as a probe: the endpoint goes by its socket.
pub const LOCAL: [u8; 16] = {
    let mut header = [0; 16];
    header.split_at_mut(SIGNATURE.len()).0.copy_from_slice(&SIGNATURE);
    header[12] = LOCAL_COMMAND;
    header
};

/// The header of a connection that is made for `client`, who has connected to our address `local`: 28 bytes when both
/// are IPv4, else 52.
pub fn header(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let family = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            addresses.extend_from_slice(&from.octets());
            addresses.extend_from_slice(&to.octets());
            TCP_OVER_IPV4
        }
        // One family for both: the IPv4 one, if any, is mapped.
        (from, to) => {
            addresses.extend_from_slice(&v6(from).octets());
            addresses.extend_from_slice(&v6(to).octets());
            TCP_OVER_IPV6
        }
    };
    addresses.extend_from_slice(&client.port().to_be_bytes());
    addresses.extend_from_slice(&local.port().to_be_bytes());
    let mut out = Vec::with_capacity(LOCAL.len() + addresses.len());
    out.extend_from_slice(&SIGNATURE);
    out.extend_from_slice(&[PROXY_COMMAND, family]);
    out.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    out.extend_from_slice(&addresses);
    out
}

const fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: &str = "192.0.2.1:56324";
    const SIX: &str = "[2001:db8::1]:56324";

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("the address is valid")
    }

    /// Client and local address, read by the letter of section 2.2.
    fn read(header: &[u8]) -> (SocketAddr, SocketAddr) {
        assert_eq!(&header[..12], b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A");
        assert_eq!(header[12], 0x21, "version 2 in the upper half, command PROXY in the lower");
        let len = usize::from(header[14]) * 256 + usize::from(header[15]);
        let rest = &header[16..];
        assert_eq!(rest.len(), len, "the length counts what follows it");
        let width = match (header[13], len) {
            (0x11, 12) => 4,
            (0x21, 36) => 16,
            other => panic!("no such family and length: {other:?}"),
        };
        let ip = |bytes: &[u8]| match width {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).expect("4 bytes")),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")),
        };
        let port = |at: usize| u16::from(rest[at]) * 256 + u16::from(rest[at + 1]);
        (
            SocketAddr::new(ip(&rest[..width]), port(2 * width)),
            SocketAddr::new(ip(&rest[width..2 * width]), port(2 * width + 2)),
        )
    }

    #[test]
    fn a_client_of_each_family_is_told_with_both_addresses_and_ports() {
        for (client, local, bytes) in [(FOUR, "198.51.100.7:5672", 28), (SIX, "[2001:db8::7]:5672", 52)] {
            let header = header(address(client), address(local));
            assert_eq!(header.len(), bytes);
            assert_eq!(read(&header), (address(client), address(local)));
        }
    }

    #[test]
    fn a_mapped_ipv4_address_is_told_as_ipv4() {
        let header = header(address("[::ffff:192.0.2.1]:56324"), address("[::ffff:198.51.100.7]:5672"));
        assert_eq!(read(&header), (address(FOUR), address("198.51.100.7:5672")));
    }

    #[test]
    fn two_families_are_told_as_ipv6() {
        let header = header(address(SIX), address("198.51.100.7:5672"));
        assert_eq!(read(&header), (address(SIX), address("[::ffff:198.51.100.7]:5672")));
    }

    #[test]
    fn a_header_is_this_byte_by_byte() {
        let header = header(address(FOUR), address("198.51.100.7:5672"));
        let expected = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C"[..],
            &[192, 0, 2, 1, 198, 51, 100, 7],
            &[0xDC, 0x04, 0x16, 0x28],
        ];
        assert_eq!(header, expected.concat());
    }

    #[test]
    fn a_connection_of_our_own_says_no_address() {
        assert_eq!(LOCAL, *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    }
}
