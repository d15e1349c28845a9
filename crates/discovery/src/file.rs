//! One watched endpoint list on disk.
//!
//! It is looked at again and again instead of being subscribed to: that works for the symbolic links which
//! Kubernetes swaps in a ConfigMap volume, for editors that rename, and for network file systems. Metadata is
//! compared first; the content decides.
//!
//! A file that is written in place can be seen half-written, and half a list may well be a valid list. So a
//! change of the same file is believed only when two looks in a row find the same text. A file that took the
//! other's place (rename, swapped link) is complete and believed at once.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use config::parse_endpoints;
use model::{Endpoint, PoolName};
use tokio::time::{MissedTickBehavior, interval};

use crate::sources::{News, Reporter};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(500);

/// One byte above what `parse_endpoints` accepts, so that a longer file is refused and not cut.
const READ_BYTES_MAX: u64 = 1024 * 1024 + 1;

/// Times of change are coarse: two writes within one tick of the file system look alike. A file changed so
/// recently is read even when its metadata is as before.
const RECENT: Duration = Duration::from_secs(2);

/// What a look has brought.
#[derive(PartialEq, Debug)]
enum Look {
    /// Nothing new: good as before, or bad in the same way as before.
    Same,
    /// Another list, or the same one after a time of being unusable.
    List(Vec<Endpoint>),
    /// It has become unusable, or unusable in another way; says how.
    Unusable(String),
}

/// Looks at the file again and again and reports what changes.
pub(crate) async fn follow(mut file: WatchedFile, reporter: Reporter) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        ticks.tick().await;
        let pool = reporter.pool().clone();
        // A network file system may hang; the runtime must not hang with it.
        let looked = tokio::task::spawn_blocking(move || {
            let found = file.look_for(&pool);
            (file, found)
        });
        // It fails only when the runtime shuts down.
        let Ok((back, found)) = looked.await else { return };
        file = back;
        if let Some(list) = found {
            reporter.tell(News::List(list)).await;
        }
        let unusable = file.is_unusable();
        if told.replace(unusable) != Some(unusable) {
            reporter.tell(News::Stale(unusable)).await;
        }
    }
}

#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    seen: Option<Stamp>,
    /// The text that was judged last, good or bad.
    judged: Option<String>,
    /// A change in place that waits to be seen once more.
    unconfirmed: Option<String>,
    /// Why it cannot be used.
    fault: Option<String>,
}

/// Metadata that changes with the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl WatchedFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, judged: None, unconfirmed: None, fault: None }
    }

    pub(crate) fn is_unusable(&self) -> bool {
        self.fault.is_some()
    }

    /// Looks at the file once and tells the log what is new. Gives the list when it is another one.
    pub(crate) fn look_for(&mut self, pool: &PoolName) -> Option<Vec<Endpoint>> {
        let path = self.path.display().to_string();
        match self.look() {
            Look::Same => None,
            Look::List(list) => {
                tracing::info!(%pool, file = path, endpoints = list.len(), "endpoints file was read");
                Some(list)
            }
            Look::Unusable(fault) => {
                tracing::warn!(
                    %pool, file = path, fault,
                    "endpoints file cannot be used: the last good list stays; mend the file, it is read again"
                );
                None
            }
        }
    }

    /// Looks at the file once. Blocks as long as the file system does.
    fn look(&mut self) -> Look {
        match self.read_if_changed() {
            Ok(None) => Look::Same,
            Ok(Some(text)) => {
                let parsed = parse_endpoints(&text);
                self.judged = Some(text);
                match parsed {
                    Ok(list) => {
                        self.fault = None;
                        Look::List(list)
                    }
                    Err(errors) => self.fail(errors.to_string()),
                }
            }
            Err(fault) => {
                // Whatever is there next is judged anew, even the very same text.
                (self.seen, self.judged, self.unconfirmed) = (None, None, None);
                self.fail(fault)
            }
        }
    }

    fn fail(&mut self, fault: String) -> Look {
        if self.fault.as_ref() == Some(&fault) {
            return Look::Same;
        }
        self.fault = Some(fault.clone());
        Look::Unusable(fault)
    }

    /// The text when it differs from the judged one and can be believed.
    fn read_if_changed(&mut self) -> Result<Option<String>, String> {
        let metadata = fs::metadata(&self.path).map_err(|e| format!("cannot be found: {e}"))?;
        // A pipe would block for ever.
        if !metadata.is_file() {
            return Err("is not a regular file".into());
        }
        let stamp = Stamp::of(&metadata);
        let recent = metadata
            .modified()
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok())
            .is_none_or(|age| age < RECENT);
        if self.seen == Some(stamp) && !recent && self.unconfirmed.is_none() {
            return Ok(None);
        }
        let text = self.read()?;
        let in_place = self.seen.is_some_and(|seen| seen.is_same_file(stamp));
        self.seen = Some(stamp);
        if self.judged.as_ref() == Some(&text) {
            self.unconfirmed = None;
            return Ok(None);
        }
        if in_place && self.unconfirmed.as_ref() != Some(&text) {
            self.unconfirmed = Some(text);
            return Ok(None);
        }
        self.unconfirmed = None;
        Ok(Some(text))
    }

    fn read(&self) -> Result<String, String> {
        let mut text = String::new();
        File::open(&self.path)
            .and_then(|file| file.take(READ_BYTES_MAX).read_to_string(&mut text))
            .map_err(|e| format!("cannot be read: {e}"))?;
        Ok(text)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    const ONE: &str = "- address: 127.0.0.1:1\n";
    const TWO: &str = "- address: 127.0.0.1:1\n- address: 127.0.0.1:2\n";

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a temporary folder can be made")
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).expect("the file can be written");
    }

    fn replace(path: &Path, text: &str) {
        let beside = path.with_extension("new");
        write(&beside, text);
        fs::rename(&beside, path).expect("the file can be renamed");
    }

    fn count(look: Look) -> Option<usize> {
        match look {
            Look::List(list) => Some(list.len()),
            Look::Same | Look::Unusable(_) => None,
        }
    }

    #[test]
    fn a_renamed_file_is_believed_at_once() {
        let folder = folder();
        let path = folder.path().join("endpoints.yaml");
        write(&path, ONE);
        let mut file = WatchedFile::new(path.clone());
        assert_eq!(count(file.look()), Some(1));
        assert_eq!(file.look(), Look::Same);
        replace(&path, TWO);
        assert_eq!(count(file.look()), Some(2));
    }

    #[test]
    fn a_file_written_in_place_is_believed_when_it_stays_the_same() {
        let folder = folder();
        let path = folder.path().join("endpoints.yaml");
        write(&path, TWO);
        let mut file = WatchedFile::new(path.clone());
        assert_eq!(count(file.look()), Some(2));
        write(&path, "");
        assert_eq!(file.look(), Look::Same, "just truncated");
        write(&path, ONE);
        assert_eq!(file.look(), Look::Same, "half a list is a valid list");
        let three = format!("{TWO}- address: 127.0.0.1:3\n");
        write(&path, &three);
        assert_eq!(file.look(), Look::Same, "seen for the first time");
        assert_eq!(count(file.look()), Some(3));
        assert!(!file.is_unusable());
    }

    #[test]
    fn a_swapped_config_map_link_is_followed() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("v1", ONE), ("v2", TWO)] {
            fs::create_dir(at(version)).expect("the folder can be made");
            write(&at(version).join("endpoints.yaml"), text);
        }
        symlink("v1", at("..data")).expect("links can be made");
        symlink("..data/endpoints.yaml", at("endpoints.yaml")).expect("links can be made");
        let mut file = WatchedFile::new(at("endpoints.yaml"));
        assert_eq!(count(file.look()), Some(1));
        symlink("v2", at("..data_tmp")).expect("links can be made");
        fs::rename(at("..data_tmp"), at("..data")).expect("links can be renamed");
        assert_eq!(count(file.look()), Some(2));
    }

    #[test]
    fn each_fault_is_told_once_and_ends_with_a_good_file() {
        let folder = folder();
        let path = folder.path().join("endpoints.yaml");
        let mut file = WatchedFile::new(path.clone());
        assert!(matches!(file.look(), Look::Unusable(fault) if fault.contains("cannot be found")));
        assert_eq!(file.look(), Look::Same);
        replace(&path, "- adress: 127.0.0.1:1\n");
        assert!(matches!(file.look(), Look::Unusable(fault) if fault.contains("did you mean `address`")));
        assert_eq!(file.look(), Look::Same);
        assert!(file.is_unusable());
        replace(&path, ONE);
        assert_eq!(count(file.look()), Some(1));
        assert!(!file.is_unusable());
    }

    #[test]
    fn the_same_text_after_an_absence_is_a_list_again() {
        let folder = folder();
        let path = folder.path().join("endpoints.yaml");
        write(&path, ONE);
        let mut file = WatchedFile::new(path.clone());
        assert_eq!(count(file.look()), Some(1));
        fs::remove_file(&path).expect("the file can be removed");
        assert!(matches!(file.look(), Look::Unusable(_)));
        write(&path, ONE);
        assert_eq!(count(file.look()), Some(1));
    }

    #[test]
    fn what_is_no_text_file_is_refused_without_reading_on() {
        let folder = folder();
        let mut file = WatchedFile::new(folder.path().to_owned());
        assert!(matches!(file.look(), Look::Unusable(fault) if fault.contains("regular file")));
        let path = folder.path().join("endpoints.yaml");
        fs::write(&path, [0xFF, 0xFE]).expect("the file can be written");
        let mut file = WatchedFile::new(path.clone());
        assert!(matches!(file.look(), Look::Unusable(fault) if fault.contains("cannot be read")));
        replace(&path, &" ".repeat(2 * 1024 * 1024));
        assert!(matches!(file.look(), Look::Unusable(fault) if fault.contains("1048577 bytes")));
    }
}
