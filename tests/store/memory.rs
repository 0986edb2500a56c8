//! A registry in memory, for the store over it: keeps the contract, and fails as it is told to.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use coroner::registry::{Beat, Beaten, Document, Instance, Leader, Put, Registry, RegistryError};

/// How the next write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and says so.
    Fails,
    /// It is done, and the answer is lost.
    DoneAnswerLost,
    /// It is not done, and the answer is lost.
    NotDoneAnswerLost,
    /// The answer is lost, and it is done only when `deliver` is called.
    Delayed,
}

#[derive(Default)]
struct State {
    documents: BTreeMap<String, (u64, String)>,
    leader: u64,
    faults: VecDeque<Fault>,
    delayed: Vec<(Vec<Put>, Option<Leader>)>,
}

/// The registry.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<State>>);

impl Memory {
    /// From here on this row leads.
    pub(crate) fn appoint(&self, id: u64) {
        self.0.lock().unwrap().leader = id;
    }

    /// The next writes fail so.
    pub(crate) fn will(&self, faults: &[Fault]) {
        self.0.lock().unwrap().faults.extend(faults);
    }

    /// What was held up arrives now.
    pub(crate) fn deliver(&self) -> Vec<Result<(), RegistryError>> {
        let mut state = self.0.lock().unwrap();
        let late = std::mem::take(&mut state.delayed);
        late.into_iter().map(|(batch, leader)| apply(&mut state, &batch, leader.as_ref())).collect()
    }

    /// As a backup of it would be.
    pub(crate) fn backup(&self) -> BTreeMap<String, (u64, String)> {
        self.0.lock().unwrap().documents.clone()
    }

    pub(crate) fn restore(&self, documents: BTreeMap<String, (u64, String)>) {
        self.0.lock().unwrap().documents = documents;
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().documents.keys().cloned().collect()
    }

    pub(crate) fn edit(&self, key: &str, text: &str) {
        let mut state = self.0.lock().unwrap();
        let version = state.documents.get(key).map_or(1, |(version, _)| version + 1);
        state.documents.insert(key.into(), (version, text.into()));
    }
}

fn apply(state: &mut State, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError> {
    if leader.is_some_and(|leader| leader.id != state.leader) {
        return Err(RegistryError::NotLeader("somebody else leads".into()));
    }
    for put in batch {
        if state.documents.get(&put.key).map_or(0, |(version, _)| *version) != put.expected {
            return Err(RegistryError::Conflict { key: put.key.clone() });
        }
    }
    for put in batch {
        match &put.text {
            Some(text) => drop(state.documents.insert(put.key.clone(), (put.expected + 1, text.clone()))),
            None => drop(state.documents.remove(&put.key)),
        }
    }
    Ok(())
}

#[async_trait]
impl Registry for Memory {
    fn label(&self) -> String {
        "a registry in memory".into()
    }

    async fn prepare(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn beat(&self, _: &Beat) -> Result<Beaten, RegistryError> {
        Err(RegistryError::Failed("nobody is elected here".into()))
    }

    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError> {
        self.appoint(leader.id);
        Ok(())
    }

    async fn leave(&self, _: &str, _: u64) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn instances(&self, _: Option<&str>, _: u32) -> Result<Vec<Instance>, RegistryError> {
        Ok(Vec::new())
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, RegistryError> {
        let state = self.0.lock().unwrap();
        let found = state.documents.get(key);
        Ok(found.map(|(version, text)| Document { key: key.into(), version: *version, text: text.clone() }))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Document>, RegistryError> {
        let state = self.0.lock().unwrap();
        let found = state.documents.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found
            .map(|(key, (version, text))| Document { key: key.clone(), version: *version, text: text.clone() })
            .collect())
    }

    async fn put(&self, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError> {
        let mut state = self.0.lock().unwrap();
        let lost = || RegistryError::Unknown("the connection broke".into());
        match state.faults.pop_front() {
            None => apply(&mut state, batch, leader),
            Some(Fault::Fails) => Err(RegistryError::Failed("out of disk".into())),
            Some(Fault::NotDoneAnswerLost) => Err(lost()),
            Some(Fault::DoneAnswerLost) => {
                apply(&mut state, batch, leader)?;
                Err(lost())
            }
            Some(Fault::Delayed) => {
                state.delayed.push((batch.to_vec(), leader.cloned()));
                Err(lost())
            }
        }
    }
}
