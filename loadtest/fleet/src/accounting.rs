//! Messages sent against messages received, by direction: the two sides' accounts of a run, compared.
//!
//! A client's number is never used twice, so towards the endpoints a loss and a repetition are certain, whatever
//! sessions the message could have travelled on. Towards the client, numbers count within a session. An endpoint that
//! was killed took its account with it: what its sessions lost is told apart and blamed on nobody.

use std::collections::BTreeMap;

use scenario::messages::{Direction, Messages};

use crate::protocol::{ClientSession, EndpointSession};
use crate::ranges::Ranges;

/// Whether the account of `session`'s endpoint is missing, because the endpoint was `killed` (when, by name, seconds since
/// the first connection). Under the same name another may have been started since.
pub fn on_killed(session: &ClientSession, killed: &BTreeMap<String, f64>) -> bool {
    killed.get(&session.endpoint).is_some_and(|at| session.opened_s <= *at)
}

/// Compares the accounts. `killed`: see [`on_killed`].
pub fn compare(
    clients: &[ClientSession],
    endpoints: &[EndpointSession],
    killed: &BTreeMap<String, f64>,
) -> Messages {
    Messages {
        to_endpoint: to_endpoint(clients, endpoints, killed),
        to_client: to_client(clients, endpoints, killed),
        foreign: clients.iter().map(|session| session.foreign).sum(),
    }
}

/// When the endpoints are not ours, their echoes are the only witness.
pub fn by_echo(clients: &[ClientSession]) -> Messages {
    let sent = clients.iter().map(|session| session.sent.len()).sum();
    let echoed: u64 = clients.iter().map(|session| session.echoed).sum();
    let received = clients.iter().map(|session| session.received.len()).sum();
    Messages {
        to_endpoint: Direction { sent, received: echoed, ..Direction::default() },
        to_client: Direction { received, ..Direction::default() },
        foreign: clients.iter().map(|session| session.foreign).sum(),
    }
}

fn to_endpoint(
    clients: &[ClientSession],
    endpoints: &[EndpointSession],
    killed: &BTreeMap<String, f64>,
) -> Direction {
    let mut arrived: BTreeMap<u32, Ranges> = BTreeMap::new();
    let mut sum = Direction::default();
    for session in endpoints {
        sum.duplicated += session.repeated;
        sum.duplicated += arrived.entry(session.client).or_default().absorb(&session.received);
    }
    let none = Ranges::default();
    for session in clients {
        let sent = session.sent.len();
        let missing = session.sent.missing_in(arrived.get(&session.client).unwrap_or(&none));
        sum.sent += sent;
        if on_killed(session, killed) {
            let unknown = missing.min(sent.saturating_sub(session.echoed));
            sum.lost_to_killed += unknown;
            sum.received += sent - unknown;
        } else {
            sum.lost += missing;
            sum.received += sent - missing;
        }
    }
    sum
}

fn to_client(
    clients: &[ClientSession],
    endpoints: &[EndpointSession],
    killed: &BTreeMap<String, f64>,
) -> Direction {
    let mut sent: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for session in endpoints {
        *sent.entry((session.client, session.session)).or_default() += session.sent;
    }
    let mut sum = Direction { sent: sent.values().sum(), ..Direction::default() };
    for session in clients {
        let received = session.received.len();
        sum.received += received;
        sum.duplicated += session.repeated;
        match sent.remove(&(session.client, session.session)) {
            Some(sent) => sum.lost += sent.saturating_sub(received),
            // Without the endpoint's account, what arrived is all that is known to have been sent.
            None if on_killed(session, killed) => sum.sent += received,
            None => {}
        }
    }
    // Sessions that exist for an endpoint and never became one for the client.
    sum.lost += sent.values().sum::<u64>();
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Ending;

    fn client(client: u32, session: u32, endpoint: &str, sent: &[u64], received: u64) -> ClientSession {
        ClientSession {
            client,
            session,
            endpoint: endpoint.into(),
            sent: sent.iter().copied().collect(),
            echoed: 0,
            received: (0..received).collect(),
            repeated: 0,
            foreign: 0,
            ending: Ending::Own,
            opened_s: 1.0,
            closed_s: 0.0,
            reconnect_ms: None,
        }
    }

    fn endpoint(client: u32, session: u32, received: &[u64], sent: u64) -> EndpointSession {
        EndpointSession { client, session, sent, received: received.iter().copied().collect(), repeated: 0 }
    }

    fn killed(name: &str) -> BTreeMap<String, f64> {
        [(name.to_owned(), 5.0)].into()
    }

    #[test]
    fn a_run_without_fault_loses_and_repeats_nothing() {
        let clients = [client(1, 0, "a", &[0, 1, 2], 5), client(1, 1, "b", &[3, 4], 2)];
        let endpoints = [endpoint(1, 1, &[3, 4], 2), endpoint(1, 0, &[0, 1, 2], 5)];
        let sums = compare(&clients, &endpoints, &BTreeMap::new());
        let expected = Direction { sent: 5, received: 5, ..Direction::default() };
        assert_eq!(sums.to_endpoint, expected);
        assert_eq!(sums.to_client, Direction { sent: 7, received: 7, ..Direction::default() });
    }

    #[test]
    fn a_lost_message_is_counted_in_its_own_direction() {
        let clients = [client(1, 0, "a", &[0, 1, 2], 4)];
        let sums = compare(&clients, &[endpoint(1, 0, &[0, 2], 5)], &BTreeMap::new());
        assert_eq!((sums.to_endpoint.lost, sums.to_endpoint.received), (1, 2));
        assert_eq!((sums.to_client.lost, sums.to_client.received), (1, 4));
    }

    #[test]
    fn a_message_that_reached_two_endpoints_is_a_duplicate() {
        let clients = [client(1, 0, "a", &[0, 1], 0), client(1, 1, "b", &[2], 0)];
        let endpoints = [endpoint(1, 0, &[0, 1], 0), endpoint(1, 1, &[1, 2], 0)];
        let sums = compare(&clients, &endpoints, &BTreeMap::new());
        assert_eq!((sums.to_endpoint.lost, sums.to_endpoint.duplicated), (0, 1));
    }

    #[test]
    fn a_message_whose_sending_failed_may_arrive_and_is_neither_lost_nor_repeated() {
        let sums = compare(&[client(1, 0, "a", &[0], 0)], &[endpoint(1, 0, &[0, 1], 0)], &BTreeMap::new());
        assert_eq!(
            (sums.to_endpoint.lost, sums.to_endpoint.duplicated, sums.to_endpoint.received),
            (0, 0, 1)
        );
    }

    #[test]
    fn another_clients_message_of_the_same_number_is_no_excuse() {
        let clients = [client(1, 0, "a", &[0], 0), client(2, 0, "a", &[0], 0)];
        let sums = compare(&clients, &[endpoint(1, 0, &[0], 0), endpoint(2, 0, &[], 0)], &BTreeMap::new());
        assert_eq!(sums.to_endpoint.lost, 1);
    }

    #[test]
    fn what_a_killed_endpoint_did_not_echo_is_told_apart() {
        let mut cut = client(1, 0, "a", &[0, 1, 2], 3);
        cut.echoed = 2;
        let sums = compare(&[cut], &[], &killed("a"));
        assert_eq!((sums.to_endpoint.lost, sums.to_endpoint.lost_to_killed), (0, 1));
        assert_eq!((sums.to_client.lost, sums.to_client.sent), (0, 3));
    }

    #[test]
    fn the_sessions_of_a_revived_endpoint_have_an_account() {
        let mut later = client(1, 1, "a", &[3, 4], 0);
        later.opened_s = 7.0;
        let sums = compare(&[client(1, 0, "a", &[0], 0), later], &[endpoint(1, 1, &[3], 0)], &killed("a"));
        assert_eq!((sums.to_endpoint.lost, sums.to_endpoint.lost_to_killed), (1, 1));
    }

    #[test]
    fn an_endpoints_session_that_no_client_knows_is_a_loss() {
        let sums = compare(&[], &[endpoint(1, 0, &[], 4)], &BTreeMap::new());
        assert_eq!(sums.to_client.lost, 4);
    }
}
