//! Death as the service sees it: an idle night is none, and a primary that answers and sends to nobody is useless.

use std::time::Duration;

use crate::lab::{A, B, House, Options};

/// P26: nobody sends anything for a while. The canary goes on, and nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn p26_an_idle_night_is_covered_by_the_canary() {
    let mut house = House::build(&Options::default()).await;
    // Several times as long as the silence that kills.
    house
        .stays("nothing is done", Duration::from_secs(7), async |house: &mut House| {
            let quiet = house.failovers().await.is_empty();
            quiet && house.cluster().await.is_none_or(|c| c["primary"] == A)
        })
        .await;
    assert_eq!(house.nodes[0].got().count, 0, "not one message was sent");
    let heard = house.get("/v1/clusters/messages/signals").await.unwrap();
    assert!(heard.to_string().contains("canary in "), "{heard:#}");
}

/// P8: it answers, takes messages and acknowledges them, and none of them reaches a node. It is asked to hand over; what it
/// had taken and not sent is sent by the other.
#[tokio::test(flavor = "multi_thread")]
async fn p8_a_primary_that_answers_and_sends_to_no_node_hands_over() {
    let mut house = House::build(&Options::default()).await;
    let epoch = house.epoch().await;
    for sender in &mut house.senders {
        sender.load().await;
    }
    let before = house.nodes[0].got().count;
    house.until("messages arrive", async |house: &mut House| house.nodes[0].got().count > before).await;
    house.nodes_to_a.cut();
    house.wait_primary(B, epoch).await;
    let incidents = house.failovers().await;
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    assert_eq!(incidents[0]["kind"], "switchover", "a primary that can be asked is asked: {}", incidents[0]);
    house.nodes_to_a.mend();
    house.wait_ready(B).await;
    house.nothing_is_lost_or_twice().await;
}
