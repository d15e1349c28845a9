//! How a session is to be migrated: what the shell asks for, whatever the protocol.

use model::Time;

/// How a session is to be migrated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MigrateSpec {
    /// Why, as it is written in metrics and logs and told to a client that is closed in the end.
    pub reason: &'static str,
    /// When it must be gone from its endpoint. `None`: there is no hurry, and what takes too long is tried again later.
    pub deadline: Option<Time>,
    /// What becomes of it when it can not migrate.
    pub fallback: Fallback,
}

/// What becomes of a session that can not migrate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// It stays where it is. The shell may ask again.
    Stay,
    /// It is closed so that its client comes back elsewhere, as gently as the time allows.
    Close,
}
