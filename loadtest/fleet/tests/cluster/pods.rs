//! A Deployment's Pods as processes: what the controllers and the kubelet of a cluster do.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apiserver::Handle;
use apiserver::controller::{Backend, Service};
use serde_json::Value;

/// Longest wait for a process to listen.
const START_WITHIN: Duration = Duration::from_secs(60);
/// A Pod that still has sessions is ended after this.
const GRACE: Duration = Duration::from_secs(30);

/// Running demo endpoints and the objects that tell of them.
pub struct Pods {
    server: Handle,
    service: Service,
    running: Vec<Pod>,
    numbers: u32,
}

struct Pod {
    backend: Backend,
    process: Child,
    said: Arc<Mutex<Said>>,
}

/// The last that a demo endpoint has said of itself.
#[derive(Default)]
struct Said {
    listening: Option<SocketAddr>,
    open: Option<u64>,
}

impl Pods {
    pub fn new(server: Handle, service: Service) -> Self {
        Self { server, service, running: Vec::new(), numbers: 0 }
    }

    /// How many there are.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Starts Pods, or ends the youngest as a kubelet does: terminating and serving until they are empty, then gone.
    pub fn scale(&mut self, replicas: usize) {
        while self.running.len() < replicas {
            self.numbers += 1;
            self.running.push(Pod::start(&format!("demo-{}", self.numbers)));
        }
        for pod in &mut self.running[replicas..] {
            pod.backend = pod.backend.clone().terminating();
        }
        self.publish();
        let leaving = self.running.split_off(replicas);
        for pod in &leaving {
            wait(GRACE, || (pod.said.lock().expect("no panic").open == Some(0)).then_some(()));
        }
        self.publish();
    }

    fn publish(&self) {
        let backends: Vec<Backend> = self.running.iter().map(|pod| pod.backend.clone()).collect();
        self.server.apply_backends(&self.service, &backends).expect("objects");
        self.server.apply_pods(&self.service, &backends).expect("objects");
    }
}

impl Pod {
    fn start(name: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_fleet"))
            .args(["endpoint", "--name", name, "--address", "127.0.0.1:0"])
            // It lives as long as its input.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built for this test");
        let said = Arc::<Mutex<Said>>::default();
        let (output, heard) =
            (BufReader::new(process.stdout.take().expect("it was piped")), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                let mut said = heard.lock().expect("no panic");
                said.listening =
                    value["listening"].as_str().and_then(|text| text.parse().ok()).or(said.listening);
                said.open = value["open"].as_u64().or(said.open);
            }
        });
        let address =
            wait(START_WITHIN, || said.lock().expect("no panic").listening).expect("a Pod does not listen");
        Self { backend: Backend::new(name, address.ip(), address.port()), process, said }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Looks until there is something, or for as long.
pub fn wait<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
