//! What the log asks of its storage: every act that can be late, fail, or be the last one of a process, at one place.
//!
//! It is the file system, and nothing more. Under test it may be one in memory (`simulated`), where each act is a point at
//! which another member goes on, and where power fails.

use std::{
    fs, io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::sys::clock::Stopwatch;

#[cfg(test)]
#[allow(unreachable_pub, reason = "one storage for all tests of the relay")]
pub(super) mod simulated;

/// An open file.
#[derive(Debug)]
pub(super) enum File {
    Real(fs::File),
    #[cfg(test)]
    Simulated(simulated::Opened),
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It is there, and is read.
    Read,
    /// It is there, and is written.
    Write,
    /// It is made, or emptied.
    Create,
    /// It is made, and was not there.
    CreateNew,
}

impl File {
    pub(super) fn open(path: &Path, how: How) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(storage) = simulated::here() {
            return storage.open(path, how).map(Self::Simulated);
        }
        let mut options = fs::File::options();
        match how {
            How::Read => options.read(true),
            How::Write => options.write(true),
            How::Create => options.write(true).create(true).truncate(true),
            How::CreateNew => options.write(true).create_new(true),
        };
        options.open(path).map(Self::Real)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.metadata().map(|m| m.len()),
            #[cfg(test)]
            Self::Simulated(file) => file.len(),
        }
    }

    /// Reads some bytes; none: there are none.
    pub(super) fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.read_at(into, at),
            #[cfg(test)]
            Self::Simulated(file) => file.read_at(into, at),
        }
    }

    /// Reads until `into` is full or the file ends; answers how many bytes came.
    pub(super) fn fill_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut have = 0;
        while have < into.len() {
            match self.read_at(&mut into[have..], at + have as u64) {
                Ok(0) => break,
                Ok(more) => have += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(have)
    }

    /// All from `at` to the end. What it takes is the caller's to bound.
    pub(super) fn rest(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len()?.saturating_sub(at)).unwrap_or(0)];
        let have = self.fill_at(&mut bytes, at)?;
        bytes.truncate(have);
        Ok(bytes)
    }

    /// Writes some of the bytes.
    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.write_at(bytes, at),
            #[cfg(test)]
            Self::Simulated(file) => file.write_at(bytes, at),
        }
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.write_all_at(bytes, at),
            #[cfg(test)]
            Self::Simulated(file) => file.write_all_at(bytes, at),
        }
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.set_len(length),
            #[cfg(test)]
            Self::Simulated(file) => file.set_len(length),
        }
    }

    /// Makes what is in it durable, and how long it is.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Real(file) => file.sync_data(),
            #[cfg(test)]
            Self::Simulated(file) => file.sync(),
        }
    }
}

/// The whole content of a file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    File::open(path, How::Read)?.rest(0)
}

/// What is in a directory.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.list(dir);
    }
    fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect()
}

/// When a directory was changed, as exactly as the storage says it: on many, two changes within some milliseconds look like
/// one.
pub(super) fn changed_at(dir: &Path) -> io::Result<(i64, i64)> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.changed_at(dir);
    }
    fs::metadata(dir).map(|m| (m.mtime(), m.mtime_nsec()))
}

pub(super) fn create_dir_all(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.create_dir_all(dir);
    }
    fs::create_dir_all(dir)
}

/// Gives a file another name; durable once its directory is.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.rename(from, to);
    }
    fs::rename(from, to)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.remove(path);
    }
    fs::remove_file(path)
}

/// Makes durable which files are in a directory.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.sync_dir(dir);
    }
    fs::File::open(dir)?.sync_all()
}

/// Replaces a file whole, durably ([`crate::sys::file::replace`]).
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.replace(path, content);
    }
    crate::sys::file::replace(path, content)
}

/// A lock, held until it is dropped, or its process ends.
#[derive(Debug)]
pub(super) enum Lock {
    Real(#[expect(dead_code, reason = "held, not used")] fs::File),
    #[cfg(test)]
    Simulated(#[expect(dead_code, reason = "held, not used")] simulated::Held),
}

/// Takes the lock of a file, which is made for it; none: somebody else holds it.
pub(super) fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.try_lock(path).map(|held| held.map(Lock::Simulated));
    }
    let file = fs::File::options().create(true).append(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock::Real(file))),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(e)) => Err(e),
    }
}

/// How long ago, where it decides what is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    Real(Stopwatch),
    #[cfg(test)]
    Simulated(Duration),
}

impl Since {
    pub(super) fn now() -> Self {
        #[cfg(test)]
        if let Some(storage) = simulated::here() {
            return Self::Simulated(storage.now());
        }
        Self::Real(Stopwatch::start())
    }

    pub(super) fn elapsed(&self) -> Duration {
        match self {
            Self::Real(watch) => watch.elapsed(),
            #[cfg(test)]
            Self::Simulated(then) => simulated::here().map_or(Duration::ZERO, |s| s.now().saturating_sub(*then)),
        }
    }
}

/// Waits.
pub(super) fn sleep(time: Duration) {
    #[cfg(test)]
    if let Some(storage) = simulated::here() {
        return storage.sleep(time);
    }
    std::thread::sleep(time);
}
