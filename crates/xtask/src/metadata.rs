//! What `cargo metadata` says of packages and their dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::test::cargo;

/// Packages by name, reduced to what the checks need.
#[derive(Default)]
pub struct Packages {
    /// Package id -> what we know of it.
    pub by_id: BTreeMap<String, Package>,
    /// Ids of the workspace's own.
    pub ours: Vec<String>,
}

/// One package.
#[derive(Default, Clone)]
pub struct Package {
    pub name: String,
    pub license: Option<String>,
    /// False when it can not be published by accident.
    pub publishable: bool,
    /// Ids of packages that it is compiled with (no dev-, no build-dependencies).
    pub normal: Vec<String>,
}

impl Packages {
    /// Asks cargo, for Linux only: what other systems need is never compiled here.
    ///
    /// # Errors
    /// When cargo fails or its answer is not as documented.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let arguments =
            ["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"];
        let output = cargo(root).args(arguments).output().context("cargo metadata does not start")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Self::parse(&serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?)
    }

    fn parse(metadata: &Value) -> anyhow::Result<Self> {
        let mut packages = Self { ours: texts(&metadata["workspace_members"]), ..Self::default() };
        for node in list(&metadata["resolve"]["nodes"]) {
            let normal = list(&node["deps"]).iter().filter(|dep| {
                let kinds = list(&dep["dep_kinds"]);
                kinds.iter().any(|kind| kind["kind"].is_null())
            });
            let normal = normal.filter_map(|dep| dep["pkg"].as_str().map(str::to_owned)).collect();
            let id = node["id"].as_str().context("a resolve node without id")?;
            packages.by_id.insert(id.into(), Package { normal, ..Package::default() });
        }
        for package in list(&metadata["packages"]) {
            // Packages of other systems are listed but not resolved.
            let Some(known) = package["id"].as_str().and_then(|id| packages.by_id.get_mut(id)) else {
                continue;
            };
            known.name = package["name"].as_str().unwrap_or_default().into();
            known.license = package["license"].as_str().map(str::to_owned);
            known.publishable = package["publish"] != Value::Array(Vec::new());
        }
        Ok(packages)
    }

    /// Our packages.
    pub fn own(&self) -> impl Iterator<Item = &Package> {
        self.ours.iter().filter_map(|id| self.by_id.get(id))
    }

    /// Names of our packages that this one is compiled with, directly.
    pub fn direct_own(&self, package: &Package) -> Vec<String> {
        let direct = package.normal.iter().filter(|id| self.ours.contains(id));
        direct.filter_map(|id| self.by_id.get(id)).map(|p| p.name.clone()).collect()
    }

    /// Names of all packages that this one is compiled with, whatever the depth.
    pub fn transitive(&self, package: &Package) -> BTreeSet<String> {
        let (mut seen, mut open) = (BTreeSet::new(), package.normal.clone());
        while let Some(id) = open.pop() {
            if let Some(next) = self.by_id.get(&id).filter(|_| seen.insert(id.clone())) {
                open.extend(next.normal.iter().cloned());
            }
        }
        seen.iter().filter_map(|id| self.by_id.get(id)).map(|p| p.name.clone()).collect()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dependencies_only_for_tests_are_not_followed() {
        let dep = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let named = ["a", "b", "c", "d"].map(|id| json!({"id": id, "name": id, "publish": []}));
        let metadata = json!({
            "workspace_members": ["a"],
            "resolve": {"nodes": [
                {"id": "a", "deps": [dep("b", Value::Null), dep("d", json!("dev"))]},
                {"id": "b", "deps": [dep("c", Value::Null)]},
                {"id": "c", "deps": []},
                {"id": "d", "deps": []},
            ]},
            "packages": named,
        });
        let packages = Packages::parse(&metadata).unwrap();
        let own = packages.own().next().unwrap();
        assert_eq!(packages.transitive(own), BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        assert!(packages.direct_own(own).is_empty() && !own.publishable);
    }
}
