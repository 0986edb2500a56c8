//! Files that are replaced whole or not at all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

/// Replaces a file's content in one step: readers see the old or the new, never a part, and after a crash too. Owner
/// and permissions stay; a new file gets `0644`. A symbolic link stays and its target is replaced.
///
/// # Errors
/// Where it failed; the file is then as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_like(path, path, content)
}

/// The same, with owner and permissions of another file: a copy of a secret is never readable by more people.
///
/// # Errors
/// Where it failed; the file is then as it was.
pub fn replace_like(path: &Path, like: &Path, content: &[u8]) -> io::Result<()> {
    let path = match std::fs::canonicalize(path) {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(e) => return Err(e),
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no file name"))?;
    let temporary = directory.join(format!(".{}.coroner-{}", name.to_string_lossy(), std::process::id()));
    let result = write_whole(&temporary, like, content).and_then(|()| std::fs::rename(&temporary, &path));
    if result.is_err() {
        // The error that counts is the first one.
        let _ = std::fs::remove_file(&temporary);
        return result;
    }
    File::open(&directory)?.sync_all()
}

fn write_whole(temporary: &Path, like: &Path, content: &[u8]) -> io::Result<()> {
    let old = std::fs::metadata(like).ok();
    match std::fs::remove_file(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(content)?;
    if let Some(old) = &old {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
    }
    let permissions = old.map_or_else(default_permissions, |old| old.permissions());
    file.set_permissions(permissions)?;
    file.sync_all()
}

fn default_permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn permissions_stay_links_stay_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("link"));
        replace(&file, b"one").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        replace(&link, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(replace(&dir.path().join("no/such"), b"").is_err());
    }
}
