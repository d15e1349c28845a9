//! Lists: at a revision, in pages, of what is selected.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::call::Call;
use crate::failure::Failure;
use crate::store::Store;

/// Lists of which pages are left; older ones expire.
const PAGED_MAX: usize = 1_000;

/// Lists that are being read page by page.
#[derive(Debug, Default)]
pub struct Pages {
    open: VecDeque<Page>,
    next: u64,
}

/// What is left of a list.
#[derive(Debug)]
struct Page {
    id: u64,
    revision: u64,
    left: Vec<Value>,
}

impl Pages {
    /// All pages expire, as when history is compacted.
    pub fn expire(&mut self) {
        self.open.clear();
    }

    /// Answers a list or its next page.
    ///
    /// # Errors
    /// 400 for an option that makes no sense, 410 for a page or a revision that is gone, 504 for one to come.
    pub fn list(&mut self, store: &Store, call: &Call) -> Result<Value, Failure> {
        let (revision, mut items) = match call.option("continue") {
            "" => (store.revision(), first_page(store, call)?),
            token => self.take(token)?,
        };
        let limit = call.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if limit > 0 && items.len() > limit {
            let left = items.split_off(limit);
            if call.option("labelSelector").is_empty() && call.option("fieldSelector").is_empty() {
                metadata["remainingItemCount"] = left.len().into();
            }
            metadata["continue"] = self.keep(revision, left).into();
        }
        Ok(call.view.list(call.objects.resource, items, &metadata))
    }

    fn keep(&mut self, revision: u64, left: Vec<Value>) -> String {
        self.next += 1;
        self.open.push_back(Page { id: self.next, revision, left });
        if self.open.len() > PAGED_MAX {
            self.open.pop_front();
        }
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.next}).to_string())
    }

    fn take(&mut self, token: &str) -> Result<(u64, Vec<Value>), Failure> {
        let invalid =
            || Failure::bad_request("continue key is not valid: expected one that a list has answered");
        let text = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        let token: Value = serde_json::from_slice(&text).map_err(|_| invalid())?;
        // A page can be read again, as from the real server.
        let page = self.open.iter().find(|page| token["start"] == page.id);
        page.map(|page| (page.revision, page.left.clone())).ok_or_else(Failure::continue_expired)
    }
}

fn first_page(store: &Store, call: &Call) -> Result<Vec<Value>, Failure> {
    let current = store.revision();
    if let Some(asked) = call.number("resourceVersion")? {
        if asked > current {
            return Err(Failure::too_large(asked, current));
        }
        if call.option("resourceVersionMatch") == "Exact" && asked != current {
            return Err(Failure::expired(asked, current));
        }
    }
    let (selection, objects) = (call.selection()?, &call.objects);
    let all = store.list(objects.resource.storage(), objects.namespace.as_deref(), None);
    let selected = all.filter(|(_, object)| selection.takes(object));
    Ok(selected.map(|(_, object)| call.view.object(objects.resource, object)).collect())
}
