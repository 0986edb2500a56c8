//! The fence by the nodes' own kernels: only all of them are a proof.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use coroner::{
    fence::{
        AnyFence,
        agent::{Agents, Alone},
    },
    model::{
        ActError, Done, Epoch, FenceHealth, FenceVerdict, NodeName, Order, Proof, StepResult, Target, agent::Deed,
    },
};

/// Three workers, of which so many do what they are told.
struct Workers(usize);

#[async_trait]
impl Agents for Workers {
    async fn order(&self, _: &Order, _: Deed, _: Duration) -> Result<StepResult, ActError> {
        panic!("the old primary's own agent is not asked")
    }

    async fn rehearse(&self, _: &Target, _: &str, _: Duration) -> FenceHealth {
        panic!("the old primary's own agent is not asked")
    }

    async fn at_all_nodes(
        &self,
        order: &Order,
        deed: Deed,
        _: Duration,
    ) -> Vec<(NodeName, Result<StepResult, ActError>)> {
        assert!(matches!(&deed, Deed::Drop { fenced, .. } if *fenced == order.target.member));
        let answer = |n: usize| match n < self.0 {
            true => Ok(StepResult::Done(Done::new("it drops"))),
            false => Err(ActError::uncertain("order", "it did not answer in time")),
        };
        (0..3).map(|n| (NodeName::from(format!("worker-{n}")), answer(n))).collect()
    }

    async fn nodes_health(&self, _: &Target, _: Duration) -> FenceHealth {
        FenceHealth { usable: Some(self.0 == 3), detail: String::new() }
    }
}

#[tokio::test]
async fn fewer_than_all_workers_are_no_proof() {
    let target = Target { cluster: "graph".into(), member: "master-1".into(), address: "10.0.0.11:7200".into() };
    let order = Order { target, epoch: Epoch(2), incident: "01TEST".into() };
    let within = Duration::from_secs(5);
    for confirming in 0..=3 {
        let fence = AnyFence::Nodes(Alone {}).build(None, Some(Arc::new(Workers(confirming)))).unwrap();
        assert_eq!(fence.best_proof(), Proof::Gate);
        let report = fence.fence(&order, within).await;
        assert!(report.detail.contains(&confirming.to_string()), "{report:?}");
        let lifted = fence.unfence(&order, within).await;
        if confirming == 3 {
            assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Gate), "{report:?}");
            lifted.unwrap();
        } else {
            assert_eq!((report.verdict, report.proof), (FenceVerdict::Unknown, Proof::Nothing), "{report:?}");
            assert!(report.detail.contains("worker-2: it did not answer"), "{report:?}");
            assert!(lifted.unwrap_err().may_have_happened);
        }
    }
    assert!(AnyFence::Nodes(Alone {}).build(None, None).err().unwrap().contains("mesh"));
}
