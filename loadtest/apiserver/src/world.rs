//! The whole server without its sockets: a request in, an answer or a watch out.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::access::Access;
use crate::call::{Call, Request};
use crate::discovery;
use crate::failure::Failure;
use crate::patch::How;
use crate::path::{Objects, Target};
use crate::read::Pages;
use crate::resource::Resource;
use crate::script::Script;
use crate::store::{Key, Store};
use crate::watch::Watch;
use crate::write::{self, Stamp};

/// Requests that are remembered; the oldest are forgotten.
const SEEN_MAX: usize = 100_000;

/// A request for objects that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// As Roles name it.
    pub verb: &'static str,
    /// API group; empty: core.
    pub group: &'static str,
    /// As Roles name it: `pods`, `deployments/scale`.
    pub resource: String,
    /// None: all, or the resource has none.
    pub namespace: Option<String>,
    /// None: a collection.
    pub name: Option<String>,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    /// Header User-Agent.
    pub user_agent: String,
}

/// The number of replicas of an object was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scaled {
    /// `Deployment`, ...
    pub kind: &'static str,
    /// Where.
    pub namespace: String,
    /// Which.
    pub name: String,
    /// Before.
    pub was: u64,
    /// From now on.
    pub replicas: u64,
}

/// What a request gets.
#[derive(Debug)]
pub enum Reply {
    /// Status and body.
    Whole(u16, Value),
    /// A stream.
    Watch(Box<Watch>),
}

/// Objects, rights, script and memory.
#[derive(Debug, Default)]
pub struct World {
    /// All objects.
    pub store: Store,
    /// Who may do what.
    pub access: Access,
    /// What is scripted.
    pub script: Script,
    /// Lists that are being read.
    pub pages: Pages,
    /// Requests for objects so far.
    pub seen: VecDeque<Seen>,
    /// Changes of scale that nobody has been told of yet.
    pub scaled: Vec<Scaled>,
    writes: u64,
}

impl World {
    /// Remembers a request, whatever becomes of it.
    pub fn note(&mut self, request: &Request) {
        let Ok(Target::Objects(objects)) = Target::parse(&request.path) else { return };
        let Ok(call) = Call::of(request, objects) else { return };
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen {
            verb: call.verb,
            group: call.objects.resource.group,
            resource: call.objects.role_name(),
            namespace: call.objects.namespace,
            name: call.objects.name,
            query: request.query.clone(),
            user_agent: request.user_agent.clone(),
        });
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When it is refused.
    pub fn handle(&mut self, request: &Request) -> Result<Reply, Failure> {
        let value = match Target::parse(&request.path)? {
            Target::Objects(objects) => return self.handle_objects(request, objects),
            Target::Health => json!("ok"),
            Target::Version => discovery::version(),
            Target::Api => discovery::api(),
            Target::Apis => discovery::apis(),
            Target::Group(group) => discovery::group(&group),
            Target::GroupVersion(group, version) => discovery::resources(&group, &version),
        };
        Ok(Reply::Whole(200, value))
    }

    fn handle_objects(&mut self, request: &Request, objects: Objects) -> Result<Reply, Failure> {
        let call = Call::of(request, objects)?;
        self.script.check(call.verb, &call.objects.role_name())?;
        let selected = call.selection()?;
        let name = call.objects.name.as_deref().or(selected.name());
        self.access.check(call.verb, &call.objects, name)?;
        match call.verb {
            "watch" => {
                let watch = Watch::start(&self.store, &self.script, call)?;
                Ok(Reply::Watch(Box::new(watch)))
            }
            "list" => Ok(Reply::Whole(200, self.pages.list(&self.store, &call)?)),
            "get" => {
                let (_, object) = self.existing(&call)?;
                Ok(Reply::Whole(200, told(&call, &object)))
            }
            "create" if call.objects.subresource == "eviction" => {
                self.delete(&call, &Value::Null)?;
                Ok(Reply::Whole(201, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
            }
            "create" => self.create(&call, request),
            "update" => {
                let new = request.object()?;
                self.change(&call, |_| Ok(new))
            }
            "patch" => self.patch(&call, request),
            "delete" => Ok(Reply::Whole(200, self.delete(&call, &request.object()?)?)),
            _ => Ok(Reply::Whole(200, self.delete_all(&call)?)),
        }
    }

    /// Creates an object or puts it in the place of the one of its name, as a whole, past all rights and refusals. Its
    /// uid is kept when it names one.
    ///
    /// # Errors
    /// When the object is of no kind that is served, or breaks a rule.
    pub fn apply(&mut self, object: Value, now: &str) -> Result<Arc<Value>, Failure> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let Some(resource) = Resource::of_kind(&api_version, &kind) else {
            return Err(Failure::bad_request(format!(
                "no matches for kind {kind:?} in version {api_version:?}"
            )));
        };
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
        let path = Objects {
            resource,
            namespace: resource.namespaced.then_some(namespace),
            name: Some(name),
            subresource: String::new(),
        };
        let call = Call::of(&Request { method: "PUT".into(), ..Request::default() }, path)?;
        let known_uid = object["metadata"]["uid"].clone();
        let mut new = write::created(&call, object, self.stamp(now))?;
        let key = key_of(resource, &new);
        let old = self.store.get(&key).cloned();
        if let Some(old) = &old {
            for field in ["uid", "creationTimestamp"] {
                new["metadata"][field] = old["metadata"][field].clone();
            }
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
            if new.get("spec").is_some() {
                let changed = old.get("spec") != new.get("spec");
                new["metadata"]["generation"] = (generation + u64::from(changed)).into();
            }
        }
        if !known_uid.is_null() {
            new["metadata"]["uid"] = known_uid;
        }
        Ok(self.keep(resource, key, old.as_deref(), new))
    }

    /// Deletes an object past all rights; answers whether it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        self.store.remove(key).is_some()
    }

    fn create(&mut self, call: &Call, request: &Request) -> Result<Reply, Failure> {
        let new = write::created(call, request.object()?, self.stamp(&request.now))?;
        let key = key_of(call.objects.resource, &new);
        if self.store.get(&key).is_some() {
            return Err(Failure::exists(call.objects.resource, &key.name));
        }
        let object =
            if is_dry(call) { Arc::new(new) } else { self.keep(call.objects.resource, key, None, new) };
        Ok(Reply::Whole(201, told(call, &object)))
    }

    fn patch(&mut self, call: &Call, request: &Request) -> Result<Reply, Failure> {
        let how = How::of(&request.content_type)?;
        let patch = request.object()?;
        if how == How::Apply && self.existing(call).is_err() && call.objects.subresource.is_empty() {
            let mut named = patch;
            if named.is_object() {
                named["metadata"] = how.apply(&named["metadata"], &json!({"name": call.objects.name}))?;
            }
            let new = write::created(call, named, self.stamp(&request.now))?;
            let key = key_of(call.objects.resource, &new);
            let object = self.keep(call.objects.resource, key, None, new);
            return Ok(Reply::Whole(201, told(call, &object)));
        }
        self.change(call, |old| match call.objects.subresource.as_str() {
            "scale" => how.apply(&write::scale_of(old), &patch),
            _ => write::patched(call, how, old, &patch),
        })
    }

    /// Replaces an object, or a part of it, by what `make` makes of it.
    fn change(
        &mut self,
        call: &Call,
        make: impl FnOnce(&Value) -> Result<Value, Failure>,
    ) -> Result<Reply, Failure> {
        let (key, old) = self.existing(call)?;
        let made = make(&old)?;
        let new = if call.objects.subresource == "scale" {
            write::scaled(call.objects.resource, &old, &made)?
        } else {
            write::replaced(call, &old, made)?
        };
        let object = if new == *old || is_dry(call) {
            Arc::new(new)
        } else {
            self.keep(call.objects.resource, key, Some(&old), new)
        };
        Ok(Reply::Whole(200, told(call, &object)))
    }

    fn delete(&mut self, call: &Call, options: &Value) -> Result<Value, Failure> {
        let (key, old) = self.existing(call)?;
        write::check_preconditions(call.objects.resource, &old, options)?;
        if !is_dry(call) {
            self.store.remove(&key);
        }
        let resource = call.objects.resource;
        let details = json!({"name": key.name, "group": resource.group, "kind": resource.plural, "uid": old["metadata"]["uid"]});
        Ok(
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
        )
    }

    fn delete_all(&mut self, call: &Call) -> Result<Value, Failure> {
        let (selection, objects) = (call.selection()?, &call.objects);
        let all = self.store.list(objects.resource.storage(), objects.namespace.as_deref(), None);
        let keys: Vec<Key> =
            all.filter(|(_, object)| selection.takes(object)).map(|(key, _)| key.clone()).collect();
        let gone: Vec<Value> = keys.iter().filter_map(|key| self.store.remove(key)).collect();
        let metadata = json!({"resourceVersion": self.store.revision().to_string()});
        Ok(call.view.list(objects.resource, gone, &metadata))
    }

    fn existing(&self, call: &Call) -> Result<(Key, Arc<Value>), Failure> {
        let (resource, name) = (call.objects.resource, call.objects.name.clone().unwrap_or_default());
        let namespace = call.objects.namespace.clone().unwrap_or_default();
        let key = Key { kind: resource.storage(), namespace, name };
        match self.store.get(&key) {
            Some(object) => Ok((key, Arc::clone(object))),
            None => Err(Failure::not_found(resource, &key.name)),
        }
    }

    fn keep(&mut self, resource: &'static Resource, key: Key, old: Option<&Value>, new: Value) -> Arc<Value> {
        let (was, replicas) = (old.map(write::replicas), write::replicas(&new));
        if let Some(was) = was.filter(|was| resource.scalable && *was != replicas) {
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            self.scaled.push(Scaled { kind: resource.kind, namespace, name, was, replicas });
        }
        self.store.put(key, new)
    }

    fn stamp<'a>(&mut self, now: &'a str) -> Stamp<'a> {
        self.writes += 1;
        Stamp { now, number: self.writes }
    }
}

fn key_of(resource: &Resource, object: &Value) -> Key {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let namespace = if resource.namespaced { text("namespace") } else { String::new() };
    Key { kind: resource.storage(), namespace, name: text("name") }
}

fn told(call: &Call, object: &Value) -> Value {
    if call.objects.subresource == "scale" {
        return write::scale_of(object);
    }
    call.view.object(call.objects.resource, object)
}

fn is_dry(call: &Call) -> bool {
    !call.option("dryRun").is_empty()
}
