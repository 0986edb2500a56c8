//! The demo's configuration file. It is a first example as well, so it says what its parts are for.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use super::kind::Words;

/// What the file is made of.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) socket: &'a Path,
    pub(crate) http: SocketAddr,
    pub(crate) members: &'a [(&'a str, SocketAddr)],
    /// Nodes and the sender, with where they take notices.
    pub(crate) nodes: &'a [(String, String)],
    /// The name of the server's executable.
    pub(crate) executable: &'a str,
    /// What the broker's kind says.
    pub(crate) words: Words,
}

/// The file's text.
#[must_use]
pub(crate) fn yaml(plan: &Plan<'_>) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy().into_owned()).to_string();
    let in_dir = |name: &str| quoted(&plan.dir.join(name));
    let mut members = String::new();
    for (name, address) in plan.members {
        let _ = writeln!(members, "      {name}: {{ address: \"{address}\" }}");
    }
    let (mut nodes, mut access) = (String::new(), String::new());
    for (name, address) in plan.nodes {
        let _ = writeln!(nodes, "      {name}: {{ address: \"{address}\" }}");
        let token = serde_json::Value::from(format!("${{file:{}}}", plan.dir.join(format!("{name}.token")).display()));
        let _ = writeln!(access, "    - {{ name: {name}, role: report, token: {token} }}");
    }
    let store = serde_json::Value::from(format!("sqlite:{}", plan.dir.join("coroner.db").display()));
    TEMPLATE
        .replace("@HTTP@", &plan.http.to_string())
        .replace("@SOCKET@", &quoted(plan.socket))
        .replace("@STORE@", &store.to_string())
        .replace("@ACCESS@", access.trim_end())
        .replace("@MEMBERS@", members.trim_end())
        .replace("@NODES@", nodes.trim_end())
        .replace("@PID_FILE@", &in_dir("{member}.pid"))
        .replace("@EXECUTABLE@", plan.executable)
        .replace("@TITLE@", plan.words.title)
        .replace("@BROKER@", plan.words.broker)
        .replace("@MAX_LOSS@", plan.words.max_loss)
        .replace("@REJOIN@", plan.words.rejoin)
}

const TEMPLATE: &str = r#"# Made by `coroner demo`: @TITLE@.
# The silences are short, so that the demo is. On a network, allow seconds.

arbiter:
  name: demo-arbiter
  listen: { http: "@HTTP@", socket: @SOCKET@ }
  store: @STORE@
  # Who may report. A forged report could cause a death or hide one.
  access:
@ACCESS@

clusters:
  demo:
    mode: auto                     # shadow: judge and tell. manual: act once a person approved. auto: act.
    broker: @BROKER@
    members:
@MEMBERS@
    # The ones for whom the service exists. They say what reaches them, and take notices at their address.
    nodes:
@NODES@

    signals:
      arrivals: { push: { from: [node-1, node-2, node-3], every: 200ms } }
      # What the sender tries tells a silence from an idle night.
      sending:  { push: { from: [sender], every: 200ms } }
      ping:     { broker: { ask: ping, of: primary, every: 100ms, timeout: 80ms } }
      write:    { broker: { ask: write, of: primary, every: 200ms, timeout: 150ms } }
      role:     { broker: { ask: role, of: members, every: 200ms, timeout: 150ms } }

    death_rules:
      # Killed: nothing listens any more.
      - name: the port is closed
        when:
          all:
            - ping: { failing: 3 of 3 }
            - any: [{ ping: { failed_with: refused } }, { ping: { failed_with: reset } }]
            - at_least: { count: majority, of: arrivals, are: { silent: 1s } }
        verdict: dead
        then: failover

      # Frozen, or cut off: it does not answer us, and nothing reaches the nodes either.
      - name: silent to everyone
        when:
          all:
            - ping: { silent: 1s }
            - at_least: { count: majority, of: arrivals, are: { silent: 1s } }
        verdict: dead
        then: failover

      # It answers, but takes no writes, and the nodes feel it: useless for the service.
      - name: answers, but takes no writes
        when:
          all:
            - ping: ok
            - any: [{ write: { failing: 3 of 3 } }, { write: { writable: false } }]
            - at_least: { count: majority, of: arrivals, are: { silent: 1s } }
        for: 500ms
        verdict: gray
        then: failover

      # Seen by us alone: told, and nothing more.
      - name: does not answer the arbiter
        when: { ping: { silent: 500ms } }
        verdict: suspect
        then: alert

    failover:
      # The arbiter runs on the primary's host here: it kills the process, by its pid file. Nothing restarts it, which
      # is what makes the kill a proof.
      fence:
        - signal: { pid_file: @PID_FILE@, executable: @EXECUTABLE@, supervisor: none }
          deadline: 2s
      catch_up: { within: 2s }
      max_loss: @MAX_LOSS@
      redirect:
        - http: { path: /primary }
          deadline: 2s
      redirect_within: 5s
      rejoin: follow               # @REJOIN@
      cooldown: 1m
"#;

#[cfg(test)]
mod tests {
    use super::{super::kind::Broker, *};
    use crate::config;

    #[test]
    fn the_file_is_right_whatever_the_directory_is_called_and_the_broker() {
        for broker in [Broker::Relay, Broker::Redis] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("a \"b\" ü");
            std::fs::create_dir(&dir).unwrap();
            let nodes =
                ["node-1", "node-2", "node-3", "sender"].map(|name| (name.to_owned(), "127.0.0.1:9001".to_owned()));
            for (name, _) in &nodes {
                std::fs::write(dir.join(format!("{name}.token")), format!("a-long-token-of-{name}-0123456789\n"))
                    .unwrap();
            }
            let plan = Plan {
                dir: &dir,
                socket: &dir.join("coroner.sock"),
                http: "127.0.0.1:7400".parse().unwrap(),
                members: &[("broker-a", "127.0.0.1:1".parse().unwrap()), ("broker-b", "127.0.0.1:2".parse().unwrap())],
                nodes: &nodes,
                executable: "server",
                words: broker.kind().words(),
            };
            let path = dir.join("coroner.yaml");
            std::fs::write(&path, yaml(&plan)).unwrap();
            let config = config::load(&path).unwrap_or_else(|mistakes| panic!("{mistakes}"));
            assert_eq!(config.warnings, [""; 0]);
            let acting: Vec<_> = config::lint::lint(&config)
                .into_iter()
                .filter(|f| f.kind == config::lint::FindingKind::FiresWhenIsolated)
                .collect();
            assert_eq!(acting, [], "an example must not teach a rule that kills when only the arbiter is cut off");
        }
    }
}
