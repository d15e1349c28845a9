//! Listeners, TLS, dialing, the relay, the session table, plan execution, drain.
