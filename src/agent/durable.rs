//! What must survive a restart of a party: the epochs that it sealed, and its member's appointment. One small file.
//!
//! A file that cannot be understood is never taken for a missing one: a party that forgot what it sealed could grant a
//! lease that it had promised never to grant again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{mesh::party::Durable, model::PartyName, sys::file};

/// The version of the file's form.
const VERSION: u32 = 1;
/// After a failed write, the next one waits this long.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// It cannot be read, or its directory cannot be made.
    #[error("{path} cannot be used: {source}; the agent needs to read and write it")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there and cannot be understood.
    #[error(
        "{path} cannot be understood: {why}. It holds the epochs that this party promised never to go below. Put back a \
         good copy; or, once no older primary of its clusters can be serving any more, remove it"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    party: PartyName,
    durable: Durable,
}

/// The file of one party.
#[derive(Clone, Debug)]
pub struct DurableFile {
    path: PathBuf,
    party: PartyName,
}

impl DurableFile {
    /// The file of that party in the state directory.
    #[must_use]
    pub fn new(state: &Path, party: &PartyName) -> Self {
        Self { path: state.join(format!("{party}.json")), party: party.clone() }
    }

    /// What the last life left; a missing file is a new party. The directory is made if it is missing.
    ///
    /// # Errors
    /// It cannot be read or understood, or belongs to another party.
    pub fn load(&self) -> Result<Durable, DurableError> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|source| DurableError::Io { path: directory.to_owned(), source })?;
        }
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Durable::default()),
            Err(source) => return Err(DurableError::Io { path: self.path.clone(), source }),
        };
        let broken = |why: String| DurableError::Broken { path: self.path.clone(), why };
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if content.version != VERSION {
            return Err(broken(format!(
                "its version is {}, and this program knows version {VERSION}",
                content.version
            )));
        }
        if content.party != self.party {
            return Err(broken(format!("it belongs to the party {}", content.party)));
        }
        Ok(content.durable)
    }
}

/// Where the state goes. One real way, and the tests' own.
pub trait Disk: Send + 'static {
    /// Returns once the state survives a crash of the host.
    ///
    /// # Errors
    /// Why it may not.
    fn write(&mut self, durable: &Durable) -> io::Result<()>;
}

impl Disk for DurableFile {
    fn write(&mut self, durable: &Durable) -> io::Result<()> {
        let content = Content { version: VERSION, party: self.party.clone(), durable: durable.clone() };
        let mut bytes = serde_json::to_vec_pretty(&content).map_err(io::Error::other)?;
        bytes.push(b'\n');
        file::replace(&self.path, &bytes)
    }
}

/// What the writer says.
pub(super) enum Written {
    /// The state of this number, or a later one that holds it, is durable.
    Durable(u64),
    /// Writing failed; it is tried again.
    Failed(String),
}

/// Writes states as they come, each a whole: of several that wait, the newest alone, which then counts for all. Returns
/// when nobody is left to send.
pub(super) fn write_all(mut disk: impl Disk, states: &Receiver<(u64, Durable)>, mut tell: impl FnMut(Written)) {
    let mut waiting: Vec<u64> = Vec::new();
    let mut newest: Option<Durable> = None;
    let mut has_failed = false;
    loop {
        // After a failure, a newer state does not make the disk better any sooner.
        let next = if has_failed {
            states.recv_timeout(RETRY_AFTER)
        } else {
            states.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let mut take = |(id, durable)| {
            waiting.push(id);
            newest = Some(durable);
        };
        match next {
            Ok(state) => {
                take(state);
                if has_failed {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        loop {
            match states.try_recv() {
                Ok(state) => take(state),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let Some(durable) = &newest else { continue };
        match disk.write(durable) {
            Ok(()) => {
                has_failed = false;
                newest = None;
                waiting.drain(..).for_each(|id| tell(Written::Durable(id)));
            }
            Err(error) => {
                if !has_failed {
                    tell(Written::Failed(error.to_string()));
                }
                has_failed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterName, Epoch};

    #[test]
    fn what_is_written_is_read_and_what_is_broken_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let mut file = DurableFile::new(&state, &"broker-a".into());
        assert_eq!(file.load().unwrap(), Durable::default(), "missing is new");
        let mut durable = Durable::default();
        durable.clusters.entry(ClusterName::from("orders")).or_default().sealed = Epoch(7);
        file.write(&durable).unwrap();
        assert_eq!(file.load().unwrap(), durable);

        let path = state.join("broker-a.json");
        let text = std::fs::read_to_string(&path).unwrap();
        for (bad, word) in [
            (String::new(), "cannot be understood"),
            (text[..text.len() / 2].to_owned(), "cannot be understood"),
            (text.replace("\"version\": 1", "\"version\": 2"), "version is 2"),
            (text.replace("broker-a", "broker-b"), "belongs to the party broker-b"),
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
