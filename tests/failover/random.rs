//! A few hundred worlds that nobody thought of: the judge of the bench looks at every effect.

use coroner::model::{Command, incident::IncidentState};
use proptest::prelude::*;

use crate::{
    bench::{Bench, Script, StoreMode},
    policy::{full, leased, method, ms, policy, secs},
};

#[derive(Clone, Debug)]
enum Happens {
    Kill(usize),
    Freeze(usize),
    Revive(usize),
    CutOff(usize),
    Script(usize, Script),
    Store(StoreMode),
    Restart,
    Wait(u64),
    Late,
    Command(usize),
    NodeDies(usize),
}

/// Scripts that do not lie: a lie that nothing can see through is beyond any arbiter.
fn scripts() -> impl Strategy<Value = Script> {
    prop_oneof![
        Just(Script::Work),
        Just(Script::Refuse),
        Just(Script::Unknown),
        Just(Script::DoneUnknown),
        Just(Script::Hang),
        Just(Script::DoneHang),
        // The driver ends an executor half a second after its act's deadline: nothing is done later than that.
        (0u64..3_400).prop_map(|n| Script::Slow(ms(n))),
    ]
}

const LABELS: [&str; 18] = [
    "seal",
    "await lease",
    "fence a 0.0",
    "fence a 1.0",
    "fence b 0.0",
    "forbidden write 0",
    "catch up b",
    "catch up c",
    "promote b",
    "promote c",
    "promote a",
    "redirect 0",
    "rejoin a",
    "rejoin b",
    "unfence a 0.0",
    "read-only a",
    "writable a",
    "repoint c",
];

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        3 => (0usize..3).prop_map(Happens::Kill),
        2 => (0usize..3).prop_map(Happens::Freeze),
        3 => (0usize..3).prop_map(Happens::Revive),
        1 => (0usize..3).prop_map(Happens::CutOff),
        7 => (0..LABELS.len(), scripts()).prop_map(|(l, s)| Happens::Script(l, s)),
        2 => prop_oneof![
            Just(StoreMode::Works), Just(StoreMode::Fails), Just(StoreMode::Hangs), Just(StoreMode::Slow(secs(2)))
        ].prop_map(Happens::Store),
        2 => Just(Happens::Restart),
        6 => (1u64..15_000).prop_map(Happens::Wait),
        1 => Just(Happens::Late),
        4 => (0usize..9).prop_map(Happens::Command),
        1 => (0usize..3).prop_map(Happens::NodeDies),
    ];
    proptest::collection::vec(one, 1..25)
}

fn command(n: usize, bench: &Bench) -> Command {
    let cluster = || "orders".into();
    match n {
        0 => Command::Switchover { cluster: cluster(), to: None, reason: "x".into(), skip_guards: Vec::new() },
        1 => Command::Failover {
            cluster: cluster(),
            to: None,
            reason: "x".into(),
            accept_loss: true,
            skip_guards: Vec::new(),
        },
        2 => Command::Abort { cluster: cluster() },
        3 => Command::Continue { cluster: cluster(), accept_loss: true },
        4 => Command::Pause { cluster: None, owner: String::new(), reason: "x".into(), for_: Some(secs(20)) },
        5 => Command::Resume { cluster: None },
        6 => Command::Rejoin { cluster: cluster(), member: "a".into() },
        7 => Command::Acknowledge {
            incident: bench.store.newest().map_or_else(|| "none".into(), |(i, _)| i.id.clone()),
            cluster: Some(cluster()),
            note: String::new(),
        },
        _ => Command::Rejoin { cluster: cluster(), member: "b".into() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_forbidden_is_done_and_every_incident_ends(list in happenings(), has_lease: bool) {
        let names = ["a", "b", "c"];
        let mut cluster = if has_lease { leased(&names) } else { full(&names) };
        cluster.failover.cooldown = secs(5);
        cluster.failover.budget = 100;
        cluster.failover.fence =
            vec![vec![method("gate", secs(2), coroner::model::Proof::Gate)], vec![method("power", secs(3), coroner::model::Proof::PowerOff)]];
        let mut bench = Bench::settled(policy(vec![cluster]));
        let mut asked = Vec::new();
        for happens in list {
            match happens {
                Happens::Kill(m) => bench.kill(names[m]),
                Happens::Freeze(m) => bench.member(names[m]).frozen = true,
                Happens::CutOff(m) => bench.member(names[m]).cut_off = true,
                Happens::Revive(m) => bench.revive(names[m]),
                Happens::Script(l, s) => bench.script(LABELS[l], &[s]),
                Happens::Store(mode) => bench.store_mode = mode,
                Happens::Restart => {
                    bench.restart(ms(700));
                    asked.clear();
                }
                Happens::Wait(n) => bench.run_for(ms(n)),
                Happens::Late => bench.event(coroner::model::Event::RanLate { by: secs(2), detail: "late".into() }),
                Happens::Command(n) => {
                    let command = command(n, &bench);
                    asked.push(bench.ask_later(command));
                }
                Happens::NodeDies(n) => bench.nodes.get_mut(["n1", "n2", "n3"][n]).unwrap().alive = false,
            }
        }
        // Everything heals; then every incident comes to an end, or to a person.
        bench.store_mode = StoreMode::Works;
        bench.event(coroner::model::Event::StoreHealth { ok: true, detail: String::new() });
        for name in names {
            bench.revive(name);
        }
        bench.run_for(secs(400));
        for (incident, ..) in bench.store.incidents.values() {
            let state = incident.as_ref().unwrap().state;
            prop_assert!(
                matches!(state, IncidentState::Resolved | IncidentState::Aborted | IncidentState::Held),
                "{}", bench.story()
            );
        }
        for to in asked {
            prop_assert!(bench.replies.contains_key(&to), "command {to} was never answered");
        }
        let (stored, status) = (bench.store.state().clone(), bench.engine.status(bench.now));
        prop_assert_eq!(&status.clusters[0].primary, &stored.primary);
        prop_assert_eq!(status.clusters[0].epoch, stored.primary_epoch);
        if bench.is_quiet() {
            let primary = stored.primary.unwrap();
            prop_assert_eq!(bench.writers(), [primary.as_str()], "{}", bench.story());
        }
    }
}
