//! Endpoint snapshots from static lists and watched files.
