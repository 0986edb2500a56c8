//! Starts the arbiter's part of the mesh.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Link;
use crate::{
    agent::{
        driver::{Event, NoHost, Options, PartyThread, ThreadError, draw_life},
        durable::{DurableError, DurableFile},
        setup::{SetupError, setup},
    },
    config::Config,
    mesh::{
        keys::{KeyError, PrivateKey},
        party::Party,
    },
    model::PartyName,
    sys::clock,
};

/// The arbiter cannot take part in the mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The file does not say enough.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// There is no private key.
    #[error("the arbiter needs its private key: `mesh.key` in the file (`coroner key new FILE` makes one)")]
    NoKey,
    /// The private key is none.
    #[error("`mesh.key`: {0}")]
    Key(#[from] KeyError),
    /// The private key is another party's.
    #[error("`mesh.key` is not the key of {0}: its public half differs from the one under `mesh.parties`")]
    OtherKey(PartyName),
    /// What it sealed cannot be read.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The thread cannot be started.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

/// The arbiter's part, running: its thread, the way to it, and what it tells.
pub(in crate::arbiter) type Running = (PartyThread, Arc<Link>, mpsc::UnboundedReceiver<Event>);

/// Starts it; `None`: the file has no mesh. What the thread tells comes through the receiver.
pub(in crate::arbiter) fn start(config: &Config) -> Result<Option<Running>, MeshError> {
    let Some(mesh) = &config.mesh else { return Ok(None) };
    let me = PartyName::from(config.arbiter.name.as_str());
    let life = draw_life()?;
    let setup = setup(config, &me, life)?;
    let keys = PrivateKey::parse(mesh.key.as_ref().ok_or(MeshError::NoKey)?.expose())?;
    let Some(own) = setup.parties.get(&me).filter(|own| own.public_key == keys.public().0) else {
        return Err(MeshError::OtherKey(me));
    };
    let options = Options { address: own.address, is_real_time: mesh.is_real_time };
    let disk = DurableFile::new(&mesh.state, &me);
    let durable = disk.load()?;
    let party = Party::new(clock::moment(), setup, keys, durable);
    let (tell, events) = mpsc::unbounded_channel();
    let sink = Box::new(move |event| drop(tell.send(event)));
    let thread = PartyThread::start(options, party, NoHost, disk, sink)?;
    let link = Link::new(thread.handle(), life);
    Ok(Some((thread, link, events)))
}
