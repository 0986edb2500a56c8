//! P31: what a sender does not know. A message without an acknowledgement may be in the log or not; the key, name and number,
//! goes through both ways, and it is delivered once.

use std::time::Duration;

use crate::{
    cable::Cable,
    clients::Source,
    lab::{A, B, House, Options},
};

/// It was taken and delivered, and the acknowledgement was lost with the primary: it is not delivered again.
#[tokio::test(flavor = "multi_thread")]
async fn p31_taken_with_its_acknowledgement_lost() {
    let mut house = House::build(&Options::default()).await;
    let epoch = house.epoch().await;
    let cable = Cable::lay(house.address(A)).await;
    let ways = [(A.to_owned(), cable.address), (B.to_owned(), house.address(B))].into();
    let sender = Source::start("unsure", &ways, A, 10, 100).await;
    let first = sender.send().await;
    assert!(sender.sender.wait_for(first, Duration::from_secs(20)).await);

    cable.cut_answers();
    let unknown = sender.send().await;
    house.until("a node has it", async |house: &mut House| house.nodes[0].last_of("unsure") == unknown).await;
    assert_eq!(sender.acknowledged(), first, "and its sender does not know");
    house.kill(A).await;
    house.wait_primary(B, epoch).await;
    assert!(sender.sender.move_to(&house.address(B).to_string(), epoch + 1));
    assert!(sender.sender.wait_for(unknown, Duration::from_secs(20)).await, "{:?}", sender.sender.state());
    once(&mut house, &sender, unknown).await;
}

/// It was never taken, which its sender cannot know either: it is repeated, and delivered.
#[tokio::test(flavor = "multi_thread")]
async fn p31_never_taken() {
    let mut house = House::build(&Options::default()).await;
    let epoch = house.epoch().await;
    let ways = [(A.to_owned(), house.address(A))].into();
    let sender = Source::start("unsure", &ways, A, 10, 100).await;
    let first = sender.send().await;
    assert!(sender.sender.wait_for(first, Duration::from_secs(20)).await);
    house.relay(A).freeze();
    let unknown = sender.send().await;
    house.kill(A).await;
    house.wait_primary(B, epoch).await;
    assert_eq!(sender.acknowledged(), first);
    assert!(sender.sender.move_to(&house.address(B).to_string(), epoch + 1));
    assert!(sender.sender.wait_for(unknown, Duration::from_secs(20)).await, "{:?}", sender.sender.state());
    assert!(sender.sender.state().repeated > 0, "{:?}", sender.sender.state());
    once(&mut house, &sender, unknown).await;
}

async fn once(house: &mut House, sender: &Source, last: u64) {
    let after = sender.send().await;
    assert_eq!(after, last + 1);
    house
        .until("the next one is at all nodes", async |house: &mut House| {
            house.nodes.iter().all(|node| node.last_of("unsure") == after)
        })
        .await;
    for node in &house.nodes {
        assert_eq!(node.got().wrong, [""; 0], "{}", node.portrait());
    }
}
