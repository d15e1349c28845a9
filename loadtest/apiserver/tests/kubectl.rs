//! kubectl against the scripted server, where kubectl is installed.

mod support;

use std::process::{Command, Output};

use apiserver::ApiServer;
use apiserver::controller::{Backend, Service};
use tempfile::TempDir;

struct Kubectl {
    server: ApiServer,
    folder: TempDir,
}

impl Kubectl {
    /// None where there is no kubectl.
    fn new() -> Option<Self> {
        if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
            eprintln!("kubectl is not installed: nothing is tested");
            return None;
        }
        let (server, folder) = (ApiServer::start().expect("a port"), tempfile::tempdir().expect("a folder"));
        server.kubeconfig(&folder.path().join("config")).expect("a file");
        Some(Self { server, folder })
    }

    fn try_run(&self, args: &[&str]) -> Output {
        Command::new("kubectl")
            .env("KUBECONFIG", self.folder.path().join("config"))
            .env("HOME", self.folder.path())
            .args(args)
            .output()
            .expect("kubectl was there")
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?}: {out}{errors}");
        out.into_owned()
    }
}

#[test]
fn kubectl_gets_what_a_controller_has_made() {
    let Some(kubectl) = Kubectl::new() else { return };
    let service = Service::new("default", "chat");
    let backends: Vec<Backend> =
        ["chat-0", "chat-1"].map(|name| Backend::new(name, [127, 0, 0, 11], 9000)).into();
    kubectl.server.apply_backends(&service, &backends).unwrap();
    kubectl.server.apply_pods(&service, &backends).unwrap();
    let shown = kubectl.run(&["get", "endpointslices,pods"]);
    assert!(shown.contains("chat-00001") && shown.contains("pod/chat-1"), "{shown}");
    let ready = "jsonpath={.items[*].endpoints[*].conditions.ready}";
    assert_eq!(
        kubectl.run(&["get", "endpointslices", "-l", "kubernetes.io/service-name=chat", "-o", ready]),
        "true true"
    );
    assert!(kubectl.run(&["get", "svc", "chat", "-o", "name"]).contains("service/chat"));
}

#[test]
fn kubectl_annotates_scales_and_deletes() {
    let Some(kubectl) = Kubectl::new() else { return };
    kubectl.server.apply(support::pod("chat-0")).unwrap();
    kubectl.server.apply_deployment("default", "chat", 3).unwrap();
    kubectl.run(&["annotate", "pod", "chat-0", "evenkeel.dev/drain=true"]);
    let pod = kubectl.server.get("pods", "default", "chat-0").unwrap();
    assert_eq!(pod["metadata"]["annotations"]["evenkeel.dev/drain"], "true");
    kubectl.run(&["scale", "deployment", "chat", "--replicas=5"]);
    assert_eq!(kubectl.server.get("deployments", "default", "chat").unwrap()["spec"]["replicas"], 5);
    kubectl.run(&["patch", "deployment", "chat", "-p", r#"{"spec": {"replicas": 4}}"#]);
    assert_eq!(kubectl.server.get("deployments", "default", "chat").unwrap()["spec"]["replicas"], 4);
    kubectl.run(&["delete", "pod", "chat-0"]);
    assert!(kubectl.server.get("pods", "default", "chat-0").is_none());
}

#[test]
fn kubectl_applies_a_file_and_prints_refusals() {
    let Some(kubectl) = Kubectl::new() else { return };
    let file = kubectl.folder.path().join("map.yaml");
    std::fs::write(&file, "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: b}}\n").unwrap();
    let file = file.to_str().unwrap();
    kubectl.run(&["apply", "--validate=false", "-f", file]);
    kubectl.run(&["apply", "--validate=false", "--server-side", "-f", file]);
    assert_eq!(kubectl.server.get("configmaps", "default", "m").unwrap()["data"]["a"], "b");
    kubectl.server.deny("get", "configmaps");
    let refused = kubectl.try_run(&["get", "configmap", "m"]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(errors.contains("Error from server (Forbidden): configmaps \"m\" is forbidden"), "{errors}");
    assert!(kubectl.run(&["get", "configmaps"]).contains('m'));
    let missing = kubectl.try_run(&["get", "configmap", "other", "--request-timeout=5s"]);
    assert!(!missing.status.success());
}
