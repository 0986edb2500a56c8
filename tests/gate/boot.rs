//! Shut at boot, and shut whatever becomes of the process.

use std::time::Duration;

use coroner::agent::gate::{Gate, GateError, close_at_boot};

use crate::lab::{Broker, Lab, MS, nft};

#[test]
fn p15_a_host_boots_with_the_gate_shut() {
    Lab::run(|lab| {
        let broker = Broker::start();
        close_at_boot(&broker.spec()).unwrap();
        assert!(!lab.is_served(broker.v4()) && !lab.is_served(broker.v6()));
        // The agent that comes later finds it, and leaves it as it is.
        let before = nft("-a list ruleset");
        let mut gate = Gate::install(&broker.spec()).unwrap();
        assert_eq!(nft("-a list ruleset"), before);
        assert!(!lab.is_served(broker.v4()));
        // Shutting again shuts, whoever opened it.
        gate.open_for(Duration::from_secs(60)).unwrap();
        assert!(lab.is_served(broker.v4()));
        close_at_boot(&broker.spec()).unwrap();
        assert!(!lab.is_served(broker.v4()));
        assert_eq!(gate.is_open(), Ok(None));
    });
}

#[test]
fn p18_an_agent_that_starts_again_keeps_what_is_left_and_not_more() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let mut gate = Gate::install(&broker.spec()).unwrap();
        gate.open_for(MS(300)).unwrap();
        let client = lab.client(broker.v4()).unwrap();
        drop(gate);
        let mut gate = Gate::install(&broker.spec()).unwrap();
        let left = gate.is_open().unwrap();
        assert!(left.is_some_and(|left| left <= MS(300)), "{left:?}");
        client.falls_silent();
        assert_eq!(gate.is_open(), Ok(None));
    });
}

#[test]
fn a_table_of_another_shape_is_replaced_shut() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let table = broker.spec().table;
        nft(&format!("add table inet {table}"));
        nft(&format!("add set inet {table} open {{ type inet_service; }}"));
        nft(&format!("add element inet {table} open {{ {} }}", broker.port));
        let mut gate = Gate::install(&broker.spec()).unwrap();
        assert_eq!(gate.is_open(), Ok(None));
        assert!(!lab.is_served(broker.v4()));
    });
}

#[test]
fn the_gate_of_a_broker_in_another_namespace_stands_there() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let here =
            std::path::PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()));
        let mut gate = lab.at_clients(|| Gate::install_in(&broker.spec(), &here)).unwrap();
        assert!(!lab.is_served(broker.v4()));
        gate.open_for(Duration::from_secs(5)).unwrap();
        assert!(lab.is_served(broker.v4()));
        let nowhere = Gate::install_in(&broker.spec(), std::path::Path::new("/proc/nothing"));
        assert!(matches!(nowhere, Err(GateError::Namespace { .. })));
    });
}
