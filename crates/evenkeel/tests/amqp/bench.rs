//! What a test stands on: the cluster, a virtual host of the test's own, the gateway before them, and the broker's view.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rabbitmq::{Cluster, Options};
use serde_json::Value;

use crate::gateway::Gateway;
use crate::peer::{Client, Peer};

/// Who has the cluster. Its processes end with ours, however that ends.
static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

/// The cluster, held for one test.
pub struct Held(MutexGuard<'static, Option<Cluster>>);

impl std::ops::Deref for Held {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("a bench has started it")
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.0.as_mut().expect("a bench has started it")
    }
}

/// All that a test needs; whoever has it, has the cluster for itself.
pub struct Bench {
    /// Before the cluster's nodes. Dropped first: it must not look for a cluster that another test has.
    pub gateway: Gateway,
    /// The virtual host of this test.
    pub vhost: String,
    /// A folder of this test's own, emptied before.
    pub folder: PathBuf,
    /// Three nodes, all running at the start.
    pub cluster: Held,
}

impl Bench {
    /// Waits for the cluster, makes a virtual host, and starts a gateway; `amqp` are further lines of the pool's section
    /// (six blanks before each).
    pub fn start(name: &str, amqp: &str) -> Self {
        let mut held = Held(CLUSTER.lock().unwrap_or_else(PoisonError::into_inner));
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("amqp");
        if held.0.is_some()
            && let Err(why) = repair(&mut held)
        {
            // A node that was killed does not always come back, for one when its port was taken meanwhile.
            println!("a new cluster: {why:#}");
            *held.0 = None;
        }
        if held.0.is_none() {
            *held.0 = Some(cluster(&root.join("cluster")));
        }
        let folder = root.join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("cargo's folder for tests is writable");
        // In one call: each costs a second of CPU.
        let made = held.ctl(0, &["eval", &format!(
            "[rabbit_vhost:delete(V, <<\"tests\">>) || V <- rabbit_vhost:list_names(), V =/= <<\"/\">>], \
             ok = rabbit_vhost:add(<<\"{name}\">>, <<\"tests\">>), \
             ok = rabbit_vhost:await_running_on_all_nodes(<<\"{name}\">>, 20000), \
             rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, \
             <<\"tests\">>)."
        )]);
        assert_eq!(made.expect("rabbitmqctl makes a virtual host").trim(), "ok");
        let gateway = Gateway::start(&folder, &endpoints(&held), amqp, "");
        Self { gateway, vhost: name.to_owned(), folder, cluster: held }
    }

    /// Name and address of each node.
    pub fn endpoints(&self) -> Vec<(String, SocketAddr)> {
        endpoints(&self.cluster)
    }

    /// Starts a client.
    pub fn client(&self, client: Client) -> Peer {
        Peer::start(client)
    }

    /// A job through the gateway in this virtual host; `more` adds and replaces fields (see `clients/traffic.py`).
    pub fn job(&self, role: &str, name: &str, queue: &str, more: &Value) -> Value {
        self.job_at(self.gateway.address.port(), role, name, queue, more)
    }

    /// The same at another port of 127.0.0.1.
    pub fn job_at(&self, port: u16, role: &str, name: &str, queue: &str, more: &Value) -> Value {
        let mut job = serde_json::json!({
            "role": role, "name": name, "queue": queue, "port": port, "vhost": self.vhost,
        });
        let (fields, more) = (job.as_object_mut().expect("an object"), more.as_object().expect("an object"));
        fields.extend(more.clone());
        job
    }

    /// An Erlang expression at the first node.
    pub fn eval(&self, expression: &str) -> String {
        let said = self.cluster.ctl(0, &["eval", expression]);
        said.expect("rabbitmqctl answers").trim().to_owned()
    }

    /// Waits until nobody is connected to this virtual host and every queue is empty, up to 30 s; findings otherwise.
    pub fn leftovers(&self) -> Vec<String> {
        let vhost = &self.vhost;
        let said = self.eval(&format!(
            "Rest = fun() -> \
               Deep = [{{element(4, amqqueue:get_name(Q)), Ready, Consumers}} || Q <- rabbit_amqqueue:list(<<\"{vhost}\">>), \
                 {{ok, Ready, Consumers}} <- [rabbit_amqqueue:stat(Q)], Ready + Consumers > 0], \
               {{Deep, length(rabbit_connection_tracking:list(<<\"{vhost}\">>))}} end, \
             Wait = fun Wait(0) -> Rest(); Wait(N) -> case Rest() of {{[], 0}} -> {{[], 0}}; \
               _ -> timer:sleep(100), Wait(N - 1) end end, \
             Wait(300)."
        ));
        match said.as_str() {
            "{[],0}" => Vec::new(),
            said => vec![format!("left at the broker, {{queue, ready, consumers}} and connections: {said}")],
        }
    }

    /// Moves the leader of every quorum queue of this virtual host on to the next node, every 500 ms, `times` times; it
    /// returns when that is done.
    pub fn move_leaders(&self, times: usize) -> String {
        self.eval(&format!(
            "Nodes = lists:sort(rabbit_mnesia:cluster_nodes(running)), \
             Next = fun(Node) -> case lists:dropwhile(fun(N) -> N =< Node end, Nodes) of [] -> hd(Nodes); [N | _] -> N end end, \
             Move = fun(Q) -> {{Name, _}} = amqqueue:get_pid(Q), \
               {{ok, _, {{_, Leader}}}} = ra:members({{Name, node()}}), \
               rabbit_quorum_queue:transfer_leadership(Q, Next(Leader)) end, \
             Turn = fun() -> [catch Move(Q) || Q <- rabbit_amqqueue:list(<<\"{}\">>), amqqueue:get_type(Q) =:= rabbit_quorum_queue], \
               timer:sleep(500) end, \
             [Turn() || _ <- lists:seq(1, {times})], \
             length([R || Q <- rabbit_amqqueue:list(<<\"{}\">>), amqqueue:get_type(Q) =:= rabbit_quorum_queue, R <- [Q]]).",
            self.vhost, self.vhost
        ))
    }
}

/// Runs again what another test has left stopped or paused.
fn repair(cluster: &mut Cluster) -> anyhow::Result<()> {
    for index in 0..cluster.nodes().len() {
        cluster.resume(index)?;
        if cluster.nodes()[index].pid().is_none() {
            cluster.start_node(index)?;
        }
    }
    Ok(())
}

/// Nodes that start side by side may find each other before the first knows which features all of them have, and then end:
/// a second try is another roll of the dice.
fn cluster(folder: &Path) -> Cluster {
    let mut tries = (0..3).map(|_| Cluster::up(folder, &Options::default()));
    tries
        .find_map(|cluster| cluster.inspect_err(|why| println!("no cluster: {why:#}")).ok())
        .expect("a cluster in three tries")
}

fn endpoints(cluster: &Cluster) -> Vec<(String, SocketAddr)> {
    cluster.nodes().iter().map(|node| (node.name().to_owned(), node.address())).collect()
}
