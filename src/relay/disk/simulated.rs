//! A storage in memory, and the stage on which the processes that use it take turns.
//!
//! Each process is a thread, and only one of them runs: at every act on the storage it stops until it is its turn again.
//! Who is next is drawn by the world ([`crate::relay::core`]'s tests), so that the same number gives the same run. A process
//! that is killed ends at such a point, and does nothing more.
//!
//! What is durable: the content of a file after `sync`, its name after `sync_dir`. When power fails, every byte behind that
//! is there or not, from the front, and so are the changes of names, in the order in which they were made (as a journal keeps them). A host that fails alone loses only what
//! nobody else has read. Not simulated: a `sync` that claims what it did not do, writes that reach the disk out of order
//! within a file, and bits that flip.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, ErrorKind},
    panic,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::How;

/// The one who looks from outside: it never stops at a point, and nothing fails for it.
pub const ONLOOKER: usize = usize::MAX;
/// What one act takes.
const ACT: Duration = Duration::from_micros(300);

thread_local! {
    static HERE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// The simulated storage, if this thread uses one.
pub fn here() -> Option<Handle> {
    HERE.with_borrow(Clone::clone)
}

/// This thread is that process (none: it uses the file system again).
pub fn be(handle: Option<Handle>) {
    HERE.set(handle);
}

/// Thrown through a process that is killed.
#[derive(Debug)]
pub struct Killed;

#[derive(Debug, Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// Who wrote last what is not durable.
    writer: Option<usize>,
    /// So much of it others have read: the host of the writer has given it away.
    given: usize,
}

/// Whether a process may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Ended,
    Alive,
    Doomed,
}

/// What goes wrong, and how often.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Nothing can be written.
    pub full: bool,
    /// The next so many acts of a process fail.
    pub failing: BTreeMap<usize, u32>,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Names as they were after each change that is not durable.
    journal: Vec<BTreeMap<PathBuf, usize>>,
    changed: BTreeMap<PathBuf, Duration>,
    locks: BTreeMap<PathBuf, usize>,
    now: Duration,
    /// Directories say when they were changed no more exactly than this.
    tick: Duration,
    slots: Vec<Slot>,
    turn: Option<usize>,
    /// So many acts it may do before the others are asked.
    budget: u32,
    trouble: Trouble,
    /// What was done to the storage that must never be done.
    wrong: Vec<String>,
    /// So many segments were removed.
    removed: usize,
    acts: u64,
}

/// The storage, and whose turn it is.
#[derive(Debug)]
pub struct Stage {
    state: Mutex<State>,
    moved: Condvar,
}

/// The storage, as one process has it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub stage: Arc<Stage>,
    pub me: usize,
}

impl Stage {
    /// `tick`: how exactly a directory says when it was changed.
    pub fn new(processes: usize, tick: Duration) -> Arc<Self> {
        let state = State { slots: vec![Slot::Ended; processes], tick, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), moved: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins; it is not its turn yet.
    pub fn begin(&self, who: usize) {
        self.lock().slots[who] = Slot::Alive;
    }

    /// Called by the process when it has ended, however it did.
    pub fn end(&self, who: usize) {
        let mut state = self.lock();
        state.slots[who] = Slot::Ended;
        state.turn = None;
        state.locks.retain(|_, holder| *holder != who);
        drop(state);
        self.moved.notify_all();
    }

    pub fn is_alive(&self, who: usize) -> bool {
        self.lock().slots[who] != Slot::Ended
    }

    /// Lets a process do so many acts, and waits until it stands before the next one, or has ended.
    pub fn let_go(&self, who: usize, acts: u32) {
        let mut state = self.lock();
        if state.slots[who] == Slot::Ended {
            return;
        }
        (state.turn, state.budget) = (Some(who), acts);
        self.moved.notify_all();
        drop(self.moved.wait_while(state, |state| state.turn.is_some()));
    }

    /// Kills a process before its next act, and waits until it is gone.
    pub fn kill(&self, who: usize) {
        {
            let mut state = self.lock();
            if state.slots[who] == Slot::Ended {
                return;
            }
            state.slots[who] = Slot::Doomed;
        }
        self.let_go(who, 0);
    }

    /// Time goes by.
    pub fn pass(&self, time: Duration) {
        self.lock().now += time;
    }

    pub fn trouble(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.lock().trouble);
    }

    pub fn wrong(&self) -> Vec<String> {
        self.lock().wrong.clone()
    }

    /// What there is, for the story.
    pub fn files(&self) -> Vec<String> {
        let state = self.lock();
        let line = |(path, inode): (&PathBuf, &usize)| {
            let Inode { data, durable, .. } = &state.inodes[*inode];
            format!("{} {} bytes, {} durable", path.display(), data.len(), durable.len())
        };
        state.names.iter().map(line).collect()
    }

    pub fn removed(&self) -> usize {
        self.lock().removed
    }

    pub fn acts(&self) -> u64 {
        self.lock().acts
    }

    /// Power fails everywhere: `draw(n)` gives a number below `n`. All processes have to be dead.
    pub fn power_fails(&self, draw: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.lock();
        assert!(state.slots.iter().all(|slot| *slot == Slot::Ended), "somebody outlived the power");
        let kept = draw(state.journal.len() + 1);
        if let Some(names) = kept.checked_sub(1).and_then(|last| state.journal.get(last)).cloned() {
            state.durable_names = names;
        }
        state.names = state.durable_names.clone();
        state.journal.clear();
        for inode in &mut state.inodes {
            inode.lose(0, draw);
        }
    }

    /// The host of one process fails, with what it has written and not synced, as far as nobody else has seen it.
    pub fn host_fails(&self, who: usize, draw: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.lock();
        assert!(state.slots[who] == Slot::Ended, "it outlived its host");
        for inode in &mut state.inodes {
            if inode.writer == Some(who) {
                inode.lose(inode.given, draw);
            }
        }
    }
}

impl Inode {
    /// Keeps what is durable, at least `given`, and a part of the rest.
    fn lose(&mut self, given: usize, draw: &mut dyn FnMut(usize) -> usize) {
        if self.data.starts_with(&self.durable) {
            let sure = self.durable.len().max(given.min(self.data.len()));
            let kept = sure + draw(self.data.len() - sure + 1);
            self.data.truncate(kept);
        } else if draw(2) == 0 {
            // It was cut, and that was not durable.
            self.data.clone_from(&self.durable);
        }
        self.durable.clone_from(&self.data);
        (self.writer, self.given) = (None, 0);
    }
}

impl State {
    fn fails(&mut self, me: usize) -> io::Result<()> {
        match self.trouble.failing.get_mut(&me) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(io::Error::other("the storage does not answer"))
            }
            _ => Ok(()),
        }
    }

    fn changed(&mut self, path: &Path) {
        let now = self.now;
        let tick = self.tick.as_nanos().max(1);
        let beyond = Duration::from_nanos(u64::try_from(now.as_nanos() % tick).unwrap_or(0));
        self.changed.insert(path.parent().unwrap_or(path).to_owned(), now - beyond);
        self.journal.push(self.names.clone());
    }

    fn make(&mut self, path: &Path) -> usize {
        self.inodes.push(Inode::default());
        self.names.insert(path.to_owned(), self.inodes.len() - 1);
        self.changed(path);
        self.inodes.len() - 1
    }
}

fn gone(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{}: there is no such file", path.display()))
}

impl Handle {
    /// The point before an act: others may go on, and this process may not.
    fn act(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.stage.lock();
        state.now += ACT;
        if self.me == ONLOOKER || std::thread::panicking() {
            return Ok(state);
        }
        state.acts += 1;
        let me = self.me;
        if state.turn == Some(me) && state.slots[me] == Slot::Alive {
            if state.budget > 0 {
                state.budget -= 1;
                state.fails(me)?;
                return Ok(state);
            }
            state.turn = None;
            self.stage.moved.notify_all();
        }
        let waited = self.stage.moved.wait_while(state, |state| state.turn != Some(me));
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.slots[me] == Slot::Doomed {
            drop(state);
            panic::resume_unwind(Box::new(Killed));
        }
        state.fails(me)?;
        Ok(state)
    }

    pub fn now(&self) -> Duration {
        self.stage.lock().now
    }

    pub fn sleep(&self, time: Duration) {
        // The time that others take counts too; whether this act fails is nobody's concern.
        if let Ok(mut state) = self.act() {
            state.now += time.min(Duration::from_millis(5));
        }
    }

    pub fn open(&self, path: &Path, how: How) -> io::Result<Opened> {
        let mut state = self.act()?;
        let there = state.names.get(path).copied();
        let inode = match (how, there) {
            (How::Read | How::Write, Some(inode)) => inode,
            (How::Read | How::Write, None) => return Err(gone(path)),
            (How::CreateNew, Some(_)) => return Err(ErrorKind::AlreadyExists.into()),
            (How::Create | How::CreateNew, _) if state.trouble.full => return Err(ErrorKind::StorageFull.into()),
            (How::Create, Some(inode)) => {
                state.inodes[inode].data.clear();
                inode
            }
            (How::Create | How::CreateNew, None) => state.make(path),
        };
        Ok(Opened { handle: self.clone(), inode, path: path.to_owned() })
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.act()?;
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    pub fn changed_at(&self, dir: &Path) -> io::Result<(i64, i64)> {
        let state = self.act()?;
        let at = state.changed.get(dir).copied().unwrap_or_default();
        Ok((i64::try_from(at.as_millis()).unwrap_or(i64::MAX), 0))
    }

    pub fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.act().map(drop)
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.act()?;
        let inode = state.names.remove(from).ok_or_else(|| gone(from))?;
        if to.file_name().is_some_and(|name| name == "epoch") {
            let epoch_of = |inode: usize| {
                let text: serde_json::Value = serde_json::from_slice(&state.inodes[inode].data).unwrap_or_default();
                text["epoch"].as_u64().unwrap_or(0)
            };
            let (before, after) = (state.names.get(to).map_or(0, |now| epoch_of(*now)), epoch_of(inode));
            if after <= before {
                state.wrong.push(format!("the epoch file went from {before} to {after}"));
            }
        }
        state.names.insert(to.to_owned(), inode);
        state.changed(to);
        Ok(())
    }

    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.act()?;
        state.names.remove(path).ok_or_else(|| gone(path))?;
        if path.extension().is_some_and(|extension| extension == "wal") {
            state.removed += 1;
        }
        state.changed(path);
        Ok(())
    }

    pub fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.act()?;
        state.durable_names = state.names.clone();
        state.journal.clear();
        Ok(())
    }

    /// In the steps of [`crate::sys::file::replace`].
    pub fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.coroner-{}", self.me));
        let write = || {
            let file = self.open(&temporary, How::Create)?;
            file.write_all_at(content, 0)?;
            file.sync()?;
            self.rename(&temporary, path)
        };
        write().inspect_err(|_| drop(self.remove(&temporary)))?;
        self.sync_dir(path.parent().unwrap_or(path))
    }

    pub fn try_lock(&self, path: &Path) -> io::Result<Option<Held>> {
        let mut state = self.act()?;
        if state.locks.contains_key(path) {
            return Ok(None);
        }
        state.locks.insert(path.to_owned(), self.me);
        Ok(Some(Held { stage: Arc::clone(&self.stage), path: path.to_owned() }))
    }
}

/// A lock that is held.
#[derive(Debug)]
pub struct Held {
    stage: Arc<Stage>,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stage.lock().locks.remove(&self.path);
    }
}

/// An open file.
#[derive(Debug)]
pub struct Opened {
    handle: Handle,
    inode: usize,
    path: PathBuf,
}

impl Opened {
    pub fn len(&self) -> io::Result<u64> {
        let state = self.handle.act()?;
        Ok(state.inodes[self.inode].data.len() as u64)
    }

    pub fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.handle.act()?;
        let inode = &mut state.inodes[self.inode];
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(inode.data.len());
        let have = into.len().min(inode.data.len() - at);
        into[..have].copy_from_slice(&inode.data[at..at + have]);
        if inode.writer.is_some_and(|writer| writer != self.handle.me) {
            inode.given = inode.given.max(at + have);
        }
        Ok(have)
    }

    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut state = self.handle.act()?;
        // The last bytes that there were room for.
        let room = if state.trouble.full { bytes.len() / 2 } else { bytes.len() };
        if state.trouble.full && bytes.len() < 60 {
            return Err(ErrorKind::StorageFull.into());
        }
        let me = self.handle.me;
        let inode = &mut state.inodes[self.inode];
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if inode.data.len() < at + room {
            inode.data.resize(at + room, 0);
        }
        inode.data[at..at + room].copy_from_slice(&bytes[..room]);
        if inode.writer != Some(me) {
            (inode.writer, inode.given) = (Some(me), inode.durable.len());
        }
        Ok(room)
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            written += self.write_at(&bytes[written..], at + written as u64)?;
        }
        Ok(())
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.handle.act()?;
        let state = &mut *state;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let is_wal = self.path.parent().is_some_and(|parent| parent.ends_with("wal"));
        let cut = state.inodes[self.inode].data.get(length..).unwrap_or_default().to_vec();
        // Whole entries leave the log only when they are kept elsewhere, durably.
        if is_wal
            && let Ok(entry) = crate::relay::entry::Entry::read(&cut)
            && !state.names.iter().any(|(path, inode)| {
                path.parent().is_some_and(|parent| parent.ends_with("set-apart"))
                    && state.durable_names.get(path) == Some(inode)
                    && state.inodes[*inode].durable.windows(entry.len()).any(|bytes| bytes == &cut[..entry.len()])
            })
        {
            let name = self.path.display();
            state.wrong.push(format!("sequence {} of {name} was cut, and is kept nowhere", entry.sequence));
        }
        let inode = &mut state.inodes[self.inode];
        inode.data.resize(length, 0);
        inode.writer = Some(self.handle.me);
        inode.given = inode.given.min(length);
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.handle.act()?;
        let inode = &mut state.inodes[self.inode];
        inode.durable.clone_from(&inode.data);
        (inode.writer, inode.given) = (None, 0);
        Ok(())
    }
}
