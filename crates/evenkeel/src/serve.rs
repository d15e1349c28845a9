//! A gateway from start to end: discovery, gateway and admin on one runtime, signals, reloads.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admin::{Admin, TokenFile};
use anyhow::Context;
use cluster::Cluster;
use config::Checked;
use gateway::Gateway;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::control::Controlled;
use crate::watch_config::Watched;
use crate::{in_cluster, logging, secrecy};

/// How often files are looked at for changes.
const LOOK: Duration = Duration::from_secs(1);
/// How often the metrics library folds its histograms.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upper bounds of the handshake histogram, in seconds.
const HANDSHAKE_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Upper bounds of the histogram of freezes, in seconds.
const FREEZE_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5];

/// Runs until SIGTERM or SIGINT and the drain after it.
///
/// # Errors
/// What keeps it from starting.
pub fn serve(path: &Path, checked: Checked, address_file: Option<&Path>) -> anyhow::Result<()> {
    logging::start(&checked.config.log);
    for warning in &checked.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(path, checked, address_file))
}

async fn run(path: &Path, checked: Checked, address_file: Option<&Path>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let metrics = install_metrics()?;
    let config = Arc::new(checked.config);
    let mut watched = Watched::new(path, config.clone());
    let (config_tx, config_rx) = watch::channel(config.clone());
    let cluster = Cluster::from_environment();
    let snapshots = discovery::spawn(cluster.clone(), config_rx.clone());
    let admin = Admin::bind(config.admin.address).await.with_context(|| {
        format!("admin port {}: is another process on it? (admin.address)", config.admin.address)
    })?;
    let admin_address = admin.address()?;
    let token = config.admin.token_file.as_deref().map(|file| TokenFile::open(file, Instant::now()));
    let token = token.transpose().context("admin.token_file")?;
    secrecy::keep_logins_out_of_dumps(&config);
    let gateway = Arc::new(Gateway::start(config, snapshots.clone())?);
    in_cluster::spawn(&gateway, cluster, config_rx, snapshots);
    let controlled = Controlled { gateway: gateway.clone(), metrics: metrics.clone() };
    let serving = tokio::spawn(admin.serve(Arc::new(controlled), token));
    if let Some(file) = address_file {
        announce(file, &gateway, admin_address)?;
    }
    tracing::info!(listeners = ?gateway.addresses(), admin = %admin_address, "gateway is up");
    let mut look = tokio::time::interval(LOOK);
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            name = signals.end() => {
                tracing::info!(signal = name, "draining: not ready any more, sessions are closed at an even pace");
                break;
            }
            _ = hangup.recv() => {
                watched.has_changed();
                reload(&mut watched, &gateway, &config_tx);
                gateway.refresh_certificates();
            }
            _ = look.tick() => {
                if watched.has_changed() {
                    reload(&mut watched, &gateway, &config_tx);
                }
                gateway.refresh_certificates();
            }
            _ = upkeep.tick() => metrics.run_upkeep(),
        }
    }
    let left = tokio::select! {
        left = gateway.shutdown() => left,
        name = signals.end() => {
            tracing::warn!(signal = name, "second signal: not waiting for the rest");
            gateway.status().connections
        }
    };
    if left > 0 {
        tracing::warn!(connections = left, "connections were left at the end of the drain and are dropped");
    }
    tracing::info!("gateway is down");
    serving.abort();
    Ok(())
}

fn reload(watched: &mut Watched, gateway: &Gateway, config_tx: &watch::Sender<Arc<config::Config>>) {
    let Some(config) = watched.reload() else { return };
    secrecy::keep_logins_out_of_dumps(&config);
    match gateway.reconfigure(config.clone()) {
        Ok(()) => {
            config_tx.send_replace(config);
            metrics::counter!("evenkeel_reloads_total", "what" => "config", "outcome" => "ok").increment(1);
            tracing::info!("configuration changed; no session was touched");
        }
        Err(error) => {
            metrics::counter!("evenkeel_reloads_total", "what" => "config", "outcome" => "failed")
                .increment(1);
            tracing::error!(%error, "the old configuration stays in force");
        }
    }
}

fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("evenkeel_handshake_seconds".into()), &HANDSHAKE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("evenkeel_migration_freeze_seconds".into()), &FREEZE_BUCKETS)?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics can not be recorded")?;
    Ok(handle)
}

/// Tells whoever started us where we listen. Written aside and renamed, so that no half of it is ever read.
fn announce(file: &Path, gateway: &Gateway, admin: std::net::SocketAddr) -> anyhow::Result<()> {
    let text = serde_json::json!({"listeners": gateway.addresses(), "admin": admin}).to_string();
    let aside = file.with_extension("new");
    std::fs::write(&aside, text)
        .and_then(|()| std::fs::rename(&aside, file))
        .with_context(|| format!("--address-file {} can not be written", file.display()))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
