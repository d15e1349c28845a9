//! The process of all AMQP clients: it starts them at the scenario's rate, samples them, lets the queues drain at the
//! end, and hands in the account.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use scenario::rng::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::amqp::board::Board;
use crate::amqp::client::{Client, Role};
use crate::protocol::{self, Answer, Order, Phase};

/// How often the state is told.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Without a delivery for so long, what is missing will not come.
const DRAIN_STILL: Duration = Duration::from_secs(8);
/// Longest wait for the queues to drain.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for the clients after that.
const FINISH_WITHIN: Duration = Duration::from_secs(15);

/// Runs the clients of the plan that arrives first on standard input.
///
/// # Errors
/// When the first line is no plan.
pub async fn run() -> anyhow::Result<()> {
    let mut orders = protocol::orders();
    let Some(Order::StartAmqp(plan)) = orders.recv().await else {
        bail!("the AMQP clients' process expects a plan as its first line of input");
    };
    let board = Rc::new(Board::new(plan));
    let (phase, phases) = watch::channel(Phase::Run);
    let mut clients = start(&board, &phases);
    follow(&board, &mut orders, &phase).await;
    phase.send_replace(Phase::Quiet);
    drain(&board).await;
    phase.send_replace(Phase::Finish);
    let all = async { while clients.join_next().await.is_some() {} };
    if timeout(FINISH_WITHIN, all).await.is_err() {
        eprintln!("fleet: {} AMQP clients did not end within {FINISH_WITHIN:?}", clients.len());
    }
    protocol::answer(&Answer::Amqp(board.sample()));
    protocol::answer(&Answer::AmqpOutcome(board.outcome()));
    protocol::answer(&Answer::Done);
    Ok(())
}

fn start(board: &Rc<Board>, phases: &watch::Receiver<Phase>) -> JoinSet<()> {
    let (mut clients, began) = (JoinSet::new(), Instant::now());
    let mut count = 0u32;
    for (queue, of) in board.queues.iter().enumerate() {
        let publishers = (0..board.group(of).publishers as usize).map(Role::Publish);
        for role in std::iter::once(Role::Consume).chain(publishers) {
            let delay = Duration::from_secs_f64(f64::from(count) / board.plan.connect_per_second);
            let rng = Rng::new(board.plan.seed, u64::from(count));
            count += 1;
            let client = Client { board: board.clone(), phase: phases.clone(), queue, role, rng };
            clients.spawn_local(client.live(began + delay));
        }
    }
    clients
}

/// Follows orders and tells the state, until the run is over or the input ends.
async fn follow(board: &Board, orders: &mut mpsc::UnboundedReceiver<Order>, phase: &watch::Sender<Phase>) {
    let mut every = interval(SAMPLE_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => protocol::answer(&Answer::Amqp(board.sample())),
            order = orders.recv() => match order {
                Some(Order::Targets(targets)) => change(board, targets),
                Some(Order::Quiet) => {
                    phase.send_replace(Phase::Quiet);
                }
                Some(Order::Start(_) | Order::StartAmqp(_)) => {}
                Some(Order::Finish) | None => return,
            }
        }
    }
}

fn change(board: &Board, targets: Vec<SocketAddr>) {
    *board.targets.borrow_mut() = targets;
}

/// Waits until every message has arrived, or nothing has for a while.
async fn drain(board: &Board) {
    let end = Instant::now() + DRAIN_WITHIN;
    let (mut seen, mut since) = (board.sample(), Instant::now());
    let mut every = interval(Duration::from_millis(50));
    while Instant::now() < end && since.elapsed() < DRAIN_STILL {
        every.tick().await;
        let now = board.sample();
        if now.sent == seen.sent && board.drained() {
            // Acknowledgements may still be on their way; consumers leave politely behind them.
            return;
        }
        if (now.sent, now.consumed) != (seen.sent, seen.consumed) {
            since = Instant::now();
        }
        seen = now;
    }
}
