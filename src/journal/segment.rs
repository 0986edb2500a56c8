//! The directory of segments: what each says of itself, which follow one another without a hole, which are needed.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::decode::{Fault, Reader};
use crate::model::{ClusterName, Epoch, MemberName, Observer, SignalName, Time, WallAnchor};

/// What a segment says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Its number in the directory.
    pub sequence: u64,
    /// The arbiter.
    pub arbiter: String,
    /// The program's version.
    pub program: String,
    /// Hash of the policy at the start of the life.
    pub policy: String,
    /// Which life of the arbiter: when it began, by the wall clock.
    pub life: u64,
    /// Which boot of its host.
    pub boot_id: String,
    /// Its number in the life, from 0.
    pub part: u64,
    /// Observations and marks that are missing between the segment before and this one.
    pub lost: u64,
    /// From when on it records, in nanoseconds since boot.
    pub began: Time,
    /// Ties that to the wall clock.
    pub anchor: WallAnchor,
    /// What was known of the clusters at its beginning.
    pub clusters: Vec<Known>,
}

/// What was known of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The cluster.
    pub cluster: ClusterName,
    /// Who was primary.
    pub primary: Option<MemberName>,
    /// The epoch of that.
    pub epoch: Epoch,
    /// The streams that had been heard.
    pub heard: Vec<(SignalName, Observer, Option<MemberName>)>,
}

impl Header {
    /// When it begins, in milliseconds since 1970.
    #[must_use]
    pub fn began_unix_ms(&self) -> i64 {
        self.anchor.unix_ms_at(self.began)
    }

    /// Whether nothing is missing between that segment and this one.
    #[must_use]
    pub const fn follows(&self, before: &Self) -> bool {
        self.life == before.life && self.part == before.part + 1 && self.lost == 0
    }
}

/// A segment on the disk.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// How long it is.
    pub bytes: u64,
}

impl Segment {
    /// Its content.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }
}

/// Something is wrong with a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Its file's name.
    pub segment: String,
    /// What, and what follows from it.
    pub what: String,
}

impl Trouble {
    /// A fault of that file.
    #[must_use]
    pub fn of(path: &Path, what: impl fmt::Display) -> Self {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        Self { segment: name, what: what.to_string() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.segment, self.what)
    }
}

/// A directory of segments, as it stood when it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The segments, in the order in which they were written.
    pub segments: Vec<Segment>,
    /// Files that are named like segments, and are none that can be read.
    pub troubles: Vec<Trouble>,
}

/// How much of a segment is read to know its header.
const HEADER_WITHIN: u64 = 256 * 1024;

impl Journal {
    /// Looks at a directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut journal = Self::default();
        for path in files(dir)? {
            journal.add(&path);
        }
        Ok(journal)
    }

    /// One file alone.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        let mut journal = Self::default();
        journal.add(path);
        journal
    }

    fn add(&mut self, path: &Path) {
        match look(path) {
            Ok((header, bytes)) => self.segments.push(Segment { path: path.to_owned(), header, bytes }),
            // The one that is begun just now.
            Err(Look::Fault(Fault::Torn(0))) => {}
            Err(Look::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
            Err(Look::Io(e)) => self.troubles.push(Trouble::of(path, format!("it cannot be read: {e}"))),
            Err(Look::Fault(fault)) => self.troubles.push(Trouble::of(path, format!("{fault}; all of it is skipped"))),
        }
    }

    /// The segments that may hold something of that time, and the one before them: what was known then began earlier.
    #[must_use]
    pub fn between(&self, from_unix_ms: i64, to_unix_ms: i64) -> &[Segment] {
        let begins = |segment: &Segment| segment.header.began_unix_ms();
        let after = self.segments.partition_point(|segment| begins(segment) <= from_unix_ms);
        let to = self.segments.partition_point(|segment| begins(segment) <= to_unix_ms);
        let from = after.saturating_sub(2).min(to);
        &self.segments[from..to]
    }

    /// When the first of them begins, in milliseconds since 1970.
    #[must_use]
    pub fn began_unix_ms(&self) -> Option<i64> {
        self.segments.first().map(|segment| segment.header.began_unix_ms())
    }
}

enum Look {
    Io(io::Error),
    Fault(Fault),
}

fn look(path: &Path) -> Result<(Header, u64), Look> {
    use io::Read as _;
    let file = fs::File::open(path).map_err(Look::Io)?;
    let bytes = file.metadata().map_err(Look::Io)?.len();
    let mut head = Vec::new();
    file.take(HEADER_WITHIN).read_to_end(&mut head).map_err(Look::Io)?;
    if head.is_empty() {
        return Err(Look::Fault(Fault::Torn(0)));
    }
    match Reader::over(&head) {
        // A header of very many streams.
        Err(Fault::Torn(_)) if bytes > HEADER_WITHIN => {
            let whole = fs::read(path).map_err(Look::Io)?;
            Reader::over(&whole).map(|reader| (reader.header().clone(), bytes)).map_err(Look::Fault)
        }
        other => other.map(|reader| (reader.header().clone(), bytes)).map_err(Look::Fault),
    }
}

/// The number that a file's name begins with; `None`: it is not named like a segment.
pub(super) fn sequence_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".journal")?;
    name.split('-').next()?.parse().ok()
}

/// The files that are named like segments, in their order.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(sequence) = sequence_of(&path) {
            found.push((sequence, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
