//! Where log lines go and in what form.

use std::io::IsTerminal;

use config::{Format, Level, Log};
use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error. `RUST_LOG`, when set, wins over the configured level.
pub fn start(log: &Log) {
    let level = match log.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(level)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first.
    let _ = match log.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}

/// The Kubernetes client has a line for each failed request and each watch that is cut, some with the whole answer.
/// `cluster` tells the same once a minute, with what to do. What its TLS says of certificates is told by nobody else.
fn directives(level: &str) -> String {
    format!("{level},kube_client::client=off,kube_client::client::tls={level}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_a_filter_that_keeps_the_kubernetes_client_quiet() {
        for level in ["error", "warn", "info", "debug", "trace"] {
            let filter = directives(level).parse::<EnvFilter>().expect("it is a filter").to_string();
            assert!(filter.contains(level) && filter.contains("kube_client::client=off"), "{filter}");
        }
    }
}
