//! The configuration file of the arbiter that stands behind a conversation.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

/// What the file is made of.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) dir: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) members: &'a [(String, String)],
    /// The driver's side: what it is called in the file, and where it takes the notice of a new primary.
    pub(super) node: (&'a str, SocketAddr),
    /// The name of the relays' executable.
    pub(super) executable: &'a str,
}

/// The file's text.
pub(super) fn yaml(plan: &Plan<'_>) -> String {
    // JSON is YAML: quoted so, no name and no path can be taken for anything else.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let mut members = String::new();
    for (name, address) in plan.members {
        let _ = writeln!(members, "      {}: {{ address: {} }}", quoted(name), quoted(address));
    }
    // Alone, nobody can be promoted: it is watched.
    let (mode, rules) = if plan.members.len() > 1 { ("auto", RULES) } else { ("shadow", RULES_ALONE) };
    TEMPLATE
        .replace("@MODE@", mode)
        .replace("@RULES@", rules)
        .replace("@SOCKET@", &path(plan.socket))
        .replace("@STORE@", &quoted(&format!("sqlite:{}", plan.dir.join("coroner.db").display())))
        .replace("@MEMBERS@", members.trim_end())
        .replace("@NODE@", &format!("{}: {{ address: \"{}\" }}", quoted(plan.node.0), plan.node.1))
        .replace("@PID_FILE@", &path(&plan.dir.join("{member}.pid")))
        .replace("@EXECUTABLE@", &quoted(plan.executable))
}

const TEMPLATE: &str = r#"# Made by `coroner stdio`: relays on one machine, on scratch storage that they share.

arbiter:
  name: stdio-arbiter
  listen: { socket: @SOCKET@ }
  store: @STORE@

clusters:
  stdio:
    mode: @MODE@
    broker: { relay: {} }
    members:
@MEMBERS@
    nodes:
      @NODE@
    signals:
      ping: { broker: { ask: ping, of: primary, every: 200ms, timeout: 190ms } }
      role: { broker: { ask: role, of: members, every: 200ms, timeout: 190ms } }
@RULES@"#;

const RULES: &str = r#"      link: { broker: { ask: replication_link, of: standbys, every: 500ms, timeout: 400ms } }
    death_rules:
      # What the task says: its heartbeats are missing for ten seconds.
      - name: silent for ten seconds
        when: { all: [{ ping: { silent: 10s } }, { at_least: { count: majority, of: link, are: down } }] }
        verdict: dead
        then: failover
    failover:
      # The arbiter runs on the relays' host: it kills the process. Nothing restarts it, which makes that a proof.
      fence:
        - signal: { pid_file: @PID_FILE@, executable: @EXECUTABLE@, supervisor: none }
          deadline: 2s
      catch_up: { within: 5s }
      max_loss: { entries: 0 }     # The log is on storage that both share.
      redirect:
        - http: { path: /primary }
          deadline: 2s
      redirect_within: 2s
      rejoin: ask
      cooldown: 15s
      budget: { failovers: 100, per: 1h }
"#;

const RULES_ALONE: &str = r"    death_rules:
      - name: silent for ten seconds
        when: { ping: { silent: 10s } }
        verdict: dead
        then: alert
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_file_is_right_whatever_the_names_and_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"b\" ü");
        std::fs::create_dir(&dir).unwrap();
        for names in [&["n1", "n2"][..], &["no", "1.0", "-", ".."], &["alone"]] {
            let members: Vec<(String, String)> =
                names.iter().zip(1..).map(|(name, port)| ((*name).to_owned(), format!("127.0.0.1:{port}"))).collect();
            let plan = Plan {
                dir: &dir,
                socket: &dir.join("coroner.sock"),
                members: &members,
                node: ("driver", "127.0.0.1:9000".parse().unwrap()),
                executable: "coroner",
            };
            let path = dir.join("coroner.yaml");
            std::fs::write(&path, yaml(&plan)).unwrap();
            let config = config::load(&path).unwrap_or_else(|mistakes| panic!("{mistakes}"));
            assert_eq!(config.warnings, [""; 0]);
        }
    }
}
