//! `fleet replay` against a cluster: a scripted API server, a controller that starts and stops real processes as Pods, and a
//! real gateway, which finds its endpoints by the API.

mod pods;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::controller::{Backend, Service};
use pods::Pods;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for a process to be there.
const WITHIN: Duration = Duration::from_secs(60);

/// A namespace `shop` with the Deployment `demo`, its Service, and a gateway with a headless Service of its own.
struct Cluster {
    server: ApiServer,
    pods: Arc<Mutex<Pods>>,
    gateway: Child,
    listener: String,
    admin: String,
    folder: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let (server, folder) = (ApiServer::start().expect("a port"), tempfile::tempdir().expect("a folder"));
        server.kubeconfig(&folder.path().join("kubeconfig")).expect("a file");
        let pods = Arc::new(Mutex::new(Pods::new(server.handle(), Service::new("shop", "demo"))));
        let controlled = Arc::clone(&pods);
        server.on_scale(move |scaled| {
            if (scaled.namespace.as_str(), scaled.name.as_str()) == ("shop", "demo") {
                controlled.lock().expect("no panic").scale(scaled.replicas as usize);
            }
        });
        // It begins with one, and the replay asks for the two that its scenario begins with.
        pods.lock().expect("no panic").scale(1);
        server.apply_deployment("shop", "demo", 1).expect("a Deployment");
        let (gateway, listener, admin) = gateway(folder.path());
        let address: std::net::SocketAddr = admin.parse().expect("an address");
        let service = Service { port_name: "admin".into(), ..Service::new("shop", "evenkeel-replicas") };
        let replica = Backend::new("evenkeel-0", address.ip(), address.port());
        server.apply_backends(&service, &[replica]).expect("a slice");
        Self { server, pods, gateway, listener, admin, folder }
    }

    fn replay(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fleet"))
            .current_dir(self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .arg("replay")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny-cluster.yaml"))
            .args(["--quiet", "--target", &format!("ws://{}/", self.listener)])
            .args(more)
            .output()
            .expect("the program was built for this test")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

fn gateway(folder: &Path) -> (Child, String, String) {
    let (config, addresses) = (folder.join("evenkeel.yaml"), folder.join("addresses.json"));
    let text = json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "routes": [{"path": "/", "pool": "demo"}],
        "pools": {"demo": {
            "kubernetes": {"service": "demo", "namespace": "shop"},
            "rebalance": {"min_age": "500ms", "settle": "200ms", "min_ready": "200ms", "drain_deadline": "3s"},
            "move": {"close": {"quiet": "20ms", "wait": "500ms"}},
        }},
        "admin": {"address": "127.0.0.1:0"},
    });
    std::fs::write(&config, text.to_string()).expect("a file");
    let child = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .args(["gateway", "--config"])
        .arg(&config)
        .arg("--address-file")
        .arg(&addresses)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(folder.join("gateway.log")).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the program was built for this test");
    let written = read_when_there(&addresses);
    let address = |value: &Value| value.as_str().expect("an address").to_owned();
    (child, address(&written["listeners"][0]), address(&written["admin"]))
}

fn read_when_there(path: &PathBuf) -> Value {
    let found = pods::wait(WITHIN, || {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    });
    found.expect("the gateway did not write its addresses")
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_deployment_is_scaled_out_and_in_and_the_gateways_own_counts_are_judged() {
    let cluster = Cluster::start();
    // What the Roles in deploy/ give the fleet and the gateway: more they must not need.
    for (group, resource, verbs) in [
        ("apps", "deployments/scale", json!(["get", "patch"])),
        ("discovery.k8s.io", "endpointslices", json!(["get", "list", "watch"])),
        ("", "pods", json!(["get", "list", "watch"])),
        ("events.k8s.io", "events", json!(["create"])),
    ] {
        let rules = json!([{"apiGroups": [group], "resources": [resource], "verbs": verbs}]);
        let role = json!({"kind": "Role", "metadata": {"namespace": "shop"}, "rules": rules});
        cluster.server.grant(&role).unwrap();
    }
    let output = cluster.replay(&["--replicas-of", "shop/evenkeel-replicas", "--json", "result.json"]);
    let log = std::fs::read_to_string(cluster.folder.path().join("gateway.log")).unwrap();
    assert!(output.status.success(), "{}\n{log}", text(&output));
    let json = std::fs::read_to_string(cluster.folder.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&json).unwrap();
    let changes = result["runs"][0]["series"]["changes"].as_array().unwrap();
    let ready = changes.iter().filter(|change| change["state"] == "ready").count();
    assert_eq!(ready, 3, "{changes:?}");
    assert!(changes.iter().any(|change| change["state"] == "draining"), "{changes:?}");
    assert_eq!(cluster.pods.lock().unwrap().running(), 2);
    let scales = cluster.server.requests().into_iter().filter(|seen| seen.resource == "deployments/scale");
    assert_eq!(scales.map(|seen| seen.verb).collect::<Vec<_>>(), ["patch"; 3]);
}

#[test]
fn a_standalone_endpoint_serves_on_after_sigterm_until_nobody_is_left() {
    let mut endpoint = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .args(["endpoint", "--standalone", "--name", "a", "--address", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(endpoint.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    let mut client = TcpStream::connect(first["listening"].as_str().unwrap()).unwrap();
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(upgrade.as_bytes()).unwrap();
    let mut saw = |line: &str| lines.by_ref().any(|said| said == line);
    assert!(saw(r#"{"open":1}"#));
    let pid = rustix::process::Pid::from_child(&endpoint);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // It has gone on for longer than an empty one would.
    for _ in 0..15 {
        assert!(saw(r#"{"open":1}"#));
    }
    drop(client);
    assert!(endpoint.wait().unwrap().success());
}

#[test]
fn a_missing_right_to_scale_is_told_with_the_rule_that_gives_it() {
    let cluster = Cluster::start();
    cluster.server.deny("patch", "deployments/scale");
    let output = cluster.replay(&["--status", &format!("http://{}", cluster.admin)]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("cannot scale the Deployment demo in shop"), "{said}");
    assert!(said.contains("resources: [deployments/scale], verbs: [patch]"), "{said}");
}

#[test]
fn a_scenario_that_does_not_fit_its_target_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let replay = |scenario: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_fleet"))
            .current_dir(folder.path())
            .args(["replay", scenario, "--quiet"])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        text(&output)
    };
    let own = |name: &str| format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    let said = replay(&own("tiny-cluster.yaml"), &[]);
    assert!(said.contains("steps[0]") && said.contains("--target ws://NODE:PORT"), "{said}");
    let said = replay(&own("tiny-cluster.yaml"), &["--target", "ws://127.0.0.1:1/"]);
    assert!(said.contains("--replicas-of NAMESPACE/SERVICE or --status URL"), "{said}");
    let said = replay(&own("tiny.yaml"), &["--target", "ws://127.0.0.1:1/"]);
    assert!(said.contains("--endpoints-file") && said.contains("scale: {deployment: NAME"), "{said}");
}
