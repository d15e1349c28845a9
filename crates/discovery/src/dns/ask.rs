//! The questions of a round, by hickory's resolver. What the answers mean is in `known`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
#[cfg(test)]
use std::net::SocketAddr;
use std::time::Duration;

use config::DnsPool;
use futures_util::{StreamExt, stream};
use hickory_resolver::TokioResolver;
#[cfg(test)]
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use model::Weight;

use super::known::{Addresses, Found, Srv, Target, targets};

/// Hosts of SRV records that are asked for at once.
const HOSTS_AT_ONCE: usize = 8;

/// Whom to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    /// Whom the system asks: `/etc/resolv.conf`, after `/etc/hosts`.
    System,
    /// This one alone, over UDP and TCP.
    #[cfg(test)]
    At(SocketAddr),
}

impl Server {
    /// A resolver that remembers nothing: the follower knows for how long an answer holds.
    ///
    /// # Errors
    /// What is wrong with the system's configuration.
    pub(crate) fn resolver(self) -> Result<TokioResolver, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match self {
            Self::System => TokioResolver::builder(provider)
                .map_err(|error| format!("/etc/resolv.conf can not be used ({error})"))?,
            #[cfg(test)]
            Self::At(address) => {
                let mut ways = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                ways.iter_mut().for_each(|way| way.port = address.port());
                let server = NameServerConfig::new(address.ip(), true, ways);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                let mut builder = TokioResolver::builder_with_config(config, provider);
                builder.options_mut().timeout = Duration::from_millis(300);
                builder.options_mut().attempts = 1;
                builder
            }
        };
        builder.options_mut().cache_size = 0;
        builder.build().map_err(|error| format!("the resolver can not be made ({error})"))
    }
}

/// One round: the targets of `pool`, and the addresses of each of their hosts.
pub(crate) async fn round(
    resolver: &TokioResolver,
    pool: &DnsPool,
) -> (Found<Target>, BTreeMap<String, Addresses>) {
    let targets = match pool.port {
        Some(port) => {
            let target = Target { host: pool.name.clone(), port, weight: Weight::ONE };
            // The name itself holds for ever.
            Found::Records(vec![target], Duration::MAX)
        }
        None => srv(resolver, &pool.name).await,
    };
    let Found::Records(list, _) = &targets else { return (targets, BTreeMap::new()) };
    let names: BTreeSet<String> = list.iter().map(|target| target.host.clone()).collect();
    let asked = names.into_iter().map(|host| async move {
        let found = addresses(resolver, &host).await;
        (host, found)
    });
    let hosts = stream::iter(asked).buffer_unordered(HOSTS_AT_ONCE).collect().await;
    (targets, hosts)
}

async fn srv(resolver: &TokioResolver, name: &str) -> Found<Target> {
    let record = |data: &RData| match data {
        RData::SRV(srv) => Some(Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            host: srv.target.to_ascii(),
        }),
        _ => None,
    };
    match ask(resolver, name, RecordType::SRV, record).await.0 {
        Found::Records(records, ttl) => Found::Records(targets(&records), ttl),
        Found::Nothing(why) => Found::Nothing(why),
        Found::Failed(why) => Found::Failed(why),
    }
}

/// Both families of a host. A name that is not complete is searched for once: where one family was found, the other is asked
/// for, because a search ends with the answer for its last candidate, whatever the one in the middle was.
async fn addresses(resolver: &TokioResolver, host: &str) -> Addresses {
    let (v4, place) = ask(resolver, host, RecordType::A, address).await;
    if let Some(place) = place {
        let (v6, _) = ask(resolver, &place, RecordType::AAAA, address).await;
        return [v4, v6];
    }
    let (v6, place) = ask(resolver, host, RecordType::AAAA, address).await;
    match place {
        Some(place) if place != host => [ask(resolver, &place, RecordType::A, address).await.0, v6],
        Some(_) | None => [v4, v6],
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// One question: what was found, and under which complete name.
async fn ask<T>(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    pick: impl Fn(&RData) -> Option<T>,
) -> (Found<T>, Option<String>) {
    let name = match Name::from_utf8(name) {
        Ok(name) => name,
        Err(error) => return (Found::Failed(format!("{name} is not a name ({error})")), None),
    };
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let records: Vec<T> = lookup.answers().iter().filter_map(|record| pick(&record.data)).collect();
            if records.is_empty() {
                return (Found::Nothing("no such record"), None);
            }
            let place = lookup.query().name().to_ascii();
            (Found::Records(records, ttl(&lookup)), Some(place))
        }
        Err(error) => (missing(&error, kind), None),
    }
}

/// The shortest, aliases on the way included.
fn ttl(lookup: &Lookup) -> Duration {
    let seconds = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    Duration::from_secs(u64::from(seconds))
}

fn missing<T>(error: &NetError, kind: RecordType) -> Found<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Found::Nothing("NXDOMAIN"),
            ResponseCode::NoError => Found::Nothing("no such record"),
            code => Found::Failed(format!("{kind}: {code}")),
        },
        NetError::Timeout => Found::Failed(format!("{kind}: no answer in time")),
        error => Found::Failed(format!("{kind}: {error}")),
    }
}
