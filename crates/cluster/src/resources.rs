//! The two kinds of objects that are watched, and what of them is kept.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::PartialObjectMeta;

use crate::notes::{DRAIN, Notes, WEIGHT};
use crate::reflect::Kind;
use crate::rules::{ENDPOINT_SLICES, PODS};
use crate::trouble::Call;

/// Whole EndpointSlices.
pub(crate) struct SliceKind;

impl Kind for SliceKind {
    type Object = EndpointSlice;
    type Item = Arc<EndpointSlice>;

    fn call(verb: &'static str, namespace: &str) -> Call {
        Call::new(verb, &ENDPOINT_SLICES, namespace)
    }

    fn item(mut slice: EndpointSlice) -> Option<(String, Self::Item)> {
        // Nobody asks which controller wrote which field, and the version changes with nothing else.
        (slice.metadata.managed_fields, slice.metadata.resource_version) = (None, None);
        let name = slice.metadata.name.clone()?;
        Some((name, Arc::new(slice)))
    }
}

/// The metadata of Pods, of which two annotations are kept.
pub(crate) struct PodKind;

impl Kind for PodKind {
    type Object = PartialObjectMeta<Pod>;
    type Item = Notes;

    fn call(verb: &'static str, namespace: &str) -> Call {
        Call::new(verb, &PODS, namespace)
    }

    fn item(pod: PartialObjectMeta<Pod>) -> Option<(String, Notes)> {
        let mut annotations = pod.metadata.annotations.unwrap_or_default();
        let notes = Notes {
            uid: pod.metadata.uid?,
            weight: annotations.remove(WEIGHT),
            drain: annotations.remove(DRAIN),
        };
        Some((pod.metadata.name?, notes))
    }
}
