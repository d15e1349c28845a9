//! How an object is told: whole, or its metadata alone, in the API group that was asked.

use serde_json::{Map, Value, json};

use crate::events;
use crate::resource::Resource;

/// What a client asks for by its header Accept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Objects as they are.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
}

impl View {
    /// By the header. Tables are not made: clients that ask for one take the object as well.
    pub fn of(accept: &str) -> Self {
        let wants_metadata = |part: &str| {
            let mut parameters = part.split(';').map(str::trim);
            parameters.next() == Some("application/json")
                && parameters
                    .any(|p| matches!(p, "as=PartialObjectMetadata" | "as=PartialObjectMetadataList"))
        };
        if accept.split(',').any(wants_metadata) { Self::Metadata } else { Self::Whole }
    }

    /// One object.
    pub fn object(self, resource: &Resource, object: &Value) -> Value {
        match self {
            Self::Whole if resource.is_new_event() => events::to_new(object),
            Self::Whole => object.clone(),
            Self::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            }),
        }
    }

    /// A list; its items come as [`object`](Self::object) makes them.
    pub fn list(self, resource: &Resource, items: Vec<Value>, metadata: &Value) -> Value {
        match self {
            Self::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items,
            }),
            // Items of a typed list do not repeat what they are.
            Self::Whole => json!({
                "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": metadata,
                "items": items.into_iter().map(untyped).collect::<Vec<_>>(),
            }),
        }
    }

    /// The object of a bookmark: a kind, a version, and nothing else.
    pub fn bookmark(self, resource: &Resource, revision: u64, ends_initial: bool) -> Value {
        let (kind, api_version) = match self {
            Self::Whole => (resource.kind, resource.api_version()),
            Self::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        };
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    }
}

fn untyped(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    let kept = item.into_iter().filter(|(key, _)| key != "kind" && key != "apiVersion");
    Value::Object(kept.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_metadata_gets_metadata() {
        let pods = Resource::find("", "v1", "pods").unwrap();
        let pod =
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
        let view = View::of("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        let partial = view.object(pods, &pod);
        assert_eq!((&partial["kind"], &partial["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
        let list =
            View::of("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json")
                .list(pods, vec![partial], &json!({}));
        assert_eq!(list["kind"], "PartialObjectMetadataList");
    }

    #[test]
    fn a_client_of_tables_gets_objects_and_items_do_not_repeat_their_kind() {
        let pods = Resource::find("", "v1", "pods").unwrap();
        let view = View::of("application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
        assert_eq!(view, View::Whole);
        let list =
            view.list(pods, vec![json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}})], &json!({}));
        assert_eq!((&list["kind"], &list["items"]), (&json!("PodList"), &json!([{"metadata": {}}])));
    }
}
