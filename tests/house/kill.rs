//! Killed under full load, again and again: no acknowledged message is lost, none is delivered twice, the order is kept, the
//! epoch grows, and who was killed comes back as the shadow of the other.

use std::time::Duration;

use coroner::relay::control::Role;

use crate::lab::{A, B, House, Options};

/// The same choices for the same seed: splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_full_load_nothing_acknowledged_is_lost_and_nothing_comes_twice() {
    let runs = number_of("CORONER_HOUSE_RUNS", 4);
    let seed = number_of("CORONER_HOUSE_SEED", 1);
    let mut dice = Dice(seed);
    let options = Options { size: 40 + usize::try_from(dice.below(200)).unwrap(), ..Options::default() };
    let mut house = House::build(&options).await;
    let (mut primary, mut other) = (A, B);
    let mut epoch = house.epoch().await;
    for run in 1..=runs {
        for sender in &mut house.senders {
            sender.load().await;
        }
        let before = house.nodes[0].got().count;
        house.until("messages arrive", async |house: &mut House| house.nodes[0].got().count > before).await;
        tokio::time::sleep(Duration::from_millis(dice.below(700))).await;
        house.kill(primary).await;

        let new_epoch = house.wait_primary(other, epoch).await;
        assert_eq!(new_epoch, epoch + 1, "one epoch for each failover");
        // Who was killed comes back sooner or later, while the load goes on.
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        house.start_again(primary);
        let during = house.nodes[0].got().count;
        house.until("messages of the new one arrive", async |h: &mut House| h.nodes[0].got().count > during).await;
        // What comes back reads the whole log, and the log would outgrow the patience of fifty runs.
        for sender in &mut house.senders {
            sender.rest().await;
        }
        house.wait_ready(other).await;
        let all = house.nothing_is_lost_or_twice().await;
        house.acknowledge().await;
        println!("run {run} of seed {seed}: {all} messages so far, epoch {new_epoch}, {other} is primary");
        (primary, other, epoch) = (other, primary, new_epoch);
    }
    let statuses = [house.status(A).await.unwrap(), house.status(B).await.unwrap()];
    assert_eq!(statuses.iter().filter(|s| s.role == Role::Primary).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|s| s.stored_epoch == epoch && s.corrupt == 0), "{statuses:?}");
}
