//! The process of all clients: it starts them at the scenario's rate, samples them, and hands in their records.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Client;
use crate::protocol::{self, Answer, ClientSession, ClientsPlan, ClientsSample, Order, Phase};

/// How often the state is told.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// All closes of the end are spread over this time.
const CLOSE_SPREAD: Duration = Duration::from_secs(1);
/// Longest wait for the clients after the order to finish.
const FINISH_WITHIN: Duration = Duration::from_secs(15);

/// What all clients of this process share.
pub struct Board {
    /// What they do.
    pub plan: ClientsPlan,
    /// Where they connect, each time to any of them.
    pub targets: RefCell<Vec<String>>,
    /// When the order to start came.
    pub began: Instant,
    /// Their counts.
    pub sample: RefCell<ClientsSample>,
    /// Their sessions that ended.
    pub records: RefCell<Vec<ClientSession>>,
}

impl Board {
    /// Counts one more of `key`.
    pub fn count(map: &mut BTreeMap<String, u64>, key: &str) {
        match map.get_mut(key) {
            Some(n) => *n += 1,
            None => {
                map.insert(key.to_owned(), 1);
            }
        }
    }
}

/// Runs the clients of the plan that arrives first on standard input.
///
/// # Errors
/// When the first line is no plan.
pub async fn run() -> anyhow::Result<()> {
    let mut orders = protocol::orders();
    let Some(Order::Start(plan)) = orders.recv().await else {
        bail!(
            "the clients' process expects a plan as its first line of input; it is started by `fleet replay`"
        );
    };
    let (phase, phases) = watch::channel(Phase::Run);
    let plan_address = plan.address.clone();
    let sample = ClientsSample { away: plan.count, ..ClientsSample::default() };
    let board = Rc::new(Board {
        plan,
        targets: RefCell::new(vec![plan_address]),
        began: Instant::now(),
        sample: RefCell::new(sample),
        records: RefCell::default(),
    });
    let aimed = board.clone();
    tokio::task::spawn_local(protocol::follow(orders, phase, move |targets| {
        *aimed.targets.borrow_mut() = targets.iter().map(ToString::to_string).collect();
    }));
    let mut clients = start(&board, &phases);
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    let mut phase = phases;
    loop {
        tokio::select! {
            _ = every.tick() => protocol::answer(&Answer::Clients(board.sample.borrow().clone())),
            finished = phase.wait_for(|phase| *phase == Phase::Finish) => {
                drop(finished);
                break;
            }
        }
    }
    let all = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH_WITHIN, all).await.is_err() {
        eprintln!(
            "fleet: {} clients did not end within {FINISH_WITHIN:?}; their last session is not accounted",
            clients.len()
        );
    }
    protocol::answer(&Answer::Clients(board.sample.borrow().clone()));
    protocol::answer_records(&board.records.borrow(), Answer::ClientSessions);
    Ok(())
}

fn start(board: &Rc<Board>, phases: &watch::Receiver<Phase>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..board.plan.count {
        let delay = Duration::from_secs_f64(f64::from(number) / board.plan.connect_per_second);
        let close_delay = CLOSE_SPREAD.mul_f64(f64::from(number) / f64::from(board.plan.count));
        let client = Client::new(number, board.clone(), phases.clone(), close_delay);
        clients.spawn_local(client.live(board.began + delay));
    }
    clients
}
