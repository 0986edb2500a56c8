//! Scenarios with agents, gates and leases, each on a lab of its own.

use std::{thread::sleep, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    checker::Findings,
    faults::Random,
    lab::{Lab, Options, other},
    net::NODES,
    scenarios::one_at_a_time,
    table::{Required, Row, observe, print},
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

/// A fault of a process, a host, a clock, a link or several at once.
struct Fault {
    /// By the names that the documents of failures use, and in words.
    name: &'static str,
    required: Required,
    strike: fn(&Lab, &str),
    /// Undoes what healing the lab does not.
    mend: fn(&Lab, &str),
}

fn agent(member: &str) -> String {
    format!("agent-{member}")
}

/// Nothing leaves the host any more, not even that its processes ended.
fn cut_power(lab: &Lab, member: &str) {
    lab.net.isolate(member);
    lab.kill(member);
    lab.kill(&agent(member));
}

fn freeze_host(lab: &Lab, member: &str) {
    lab.freeze(&agent(member));
    lab.freeze(member);
}

/// For how long, at least, somebody else is waited for before a frozen one goes on.
const REPLACED: Duration = Duration::from_secs(20);

fn until_replaced(lab: &Lab, member: &str) {
    lab.until_within("it is replaced", REPLACED, || {
        lab.try_status().is_some_and(|s| s.primary.as_ref().is_some_and(|p| p.as_str() != member))
    });
}

fn nothing(_: &Lab, _: &str) {}

fn start_agent(lab: &Lab, member: &str) {
    lab.start_agent(member);
}

const FAULTS: &[Fault] = &[
    Fault { name: "P1: killed", required: Required::Failover, strike: |lab, m| lab.kill(m), mend: nothing },
    Fault {
        name: "P2: crashes, with its report",
        required: Required::Failover,
        strike: |lab, m| lab.signal(m, Signal::SIGSEGV),
        mend: nothing,
    },
    Fault {
        name: "P5: frozen for 150 ms",
        required: Required::Hold,
        strike: |lab, m| {
            lab.freeze(m);
            sleep(Duration::from_millis(150));
            lab.thaw(m);
        },
        mend: nothing,
    },
    Fault {
        name: "P5, P6: hangs while its agent is well, wakes up after the promotion",
        required: Required::Failover,
        strike: |lab, m| {
            lab.freeze(m);
            until_replaced(lab, m);
            lab.thaw(m);
        },
        mend: nothing,
    },
    Fault {
        name: "P8, P9: answers, and takes no writes",
        required: Required::Switchover,
        strike: |lab, m| drop(lab.ask(m, &["CONFIG", "SET", "min-replicas-to-write", "5"])),
        mend: nothing,
    },
    Fault {
        name: "P13, H6: its host loses power, which no fence can confirm",
        required: Required::Failover,
        strike: cut_power,
        mend: start_agent,
    },
    Fault {
        name: "P16: its host is paused, and goes on after the promotion",
        required: Required::Failover,
        strike: |lab, m| {
            freeze_host(lab, m);
            until_replaced(lab, m);
            lab.thaw(m);
            lab.thaw(&agent(m));
        },
        mend: nothing,
    },
    Fault {
        name: "P17, P18: its agent is killed and comes back at once",
        required: Required::Hold,
        strike: |lab, m| {
            lab.kill(&agent(m));
            lab.start_agent(m);
        },
        mend: nothing,
    },
    Fault {
        name: "P18: its agent is killed and does not come back",
        required: Required::Failover,
        strike: |lab, m| lab.kill(&agent(m)),
        mend: start_agent,
    },
    Fault {
        name: "P19: the standby and its agent are killed",
        required: Required::Hold,
        strike: |lab, m| {
            lab.kill(other(m));
            lab.kill(&agent(other(m)));
        },
        mend: |lab, m| lab.start_agent(other(m)),
    },
    Fault {
        name: "A10: the arbiter is killed and does not come back",
        required: Required::Hold,
        strike: |lab, _| lab.kill("a"),
        mend: nothing,
    },
    Fault {
        name: "A11, C3: the arbiter is paused for two seconds",
        required: Required::Hold,
        strike: |lab, _| {
            lab.freeze("a");
            sleep(Duration::from_secs(2));
            lab.thaw("a");
        },
        mend: nothing,
    },
    Fault {
        name: "H16: its ruleset is flushed, five times",
        required: Required::Hold,
        strike: |lab, m| {
            for _ in 0..5 {
                lab.net.nft(m, "flush ruleset\n");
                lab.until_within("the table is back", Duration::from_secs(5), || {
                    lab.net.list_tables(m).contains("coroner_gate_lab_")
                });
            }
        },
        mend: nothing,
    },
    Fault {
        name: "H16: its ruleset is flushed, and then nobody renews",
        required: Required::Failover,
        strike: |lab, m| {
            lab.net.nft(m, "flush ruleset\n");
            lab.until_within("the table is back", Duration::from_secs(5), || {
                lab.net.list_tables(m).contains("coroner_gate_lab_")
            });
            lab.freeze(&agent(m));
            until_replaced(lab, m);
            lab.thaw(&agent(m));
        },
        mend: nothing,
    },
    Fault {
        name: "G39: a tenth of all packets of its host are lost",
        required: Required::Hold,
        strike: |lab, m| lab.net.lose(m, 10),
        mend: nothing,
    },
    Fault {
        name: "G41: the links to the arbiter and to the standby flap",
        required: Required::Hold,
        strike: |lab, m| {
            for _ in 0..8 {
                lab.net.cut(m, "a");
                lab.net.cut(m, other(m));
                sleep(Duration::from_millis(120));
                lab.net.heal();
                sleep(Duration::from_millis(120));
            }
        },
        mend: nothing,
    },
    Fault {
        name: "killed, while a tenth of its packets are lost",
        required: Required::Failover,
        strike: |lab, m| {
            lab.net.lose(m, 10);
            lab.kill(m);
        },
        mend: nothing,
    },
    Fault {
        name: "killed together with the arbiter, which comes back",
        required: Required::Failover,
        strike: |lab, m| {
            lab.kill(m);
            lab.kill("a");
            sleep(Duration::from_millis(700));
            lab.start_arbiter();
        },
        mend: nothing,
    },
    Fault {
        name: "its host and the arbiter's lose power: the standby does not promote itself",
        required: Required::SelfFence,
        strike: |lab, m| {
            cut_power(lab, m);
            lab.kill("a");
        },
        mend: start_agent,
    },
    Fault {
        name: "killed together with the standby's agent: nobody could hold the lease",
        required: Required::SelfFence,
        strike: |lab, m| {
            lab.kill(&agent(other(m)));
            lab.kill(m);
        },
        mend: |lab, m| lab.start_agent(other(m)),
    },
    Fault {
        name: "frozen and cut off from the arbiter, healed after the promotion",
        required: Required::Failover,
        strike: |lab, m| {
            lab.freeze(m);
            lab.net.cut(m, "a");
            until_replaced(lab, m);
            lab.thaw(m);
        },
        mend: nothing,
    },
    Fault {
        name: "the members lose each other, then its host loses power",
        required: Required::Failover,
        strike: |lab, m| {
            lab.net.cut(m, other(m));
            sleep(Duration::from_millis(500));
            cut_power(lab, m);
        },
        mend: start_agent,
    },
];

/// `CORONER_LAB_ONLY=all` runs all of them (default: some, others each time), another text those whose names hold it.
/// `CORONER_LAB_TABLE=FILE` writes the table.
#[test]
fn every_fault_has_the_required_outcome() {
    let _one = one_at_a_time();
    let seed = crate::client::monotonic();
    let chosen: Vec<&Fault> = match std::env::var("CORONER_LAB_ONLY").as_deref() {
        Ok("all") => FAULTS.iter().collect(),
        Ok(text) => FAULTS.iter().filter(|fault| fault.name.contains(text)).collect(),
        Err(_) => {
            let mut random = Random(seed);
            FAULTS.iter().filter(|_| random.next() % 10 < 3).collect()
        }
    };
    println!("{} of {} faults (seed {seed}); CORONER_LAB_ONLY=all runs all of them", chosen.len(), FAULTS.len());
    let lab = Lab::new(&Options::agents());
    let rows: Vec<Row> = chosen
        .into_iter()
        .map(|fault| {
            let kind = (fault.name, fault.required, false);
            observe(&lab, kind, |primary| (fault.strike)(&lab, primary), |primary| (fault.mend)(&lab, primary))
        })
        .collect();
    assert!(!rows.is_empty(), "no fault was chosen");
    let found = lab.findings();
    print(&rows, &found, "fault", "CORONER_LAB_TABLE");
    found.assert_clean();
    let differ: Vec<&str> = rows.iter().filter(|row| !row.is_as_required).map(|row| row.name.as_str()).collect();
    assert!(differ.is_empty(), "these faults did not have the required outcome: {differ:?}");
}
