//! What clients log in with is kept in memory for migrations: a crash must not write it to a disk.

use config::{Config, Protocol};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Sees to it that the kernel makes no core dump of this process, and lets nobody but root look into it, when a pool of
/// `config` keeps logins. There is no way back before the next start.
pub fn keep_logins_out_of_dumps(config: &Config) {
    let keeps = |(name, pool): (&model::PoolName, &config::Pool)| {
        config.protocol(name) == Protocol::Amqp && pool.amqp.as_ref().is_none_or(|amqp| amqp.seamless)
    };
    if !config.pools.iter().any(keeps) {
        return;
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let done = setrlimit(Resource::Core, none).and(set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        tracing::warn!(%error, "core dumps can not be switched off: one would contain what AMQP clients log in with");
    }
}
