//! What a preset writes for the operator. Whatever the file says itself comes before it.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{
    Jolokia,
    words::{At, Check, Exec, Read, Step, TryWrite, Write},
};

/// A kind of cluster whose MBeans are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// GraphDB EE up to 9.x: masters that coordinate workers. Needs `repository`, and for each member its `node`: the URL
    /// of its repository, by which the masters know each other.
    Graphdb,
}

impl Preset {
    /// Fills in what is not written.
    pub(super) fn fill(self, config: &mut Jolokia) -> Result<(), String> {
        match self {
            Self::Graphdb => graphdb(config),
        }
    }
}

fn graphdb(config: &mut Jolokia) -> Result<(), String> {
    let each_has = |word: &str| !config.members.is_empty() && config.members.values().all(|f| f.contains_key(word));
    if config.repository.is_none() && !each_has("repository") {
        return Err("the preset `graphdb` needs `repository`, the name of the masters' repository".into());
    }
    if config.members.len() < 2 || !each_has("node") {
        let example = "members: { master-1: { node: \"http://10.0.0.11:7200/repositories/cluster\" }, … }";
        return Err(format!("the preset `graphdb` needs the `node` of each master: `{example}`"));
    }
    let is = |attribute: &str, value| Check { attribute: attribute.into(), is: Some(value), ..Check::default() };
    let has_peer = |node: &str| Check { attribute: "SyncPeers".into(), has: Some(node.into()), ..Check::default() };
    let set_read_only = |name: &str, value: bool| Step {
        name: name.into(),
        write: Some(Write { attribute: "ReadOnly".into(), value: json!(value), ..Write::default() }),
        ..Step::default()
    };
    // A peer is named by its node and found by it; some set-ups give it an id of its own.
    let id = |whose: &str| {
        if each_has("id") { format!("{{{whose}id}}") } else { format!("{{{whose}node}}") }
    };
    let (own_id, other_id) = (id(""), id("other."));
    let add_peer = |name: &str, at, id: &str, node: &str| Step {
        name: name.into(),
        at,
        exec: Some(Exec { mbean: None, operation: "addSyncPeer".into(), arguments: vec![json!(id), json!(node)] }),
        until: Some(has_peer(node)),
        ..Step::default()
    };
    config.mbean.get_or_insert_with(|| "ReplicationCluster:name=ClusterInfo/{repository}".into());
    // 0: well; 1: workers differ; 2: no worker. The master that says so is alive.
    config.alive.get_or_insert_with(|| is("Status", json!([0, 1, 2])));
    config.primary.get_or_insert_with(|| is("ReadOnly", json!(false)));
    config.writable.get_or_insert_with(|| is("IsWritable", json!(true)));
    config.link.get_or_insert_with(|| has_peer("{other.node}"));
    if config.describe.is_empty() {
        config.describe = ["Status", "NodeStatus", "SyncPeers"]
            .map(|attribute| Read { attribute: attribute.into(), ..Read::default() })
            .into();
    }
    config.try_write.get_or_insert_with(|| TryWrite {
        url: "{node}/statements".into(),
        content_type: "application/sparql-update".into(),
        // Takes away what is not there.
        body: "DELETE DATA { <urn:coroner:tripwire> <urn:coroner:of> \"nobody\" }".into(),
    });
    if config.make_read_only.is_empty() {
        config.make_read_only = vec![set_read_only("set it read-only", true)];
    }
    // A master that becomes writable while its peer does not answer waits for that one to recover.
    let unpeer = |only_if| Step {
        name: "unpeer the other master".into(),
        only_if,
        exec: Some(Exec { mbean: None, operation: "removeSyncPeer".into(), arguments: vec![json!(other_id)] }),
        until: Some(Check { attribute: "SyncPeers".into(), lacks: Some("{other.node}".into()), ..Check::default() }),
        ..Step::default()
    };
    if config.make_writable.is_empty() {
        config.make_writable = vec![
            unpeer(Some(is("ReadOnly", json!(true)))),
            set_read_only("set it writable", false),
            add_peer("peer it with the other master again", At::Member, &other_id, "{other.node}"),
        ];
    }
    if config.promote.is_empty() {
        config.promote = vec![unpeer(None), set_read_only("set read-only to false", false)];
    }
    if config.follow.is_empty() {
        config.follow = vec![
            // Its properties say so already, where its agent has edited them; then there is nothing to do here.
            set_read_only("it is read-only", true),
            Step {
                name: "the new primary is writable".into(),
                at: At::Other,
                until: Some(is("ReadOnly", json!(false))),
                ..Step::default()
            },
            add_peer("peer the new primary with it", At::Other, &own_id, "{node}"),
            add_peer("peer it with the new primary", At::Member, &other_id, "{other.node}"),
        ];
    }
    Ok(())
}
