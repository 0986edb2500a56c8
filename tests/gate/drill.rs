//! Does the drill prove what it should, and only that?

use std::time::Duration;

use coroner::agent::{
    gate::{Bypass, ClientPath, Gate, PathProof, bypasses, drill},
    spec::LocalClients,
};

use crate::lab::{Broker, LATE_MAX, Lab, nft};

#[test]
fn h15_every_client_path_is_proven_and_nothing_is_left_behind() {
    Lab::run(|_| {
        let broker = Broker::start();
        let mut spec = broker.spec();
        let mut gate = Gate::install(&spec).unwrap();
        gate.open_for(Duration::from_secs(60)).unwrap();
        let before = nft("list ruleset");
        for local in [LocalClients::Open, LocalClients::Closed] {
            spec.local = local;
            let report = drill(&spec).unwrap();
            println!("{report}; {:.0} ms", report.took.as_secs_f64() * 1e3);
            assert!(report.is_proven(), "{report}");
            assert!(report.late().is_some_and(|late| late <= LATE_MAX), "{report}");
            let proven = report.paths.iter().filter(|(_, proof)| matches!(proof, PathProof::Proven { .. })).count();
            assert_eq!(proven, if local == LocalClients::Open { 2 } else { 4 }, "{report}");
        }
        // The broker's own gate stands as it stood, and open.
        let tables = |text: &str| text.matches("table").count();
        assert_eq!(tables(&nft("list ruleset")), tables(&before));
        assert!(gate.is_open().unwrap().is_some());
        assert!(!std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains("crdrill"));
    });
}

#[test]
fn what_another_firewall_shuts_is_not_proven() {
    Lab::run(|_| {
        let broker = Broker::start();
        nft("add table inet strict");
        nft("add chain inet strict input { type filter hook input priority 0; policy drop; }");
        nft("add rule inet strict input iif lo accept");
        let report = drill(&broker.spec()).unwrap();
        println!("{report}");
        assert!(!report.is_proven());
        let failed =
            |path| report.paths.iter().any(|(own, proof)| *own == path && matches!(proof, PathProof::Failed(_)));
        assert!(failed(ClientPath::NetworkV4), "{report}");
    });
}

#[test]
fn a_broker_in_another_namespace_passes_the_gate_by() {
    Lab::run(|_| {
        // A process that started before: the test's own, in the machine's namespace, while this thread is in the lab's.
        let found = bypasses(std::process::id().cast_signed()).unwrap();
        assert!(found.iter().any(|b| matches!(b, Bypass::OtherNetwork { .. }) && b.is_fatal()), "{found:?}");
    });
}
