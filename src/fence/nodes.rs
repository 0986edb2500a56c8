//! The nodes' side of a cut: the agent of each node drops what comes from the member and goes to it, by its own kernel.
//!
//! For a primary whose host nobody reaches any more, and which may work on all the same: what it does reaches no node.
//! Only all of the nodes are a proof. One that did not confirm may still take the old primary's word, so that fewer are
//! told as what they are, and prove nothing.
//!
//! When it lies: what the member does without a node (its own disk, clients that ask it directly) goes on. A node's agent
//! drops by address and port, or by address alone (`observe: { whole_host: true }`): a member that opens the connections
//! to the nodes itself, from ports that nobody knows before, is only kept out by the latter.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Fence, agent::Agents};
use crate::model::{ActError, Done, FenceHealth, FenceReport, NodeName, Order, Proof, StepResult, Target, agent::Deed};

pub(super) fn build(agents: Option<Arc<dyn Agents>>) -> Result<Box<dyn Fence>, String> {
    let agents = agents.ok_or("`nodes` needs `mesh`, and an agent at every node")?;
    Ok(Box::new(Nodes { agents }))
}

struct Nodes {
    agents: Arc<dyn Agents>,
}

type Answers = Vec<(NodeName, Result<StepResult, ActError>)>;

impl Nodes {
    async fn tell(&self, order: &Order, lift: bool, deadline: Duration) -> Answers {
        let deed = Deed::Drop { fenced: order.target.member.clone(), lift };
        self.agents.at_all_nodes(order, deed, deadline).await
    }
}

/// Who did it, and why the others did not.
fn tally(answers: &Answers) -> (Vec<&str>, Vec<String>) {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (node, answer) in answers {
        match answer {
            Ok(StepResult::Done(_)) => done.push(node.as_str()),
            Ok(StepResult::Failed(error)) | Err(error) => failed.push(format!("{node}: {}", error.detail)),
            Ok(other) => failed.push(format!("{node}: it answered {other:?}")),
        }
    }
    (done, failed)
}

#[async_trait]
impl Fence for Nodes {
    fn label(&self) -> String {
        "nodes".into()
    }

    fn best_proof(&self) -> Proof {
        Proof::Gate
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        self.agents.nodes_health(target, deadline).await
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let answers = self.tell(order, false, deadline).await;
        let (done, failed) = tally(&answers);
        let all = answers.len();
        let names = done.join(", ");
        if all == 0 {
            return FenceReport::refuted("nothing was done: the cluster has no nodes");
        }
        if done.len() == all {
            let detail = format!("all {all} nodes drop its traffic, read back from their kernels: {names}");
            return FenceReport::confirmed(Proof::Gate, detail);
        }
        let by = if names.is_empty() { String::new() } else { format!(" ({names})") };
        FenceReport::unknown(format!(
            "{} of {all} nodes drop its traffic{by}; all are needed for a proof; {}",
            done.len(),
            failed.join("; ")
        ))
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let answers = self.tell(order, true, deadline).await;
        let (done, failed) = tally(&answers);
        if failed.is_empty() {
            return Ok(Done::new(format!("{} nodes take its traffic again", done.len())));
        }
        let attempted = format!("have the nodes take the traffic of {} again", order.target.member);
        Err(ActError::uncertain(attempted, failed.join("; ")))
    }
}
