//! Objects, one revision for all of them, and the history that watches are served from.
//!
//! Pure: what an object must look like is `write`'s business, who may see it `access`'s.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use crate::failure::Failure;

/// Changes that are kept; older ones are compacted.
const HISTORY_MAX: usize = 100_000;

/// Where an object is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// Group and plural, see [`Resource::storage`](crate::resource::Resource::storage).
    pub kind: (&'static str, &'static str),
    /// Empty: the cluster's.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision that it made.
    pub revision: u64,
    /// Of what.
    pub key: Key,
    /// As it was; none: it is new.
    pub before: Option<Arc<Value>>,
    /// As it is; none: it is deleted.
    pub after: Option<Arc<Value>>,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    revision: u64,
    /// Changes up to this revision are no longer known.
    compacted: u64,
}

impl Store {
    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All objects of a kind, in all namespaces or one, in order of namespace and name, behind `after`.
    pub fn list<'a>(
        &'a self,
        kind: (&'static str, &'static str),
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let first = Key { kind, namespace: namespace.unwrap_or_default().into(), name: String::new() };
        let from = after.map_or(Bound::Included(first), |key| Bound::Excluded(key.clone()));
        let here = move |key: &Key| key.kind == kind && namespace.is_none_or(|n| key.namespace == n);
        self.objects.range((from, Bound::Unbounded)).take_while(move |(key, _)| here(key))
    }

    /// Writes an object; it gets the new revision as its `resourceVersion`.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.note(Change { revision: self.revision, key, before, after: Some(Arc::clone(&object)) });
        object
    }

    /// Deletes an object; answers it with the revision of the deletion.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.note(Change { revision: self.revision, key: key.clone(), before: Some(before), after: None });
        Some(last)
    }

    /// Changes after a revision.
    ///
    /// # Errors
    /// 410 when history does not reach back so far.
    pub fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Failure> {
        if revision < self.compacted {
            return Err(Failure::expired(revision, self.compacted));
        }
        let from = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(from..))
    }

    /// Forgets the history. What is newer than any client can know makes even the newest of them start over.
    pub fn compact(&mut self) {
        self.revision += 1;
        self.history.clear();
        self.compacted = self.revision;
    }

    /// Loses everything, as a restore of an empty backup: no deletion is ever told.
    pub fn lose_everything(&mut self) {
        self.objects.clear();
        self.compact();
    }

    fn note(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > HISTORY_MAX {
            self.compacted = self.history.pop_front().map_or(self.compacted, |change| change.revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: ("", "pods"), namespace: "a".into(), name: name.into() }
    }

    #[test]
    fn every_write_makes_a_revision_and_a_change() {
        let mut store = Store::default();
        store.put(key("p"), json!({"metadata": {"name": "p"}}));
        store.put(key("p"), json!({"metadata": {"name": "p", "labels": {}}}));
        let gone = store.remove(&key("p")).unwrap();
        assert_eq!(gone["metadata"]["resourceVersion"], "3");
        assert!(store.remove(&key("p")).is_none());
        let seen: Vec<_> = store.since(1).unwrap().map(|c| (c.revision, c.after.is_some())).collect();
        assert_eq!(seen, [(2, true), (3, false)]);
    }

    #[test]
    fn a_compacted_history_is_refused_to_everybody_who_knew_less() {
        let mut store = Store::default();
        store.put(key("p"), json!({"metadata": {}}));
        let known = store.revision();
        store.compact();
        assert_eq!(store.since(known).err().map(|e| e.code), Some(410));
        assert_eq!(store.since(store.revision()).unwrap().count(), 0);
        assert_eq!(store.list(("", "pods"), None, None).count(), 1);
        store.lose_everything();
        assert_eq!(store.list(("", "pods"), None, None).count(), 0);
    }

    #[test]
    fn a_list_holds_one_namespace_or_all_and_can_go_on_behind_a_key() {
        let mut store = Store::default();
        for (namespace, name) in [("a", "1"), ("a", "2"), ("ab", "1"), ("b", "1")] {
            let key = Key { kind: ("", "pods"), namespace: namespace.into(), name: name.into() };
            store.put(key, json!({"metadata": {}}));
        }
        store.put(
            Key { kind: ("", "secrets"), namespace: "a".into(), name: "s".into() },
            json!({"metadata": {}}),
        );
        assert_eq!(store.list(("", "pods"), None, None).count(), 4);
        assert_eq!(store.list(("", "pods"), Some("a"), None).count(), 2);
        assert_eq!(store.list(("", "pods"), Some("a"), Some(&key("1"))).count(), 1);
        assert_eq!(store.list(("", "pods"), None, Some(&key("1"))).count(), 3);
    }
}
