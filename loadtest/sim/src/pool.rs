//! What the configuration says of a pool, in the forms that the planner and the sessions take.
//!
//! The text is read and checked by `config`, so the keys, units and defaults are the gateway's own. How a notice and
//! a close become a [`ShedSpec`] follows `gateway::pool::Policy`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use session::{Notice, Order, Settings, ShedSpec};

/// A compiled pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// For the planners.
    pub planner: balance::Settings,
    /// For the sessions' state machines.
    pub session: Settings,
    /// Longest wait for a TCP connection to an endpoint.
    pub dial_timeout: Duration,
    /// Longest wait for a response head.
    pub response_timeout: Duration,
    /// Endpoints tried for one request.
    pub tries_max: usize,
    /// Another endpoint is tried when one dies before the first byte of its answer.
    pub retry_upgrade: bool,
    notice: Option<config::Notice>,
    close: config::Close,
}

impl Pool {
    /// From the keys of a pool as they stand in a file, comma-separated: `rebalance: {settle: 1s}, balance: p2c`.
    ///
    /// # Errors
    /// What `config` has to say of it; the lines are those of the text around the keys.
    pub fn parse(keys: &str) -> Result<Self, String> {
        let separator = if keys.trim().is_empty() { "" } else { "," };
        let text = format!(
            "listeners: [{{address: \"127.0.0.1:0\"}}]\nroutes: [{{pool: simulated}}]\npools:\n  simulated: \
             {{endpoints: [{{address: \"127.0.0.1:1\"}}]{separator} {keys}}}\n"
        );
        let checked = config::parse(&text, Path::new("")).map_err(|errors| errors.to_string())?;
        let pool = checked.config.pools.values().next().ok_or("the text names no pool")?;
        Ok(Self::new(pool, &checked.config.limits))
    }

    fn new(pool: &config::Pool, limits: &config::Limits) -> Self {
        Self {
            planner: balance::Settings {
                policy: pool.balance,
                placement: pool.placement.clone(),
                admission: pool.admission.clone(),
                limits: pool.rebalance.clone(),
                migrates: false,
            },
            session: Settings {
                strict: pool.websocket.on_bad_frame == config::OnBadFrame::Strict,
                on_upstream_abort: pool.websocket.on_upstream_abort,
                reply_timeout: pool.moves.close.reply_timeout,
                half_close_timeout: limits.half_close_timeout,
                close_linger: limits.close_linger,
            },
            dial_timeout: pool.dial_timeout,
            response_timeout: pool.response_timeout,
            tries_max: usize::from(pool.tries_max),
            retry_upgrade: pool.websocket.retry_upgrade,
            notice: pool.moves.notice.clone(),
            close: pool.moves.close.clone(),
        }
    }

    /// How one session is shed for `reason`: with the notice if it may get one, whose grace is spread by `spread`
    /// (-1.0 to 1.0), and nothing reaches beyond `left`.
    pub fn shed_spec(
        &self,
        reason: &str,
        left: Option<Duration>,
        may_notify: bool,
        spread: f64,
    ) -> Arc<ShedSpec> {
        let left = left.unwrap_or(Duration::MAX);
        let wait = self.close.wait.min(left / 2);
        let notice = self.notice.as_ref().filter(|_| may_notify).map(|notice| {
            let grace = notice.grace.mul_f64(1.0 + notice.jitter * spread).min(left.saturating_sub(wait));
            let frame = ws::message_frame(ws::Opcode::Text, reason.as_bytes(), None);
            Notice { frame, grace }
        });
        let order = match self.close.order {
            config::CloseOrder::ClientFirst => Order::ClientFirst,
            config::CloseOrder::BackendFirst => Order::BackendFirst,
        };
        Arc::new(ShedSpec {
            notice,
            code: self.close.code,
            reason: self.close.reason.clone(),
            order,
            quiet: self.close.quiet,
            wait,
            reply_timeout: self.close.reply_timeout,
        })
    }

    /// Clients are told before they are closed.
    pub fn may_notify(&self) -> bool {
        self.notice.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_text_is_the_gateways_defaults() {
        let pool = Pool::parse("").unwrap();
        assert_eq!(pool.planner, balance::Settings::default());
        assert_eq!((pool.tries_max, pool.may_notify()), (3, false));
        let spec = pool.shed_spec("surplus", None, true, 0.0);
        assert_eq!((spec.code, spec.quiet), (1012, Duration::from_millis(100)));
    }

    #[test]
    fn keys_are_judged_by_the_gateways_own_rules() {
        let pool = Pool::parse("rebalance: {settle: 1s}, balance: p2c").unwrap();
        assert_eq!(pool.planner.limits.settle, Duration::from_secs(1));
        assert!(Pool::parse("rebalance: {settel: 1s}").unwrap_err().contains("settel"));
    }

    #[test]
    fn nothing_of_a_shed_reaches_beyond_its_deadline() {
        let pool = Pool::parse("move: {notice: {text: hi, grace: 60s}}").unwrap();
        let spec = pool.shed_spec("draining", Some(Duration::from_secs(4)), true, 1.0);
        let grace = spec.notice.as_ref().unwrap().grace;
        assert!(grace + spec.wait <= Duration::from_secs(4), "{grace:?} {:?}", spec.wait);
    }

    #[test]
    fn who_may_get_no_notice_is_closed_without_one() {
        let pool = Pool::parse("move: {notice: {text: hi, grace: 60s}}").unwrap();
        assert!(pool.shed_spec("draining", Some(Duration::ZERO), false, 0.0).notice.is_none());
    }
}
