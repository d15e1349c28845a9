//! What the planner reports, for whoever reads the log and the metrics: what has happened, and what to do about it.

use balance::Report;
use model::PoolName;
use tokio::sync::mpsc;

use crate::pool::Pool;
use crate::shared::Shared;
use crate::telemetry;

/// Somebody who wants reports as well. Those that find the queue full are lost.
pub type ReportListener = mpsc::Sender<(PoolName, Report)>;

/// Logs a report and counts what is worth counting.
pub fn tell(shared: &Shared, pool: &Pool, report: &Report) {
    let name = &pool.name;
    if let Some(listener) = shared.listener.get()
        && listener.try_send((name.clone(), report.clone())).is_err()
    {
        telemetry::report_lost();
    }
    match report {
        Report::PlanStarted { trigger, moves } => {
            pool.metrics.plan_started(*trigger);
            tracing::info!(pool = %name, trigger = trigger.as_str(), moves,
                "sessions are moved until the pool is level");
        }
        Report::PlanFinished { moved, took } => {
            tracing::info!(pool = %name, moved, took_ms = took.as_millis() as u64,
                "the pool is level, or nothing more may be moved; /api/v1/status of the admin port says which");
        }
        Report::GuardStopped { judged, returned, retry_after } => {
            tracing::warn!(pool = %name, judged, returned, retry_after_s = retry_after.as_secs(),
                "too few of the moved clients came back: no more are moved for balance; make the clients reconnect \
                 after the configured close code, then resume the pool, or set rebalance.enabled: false");
        }
        Report::GuardProbes { moves } => {
            tracing::info!(pool = %name, moves, "a few clients are moved to see whether they come back again");
        }
        Report::GuardCleared => {
            tracing::info!(pool = %name, "moved clients come back, or somebody resumed: sessions may be moved again");
        }
        Report::PanicBegan { ready, of } => {
            tracing::warn!(pool = %name, ready, of,
                "too few endpoints are ready: nothing is moved for balance, and new sessions go to unready ones too; \
                 look at the endpoints and at what checks their health");
        }
        Report::PanicEnded => tracing::info!(pool = %name, "enough endpoints are ready again"),
        Report::PaceLowered { factor, cause } => {
            pool.metrics.pace_lowered(*cause);
            tracing::info!(pool = %name, factor, cause = cause.as_str(),
                "sessions are moved more slowly, because endpoints suffer; the pace comes back by itself");
        }
        Report::Ejected { endpoint, failures, pause } => {
            pool.metrics.ejected();
            tracing::warn!(pool = %name, %endpoint, failures, pause_ms = pause.as_millis() as u64,
                "endpoint failed several times in a row: nothing new is placed on it for a while; look at it");
        }
    }
}
