//! What a party asks for, in order: nothing that depends on a durable record comes out before the record is durable.

use std::collections::VecDeque;

use serde::{Deserialize as _, Serialize as _};
use serde_json::Value;

use super::{Durable, Output};
use crate::{mesh::message::Body, model::ClusterName};

/// Outputs withheld at most while a disk does not answer. Beyond it the oldest datagrams are lost, as on any network.
const WITHHELD: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    urgent: VecDeque<Output>,
    ordered: VecDeque<Output>,
    waiting: Option<u64>,
    newest: u64,
    /// What is kept of clusters that the file no longer names.
    pub(super) others: Durable,
}

impl Queue {
    /// Comes out behind everything before it.
    pub(super) fn push(&mut self, output: Output) {
        if let Output::Gate { cluster, .. } = &output {
            let cluster = cluster.clone();
            self.forget_gates(&cluster);
        }
        self.ordered.push_back(output);
        if self.ordered.len() > WITHHELD
            && let Some(at) = self.ordered.iter().position(|output| matches!(output, Output::Send { .. }))
        {
            self.ordered.remove(at);
        }
    }

    /// Depends on nothing durable: waits for no disk.
    pub(super) fn push_urgent(&mut self, output: Output) {
        self.urgent.push_back(output);
    }

    /// Closing never waits, and nothing asked for before may open the gate again.
    pub(super) fn close(&mut self, cluster: &ClusterName) {
        self.forget_gates(cluster);
        self.urgent.push_back(Output::Gate { cluster: cluster.clone(), until: None });
    }

    fn forget_gates(&mut self, cluster: &ClusterName) {
        self.ordered.retain(|output| !matches!(output, Output::Gate { cluster: of, .. } if of == cluster));
    }

    pub(super) fn persist(&mut self, durable: Durable) {
        self.newest += 1;
        self.ordered.push_back(Output::Persist { id: self.newest, durable });
    }

    pub(super) fn persisted(&mut self, id: u64) {
        if self.waiting == Some(id) {
            self.waiting = None;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        if let Some(output) = self.urgent.pop_front() {
            return Some(output);
        }
        if self.waiting.is_some() {
            return None;
        }
        let output = self.ordered.pop_front()?;
        if let Output::Persist { id, .. } = &output {
            self.waiting = Some(*id);
        }
        Some(output)
    }
}

/// The same message with its long texts cut, if that makes it fit for a datagram; names and numbers stay whole.
pub(super) fn shortened(body: Body) -> Option<Body> {
    let mut value = body.serialize(serde_json::value::Serializer).ok()?;
    for limit in [300, 100, 40] {
        cut(&mut value, limit);
        // The envelope and the names around the body take less than the rest.
        if serde_json::to_vec(&value).ok()?.len() < 3_500 {
            break;
        }
    }
    Body::deserialize(value).ok()
}

fn cut(value: &mut Value, limit: usize) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(|value| cut(value, limit)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "detail" && text.chars().count() > limit => {
                        *text = text.chars().take(limit).chain(['…']).collect();
                    }
                    value => cut(value, limit),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    /// A disk that hangs over something else keeps no gate open, and nothing asked for before opens it again.
    #[test]
    fn a_gate_closes_past_a_disk_that_hangs() {
        let cluster = ClusterName::from("orders");
        let mut queue = Queue::default();
        queue.persist(Durable::default());
        let Some(Output::Persist { id, .. }) = queue.pop() else { panic!("a record comes first") };
        queue.push(Output::Gate { cluster: cluster.clone(), until: Some(Time(9)) });
        assert!(queue.pop().is_none(), "opening waits for the disk");
        queue.close(&cluster);
        assert!(matches!(queue.pop(), Some(Output::Gate { until: None, .. })), "closing does not");
        queue.persisted(id);
        assert!(queue.pop().is_none(), "what was asked for before it was closed");
    }
}
