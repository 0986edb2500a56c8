//! What this process has seen of a database that only grows there: whether it was set back.
//!
//! A database that is restored from an older backup, or a replica that was promoted without its last transactions, hands
//! out ids again that were epochs already, and takes documents for unchanged that were written meanwhile. No database
//! says so by itself. Each process remembers what it saw, and refuses to go on once less is there: for good, until it is
//! started again, because it cannot know what else is missing.
//!
//! What this does not find: whatever this process had not seen, as a process that was started after the restoration has
//! seen nothing; and a restoration that the others have written past before this process looked again. Against both,
//! who is given an epoch or a version keeps the largest one himself.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::RegistryError;

/// The marks.
#[derive(Debug, Default)]
pub(super) struct Seen {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    marks: BTreeMap<String, u64>,
    refused: Option<RegistryError>,
}

impl Seen {
    // A panic elsewhere leaves whole numbers behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was found before that the database was set back.
    pub(super) fn check(&self) -> Result<(), RegistryError> {
        self.state().refused.clone().map_or(Ok(()), Err)
    }

    /// The mark of something, 0 if there is none. To be asked for *before* the database is: a call that runs beside
    /// this one may see more, and come back earlier.
    pub(super) fn mark(&self, what: &str) -> u64 {
        self.state().marks.get(what).copied().unwrap_or(0)
    }

    /// A number that only grows was read, and was at least `before` when the question was asked. `what` says of what,
    /// for people and as its name.
    pub(super) fn note(&self, what: &str, before: u64, number: u64) -> Result<(), RegistryError> {
        let mut state = self.state();
        if number < before {
            let error = set_back(what, before, number);
            return Err(state.refused.get_or_insert(error).clone());
        }
        let mark = state.marks.entry(what.to_owned()).or_default();
        *mark = number.max(*mark);
        Ok(())
    }

    /// Nobody asks for it any more.
    pub(super) fn forget(&self, what: &str) {
        self.state().marks.remove(what);
    }
}

fn set_back(what: &str, was: u64, is: u64) -> RegistryError {
    RegistryError::Failed(format!(
        "the database was set back: {what} was at {was} and is at {is}. It was restored from an older backup, or \
         replaced by a replica that lagged; stop everything that uses it, compare what it says with what was done \
         since, and start it again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_may_not_shrink() {
        let seen = Seen::default();
        assert_eq!(seen.note("the leader of a", seen.mark("the leader of a"), 3), Ok(()));
        assert_eq!(seen.note("the leader of a", seen.mark("the leader of a"), 3), Ok(()));
        assert_eq!(seen.note("the leader of b", seen.mark("the leader of b"), 1), Ok(()));
        assert_eq!(seen.check(), Ok(()));
        let said = seen.note("the leader of a", seen.mark("the leader of a"), 2).unwrap_err().to_string();
        assert!(said.contains("the database was set back: the leader of a was at 3 and is at 2"), "{said}");
        assert!(seen.check().is_err(), "it stays refused");
    }

    #[test]
    fn an_answer_that_was_overtaken_is_no_step_back() {
        let seen = Seen::default();
        let asked = seen.mark("the writes");
        assert_eq!(seen.note("the writes", asked, 5), Ok(()));
        assert_eq!(seen.note("the writes", asked, 4), Ok(()));
        assert_eq!(seen.mark("the writes"), 5);
        seen.forget("the writes");
        assert_eq!(seen.mark("the writes"), 0);
    }
}
