//! How the old primary comes back: a frozen one that wakes up, a switchover, a failback.

use std::time::Duration;

use coroner::relay::control::Role;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::{
    clients::Source,
    lab::{A, B, House, Options, TRUST_THE_STORAGE},
};

/// P5, with no fence at all but the epoch on the storage: a frozen primary that wakes up after the promotion acknowledges
/// nothing that was sent to it meanwhile, and comes back as a shadow.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a_frozen_primary_wakes_up_acknowledges_nothing_and_becomes_the_shadow() {
    let mut house = House::build(&Options { fence: TRUST_THE_STORAGE, ..Options::default() }).await;
    let epoch = house.epoch().await;
    // Nobody tells this one of a new primary: it hangs on the old one.
    let ways = [(A.to_owned(), house.address(A))].into();
    let stubborn = Source::start("stubborn", &ways, A, 500, 100).await;
    let first = stubborn.send().await;
    assert!(stubborn.sender.wait_for(first, Duration::from_secs(20)).await);
    for sender in &mut house.senders {
        sender.load().await;
    }
    let before = house.nodes[0].got().count;
    house.until("messages arrive", async |house: &mut House| house.nodes[0].got().count > before).await;

    house.relay(A).freeze();
    // What is sent now lies in the sockets of a process that stands still.
    let mut unheard = 0;
    for _ in 0..50 {
        unheard = stubborn.send().await;
    }
    house.wait_primary(B, epoch).await;
    let during = house.nodes[0].got().count;
    house
        .until("messages of the new primary arrive", async |h: &mut House| h.nodes[0].got().count > during + 100)
        .await;

    house.relay(A).signal(Signal::SIGCONT);
    house.wait_ready(B).await;
    assert_eq!(house.status(A).await.map(|s| s.role), Some(Role::Shadow));
    assert_eq!(stubborn.acknowledged(), first, "of {unheard}: {:?}", stubborn.sender.state());
    house.nothing_is_lost_or_twice().await;
    let got: Vec<_> = house.nodes.iter().map(|node| node.last_of("stubborn")).collect();
    assert_eq!(got, [first; 3], "no node got any of it: {}", house.portrait().await);

    // Once it is told where to go, they are taken, once each.
    assert!(stubborn.sender.move_to(&house.address(B).to_string(), epoch + 1));
    assert!(stubborn.sender.wait_for(unheard, Duration::from_secs(20)).await, "{:?}", stubborn.sender.state());
    house.until("they arrive", async |h: &mut House| h.nodes.iter().all(|n| n.last_of("stubborn") == unheard)).await;
    assert!(house.nodes.iter().all(|node| node.got().wrong.is_empty()));
}

/// A planned switchover under load, and back again: the watch has turned around in between.
#[tokio::test(flavor = "multi_thread")]
async fn switchover_and_failback_lose_nothing() {
    let mut house = House::build(&Options::default()).await;
    let mut epoch = house.epoch().await;
    for to in [B, A] {
        for sender in &mut house.senders {
            sender.load().await;
        }
        sleep(Duration::from_millis(300)).await;
        house.cli(&["switchover", "--to", to, "--yes", "--wait"]).await;
        epoch = house.wait_primary(to, epoch).await;
        house.wait_ready(to).await;
        house.nothing_is_lost_or_twice().await;
        house.acknowledge().await;
    }
    let kinds: Vec<_> = house.failovers().await.iter().map(|i| i["kind"].clone()).collect();
    assert_eq!(kinds, ["switchover", "switchover"], "{}", house.portrait().await);
}
