//! Who is primary: the epoch file on the shared storage, and what a member remembers of itself.
//!
//! The epoch file only ever grows. It is replaced whole, durably, under a lock; of two who promote at once the second one
//! finds it raised. The lock is `flock`: on storage that does not carry it between machines the arbiter, which promotes
//! one at a time, has to be enough.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    control::Role,
    disk::{self, Since, replace},
};

/// What the epoch file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochFile {
    /// The epoch.
    pub epoch: u64,
    /// The name of its primary.
    pub primary: String,
}

/// What a member remembers of itself over its restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    /// The largest epoch that it has seen or was told.
    pub epoch: u64,
    /// What it was.
    pub role: Role,
    /// Whether it refuses senders for the flag's sake.
    pub read_only: bool,
    /// Whom it follows.
    pub following: Option<String>,
}

/// Why the epoch was not raised.
#[derive(Debug, thiserror::Error)]
pub(super) enum RaiseError {
    /// It is as large or larger already.
    #[error("epoch {} of `{}` has begun already", .0.epoch, .0.primary)]
    Larger(EpochFile),
    /// Somebody holds the lock.
    #[error("somebody else holds the lock of the epoch file; it was not changed")]
    Locked,
    /// The storage.
    #[error("the epoch file cannot be raised, or whether it was is not known: {0}")]
    Io(#[from] io::Error),
}

fn path(dir: &Path) -> PathBuf {
    dir.join("epoch")
}

/// Reads the epoch file; none: there is none yet.
///
/// # Errors
/// It cannot be read, or is garbled.
pub fn read(dir: &Path) -> io::Result<Option<EpochFile>> {
    read_json(&path(dir))
}

/// Raises the epoch, durably. The same primary may raise to the same epoch again.
///
/// # Errors
/// It was not raised, or whether it was is not known.
pub(super) fn raise(dir: &Path, epoch: u64, primary: &str, within: Duration) -> Result<(), RaiseError> {
    let since = Since::now();
    // Held until the end of this function.
    let _lock = loop {
        match disk::try_lock(&dir.join("epoch.lock"))? {
            Some(lock) => break lock,
            None if since.elapsed() < within => disk::sleep(Duration::from_millis(5)),
            None => return Err(RaiseError::Locked),
        }
    };
    let wanted = EpochFile { epoch, primary: primary.to_owned() };
    match read(dir)? {
        Some(now) if now == wanted => return Ok(()),
        Some(now) if now.epoch >= epoch => return Err(RaiseError::Larger(now)),
        _ => {}
    }
    replace(&path(dir), &serde_json::to_vec(&wanted).map_err(io::Error::from)?)?;
    Ok(())
}

/// What a member remembers; none: it is new.
///
/// # Errors
/// It cannot be read, or is garbled.
pub(super) fn read_own(own: &Path) -> io::Result<Option<Own>> {
    read_json(&own.join("relay.json"))
}

/// Remembers it, durably.
///
/// # Errors
/// The storage.
pub(super) fn write_own(own: &Path, what: &Own) -> io::Result<()> {
    replace(&own.join("relay.json"), &serde_json::to_vec(what)?)
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<Option<T>> {
    match disk::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{} is garbled: {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let soon = Duration::from_millis(20);
        assert_eq!(read(dir.path()).unwrap(), None);
        raise(dir.path(), 3, "a", soon).unwrap();
        raise(dir.path(), 3, "a", soon).unwrap();
        assert!(matches!(raise(dir.path(), 3, "b", soon), Err(RaiseError::Larger(now)) if now.primary == "a"));
        assert!(matches!(raise(dir.path(), 2, "b", soon), Err(RaiseError::Larger(_))));
        raise(dir.path(), 4, "b", soon).unwrap();
        let held = std::fs::File::options().append(true).open(dir.path().join("epoch.lock")).unwrap();
        held.lock().unwrap();
        assert!(matches!(raise(dir.path(), 5, "a", soon), Err(RaiseError::Locked)));
        assert_eq!(read(dir.path()).unwrap().map(|f| f.epoch), Some(4));
        std::fs::write(dir.path().join("epoch"), "{").unwrap();
        assert!(read(dir.path()).is_err(), "a garbled file is no missing one");
    }
}
