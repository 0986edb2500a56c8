//! Every act cut off at every request, before it got through and after it was carried out, and begun again from the start:
//! it ends as if nothing had been.

use coroner::model::ActError;

use crate::lab::{Cutter, Lab, SOON, broker, order, target};

/// Cuts at request 0, 1, 2… until an act is through before its cut comes.
async fn at_every_request(mut one: impl AsyncFnMut(usize, bool) -> bool) -> usize {
    let mut cuts = 0;
    for arrived in [false, true] {
        let mut number = 0;
        while one(number, arrived).await {
            (cuts, number) = (cuts + 1, number + 1);
            assert!(number < 50, "the act never ends");
        }
    }
    cuts
}

fn undone_or_uncertain(result: Result<impl Sized, ActError>) -> Option<ActError> {
    result.err()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_runbook_is_restartable_at_every_request() {
    let mut lab = Lab::start();
    let mut epoch = 1;
    let through = Cutter::before(lab.b.port);
    let kind = broker(lab.config());
    let at_b = target("master-2", through.port);
    lab.a.kill();
    // The promotion.
    let cuts = at_every_request(async |number, arrived| {
        // Where it was: the second read-only and peered, the first dead.
        back(&lab);
        epoch += 1;
        through.cut(number, arrived);
        let first = undone_or_uncertain(kind.promote(&order(&at_b, epoch), SOON).await);
        let was_cut = through.was_cut();
        through.mend();
        assert!(was_cut || first.is_none(), "{first:?}");
        if lab.b.read("ReadOnly") == false || lab.b.read("SyncPeers") == serde_json::json!([]) {
            assert!(
                first.is_none_or(|error| error.may_have_happened),
                "request {number}: it did something and denies it"
            );
        }
        let done = kind.promote(&order(&at_b, epoch), SOON).await.unwrap();
        assert_eq!(done.position, Some(3), "{}", done.detail);
        assert_eq!((lab.b.read("ReadOnly"), lab.writers()), (serde_json::json!(false), 1));
        was_cut
    })
    .await;
    assert!(cuts >= 10, "{cuts} cuts");

    // Bringing the old one back, started read-only.
    set_property(&lab, "read-only = false", "read-only = true");
    lab.a.start();
    let through_a = Cutter::before(lab.a.port);
    let at_a = target("master-1", through_a.port);
    for cutter in [&through, &through_a] {
        let cuts = at_every_request(async |number, arrived| {
            unpeer(&lab);
            cutter.cut(number, arrived);
            let first = undone_or_uncertain(kind.follow(&order(&at_a, epoch), &at_b, Some(3), SOON).await);
            let was_cut = cutter.was_cut();
            cutter.mend();
            assert!(was_cut || first.is_none(), "{first:?}");
            kind.follow(&order(&at_a, epoch), &at_b, Some(3), SOON).await.unwrap();
            lab.wait_mirrored();
            was_cut
        })
        .await;
        assert!(cuts >= 6, "{cuts} cuts");
    }
}

fn unpeer(lab: &Lab) {
    for (one, other) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        if one.read("SyncPeers") != serde_json::json!([]) {
            exec(one, "removeSyncPeer", &[&other.node()]);
        }
    }
}

fn exec(master: &crate::lab::Master, operation: &str, arguments: &[&str]) {
    let mbean = "ReplicationCluster:name=ClusterInfo/cluster";
    let answer = master
        .jolokia(&serde_json::json!({"type": "exec", "mbean": mbean, "operation": operation, "arguments": arguments}));
    assert_eq!(answer["status"], 200, "{answer}");
}

fn back(lab: &Lab) {
    let mbean = "ReplicationCluster:name=ClusterInfo/cluster";
    lab.b.jolokia(&serde_json::json!({"type": "write", "mbean": mbean, "attribute": "ReadOnly", "value": true}));
    let node = lab.a.node();
    exec(&lab.b, "addSyncPeer", &[&node, &node]);
}

fn set_property(lab: &Lab, from: &str, to: &str) {
    let text = lab.a.properties();
    assert!(text.contains(from));
    std::fs::write(lab.a.dir.join("cluster.properties"), text.replace(from, to)).unwrap();
}
