//! A watch: which changes it tells, and as what. When it looks, and how it ends, is the server's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::call::Call;
use crate::failure::Failure;
use crate::script::{Expired, Script};
use crate::select::Selection;
use crate::store::{Change, Store};

/// A watch that runs.
#[derive(Debug)]
pub struct Watch {
    call: Call,
    selection: Selection,
    /// Everything up to it has been told.
    revision: u64,
    /// What is told first, from before the watch.
    first: Vec<Value>,
    /// It began too late and has to say so.
    expired: Option<Failure>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

impl Watch {
    /// Begins it.
    ///
    /// # Errors
    /// 400 and 422 for options that make no sense, 410 when history does not reach back.
    pub fn start(store: &Store, script: &Script, call: Call) -> Result<Self, Failure> {
        let (selection, timeout) = (call.selection()?, call.timeout()?);
        let asked = call.number("resourceVersion")?;
        let streaming = match call.option("sendInitialEvents") {
            "" => None,
            _ => Some(call.flag("sendInitialEvents")),
        };
        check_streaming(&call, script, streaming)?;
        let mut watch =
            Self { call, selection, revision: store.revision(), first: Vec::new(), expired: None, timeout };
        let from = asked.filter(|revision| *revision > 0);
        match (streaming, from) {
            (Some(true), Some(asked)) if asked > store.revision() => {
                return Err(Failure::too_large(asked, store.revision()));
            }
            (Some(true), _) => {
                watch.first = watch.all(store);
                if watch.call.flag("allowWatchBookmarks") {
                    let bookmark = watch.bookmark_of(true);
                    watch.first.push(bookmark);
                }
            }
            (Some(false), None) => {}
            (None, None) => watch.first = watch.all(store),
            (_, Some(asked)) => {
                if let Err(failure) = store.since(asked).map(drop) {
                    if script.expired == Expired::Response {
                        return Err(failure);
                    }
                    watch.expired = Some(failure);
                }
                watch.revision = asked;
            }
        }
        Ok(watch)
    }

    /// What has happened since the last look. After an error nothing follows.
    ///
    /// # Errors
    /// 410 when history has been compacted in the meantime.
    pub fn look(&mut self, store: &Store) -> Result<Vec<Value>, Failure> {
        if let Some(failure) = self.expired.take() {
            return Err(failure);
        }
        let mut events = std::mem::take(&mut self.first);
        let mut told = self.revision;
        for change in store.since(self.revision)? {
            told = change.revision;
            events.extend(self.event(change));
        }
        self.revision = told;
        Ok(events)
    }

    /// A bookmark at what has been told, if they are wanted.
    pub fn bookmark(&self) -> Option<Value> {
        self.call.flag("allowWatchBookmarks").then(|| self.bookmark_of(false))
    }

    /// Its resource, as Roles name it.
    pub fn resource(&self) -> String {
        self.call.objects.role_name()
    }

    fn bookmark_of(&self, ends_initial: bool) -> Value {
        let object = self.call.view.bookmark(self.call.objects.resource, self.revision, ends_initial);
        json!({"type": "BOOKMARK", "object": object})
    }

    fn all(&self, store: &Store) -> Vec<Value> {
        let objects = &self.call.objects;
        let all = store.list(objects.resource.storage(), objects.namespace.as_deref(), None);
        let selected = all.filter(|(_, object)| self.selection.takes(object));
        selected.map(|(_, object)| self.told("ADDED", object)).collect()
    }

    /// What a change is to those who see the selected objects only.
    fn event(&self, change: &Change) -> Option<Value> {
        let objects = &self.call.objects;
        let here = change.key.kind == objects.resource.storage()
            && objects.namespace.as_ref().is_none_or(|namespace| *namespace == change.key.namespace);
        if !here {
            return None;
        }
        let selected = |object: Option<&Value>| object.filter(|object| self.selection.takes(object)).cloned();
        let (before, after) = (selected(change.before.as_deref()), selected(change.after.as_deref()));
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(self.told("ADDED", &after)),
            (Some(_), Some(after)) => Some(self.told("MODIFIED", &after)),
            (Some(mut last), None) => {
                last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                Some(self.told("DELETED", &last))
            }
        }
    }

    fn told(&self, kind: &str, object: &Value) -> Value {
        json!({"type": kind, "object": self.call.view.object(self.call.objects.resource, object)})
    }
}

fn check_streaming(call: &Call, script: &Script, streaming: Option<bool>) -> Result<(), Failure> {
    let forbidden = |field: &str, why: &str| {
        Err(Failure::invalid("ListOptions.meta.k8s.io", "", field, &format!("Forbidden: {why}")))
    };
    let matching = call.option("resourceVersionMatch");
    match streaming {
        Some(_) if !script.streaming_lists => forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        ),
        Some(_) if matching != "NotOlderThan" => forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        None if !matching.is_empty() => forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        Some(_) | None => Ok(()),
    }
}
