//! Whether the file system of the data directory is full or read-only.

use std::path::Path;

use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

/// Less than this is full: nothing that writes a log goes on for long.
const FULL_BYTES: u64 = 1024 * 1024;

/// What is wrong with it, in words; `None`: nothing. May block for as long as a disk or a file server hangs, so it is
/// asked on a thread of its own.
///
/// # Errors
/// It cannot be asked; that may be our own trouble.
pub fn trouble(directory: &Path) -> Result<Option<String>, String> {
    let name = directory.display();
    match statvfs(directory) {
        Ok(stat) => Ok(judge(&stat).map(|what| format!("the file system of {name} {what}"))),
        Err(rustix::io::Errno::IO) => Ok(Some(format!("the file system of {name} answers with I/O errors"))),
        Err(e) => Err(format!("the file system of {name} cannot be asked: {e}")),
    }
}

fn judge(stat: &StatVfs) -> Option<String> {
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some("is read-only".into());
    }
    // What is kept back for root does not help a broker.
    if stat.f_blocks > 0 && stat.f_bavail.saturating_mul(stat.f_frsize) < FULL_BYTES {
        return Some("is full".into());
    }
    (stat.f_files > 0 && stat.f_favail == 0).then(|| "has no inode left".into())
}
