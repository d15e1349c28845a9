//! The parts of a simulated world: clients, sessions, endpoints, replicas. Plain records, named by small numbers.
//!
//! A session at rest is 64 bytes and owns nothing, so that a million of them fit; only one that is ending or being moved
//! has a [`Relay`] with a real `session::Session`.

use std::collections::BTreeMap;

use balance::victims::Tenants;
use balance::{Planner, Tier};
use model::{Endpoint, EndpointState, Time, Zone};
use session::Session;

/// No number.
pub const NONE: u32 = u32::MAX;
/// No endpoint.
pub const NOWHERE: u16 = u16::MAX;
/// Most endpoints that one request can have tried: the bound of `tries_max`.
pub const TRIES_MAX: usize = 10;

/// Where a client stands. It is in exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It has no connection and will come back.
    Away,
    /// It asks for a session.
    Connecting,
    /// It has a session.
    Open,
    /// It has left for good, or never comes back.
    Gone,
}

/// A client.
#[derive(Clone, Debug)]
pub struct Client {
    pub stage: Stage,
    /// It leaves for good as soon as it can.
    pub leaves: bool,
    /// It never answers a Close.
    pub mute: bool,
    /// Its reconnect rule, by number.
    pub rule: u8,
    /// Failed attempts since its last session.
    pub attempt: u16,
    /// The replica it talks to or last asked.
    pub replica: u16,
    /// While connecting: the endpoint that is being dialed, or none.
    pub picked: u16,
    pub tried: [u16; TRIES_MAX],
    pub tries: u8,
    /// Its session, or [`NONE`].
    pub session: u32,
    /// Round trip to the gateway, microseconds.
    pub rtt_us: u32,
    /// When the present handshake began.
    pub dialing_since: Time,
    /// When its last connection ended; moves only.
    pub closed_at: Option<Time>,
    /// Times that it was closed by a move.
    pub moves: u32,
    /// When that was last.
    pub moved_at: Time,
    /// Whose session that was, until it has another one.
    pub donor: u16,
    /// The endpoint of its last session.
    pub last: u16,
}

/// Where a session stands for whoever looks for sessions to move: `gateway::slot::Standing`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Open,
    Moving,
    Ending,
}

/// A session as the gateway sees it.
#[derive(Clone, Debug)]
pub struct Sess {
    pub client: u32,
    pub serial: u32,
    /// Its relay, or [`NONE`] at rest.
    pub relay: u32,
    /// Its place in the replica's list.
    pub place: u32,
    pub replica: u16,
    pub endpoint: u16,
    pub moves: u32,
    pub standing: Standing,
    /// A rival's close.
    pub recycled: bool,
    pub opened: Time,
    pub cooling_until: Time,
    pub expires_at: Option<Time>,
}

/// An endpoint as it really is.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub endpoint: Endpoint,
    /// Discovery names it.
    pub listed: bool,
    pub alive: bool,
    /// Dead with its machine: nobody refuses a dial.
    pub silent: bool,
    /// Handshakes take so much longer, nanoseconds.
    pub slow: std::time::Duration,
    /// Its handshakes are done one after the other; until when it is busy.
    pub busy_until: Time,
    /// Sessions that the gateway has, all replicas together.
    pub held: u32,
    /// While it drains: since when and by when, and when its successor starts after that.
    pub drain: Option<(Time, Time)>,
    pub successor: Option<std::time::Duration>,
}

impl Node {
    /// It takes new sessions, in truth.
    pub fn is_ready(&self) -> bool {
        self.alive && self.listed && self.endpoint.state == EndpointState::Ready
    }
}

/// A gateway replica.
#[derive(Debug)]
pub struct Replica {
    pub alive: bool,
    pub planner: Planner,
    /// What it knows of the others.
    pub tier: Tier,
    /// Its sessions by endpoint.
    pub sessions: Vec<Vec<u32>>,
    /// When each draining endpoint's last session is to be gone.
    pub deadlines: BTreeMap<u16, Time>,
    pub tenants: Tenants,
    /// The newest list of endpoints it has.
    pub version: u32,
    pub turn: u32,
}

/// A session that is ending or being moved.
#[derive(Debug)]
pub struct Relay {
    pub session: Session,
    /// Which session, by number.
    pub of: u32,
    /// `handle_leaving` was called.
    pub is_leaving: bool,
    /// Our end of stream was told, by leg.
    pub finished: [bool; 2],
    /// The peer has sent its Close frame, by leg.
    pub closed: [bool; 2],
    /// The peer has sent its end of stream, by leg.
    pub ended: [bool; 2],
    /// When its timer is set.
    pub timer: Option<Time>,
}

/// Relays, in places that are used again.
#[derive(Debug, Default)]
pub struct Relays {
    places: Vec<(u32, Option<Box<Relay>>)>,
    free: Vec<u32>,
}

impl Relays {
    /// Puts one in a free place; its number and serial.
    pub fn insert(&mut self, relay: Relay) -> (u32, u32) {
        let relay = Some(Box::new(relay));
        if let Some(number) = self.free.pop() {
            let place = &mut self.places[number as usize];
            place.1 = relay;
            return (number, place.0);
        }
        self.places.push((0, relay));
        (self.places.len() as u32 - 1, 0)
    }

    /// The one in this place.
    pub fn at(&mut self, number: u32) -> Option<&mut Relay> {
        self.places.get_mut(number as usize)?.1.as_deref_mut()
    }

    /// The one in this place, if it is still the same.
    pub fn same(&mut self, number: u32, serial: u32) -> Option<&mut Relay> {
        self.places.get_mut(number as usize).filter(|place| place.0 == serial)?.1.as_deref_mut()
    }

    /// The serial of this place.
    pub fn serial(&self, number: u32) -> u32 {
        self.places.get(number as usize).map_or(0, |place| place.0)
    }

    /// Empties a place.
    pub fn remove(&mut self, number: u32) {
        if let Some(place) = self.places.get_mut(number as usize)
            && place.1.take().is_some()
        {
            place.0 = place.0.wrapping_add(1);
            self.free.push(number);
        }
    }
}

/// The identity and address of endpoint `number`; the address tells the number again.
pub fn endpoint(number: u16, name: &str) -> Endpoint {
    let [high, low] = number.to_be_bytes();
    Endpoint::new(name, std::net::SocketAddr::from(([10, 0, high, low], 80)))
}

/// The zone of endpoint or replica `number`, when there are so many zones.
pub fn zone(number: u16, zones: u16) -> Option<Zone> {
    Some(Zone::new(format!("zone-{}", number.checked_rem(zones)?)))
}

/// The number behind an address of [`endpoint`].
pub fn number(address: std::net::SocketAddr) -> u16 {
    match address.ip() {
        std::net::IpAddr::V4(v4) => u16::from_be_bytes([v4.octets()[2], v4.octets()[3]]),
        std::net::IpAddr::V6(_) => NOWHERE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_a_million_times_is_small() {
        assert!(size_of::<Sess>() <= 72, "a session takes {} bytes", size_of::<Sess>());
        assert!(size_of::<Client>() <= 104, "a client takes {} bytes", size_of::<Client>());
    }

    #[test]
    fn an_address_tells_its_endpoint() {
        for n in [0, 7, 255, 256, 4_000] {
            assert_eq!(number(endpoint(n, "x").address), n);
        }
    }
}
