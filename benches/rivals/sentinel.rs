//! Redis Sentinel: three sentinels, one beside each server and one on a third host, two of which decide.

use std::{process::Command, time::Duration};

use crate::{
    Rival,
    client::now,
    net::address,
    stage::{Stage, number},
};

const HOSTS: [&str; 3] = ["a", "m", "s"];
/// A failover that hangs is given up after this; two of them after another are twice as far apart.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Sentinel {
    pub(crate) down_after: Duration,
    pub(crate) moved: std::cell::Cell<u64>,
}

fn name_of(host: &str) -> String {
    format!("sentinel-{host}")
}

impl Sentinel {
    pub(crate) fn new(down_after: Duration) -> Self {
        Self { down_after, moved: std::cell::Cell::new(0) }
    }

    fn run(stage: &Stage, host: &str) {
        let mut command = stage.net.command(host);
        command.arg("redis-server").arg(stage.path(&format!("sentinel-{host}.conf"))).arg("--sentinel");
        stage.start(&name_of(host), command);
    }

    fn ask(stage: &Stage, host: &str, words: &[&str]) -> String {
        let mut command: Command = stage.net.command(host);
        command.args(["redis-cli", "-h", address(host), "-p", "26379"]).args(words);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Rival for Sentinel {
    fn name(&self) -> String {
        format!("sentinel-{}", self.down_after.as_millis())
    }

    fn start(&self, stage: &Stage) {
        for host in HOSTS {
            let conf = format!(
                "port 26379\nbind {0}\nprotected-mode no\ndir {1}\nsentinel monitor lab {2} 6379 2\n\
                 sentinel down-after-milliseconds lab {3}\nsentinel failover-timeout lab {4}\n\
                 sentinel parallel-syncs lab 1\n",
                address(host),
                stage.path("").display(),
                address("m"),
                self.down_after.as_millis(),
                FAILOVER_TIMEOUT.as_millis()
            );
            std::fs::write(stage.path(&format!("sentinel-{host}.conf")), conf).unwrap();
            Self::run(stage, host);
        }
    }

    fn missing(&self, stage: &Stage) -> Option<String> {
        // The next failover of the same servers is not begun before.
        if now() - self.moved.get() < 2 * u64::try_from(FAILOVER_TIMEOUT.as_nanos()).unwrap() + 500_000_000 {
            return Some("failover-timeout".into());
        }
        let primary = match stage.primary() {
            Ok(primary) => primary,
            Err(why) => return Some(why),
        };
        for host in HOSTS {
            let text = Self::ask(stage, host, &["SENTINEL", "MASTER", "lab"]);
            let words: Vec<&str> = text.lines().collect();
            let value = |name: &str| words.iter().position(|w| *w == name).and_then(|at| words.get(at + 1).copied());
            let seen = (value("ip"), value("flags"), value("num-slaves"), value("num-other-sentinels"));
            if seen != (Some(address(primary)), Some("master"), Some("1"), Some("2")) {
                return Some(format!("the sentinel of {host} says {seen:?}"));
            }
            let standby = Self::ask(stage, host, &["SENTINEL", "SLAVES", "lab"]);
            let words: Vec<&str> = standby.lines().collect();
            let value = |name: &str| words.iter().position(|w| *w == name).and_then(|at| words.get(at + 1).copied());
            if value("master-link-status") != Some("ok") || value("flags") != Some("slave") {
                return Some(format!("the sentinel of {host} says of the standby {:?}", value("flags")));
            }
        }
        None
    }

    fn beside(&self, member: &str) -> Vec<String> {
        vec![name_of(member)]
    }

    fn come_back(&self, stage: &Stage, member: &str) {
        self.moved.set(now());
        if !stage.runs(&name_of(member)) {
            Self::run(stage, member);
        }
        // Sentinel would do that by itself some ten seconds later.
        if !stage.runs(member) {
            let primary = if number(member) == 0 { "s" } else { "m" };
            stage.start_redis(member, Some(primary));
        }
    }

    fn beyond(&self) -> &'static str {
        "three sentinels, quorum 2, failover-timeout 2 s"
    }
}
