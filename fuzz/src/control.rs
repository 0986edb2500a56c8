//! What people's tools, agents and relays say to each other in single JSON objects: whatever can be read can be written,
//! and is then read as the same.

use std::fmt::Debug;

use coroner::{
    agent::socket::{Answer as AgentAnswer, Question},
    model::{Command, CommandError, CommandReply, doctor::FenceTest, status::Status},
    relay::{
        Report,
        control::{Answer as RelayAnswer, Request, Status as RelayStatus},
        wire::{Hello, Refusal, Welcome},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::Reached;

pub fn run(input: &[u8]) -> Reached {
    let Some((kind, json)) = input.split_first() else { return Reached::Refused };
    Reached::of(match kind % 13 {
        0 => same::<Question>(json),
        1 => command(json),
        2 => same::<FenceTest>(json),
        3 => same::<Request>(json),
        4 => same::<Hello>(json),
        5 => same::<Welcome>(json),
        6 => same::<Refusal>(json),
        7 => same::<RelayStatus>(json),
        8 => same::<RelayAnswer>(json),
        9 => same::<Report>(json),
        10 => same::<CommandReply>(json),
        11 => same::<CommandError>(json),
        // These hold fractions and durations, which are rounded when they are written: read again is what is asked.
        _ => again::<AgentAnswer>(json) | again::<Status>(json),
    })
}

fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(json) else { return false };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let back: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(back, read, "it is read as something else");
    true
}

/// The time of a pause is written in microseconds; from then on it stays what it is.
fn command(json: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<Command>(json) else { return false };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let back: Command = serde_json::from_slice(&written).expect("what was written can be read");
    match (&read, &back) {
        (Command::Pause { cluster, owner, reason, .. }, Command::Pause { cluster: c, owner: o, reason: r, .. }) => {
            assert_eq!((cluster, owner, reason), (c, o, r));
        }
        _ => assert_eq!(back, read, "it is read as something else"),
    }
    true
}

fn again<T: Serialize + DeserializeOwned>(json: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(json) else { return false };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    serde_json::from_slice::<T>(&written).expect("what was written can be read");
    true
}
