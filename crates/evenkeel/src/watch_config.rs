//! Reads the configuration again when its file changes, or when told to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::Config;

use crate::command::load;

/// The file and what it said last.
pub struct Watched {
    path: PathBuf,
    text: Option<String>,
    /// The configuration in force.
    pub current: Arc<Config>,
}

impl Watched {
    /// `current` was read from `path`.
    pub fn new(path: &Path, current: Arc<Config>) -> Self {
        Self { path: path.to_owned(), text: std::fs::read_to_string(path).ok(), current }
    }

    /// True when the file's text is another than at the last look. A file that is missing for a moment, as in a
    /// rename, has not changed.
    pub fn has_changed(&mut self) -> bool {
        let Ok(text) = std::fs::read_to_string(&self.path) else { return false };
        let changed = self.text.as_ref() != Some(&text);
        self.text = Some(text);
        changed
    }

    /// The new configuration, if it can be used and differs.
    pub fn reload(&mut self) -> Option<Arc<Config>> {
        let checked = match load(&self.path) {
            Ok(checked) => checked,
            Err(error) => {
                metrics::counter!("evenkeel_reloads_total", "what" => "config", "outcome" => "failed")
                    .increment(1);
                tracing::error!("{error:#}\nthe old configuration stays in force");
                return None;
            }
        };
        for warning in &checked.warnings {
            tracing::warn!(%warning, "configuration");
        }
        let config = Arc::new(checked.config);
        if *config == *self.current {
            tracing::info!("configuration read again: nothing has changed");
            return None;
        }
        for (what, changed) in [
            ("listeners", config.listeners != self.current.listeners),
            ("workers", config.workers != self.current.workers),
            ("admin", config.admin != self.current.admin),
            (
                "log",
                config.log.level != self.current.log.level || config.log.format != self.current.log.format,
            ),
        ] {
            if changed {
                tracing::warn!(
                    key = what,
                    "this part of the configuration takes effect at the next start only"
                );
            }
        }
        self.current = config.clone();
        Some(config)
    }
}
