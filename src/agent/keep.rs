//! What a fenced broker had is copied before it is started again: started, or made a standby, it may throw away what
//! nobody else got. A copy is whole or not there; it is made once for each epoch, and never removed by us.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    model::{Order, time::human},
    sys::clock::Stopwatch,
};

/// Copies what is to be kept.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    paths: Vec<PathBuf>,
    directory: PathBuf,
    /// One copy at a time: one whose order's time is over goes on, and the next order finds it done.
    busy: Arc<Mutex<()>>,
}

impl Keeper {
    /// Keeps these below that directory.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>, directory: PathBuf) -> Self {
        Self { paths, directory, busy: Arc::default() }
    }

    /// What will be kept, in words; nothing if nothing is to be.
    #[must_use]
    pub fn announce(&self) -> String {
        let sizes = self.paths.iter().map(|path| match size(path) {
            Ok(bytes) => format!("{} ({bytes} bytes)", path.display()),
            Err(error) => format!("{} ({error})", path.display()),
        });
        let list = sizes.collect::<Vec<_>>().join(", ");
        if list.is_empty() {
            list
        } else {
            format!("for the salvage it leaves {list}, copied before it is started again")
        }
    }

    /// Copies all of it, or finds that it was copied in this epoch. Takes as long as the disk takes. In words, where it is;
    /// nothing if nothing is to be kept.
    ///
    /// # Errors
    /// It is not kept, or not all of it.
    pub fn keep(&self, order: &Order) -> Result<String, String> {
        if self.paths.is_empty() {
            return Ok(String::new());
        }
        let _one = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = Stopwatch::start();
        let name = format!("{}.{}.epoch-{}", order.target.cluster, order.target.member, order.epoch.0);
        let kept = self.directory.join(&name);
        if kept.exists() {
            return Ok(format!("what it had is kept in {} already", kept.display()));
        }
        let begun = self.directory.join(format!(".{name}.begun"));
        let copy = || -> io::Result<u64> {
            if begun.exists() {
                fs::remove_dir_all(&begun)?;
            }
            fs::create_dir_all(&begun)?;
            let mut bytes = 0;
            for (number, path) in self.paths.iter().enumerate() {
                let last = path.file_name().map_or_else(|| "root".into(), |n| n.to_string_lossy().into_owned());
                bytes += copy_all(path, &begun.join(format!("{number}-{last}")))?;
            }
            File::open(&begun)?.sync_all()?;
            fs::rename(&begun, &kept)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(bytes)
        };
        match copy() {
            Ok(bytes) => {
                Ok(format!("what it had is kept in {} ({bytes} bytes, in {})", kept.display(), human(watch.elapsed())))
            }
            Err(error) => Err(format!("what it had cannot be copied to {}: {error}", kept.display())),
        }
    }
}

fn size(path: &Path) -> io::Result<u64> {
    let data = fs::symlink_metadata(path)?;
    if !data.is_dir() {
        return Ok(data.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}

/// Files and directories; a link is followed only where the operator named it. Whatever is no file is left out.
fn copy_all(from: &Path, to: &Path) -> io::Result<u64> {
    let data = fs::metadata(from)?;
    if data.is_dir() {
        fs::create_dir(to)?;
        let mut bytes = 0;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_type()?.is_symlink() {
                continue;
            }
            bytes += copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
        File::open(to)?.sync_all()?;
        return Ok(bytes);
    }
    if !data.is_file() {
        return Ok(0);
    }
    // Where the file system can share the blocks it does, and nothing is copied at all.
    let bytes = fs::copy(from, to)?;
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Target};

    fn order(epoch: u64) -> Order {
        let target = Target { cluster: "c".into(), member: "a".into(), address: "127.0.0.1:1".into() };
        Order { target, epoch: Epoch(epoch), incident: "01TEST".into() }
    }

    #[test]
    fn a_log_is_kept_once_for_each_epoch_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("txlog");
        fs::create_dir_all(log.join("deep")).unwrap();
        fs::write(log.join("deep/1"), b"one").unwrap();
        let keeper = Keeper::new(vec![log.clone()], dir.path().join("kept"));
        assert!(keeper.announce().contains("3 bytes"), "{}", keeper.announce());
        // A copy that a crash cut short is begun anew.
        fs::create_dir_all(dir.path().join("kept/.c.a.epoch-2.begun/0-txlog")).unwrap();
        let told = keeper.keep(&order(2)).unwrap();
        assert!(told.contains("c.a.epoch-2"), "{told}");
        let copy = dir.path().join("kept/c.a.epoch-2/0-txlog/deep/1");
        assert_eq!(fs::read(&copy).unwrap(), b"one");
        fs::write(log.join("deep/1"), b"gone").unwrap();
        assert!(keeper.keep(&order(2)).unwrap().contains("already"));
        assert_eq!(fs::read(&copy).unwrap(), b"one");
        keeper.keep(&order(3)).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("kept")).unwrap().count(), 2);

        let missing = Keeper::new(vec![dir.path().join("no")], dir.path().join("kept"));
        assert!(missing.keep(&order(4)).is_err());
        assert_eq!(Keeper::default().keep(&order(4)), Ok(String::new()));
    }
}
