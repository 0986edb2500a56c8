//! A database in memory that keeps the contract and nothing more: its clock steps and stops as the test says, and a row
//! that lapsed by it may be valid again.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses a part of it")]

use std::collections::BTreeMap;

use coroner::registry::{Beat, Beaten, Instance, Leader, RegistryError};

/// One group's table.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Its clock, milliseconds since 1970.
    pub now_ms: i64,
    /// The rows.
    pub rows: BTreeMap<u64, Row>,
    /// The last id that was handed out.
    pub last_id: u64,
    /// Who is written down.
    pub leader: Option<u64>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    pub instance: String,
    pub start_ms: i64,
    pub heartbeat_ms: i64,
    pub valid_for_ms: i64,
    pub beats: u64,
}

impl Database {
    fn is_valid(&self, row: &Row) -> bool {
        self.now_ms < row.heartbeat_ms + row.valid_for_ms
    }

    fn show(&self, id: u64, row: &Row, group: &str) -> Instance {
        Instance {
            id,
            group: group.into(),
            instance: row.instance.clone(),
            start_time_ms: row.start_ms,
            heartbeat_ms: row.heartbeat_ms,
            valid_for_ms: row.valid_for_ms,
            is_valid: self.is_valid(row),
            is_leader: self.leader == Some(id),
            beats: row.beats,
        }
    }

    pub fn beat(&mut self, beat: &Beat) -> Beaten {
        let now_ms = self.now_ms;
        let touched = beat.id.filter(|id| self.rows.get(id).is_some_and(|row| self.is_valid(row)));
        let id = touched.unwrap_or_else(|| {
            self.last_id += 1;
            let row = Row {
                instance: beat.instance.clone(),
                start_ms: now_ms,
                heartbeat_ms: now_ms,
                valid_for_ms: i64::try_from(beat.valid_for.as_millis()).unwrap(),
                beats: 0,
            };
            self.rows.insert(self.last_id, row);
            self.last_id
        });
        let row = self.rows.get_mut(&id).unwrap();
        row.heartbeat_ms = now_ms;
        row.beats += 1;
        let from = self.leader.unwrap_or(0);
        let rows = self.rows.range(from..).map(|(id, row)| self.show(*id, row, &beat.group)).collect();
        Beaten { id, now_ms, leader: self.leader, rows }
    }

    pub fn claim(&mut self, leader: &Leader) -> Result<(), RegistryError> {
        let no = |why: &str| Err(RegistryError::NotLeader(why.into()));
        if self.leader == Some(leader.id) {
            return Ok(());
        }
        if self.leader > Some(leader.id) {
            return no("a later one leads");
        }
        if !self.rows.get(&leader.id).is_some_and(|row| self.is_valid(row)) {
            return no("it lapsed");
        }
        let from = self.leader.unwrap_or(0);
        if self.rows.range(from..leader.id).any(|(_, row)| self.is_valid(row)) {
            return no("a row before it is valid");
        }
        self.leader = Some(leader.id);
        Ok(())
    }

    pub fn leave(&mut self, id: u64) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.valid_for_ms = 0;
        }
    }

    pub fn instances(&self, group: &str, limit: u32) -> Vec<Instance> {
        self.rows.iter().rev().take(limit as usize).map(|(id, row)| self.show(*id, row, group)).collect()
    }
}
