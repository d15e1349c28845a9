//! What no schema knows of the resources of one folder: names that must agree, numbers that must fit, rights that must not be.
//!
//! Each rule takes resources and gives findings, so that it is tested without files or tools.

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::Value;

/// Secrets that the operator makes: deploy/README.md says how. None is ever in a manifest.
const SECRETS: [&str; 2] = ["evenkeel-admin", "rabbitmq"];
/// What a Pod of the gateway is told of itself.
const IDENTITY: [&str; 4] = ["POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP"];
/// Seconds for the last closes after a drain, before the kubelet kills.
const CLOSES: u64 = 10;

/// All findings; empty when everything fits.
pub fn all(resources: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    for resource in resources {
        let name = named(resource);
        let mut add = |found: Vec<String>| findings.extend(found.into_iter().map(|f| format!("{name}: {f}")));
        add(in_namespace(resource, resources));
        match text(resource, "/kind") {
            "Deployment" | "StatefulSet" | "Job" => add(pods(resource, resources)),
            "Service" => add(service(resource, resources)),
            "PodDisruptionBudget" => add(selects(resource, "/spec/selector/matchLabels", resources)),
            "NetworkPolicy" => add(network_policy(resource, resources)),
            "RoleBinding" => add(binding(resource, resources)),
            "Role" => add(role(resource)),
            "ClusterRole" | "ClusterRoleBinding" => add(vec!["a right in the whole cluster".into()]),
            "Secret" => add(vec!["a secret in a manifest; the operator makes it".into()]),
            "ServiceMonitor" => add(service_monitor(resource, resources)),
            "PrometheusRule" => add(alerts(resource)),
            "ConfigMap" if resource["data"]["evenkeel.yaml"].is_string() => add(gateway(resource, resources)),
            _ => {}
        }
    }
    findings
}

/// Every PromQL query of alerts and dashboards, Grafana's variables filled in.
///
/// # Errors
/// When a dashboard is no JSON.
pub fn queries(resources: &[Value]) -> anyhow::Result<Vec<String>> {
    let mut queries = Vec::new();
    for resource in resources {
        for group in list(resource, "/spec/groups") {
            queries.extend(list(group, "/rules").map(|rule| text(rule, "/expr").to_owned()));
        }
        let data = resource["data"].as_object().into_iter().flatten();
        for (file, content) in data.filter(|(file, _)| file.ends_with(".json")) {
            let content = content.as_str().unwrap_or_default();
            let dashboard = serde_json::from_str(content).with_context(|| format!("{file} is no JSON"))?;
            queries.extend(dashboard_queries(&dashboard));
        }
    }
    Ok(queries)
}

fn dashboard_queries(dashboard: &Value) -> Vec<String> {
    let targets = list(dashboard, "/panels").flat_map(|panel| list(panel, "/targets"));
    let mut queries: Vec<String> =
        targets.map(|target| text(target, "/expr").replace("$__rate_interval", "5m")).collect();
    let variables = list(dashboard, "/templating/list").map(|variable| text(variable, "/query/query"));
    // `label_values(SELECTOR, LABEL)` is Grafana's own.
    let selectors = variables.filter_map(|query| {
        query.strip_prefix("label_values(")?.rsplit_once(',').map(|(selector, _)| selector.to_owned())
    });
    queries.extend(selectors);
    queries
}

/// The text at a JSON pointer, or nothing.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn named(resource: &Value) -> String {
    format!("{} {}", text(resource, "/kind"), text(resource, "/metadata/name"))
}

fn find<'a>(resources: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    resources.iter().find(|r| text(r, "/kind") == kind && text(r, "/metadata/name") == name)
}

/// What a render brings a namespace for stands in it.
fn in_namespace(resource: &Value, resources: &[Value]) -> Vec<String> {
    let Some(namespace) = resources.iter().find(|r| text(r, "/kind") == "Namespace") else {
        return Vec::new();
    };
    let (expected, found) = (text(namespace, "/metadata/name"), text(resource, "/metadata/namespace"));
    let is_right = found == expected || text(resource, "/kind") == "Namespace";
    if is_right { Vec::new() } else { vec![format!("in namespace {found:?}, expected {expected}")] }
}

/// Pod templates whose labels hold all of `selector`.
fn selected<'a>(selector: &Value, resources: &'a [Value]) -> Vec<&'a Value> {
    let templates = resources.iter().filter_map(|resource| resource.pointer("/spec/template"));
    templates.filter(|template| holds(&template["metadata"]["labels"], selector)).collect()
}

fn holds(labels: &Value, selector: &Value) -> bool {
    let mut wanted = selector.as_object().into_iter().flatten();
    selector.as_object().is_some_and(|s| !s.is_empty()) && wanted.all(|(key, value)| labels[key] == *value)
}

fn selects(resource: &Value, pointer: &str, resources: &[Value]) -> Vec<String> {
    let selector = resource.pointer(pointer).unwrap_or(&Value::Null);
    if selected(selector, resources).is_empty() {
        vec![format!("{selector} selects no Pod")]
    } else {
        Vec::new()
    }
}

fn containers(template: &Value) -> impl Iterator<Item = &Value> {
    list(template, "/spec/initContainers").chain(list(template, "/spec/containers"))
}

fn has_port(template: &Value, name: &str) -> bool {
    list(template, "/spec/containers").flat_map(|c| list(c, "/ports")).any(|port| text(port, "/name") == name)
}

/// Confined, and made of things that are there.
fn pods(resource: &Value, resources: &[Value]) -> Vec<String> {
    let template = &resource["spec"]["template"];
    let mut findings = Vec::new();
    let mut expect = |holds: bool, what: String| findings.extend((!holds).then_some(what));
    let selector = resource.pointer("/spec/selector/matchLabels");
    let labels = &template["metadata"]["labels"];
    expect(selector.is_none_or(|selector| holds(labels, selector)), "does not select its own Pods".into());
    let of_pod = &template["spec"]["securityContext"];
    expect(of_pod["runAsNonRoot"] == true, "expected runAsNonRoot".into());
    expect(text(of_pod, "/seccompProfile/type") == "RuntimeDefault", "expected a seccompProfile".into());
    let mounts = &template["spec"]["automountServiceAccountToken"];
    expect(mounts.is_boolean(), "expected automountServiceAccountToken, true or false".into());
    let account = text(template, "/spec/serviceAccountName");
    let is_there = account.is_empty() || find(resources, "ServiceAccount", account).is_some();
    expect(is_there, format!("ServiceAccount {account} is not here"));
    expect(mounts != true || !account.is_empty(), "mounts the token of the default ServiceAccount".into());
    for volume in list(template, "/spec/volumes") {
        let (map, secret) = (text(volume, "/configMap/name"), text(volume, "/secret/secretName"));
        let is_there = map.is_empty() || find(resources, "ConfigMap", map).is_some();
        expect(is_there, format!("ConfigMap {map} is not here"));
        expect(secret.is_empty() || SECRETS.contains(&secret), format!("Secret {secret} is not explained"));
    }
    let claims = list(resource, "/spec/volumeClaimTemplates").map(|claim| text(claim, "/metadata/name"));
    let volumes: BTreeSet<&str> =
        list(template, "/spec/volumes").map(|volume| text(volume, "/name")).chain(claims).collect();
    for container in containers(template) {
        findings.extend(confined(container, &volumes));
    }
    findings
}

fn confined(container: &Value, volumes: &BTreeSet<&str>) -> Vec<String> {
    let name = text(container, "/name");
    let mut findings = Vec::new();
    let mut expect =
        |holds: bool, what: &str| findings.extend((!holds).then(|| format!("container {name}: {what}")));
    let context = &container["securityContext"];
    expect(context["allowPrivilegeEscalation"] == false, "expected allowPrivilegeEscalation: false");
    let drops: Vec<_> = list(context, "/capabilities/drop").collect();
    expect(drops == ["ALL"] && context["capabilities"]["add"].is_null(), "expected no capabilities");
    // RabbitMQ's own image writes to folders of its own.
    let is_ours = text(container, "/image").starts_with("evenkeel");
    expect(!is_ours || context["readOnlyRootFilesystem"] == true, "expected readOnlyRootFilesystem");
    expect(!text(container, "/resources/limits/memory").is_empty(), "expected a limit of memory");
    for mount in list(container, "/volumeMounts") {
        expect(volumes.contains(text(mount, "/name")), &format!("no volume {}", text(mount, "/name")));
    }
    findings
}

fn service(service: &Value, resources: &[Value]) -> Vec<String> {
    let pods = selected(&service["spec"]["selector"], resources);
    let mut findings = selects(service, "/spec/selector", resources);
    for port in list(service, "/spec/ports") {
        let target = text(port, "/targetPort");
        if !pods.iter().all(|pod| has_port(pod, target)) {
            findings.push(format!("port {}: its Pods have no port {target:?}", text(port, "/name")));
        }
    }
    findings
}

fn network_policy(policy: &Value, resources: &[Value]) -> Vec<String> {
    let mut findings = selects(policy, "/spec/podSelector/matchLabels", resources);
    let pods = selected(&policy["spec"]["podSelector"]["matchLabels"], resources);
    for rule in list(policy, "/spec/ingress") {
        for port in list(rule, "/ports").map(|port| text(port, "/port")) {
            if !pods.iter().all(|pod| has_port(pod, port)) {
                findings.push(format!("its Pods have no port {port:?}"));
            }
        }
        for from in list(rule, "/from").filter(|from| from["podSelector"].is_object()) {
            findings.extend(selects(from, "/podSelector/matchLabels", resources));
        }
    }
    findings
}

fn binding(binding: &Value, resources: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    let role = text(binding, "/roleRef/name");
    if text(binding, "/roleRef/kind") != "Role" || find(resources, "Role", role).is_none() {
        findings.push(format!("Role {role} is not here"));
    }
    // A component grants to an account of the base that it is used with.
    for subject in list(binding, "/subjects") {
        let account = text(subject, "/name");
        if find(resources, "ServiceAccount", account).is_none() {
            findings.push(format!("ServiceAccount {account} is not here"));
        }
    }
    findings
}

fn role(role: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for rule in list(role, "/rules") {
        let all = ["/apiGroups", "/resources", "/verbs"].iter().flat_map(|part| list(rule, part));
        if all.into_iter().any(|word| word == "*") {
            findings.push(format!("{rule} grants more than is named"));
        }
        let may_read_secrets = list(rule, "/resources").any(|resource| resource == "secrets");
        findings.extend(may_read_secrets.then(|| "nobody reads Secrets by the API".into()));
    }
    findings
}

fn service_monitor(monitor: &Value, resources: &[Value]) -> Vec<String> {
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    let services = resources.iter().filter(|r| text(r, "/kind") == "Service");
    let services: Vec<_> = services.filter(|s| holds(&s["metadata"]["labels"], selector)).collect();
    let [service] = services[..] else {
        return vec![format!("{selector} selects {} Services, expected one", services.len())];
    };
    let mut findings = Vec::new();
    for endpoint in list(monitor, "/spec/endpoints") {
        let (port, path) = (text(endpoint, "/port"), text(endpoint, "/path"));
        let is_there = list(service, "/spec/ports").any(|p| text(p, "/name") == port);
        if !is_there || path != "/metrics" {
            findings.push(format!("{} has no {path} on a port {port:?}", named(service)));
        }
    }
    findings
}

/// Whoever is woken is told what to do.
fn alerts(rules: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for rule in list(rules, "/spec/groups").flat_map(|group| list(group, "/rules")) {
        let name = text(rule, "/alert");
        let mut expect =
            |holds: bool, what: &str| findings.extend((!holds).then(|| format!("{name:?}: {what}")));
        expect(name.starts_with("Evenkeel") && names.insert(name), "expected a name of its own, Evenkeel...");
        expect(["critical", "warning"].contains(&text(rule, "/labels/severity")), "expected a severity");
        for part in ["/annotations/summary", "/annotations/description"] {
            let is_sentence = text(rule, part).ends_with(['.', '`']);
            expect(is_sentence, &format!("expected {part} to be a sentence"));
        }
    }
    findings
}

/// The gateway's configuration against the Pod that reads it and the Services that it names.
fn gateway(map: &Value, resources: &[Value]) -> Vec<String> {
    let config: Value = match serde_saphyr::from_str(text(map, "/data/evenkeel.yaml")) {
        Ok(config) => config,
        Err(error) => return vec![format!("evenkeel.yaml: {error}")],
    };
    let Some(deployment) = find(resources, "Deployment", text(map, "/metadata/name")) else {
        return vec!["no Deployment of that name".into()];
    };
    let template = &deployment["spec"]["template"];
    let mut findings = gateway_pod(&config, template);
    findings.extend(tier(&config, resources));
    // The base alone has no backends; an overlay has its own namespace.
    if resources.iter().any(|resource| text(resource, "/kind") == "Namespace") {
        let pools = config["pools"].as_object().into_iter().flatten();
        findings.extend(pools.flat_map(|(name, pool)| backends(name, pool, resources)));
    }
    findings
}

fn gateway_pod(config: &Value, template: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    let mut expect = |holds: bool, what: String| findings.extend((!holds).then_some(what));
    let container = &template["spec"]["containers"][0];
    for (port, address) in
        [("clients", text(config, "/listeners/0/address")), ("admin", text(config, "/admin/address"))]
    {
        let number = address.rsplit(':').next().and_then(|n| n.parse::<u64>().ok());
        let found = list(container, "/ports").find(|p| text(p, "/name") == port);
        let is_same = found.is_some_and(|p| p["containerPort"].as_u64() == number);
        expect(is_same && address.starts_with("[::]:"), format!("{address} is not the Pod's port {port}"));
    }
    let told: BTreeSet<&str> = list(container, "/env").map(|variable| text(variable, "/name")).collect();
    for name in IDENTITY {
        expect(told.contains(name), format!("the Pod is not told {name}"));
    }
    let token = text(config, "/admin/token_file");
    let is_mounted = list(container, "/volumeMounts").any(|m| token.starts_with(text(m, "/mountPath")));
    expect(token.is_empty() || is_mounted, format!("{token} is not mounted"));
    let (killed, grace) =
        (&template["spec"]["terminationGracePeriodSeconds"], seconds(text(config, "/shutdown/grace")));
    let is_same = grace.is_some() && killed.as_u64() == grace;
    expect(is_same, format!("shutdown.grace is {grace:?} s, and terminationGracePeriodSeconds {killed}"));
    findings
}

fn tier(config: &Value, resources: &[Value]) -> Vec<String> {
    let name = text(config, "/tier/service");
    let service = find(resources, "Service", name);
    let is_headless = service.is_some_and(|s| text(s, "/spec/clusterIP") == "None");
    let has_admin = service.is_some_and(|s| list(s, "/spec/ports").any(|p| text(p, "/name") == "admin"));
    if is_headless && has_admin {
        Vec::new()
    } else {
        vec![format!("tier.service {name:?} is no headless Service with a port admin")]
    }
}

/// What a pool watches is there, and its Pods live long enough to be emptied.
fn backends(pool: &str, settings: &Value, resources: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut expect =
        |holds: bool, what: &str| findings.extend((!holds).then(|| format!("pool {pool}: {what}")));
    let name = text(settings, "/kubernetes/service");
    let Some(service) = find(resources, "Service", name) else {
        return vec![format!("pool {pool}: Service {name:?} is not here")];
    };
    let ports: Vec<&str> = list(service, "/spec/ports").map(|port| text(port, "/name")).collect();
    let port = text(settings, "/kubernetes/port");
    expect(ports.contains(&port), &format!("{name} has the ports {ports:?}, not {port:?}"));
    let may_patch = resources.iter().filter(|r| text(r, "/kind") == "Role").any(|role| {
        list(role, "/rules").any(|rule| {
            list(rule, "/resources").any(|r| r == "pods") && list(rule, "/verbs").any(|v| v == "patch")
        })
    });
    let wants_to = settings["kubernetes"]["deletion_cost"] == true;
    expect(may_patch == wants_to, "deletion_cost and the right to patch Pods go together");
    let deadline = seconds(text(settings, "/rebalance/drain_deadline"));
    for pod in selected(&service["spec"]["selector"], resources) {
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
        let fits = grace.zip(deadline).is_some_and(|(grace, deadline)| deadline + CLOSES <= grace);
        expect(fits, &format!("its Pods are killed after {grace:?} s, and drained by {deadline:?} s"));
    }
    findings
}

/// `20s`; the manifests use no other form where it is looked at.
fn seconds(text: &str) -> Option<u64> {
    text.strip_suffix('s')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Value {
        json!({"kind": "Deployment", "metadata": {"name": "evenkeel"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 40,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "c", "image": "evenkeel:1", "resources": {"limits": {"memory": "1Gi"}},
                    "ports": [{"name": "clients", "containerPort": 8080}, {"name": "admin", "containerPort": 9900}],
                    "env": IDENTITY.map(|name| json!({"name": name})),
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]}
                    }
                }]
            }}
        }})
    }

    fn config(grace: &str) -> Value {
        let text = format!(
            "listeners: [{{address: '[::]:8080'}}]\nadmin: {{address: '[::]:9900'}}\nshutdown: {{grace: {grace}}}\n\
             tier: {{service: replicas}}\n"
        );
        json!({"kind": "ConfigMap", "metadata": {"name": "evenkeel"}, "data": {"evenkeel.yaml": text}})
    }

    fn replicas() -> Value {
        json!({"kind": "Service", "metadata": {"name": "replicas", "labels": {"p": "q"}}, "spec": {
            "clusterIP": "None", "selector": {"a": "b"}, "ports": [{"name": "admin", "targetPort": "admin"}]
        }})
    }

    /// Findings after `change`.
    fn found(change: impl Fn(&mut Vec<Value>)) -> String {
        let mut resources = vec![deployment(), config("40s"), replicas()];
        change(&mut resources);
        all(&resources).join("; ")
    }

    #[test]
    fn what_fits_has_no_finding() {
        assert_eq!(found(|_| ()), "");
    }

    #[test]
    fn a_pod_that_may_more_than_it_needs_is_found() {
        let change = |pointer: &'static str, value: Value| {
            found(|all| *all[0].pointer_mut(pointer).unwrap() = value.clone())
        };
        let container = "/spec/template/spec/containers/0/securityContext";
        assert!(change(container, json!({})).contains("container c: expected no capabilities"));
        assert!(change("/spec/template/spec/securityContext", json!({})).contains("expected runAsNonRoot"));
        let mounted = change("/spec/template/spec/automountServiceAccountToken", json!(true));
        assert!(mounted.contains("token of the default ServiceAccount"), "{mounted}");
    }

    #[test]
    fn names_that_lead_nowhere_are_found() {
        assert!(found(|all| all[2]["spec"]["selector"]["a"] = json!("c")).contains("selects no Pod"));
        assert!(found(|all| all[2]["spec"]["ports"][0]["targetPort"] = json!("x")).contains("no port \"x\""));
        assert!(
            found(|all| all[2]["metadata"]["name"] = json!("other")).contains("tier.service \"replicas\"")
        );
        let binding = json!({"kind": "RoleBinding", "roleRef": {"kind": "Role", "name": "r"}});
        assert!(found(|all| all.push(binding.clone())).contains("Role r is not here"));
        let monitor = |port: &str| {
            json!({"kind": "ServiceMonitor", "spec": {"selector": {"matchLabels": {"p": "q"}},
                "endpoints": [{"port": port, "path": "/metrics"}]}})
        };
        assert_eq!(found(|all| all.push(monitor("admin"))), "");
        assert!(found(|all| all.push(monitor("x"))).contains("on a port \"x\""));
    }

    #[test]
    fn another_grace_than_the_pods_and_a_pod_that_is_told_too_little_are_found() {
        assert!(found(|all| all[1] = config("35s")).contains("grace is Some(35) s"));
        let told =
            |all: &mut Vec<Value>| all[0]["spec"]["template"]["spec"]["containers"][0]["env"] = json!([]);
        assert!(found(told).contains("is not told POD_UID"));
    }

    #[test]
    fn rights_beyond_what_is_named_are_found() {
        let role = |resource: &str| json!({"kind": "Role", "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
        assert_eq!(found(|all| all.push(role("pods"))), "");
        assert!(found(|all| all.push(role("*"))).contains("more than is named"));
        assert!(found(|all| all.push(role("secrets"))).contains("nobody reads Secrets"));
        assert!(found(|all| all.push(json!({"kind": "ClusterRole"}))).contains("whole cluster"));
    }

    #[test]
    fn a_pool_without_its_service_or_with_pods_that_die_early_is_found() {
        let pool = |deadline: &str| {
            let settings = json!({"kubernetes": {"service": "replicas", "port": "admin"},
                "rebalance": {"drain_deadline": deadline}});
            backends("p", &settings, &[deployment(), replicas()]).join("; ")
        };
        assert_eq!(pool("30s"), "");
        assert!(pool("35s").contains("killed after Some(40) s"));
        assert!(backends("p", &json!({}), &[]).join("; ").contains("is not here"));
    }

    #[test]
    fn an_alert_without_advice_is_found_and_queries_are_collected() {
        let rule = json!({"alert": "EvenkeelA", "expr": "a > 1", "labels": {"severity": "warning"},
            "annotations": {"summary": "A."}});
        let rules = json!({"kind": "PrometheusRule", "spec": {"groups": [{"rules": [rule]}]}});
        assert!(alerts(&rules).join("; ").contains("/annotations/description"));
        let board = json!({"panels": [{"targets": [{"expr": "rate(b[$__rate_interval])"}]}],
            "templating": {"list": [{"query": {"query": "label_values(c{d=\"e\"}, f)"}}]}});
        let map = json!({"kind": "ConfigMap", "data": {"d.json": board.to_string()}});
        assert_eq!(queries(&[rules, map]).unwrap(), ["a > 1", "rate(b[5m])", "c{d=\"e\"}"]);
    }
}
