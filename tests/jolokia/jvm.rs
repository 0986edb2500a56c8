//! A real Jolokia on a real JVM: the kind's requests, its escapes and its reading of errors.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use coroner::{
    broker::Ask,
    model::{Fact, FailureKind, Outcome, Role},
};
use serde_json::{Value, json};

use crate::lab::{SOON, broker, order, target};

const JARS: [&str; 2] = ["/usr/share/java/jolokia-core.jar", "/usr/share/java/json-simple.jar"];
const INSTALL: &str = "install it: apt install openjdk-17-jdk-headless libjolokia-core-java libjson-simple-java";

struct Jvm {
    child: Child,
    port: u16,
}

impl Jvm {
    fn start(classes: &Path) -> Self {
        for jar in JARS {
            assert!(Path::new(jar).exists(), "{jar} is missing; {INSTALL}");
        }
        let class_path = JARS.join(":");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jolokia/java/Bean.java");
        let compiled =
            Command::new("javac").args(["-nowarn", "-cp", &class_path, "-d"]).arg(classes).arg(&source).output();
        let compiled = compiled.unwrap_or_else(|e| panic!("javac cannot be started: {e}; {INSTALL}"));
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        // It ends by itself when its standard input does, which it does with this process.
        let mut child = Command::new("java")
            .args(["-Xmx64m", "-cp", &format!("{}:{class_path}", classes.display()), "Bean"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("java cannot be started: {e}; {INSTALL}"));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().parse().unwrap_or_else(|e| panic!("the JVM told no port: {line:?}: {e}")), child }
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_jolokia_understands_and_is_understood() {
    let classes = tempfile::tempdir().unwrap();
    let jvm = Jvm::start(classes.path());
    let at = target("master-2", jvm.port);
    let base = json!({
        "preset": "graphdb",
        "repository": "cluster",
        "members": {
            "master-1": { "node": "http://other/repositories/cluster" },
            "master-2": { "node": "http://self/repositories/cluster" },
        },
        "alive": { "attribute": "ReadOnly", "is": [true, false] },
        "position": { "attribute": "LastTransaction" },
        "describe": [{ "attribute": "SyncPeers" }],
        // It has no writes of its own.
        "try_write": { "url": "http://127.0.0.1:1/", "content_type": "text/plain", "body": "" },
    });
    let with = |key: &str, value: Value| {
        let mut config = base.clone();
        config[key] = value;
        broker(config)
    };
    for by_get in [false, true] {
        let kind = with("reads_by_get", json!(by_get));
        assert!(matches!(kind.ask(Ask::Ping, &at, SOON).await, Outcome::Fact(Fact::Ok { .. })));
        // Names with slashes, quotes and the escape itself.
        for (step, value) in [("a/b", 1), ("c!d", 2), ("e\"f", 3)] {
            let mut config = base.clone();
            config["reads_by_get"] = json!(by_get);
            config["position"] = json!({"attribute": "Odd", "path": [step]});
            let outcome = broker(config).ask(Ask::Position, &at, SOON).await;
            assert_eq!(outcome, Outcome::Fact(Fact::Position { position: value }), "{step}, by GET: {by_get}");
        }
    }
    // Bulk.
    let kind = broker(base.clone());
    let Outcome::Fact(Fact::Role(report)) = kind.ask(Ask::Role, &at, SOON).await else { panic!() };
    assert_eq!((report.role, report.position, report.link_up), (Role::Standby, Some(42), Some(true)));
    // Errors inside the 200.
    let kind_of = async |key: &str, value: Value, ask| match with(key, value).ask(ask, &at, SOON).await {
        Outcome::Failure(failure) => failure.kind,
        Outcome::Fact(fact) => panic!("{fact:?}"),
    };
    assert_eq!(kind_of("mbean", json!("no:such=bean"), Ask::Role).await, FailureKind::NotFound);
    assert_eq!(kind_of("position", json!({"attribute": "NoSuch"}), Ask::Position).await, FailureKind::NotFound);
    assert_eq!(kind_of("mbean", json!("not a name"), Ask::Ping).await, FailureKind::Parse);
    let error_of = async |operation: &str, arguments: Value| {
        let until = json!({"attribute": "LastTransaction", "is": 43});
        let step = json!([{"name": "x", "exec": {"operation": operation, "arguments": arguments}, "until": until}]);
        with("promote", step).promote(&order(&at, 2), SOON).await.unwrap_err()
    };
    for (operation, word) in [("refuse", "read_only"), ("forbid", "auth"), ("late", "parse"), ("noSuch", "parse")] {
        let error = error_of(operation, json!([])).await;
        assert!(error.may_have_happened && error.detail.contains(word), "{operation}: {error}");
    }
    let error = error_of("big", json!([2_000_000])).await;
    assert!(error.detail.contains("longer than"), "{error}");

    // The acts: write and exec, verified.
    let done = kind.promote(&order(&at, 2), SOON).await.unwrap();
    assert!(done.detail.contains("unpeer the other master: done and read back"), "{}", done.detail);
    let Outcome::Fact(Fact::Role(report)) = kind.ask(Ask::Role, &at, SOON).await else { panic!() };
    assert_eq!(report.role, Role::Primary);
}
