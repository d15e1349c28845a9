//! What the system allows: file descriptors and source ports, looked at when we start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not client or endpoint sockets: listeners, epoll, logs, kept HTTP connections.
pub const RESERVE: u64 = 200;
/// Descriptors that a session takes: its two legs.
const PER_SESSION: u64 = 2;
/// Ephemeral ports of Linux when the kernel does not tell: net.ipv4.ip_local_port_range's default.
const PORT_RANGE: (u32, u32) = (32768, 60999);

/// The descriptors do not suffice for the configured connections.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "limits.connections_max is {wanted}, which takes {need} file descriptors; this process may open {have}. \
     Raise the hard limit (ulimit -Hn, LimitNOFILE, or the container runtime's default) or set limits.connections_max to {fits} or less"
)]
pub struct TooFew {
    wanted: usize,
    need: u64,
    have: u64,
    fits: u64,
}

/// Raises the limit of open files to the hard limit; returns what it is then.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_err() {
            return limit.current.unwrap_or(hard);
        }
    }
    hard
}

/// How many connections `have` descriptors allow, or that `wanted` do not fit.
///
/// # Errors
/// When `wanted` takes more than `have`.
pub fn connections_max(wanted: Option<usize>, have: u64) -> Result<usize, TooFew> {
    let fits = have.saturating_sub(RESERVE) / PER_SESSION;
    let Some(wanted) = wanted else { return Ok(usize::try_from(fits).unwrap_or(usize::MAX)) };
    let need = (wanted as u64).saturating_mul(PER_SESSION).saturating_add(RESERVE);
    if need > have {
        return Err(TooFew { wanted, need, have, fits });
    }
    Ok(wanted)
}

/// Source ports that one of our addresses has towards one endpoint address.
pub fn source_ports() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map(str::parse::<u32>);
    let (low, high) = match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => (low, high),
        _ => PORT_RANGE,
    };
    high - low + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_fit_are_refused_with_what_to_do() {
        assert_eq!(connections_max(None, 20_000), Ok(9_900));
        assert_eq!(connections_max(Some(9_900), 20_000), Ok(9_900));
        let error = connections_max(Some(9_901), 20_000).unwrap_err().to_string();
        assert!(error.contains("20002 file descriptors") && error.contains("9900 or less"), "{error}");
    }

    #[test]
    fn this_machine_has_source_ports() {
        assert!(source_ports() > 1000);
    }
}
