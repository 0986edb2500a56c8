//! At the node: traffic of a fenced primary.

use coroner::agent::gate::DropSet;

use crate::lab::{Broker, Lab, nft};

#[test]
fn a_fenced_member_is_neither_heard_nor_reached_from_a_node() {
    Lab::run(|lab| {
        let (old, other) = (Broker::start(), Broker::start());
        let (v4, v6) = (lab.client(old.v4()).unwrap(), lab.client(old.v6()).unwrap());
        let mut node = lab.at_clients(|| DropSet::install("node-1")).unwrap();
        assert_eq!(node.table(), "coroner_node_node_1");
        assert!(v4.hears() && v6.hears() && node.get().unwrap().is_empty());

        node.set(&[old.v4(), old.v6()]).unwrap();
        v4.falls_silent();
        v6.falls_silent();
        assert!(!lab.is_served(old.v4()) && !lab.is_served(old.v6()));
        assert!(lab.is_served(other.v4()), "another port of the same host");
        assert_eq!(node.get().unwrap(), [old.v4(), old.v6()].into());

        // A process that starts again keeps it; a flushed table comes back.
        drop(node);
        let mut node = lab.at_clients(|| DropSet::install("node-1")).unwrap();
        assert_eq!(node.get().unwrap().len(), 2);
        lab.at_clients(|| nft("flush ruleset"));
        assert_eq!(node.ensure(), Ok(true));
        node.set(&[old.v6()]).unwrap();
        assert!(lab.is_served(old.v4()) && !lab.is_served(old.v6()));
        // Altered, its members are kept.
        lab.at_clients(|| nft("flush chain inet coroner_node_node_1 output"));
        assert_eq!(node.ensure(), Ok(true));
        assert_eq!(node.get().unwrap(), [old.v6()].into());

        // All TCP of a host, whatever the port: the other broker stands on the same one.
        let host = std::net::SocketAddr::new(old.v4().ip(), 0);
        node.set(&[host]).unwrap();
        assert_eq!(node.get().unwrap(), [host].into());
        assert!(!lab.is_served(old.v4()) && !lab.is_served(other.v4()) && lab.is_served(old.v6()));
        lab.at_clients(|| nft("delete chain inet coroner_node_node_1 input"));
        assert_eq!(node.ensure(), Ok(true));
        assert_eq!(node.get().unwrap(), [host].into());

        node.clear().unwrap();
        assert!(lab.is_served(old.v6()));
        node.remove().unwrap();
        assert!(!lab.at_clients(|| nft("list ruleset")).contains("coroner"));
    });
}
