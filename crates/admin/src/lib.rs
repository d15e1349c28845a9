//! Liveness, readiness, metrics and status over HTTP.
