//! What the planner reports, for whoever reads the log, the metrics and the Events: what has happened, and what to do about
//! it.

use balance::Report;
use model::PoolName;
use tokio::sync::mpsc;

use crate::pool::Pool;
use crate::shared::Shared;
use crate::telemetry;

/// Something about a pool that is worth an Event beside the line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Which pool.
    pub pool: PoolName,
    /// In one word, as Kubernetes has it: `PlanStarted`.
    pub reason: &'static str,
    /// Somebody should do something about it.
    pub is_warning: bool,
    /// In a sentence or two.
    pub text: String,
}

/// Somebody who wants notices. Those that find the queue full are lost, and counted.
pub type Notices = mpsc::Sender<Notice>;

/// Logs a report, counts what is worth counting, and tells who listens.
pub fn tell(shared: &Shared, pool: &Pool, report: &Report) {
    log(pool, report);
    if let (Some(notices), Some(notice)) = (shared.notices.get(), notice(&pool.name, report))
        && notices.try_send(notice).is_err()
    {
        telemetry::event_dropped();
    }
}

fn log(pool: &Pool, report: &Report) {
    let name = &pool.name;
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

/// What of a report is worth an Event: beginnings, ends and stops. The rest is in the log and in metrics.
fn notice(pool: &PoolName, report: &Report) -> Option<Notice> {
    let (reason, is_warning, text) = match report {
        Report::PlanStarted { trigger, moves } => {
            let text = format!(
                "Moving sessions until the pool is level: {moves} moves, because of {}.",
                trigger.as_str()
            );
            ("PlanStarted", false, text)
        }
        Report::PlanFinished { moved, took } => {
            ("PlanFinished", false, format!("Moved {moved} sessions in {:.1} s.", took.as_secs_f64()))
        }
        Report::GuardStopped { judged, returned, retry_after } => {
            let text = format!(
                "Of {judged} moved clients {returned} came back: no more are moved; a few are tried again in {} s. Make the \
                 clients reconnect after the close, then resume the pool (evenkeel resume).",
                retry_after.as_secs()
            );
            ("PlanStopped", true, text)
        }
        Report::GuardCleared => {
            ("PlanResumed", false, "Moved clients come back: sessions may be moved again.".to_owned())
        }
        Report::PanicBegan { ready, of } => {
            let text = format!(
                "Only {ready} of {of} endpoints are ready: nothing is moved, and new sessions go to unready ones too. Look at \
                 the Pods and their readiness probes."
            );
            ("Panic", true, text)
        }
        Report::PanicEnded => ("PanicEnded", false, "Enough endpoints are ready again.".to_owned()),
        Report::GuardProbes { .. } | Report::PaceLowered { .. } | Report::Ejected { .. } => return None,
    };
    Some(Notice { pool: pool.clone(), reason, is_warning, text })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn beginnings_ends_and_stops_are_worth_an_event_and_stops_warn() {
        let pool = PoolName::from("chat");
        let (seconds, trigger) = (Duration::from_secs(600), balance::Trigger::Endpoints);
        let told =
            |report| notice(&pool, &report).map(|notice| (notice.reason, notice.is_warning, notice.text));
        let started = told(Report::PlanStarted { trigger, moves: 7 }).expect("it is told");
        assert_eq!(
            (started.0, started.1, started.2.as_str()),
            ("PlanStarted", false, "Moving sessions until the pool is level: 7 moves, because of endpoints.")
        );
        let stopped = told(Report::GuardStopped { judged: 16, returned: 2, retry_after: seconds });
        let (reason, is_warning, text) = stopped.expect("it is told");
        assert_eq!((reason, is_warning), ("PlanStopped", true));
        assert!(text.contains("Of 16 moved clients 2 came back") && text.contains("600 s"), "{text}");
        assert!(told(Report::PanicBegan { ready: 1, of: 4 }).is_some_and(|(_, is_warning, _)| is_warning));
        assert_eq!(told(Report::GuardProbes { moves: 8 }), None);
    }
}
