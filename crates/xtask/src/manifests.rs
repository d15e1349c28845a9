//! `cargo xtask manifests`: what stands in deploy/ would be taken by a cluster, and fits itself.
//!
//! kubectl renders each folder; the schemas of an old and a new Kubernetes, `evenkeel check` and a PromQL parser judge what
//! comes out, and [`judge`] what no schema knows: names that must agree. Not here: a cluster, and the rights of the Role, which
//! crates/evenkeel/tests/deploy.rs compares with the calls of the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::setup::{kubectl, python_packages};
use crate::steps::{Counts, call};
use crate::test::cargo;

mod judge;

/// What is rendered, below deploy/. Components have no render of their own: overlays use them.
const FOLDERS: [&str; 4] = [BASE, MONITORING, "overlays/rabbitmq", "overlays/websocket-demo"];
const BASE: &str = "base";
const MONITORING: &str = "monitoring";
/// Oldest and newest Kubernetes whose schemas hold.
const KUBERNETES: [&str; 2] = ["1.27.0", "1.36.0"];
/// Validates resources by the schemas of Kubernetes, which it brings along; and reads PromQL.
const PIP_PACKAGES: [(&str, &str); 2] = [("kubernetes-validate", ">=1.36,<2"), ("promql-parser", ">=0.6,<1")];
/// Kinds that no Kubernetes has by itself, so no schema either.
const FOREIGN: &str = "monitoring.coreos.com/";
/// Prints the name of every metric in the queries of a JSON list; fails at the first that is none.
const PROMQL: &str = include_str!("manifests/promql.py");
const METRICS_DOCUMENT: &str = "docs/metrics.md";
/// What a histogram is called in a query.
const HISTOGRAM_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Renders and judges everything; says how many resources there are.
///
/// # Errors
/// When a tool is missing and can not be installed, or something does not hold: what, and where.
pub fn run(root: &Path) -> anyhow::Result<Counts> {
    kubectl()?;
    let out = root.join("target/manifests");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let python = python_packages(&out, &PIP_PACKAGES)?;
    let base = render(root, BASE)?;
    let (mut findings, mut queries, mut passed) = (Vec::new(), Vec::new(), 0);
    for folder in FOLDERS {
        let resources = render(root, folder)?;
        passed += resources.len() as u64;
        // Monitoring is added to a gateway, and names its Services.
        let around = if folder == MONITORING { &base[..] } else { &[] };
        let together = [&resources, around].concat();
        findings.extend(judge::all(&together).into_iter().map(|finding| format!("{folder}: {finding}")));
        queries.extend(judge::queries(&resources)?);
        let file = out.join(folder.replace('/', "-") + ".json");
        println!("deploy/{folder}: {} resources", resources.len());
        by_schema(&python, &resources, &file)?;
        configurations(root, &resources, &file.with_extension("config"))?;
    }
    let document = fs::read_to_string(root.join(METRICS_DOCUMENT))?;
    findings.extend(unknown_metrics(&metrics(&python, &queries)?, &document));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.first() {
        Some(first) => bail!("{} findings, the first: {first}", findings.len()),
        None => Ok(Counts { passed, failed: 0 }),
    }
}

/// The resources that `kubectl apply -k` would send.
fn render(root: &Path, folder: &str) -> anyhow::Result<Vec<Value>> {
    let mut kubectl = Command::new("kubectl");
    let output = kubectl.arg("kustomize").arg(root.join("deploy").join(folder)).output()?;
    if !output.status.success() {
        bail!("deploy/{folder} does not render: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("kubectl renders text")?;
    documents(&text).with_context(|| format!("deploy/{folder}"))
}

/// kubectl separates documents so, and indents what stands in them.
fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    text.split("\n---\n").map(|document| Ok(serde_saphyr::from_str(document)?)).collect()
}

/// Unknown keys are errors.
fn by_schema(python: &Path, resources: &[Value], file: &Path) -> anyhow::Result<()> {
    let ours = resources.iter().filter(|resource| !judge::text(resource, "/apiVersion").starts_with(FOREIGN));
    let lines: Vec<String> = ours.map(Value::to_string).collect();
    fs::write(file, lines.join("\n---\n")).with_context(|| format!("cannot write {}", file.display()))?;
    for version in KUBERNETES {
        let mut validate = Command::new(python);
        validate.args(["-m", "kubernetes_validate", "--strict", "--quiet", "--kubernetes-version", version]);
        call(validate.arg(file))?;
    }
    Ok(())
}

/// The gateway takes every configuration that a ConfigMap brings.
fn configurations(root: &Path, resources: &[Value], folder: &Path) -> anyhow::Result<()> {
    let maps = resources.iter().filter(|resource| judge::text(resource, "/kind") == "ConfigMap");
    for map in maps.filter(|map| map["data"]["evenkeel.yaml"].is_string()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file: PathBuf = folder.join("evenkeel.yaml");
        fs::write(&file, judge::text(map, "/data/evenkeel.yaml"))?;
        let mut check = cargo(root);
        check.args(["run", "--quiet", "--locked", "-p", "evenkeel", "--", "check", "--config"]).arg(&file);
        let output = check.output()?;
        if !output.status.success() {
            bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// Names of the metrics that the queries read.
fn metrics(python: &Path, queries: &[String]) -> anyhow::Result<BTreeSet<String>> {
    println!("{} PromQL queries", queries.len());
    let output = Command::new(python).args(["-c", PROMQL, &serde_json::to_string(queries)?]).output()?;
    if !output.status.success() {
        bail!("a query is no PromQL: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Those that the document does not list. `up` is Prometheus' own.
fn unknown_metrics(used: &BTreeSet<String>, document: &str) -> Vec<String> {
    let known: BTreeSet<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let is_known = |name: &str| {
        name == "up"
            || known.contains(name)
            || HISTOGRAM_SUFFIXES.iter().any(|suffix| {
                name.strip_suffix(suffix)
                    .is_some_and(|base| known.contains(base) && base.ends_with("_seconds"))
            })
    };
    let unknown = used.iter().filter(|name| !is_known(name));
    unknown.map(|name| format!("monitoring: metric {name} is not in {METRICS_DOCUMENT}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_separated_and_numbers_stay_numbers() {
        let documents = documents("a: 1\n---\nb:\n  c: |\n    x\n    ---\n    y\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            (documents[0]["a"].as_i64(), documents[1]["b"]["c"].as_str()),
            (Some(1), Some("x\n---\ny\n"))
        );
    }

    #[test]
    fn a_query_of_a_metric_that_is_not_documented_is_found_and_histograms_have_suffixes() {
        let document = "| `evenkeel_a_total` | counter |\n| `evenkeel_b_seconds` | histogram |\nevenkeel_c\n";
        let used =
            ["up", "evenkeel_a_total", "evenkeel_b_seconds_bucket", "evenkeel_c", "evenkeel_a_total_count"];
        let unknown = unknown_metrics(&used.map(str::to_owned).into(), document);
        assert_eq!(unknown.len(), 2, "{unknown:?}");
        assert!(unknown[0].contains("evenkeel_a_total_count") && unknown[1].contains("evenkeel_c "));
    }
}
