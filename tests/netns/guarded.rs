//! Scenarios with agents, gates and leases, each on a lab of its own.

use std::{thread::sleep, time::Duration};

use crate::{
    checker::Findings,
    lab::{Lab, Options},
    net::NODES,
    scenarios::one_at_a_time,
};

const LEASE: Duration = Duration::from_millis(200);
/// A client on a machine that is busy with other tests may look this much later than it meant to.
const STARVED: Duration = Duration::from_millis(80);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// When a member's last write was acknowledged to anybody.
fn last_ack(found: &Findings, server: &str) -> u64 {
    found.acks.iter().filter(|ack| ack.server == server).map(|ack| ack.acked).max().unwrap_or_default()
}

/// How long a stretch of that time nobody's write was acknowledged.
fn gap(lab: &Lab, from: u64) -> Duration {
    lab.findings().outage(from, lab.now())
}

#[test]
fn the_kernel_shuts_the_port_when_the_agent_is_stopped_and_the_network_cut() {
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    lab.net.cut("m", "a");
    lab.net.cut("m", "s");
    sleep(Duration::from_millis(300));
    // Over the nodes the lease is renewed yet.
    assert!(last_ack(&lab.findings(), "m") > lab.now() - nanos(Duration::from_millis(200)), "{}", lab.story());
    let stopped = lab.now();
    lab.freeze("agent-m");
    NODES.iter().for_each(|node| lab.net.cut("a", node));
    sleep(LEASE * 3);
    let late = Duration::from_nanos(last_ack(&lab.findings(), "m").saturating_sub(stopped));
    println!("the last write was acknowledged {late:?} after the agent was stopped; the lease is {LEASE:?}");
    assert!(late <= LEASE + Duration::from_millis(20) + STARVED, "{late:?}");
    lab.net.heal();
    lab.moved("m", 1);
    // A16 of its own kind: the agent wakes up with an old lease, and learns of the new epoch.
    lab.thaw("agent-m");
    lab.whole();
    lab.findings().assert_clean();
}

#[test]
fn neither_the_arbiters_death_nor_the_standbys_costs_service() {
    let _one = one_at_a_time();
    let seconds = std::env::var("CORONER_LAB_DEAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    let lab = Lab::new(&Options::agents());
    let before = lab.status();
    let begun = lab.now();
    lab.kill("a");
    sleep(Duration::from_secs(seconds));
    let without_arbiter = gap(&lab, begun);
    lab.start_arbiter();
    lab.whole();
    let begun = lab.now();
    lab.kill("s");
    lab.kill("agent-s");
    sleep(Duration::from_secs(seconds));
    let without_standby = gap(&lab, begun);
    lab.start_agent("s");
    lab.heal();
    lab.whole();
    println!(
        "{seconds} s each: longest time without an acknowledged write: arbiter dead {without_arbiter:?}, standby dead \
         {without_standby:?}"
    );
    let after = lab.status();
    assert_eq!((before.primary, before.epoch), (after.primary, after.epoch), "{}", lab.story());
    // Writers of a busy machine pause by themselves; a primary that stopped serving would show as seconds.
    let bound = Duration::from_millis(1_500);
    assert!(without_arbiter < bound && without_standby < bound);
    lab.findings().assert_clean();
}

#[test]
fn p1_p5_p13_killed_frozen_and_powered_off() {
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    let begun = lab.now();
    lab.kill("m");
    lab.moved("m", 1);
    let killed = gap(&lab, begun);
    lab.heal();
    lab.whole();
    let begun = lab.now();
    lab.freeze("s");
    lab.moved("s", 2);
    let frozen = gap(&lab, begun);
    lab.thaw("s");
    lab.heal();
    lab.whole();
    // The power goes: nothing leaves the host any more, not even that its processes ended.
    let begun = lab.now();
    lab.net.isolate("m");
    lab.kill("m");
    lab.kill("agent-m");
    lab.moved("m", 3);
    let off = gap(&lab, begun);
    lab.net.heal();
    lab.start_agent("m");
    lab.heal();
    lab.whole();
    println!("without an acknowledged write: killed {killed:?}, frozen {frozen:?}, powered off {off:?}");
    lab.findings().assert_clean();
}

#[test]
fn p18_an_agent_that_comes_back_finds_its_lease_and_nobody_moves() {
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    let before = lab.status().epoch;
    let begun = lab.now();
    lab.kill("agent-m");
    lab.start_agent("m");
    sleep(Duration::from_secs(2));
    println!("an agent killed and started at once: {:?} without an acknowledged write", gap(&lab, begun));
    lab.whole();
    assert_eq!(lab.status().epoch, before, "{}", lab.story());
    lab.findings().assert_clean();
}

#[test]
fn h16_a_flushed_ruleset_is_restored() {
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    for _ in 0..5 {
        lab.net.nft("m", "flush ruleset\n");
        lab.until_within("the table is back", Duration::from_secs(2), || {
            lab.net.list_tables("m").contains("coroner_gate_lab_m")
        });
        sleep(Duration::from_millis(200));
    }
    // It is a gate again: shut, once nobody renews.
    lab.freeze("agent-m");
    lab.moved("m", 1);
    lab.thaw("agent-m");
    lab.whole();
    lab.findings().assert_clean();
}

#[test]
fn double_faults() {
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    // The primary dies and the arbiter with it.
    lab.kill("m");
    lab.kill("a");
    sleep(Duration::from_millis(700));
    lab.start_arbiter();
    lab.moved("m", 1);
    lab.heal();
    lab.whole();
    // The primary dies and the standby's agent with it: nobody could hold the lease. It comes back.
    let epoch = lab.status().epoch.0;
    lab.kill("agent-m");
    lab.kill("s");
    sleep(Duration::from_millis(1_500));
    assert_eq!(lab.status().epoch.0, epoch, "nobody is fit: {}", lab.story());
    lab.start_agent("m");
    lab.moved("s", epoch);
    lab.heal();
    lab.whole();
    // Frozen, and cut off from the arbiter; thawed and healed after the promotion.
    let epoch = lab.status().epoch.0;
    lab.freeze("m");
    lab.net.cut("m", "a");
    lab.moved("m", epoch);
    lab.thaw("m");
    lab.net.heal();
    lab.heal();
    lab.whole();
    // The two members lose each other, and the fence fails with the primary's power.
    let epoch = lab.status().epoch.0;
    lab.net.cut("m", "s");
    sleep(Duration::from_millis(500));
    lab.net.isolate("s");
    lab.kill("s");
    lab.kill("agent-s");
    lab.moved("s", epoch);
    lab.net.heal();
    lab.start_agent("s");
    lab.heal();
    lab.whole();
    lab.findings().assert_clean();
}
