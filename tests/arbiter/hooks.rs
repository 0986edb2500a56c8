//! H1 to H18: fences, promotions, notices and reports that hang, lie, come late, or hit another.

use std::{fs, thread, time::Duration};

use serde_json::Value;

use crate::{
    http::{Answer, Server},
    pause::IS_DEAD,
    redis::{Client, RedisServer},
    world::{ARRIVALS, ASKED, KILL, Options, World},
};

/// A rule that fires as soon as a majority of the nodes says that nothing arrives, though the primary is well: what a
/// fence that does nothing is then looks like.
const NODES_ALONE: &str = "- name: nothing arrives
  when:
    at_least: { count: majority, of: arrivals, are: { silent: 500ms } }
  verdict: dead
  then: failover";

/// The nodes make the arbiter believe that the primary is dead. It takes writes all the while.
fn believed_dead(world: &World) {
    for node in &world.nodes {
        node.lies(true);
    }
}

fn steps(incident: &Value) -> Vec<(String, String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let steps = incident["steps"].as_array().cloned().unwrap_or_default();
    steps.iter().map(|s| (text(&s["label"]), text(&s["outcome"]), text(&s["detail"]))).collect()
}

fn newest(world: &World) -> Value {
    world.incident(&world.failovers()[0]["id"])
}

fn is_running(pid_file: &std::path::Path) -> bool {
    let Ok(pid) = fs::read_to_string(pid_file) else { return false };
    fs::read_to_string(format!("/proc/{}/status", pid.trim())).is_ok_and(|s| !s.contains("State:\tZ"))
}

#[test]
fn h1_a_fence_that_hangs_is_killed_with_all_its_children_and_the_next_level_is_taken() {
    let hang = "#!/bin/sh\necho $$ > \"@DIR@/hook.pid\"\nsleep 1000 &\necho $! > \"@DIR@/child.pid\"\nsleep 1000\n";
    let mut world = World::start(Options {
        fence: format!("- {{ exec: {{ command: [\"@DIR@/hang\"] }}, deadline: 1s }}\n{KILL}"),
        scripts: vec![("hang", hang.into())],
        ..Options::default()
    });
    world.member("broker-a").freeze();
    world.wait_primary("broker-b");
    let steps = steps(&newest(&world));
    assert!(steps[0].0.contains("hang") && steps[0].1.starts_with("unknown"), "{steps:?}");
    assert!(steps.iter().any(|s| s.0.contains("signal") && s.1.starts_with("confirmed")), "{steps:?}");
    for name in ["hook.pid", "child.pid"] {
        let file = world.dir().join(name);
        assert!(file.exists());
        world.wait_until("the hook's processes are gone", |_| !is_running(&file));
    }
}

#[test]
fn h5_a_fence_that_is_late_does_nothing_any_more() {
    let late = "#!/bin/sh\nsleep 2\ntouch \"@DIR@/late\"\n";
    let mut world = World::start(Options {
        fence: format!("- {{ exec: {{ command: [\"@DIR@/late-fence\"] }}, deadline: 1s }}\n{KILL}"),
        scripts: vec![("late-fence", late.into())],
        ..Options::default()
    });
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    let late = world.dir().join("late");
    world.stays("it was ended at its deadline", Duration::from_secs(2), |_| !late.exists());
}

#[test]
fn h14_a_fence_with_endless_output_and_children_costs_no_memory() {
    let endless = "#!/bin/sh\nyes & yes >&2 & echo $! > \"@DIR@/child.pid\"\nyes\n";
    let mut world = World::start(Options {
        fence: format!("- {{ exec: {{ command: [\"@DIR@/endless\"] }}, deadline: 1s }}\n{KILL}"),
        scripts: vec![("endless", endless.into())],
        ..Options::default()
    });
    let before = world.metric("process_resident_memory_bytes").unwrap();
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    let child = world.dir().join("child.pid");
    world.wait_until("its children are gone", |_| child.exists() && !is_running(&child));
    let after = world.metric("process_resident_memory_bytes").unwrap();
    assert!(after - before < 32e6, "{before} {after}");
    let incident = newest(&world).to_string();
    assert!(incident.len() < 100_000, "the record holds {} bytes", incident.len());
}

/// A fence whose programs both say that all is done, and a pager.
fn lying() -> (Server, Options) {
    let pager = Server::start(|_| Answer::Status(200, "{}".into()));
    let options = Options {
        rules: NODES_ALONE.into(),
        fence: "- { exec: { command: [\"true\"], status: [\"true\"], proof: gate }, deadline: 1s }".into(),
        report: format!("- {{ webhook: {{ url: \"http://{}/\" }} }}", pager.address),
        ..Options::default()
    };
    (pager, options)
}

#[test]
fn h2_a_fence_that_lies_is_found_out_by_a_write_and_nobody_is_promoted() {
    let (pager, options) = lying();
    let mut world = World::start(options);
    believed_dead(&world);
    let held = world.wait_held();
    let found = steps(&held);
    assert!(found.iter().any(|s| s.0.contains("exec") && s.1.starts_with("confirmed")), "{found:?}");
    assert!(
        found.iter().any(|s| s.0.contains("forbidden write") && s.1.contains("ACCEPTED")
            || s.1.contains("accepted") && !s.1.starts_with("not")),
        "{found:?}"
    );
    world.wait_until("people are paged", |_| {
        pager.requests().iter().any(|r| String::from_utf8_lossy(&r.body).contains("held"))
    });
    world.stays("nobody is promoted", Duration::from_secs(2), |world| world.role("broker-b") == Some("slave"));
    assert_eq!(world.cluster().unwrap()["primary"], "broker-a");
    // A fence may have taken hold: there is no way back.
    assert_eq!(world.cli(&["abort", "--yes"]).code, 75);
    // `continue` tries again, and finds the same.
    world.cli(&["continue"]).ok();
    world.wait_until("it has tried again", |world| {
        let found = steps(&newest(world));
        found.iter().filter(|s| s.0.contains("forbidden write") && s.1 != "running").count() == 2
    });
    world.wait_held();
    assert_eq!(world.role("broker-b"), Some("slave"));
    // A person stops it, and vouches for it.
    world.member_mut("broker-a").kill();
    assert_eq!(world.cli(&["fence", "confirm", "--yes", "--checked", ""]).code, 65);
    world.cli(&["fence", "confirm", "--yes", "--checked", "pulled the plug"]).ok();
    believe_again(&world);
    world.wait_primary("broker-b");
    let incident = newest(&world);
    assert!(incident["bypassed"].to_string().contains("pulled the plug"), "{incident:#}");
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
}

fn believe_again(world: &World) {
    for node in &world.nodes {
        node.lies(false);
    }
}

#[test]
fn h3_a_fence_program_that_fails_though_the_primary_is_dead_is_as_good_as_its_reading_back() {
    let mut world = World::start(Options {
        fence: "- { exec: { command: [\"false\"], status: [\"@DIR@/is-dead\"], proof: stopped }, deadline: 3s }".into(),
        scripts: vec![("is-dead", IS_DEAD.into())],
        ..Options::default()
    });
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    assert_eq!(newest(&world)["steps"][0]["outcome"].as_str().map(|o| o.starts_with("confirmed")), Some(true));
}

#[test]
fn h4_a_fence_that_stopped_another_server_is_void_and_the_next_level_is_taken() {
    let mut decoy = RedisServer::start();
    let wrong = format!("#!/bin/sh\nkill -9 {}\n", decoy.pid());
    let mut world = World::start(Options {
        rules: NODES_ALONE.into(),
        fence: format!(
            "- {{ exec: {{ command: [\"@DIR@/wrong\"], status: [\"@DIR@/wrong-is-dead\"], proof: stopped }}, \
             deadline: 2s }}\n{KILL}"
        ),
        scripts: vec![
            ("wrong", wrong),
            ("wrong-is-dead", format!("#!/bin/sh\ngrep -q '^State:.Z' /proc/{}/status\n", decoy.pid())),
        ],
        ..Options::default()
    });
    believed_dead(&world);
    world.wait_until("it is promoted", |world| world.role("broker-b") == Some("master"));
    believe_again(&world);
    world.wait_primary("broker-b");
    let steps = steps(&newest(&world));
    assert!(steps[0].0.contains("wrong") && steps[0].1.starts_with("confirmed"), "{steps:?}");
    let signal = steps.iter().position(|s| s.0.contains("by signal")).expect("the next level");
    let promote = steps.iter().position(|s| s.0.starts_with("promote")).unwrap();
    assert!(signal < promote && steps[signal].1.starts_with("confirmed"), "{steps:?}");
    assert!(world.member("broker-a").try_command(&["PING"]).is_err(), "the right one is stopped");
    decoy.kill();
}

#[test]
fn h8_h9_a_standby_that_cannot_be_promoted_is_tried_again_and_held_and_goes_on_when_mended() {
    let mut world = World::start(Options { failover: "promote: { within: 500ms }".into(), ..Options::default() });
    // It answers, follows, tells its role, and takes the order for nothing.
    world.member("broker-b").command(&["ACL", "SETUSER", "default", "-replicaof"]);
    world.member_mut("broker-a").kill();
    let held = world.wait_held();
    let tries = steps(&held).iter().filter(|s| s.0.starts_with("promote")).count();
    assert!(tries >= 3, "{held:#}");
    assert_eq!(world.cluster().unwrap()["primary"], "broker-a", "nobody is told of a primary that is none");
    assert!(world.nodes.iter().all(|n| n.following().primary == "broker-a"));
    assert_eq!(world.role("broker-b"), Some("slave"));
    world.member("broker-b").command(&["ACL", "SETUSER", "default", "+replicaof"]);
    world.cli(&["continue", "--wait"]).ok();
    world.wait_primary("broker-b");
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
}

#[test]
fn h9_a_standby_that_hangs_in_its_promotion_is_promoted_once_it_answers() {
    let slow = "#!/bin/sh\nkill -9 $(cat \"@DIR@/broker-a.pid\")\n";
    let mut world = World::start(Options {
        fence: "- { exec: { command: [\"@DIR@/slow\"], status: [\"@DIR@/is-dead\"], proof: stopped }, deadline: 4s }"
            .into(),
        scripts: vec![("slow", slow.into()), ("is-dead", IS_DEAD.into())],
        failover: "promote: { within: 400ms }".into(),
        ..Options::default()
    });
    // Every command but the promotion is answered; that one waits for a script that runs.
    let log = world.log_text().len();
    world.member_mut("broker-a").kill();
    world.wait_until("it catches up", |world| world.log_text()[log..].contains("catch up"));
    world.member("broker-b").freeze();
    thread::sleep(Duration::from_millis(900));
    world.member("broker-b").thaw();
    // Whether the freeze hit the promotion or came after it: one primary, one epoch, without a person or with one.
    world.wait_until("it ends, or asks for a person", |world| {
        let Some(cluster) = world.cluster() else { return false };
        if cluster["incident"]["state"] == "held" {
            world.cli(&["continue"]);
        }
        cluster["primary"] == "broker-b" && cluster["incident"].is_null()
    });
    world.wait_primary("broker-b");
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
    assert_eq!(world.failovers().len(), 1);
}

#[test]
fn h10_a_node_that_does_not_follow_is_listed() {
    let mut world = World::start(Options::default());
    world.nodes[2].is_stubborn(true);
    world.member_mut("broker-a").kill();
    world.wait_end("broker-b");
    let incident = newest(&world);
    assert_eq!(incident["outage"]["laggards"], serde_json::json!(["node-3"]));
    assert_eq!(incident["state"], "resolved");
    let told = steps(&incident).into_iter().find(|s| s.0.starts_with("redirect")).unwrap();
    assert!(told.2.contains("node-3"), "{told:?}");
    let markdown = world.cli_text(&["incidents", "show", "last"]);
    let first = world.failovers()[0]["id"].as_str().unwrap().to_owned();
    let markdown =
        if markdown.out.contains("node-3") { markdown } else { world.cli_text(&["incidents", "show", &first]) };
    assert!(markdown.ok().out.contains("node-3"));
    // It learns in the end, by asking.
    world.nodes[2].is_stubborn(false);
    world.wait_primary("broker-b");
}

#[test]
fn h13_a_pager_that_hangs_delays_nothing_and_is_told_later() {
    let pager = Server::start(|_| Answer::Hang);
    let down = "- { webhook: { url: \"http://127.0.0.1:9/\" } }";
    let report = format!("- {{ webhook: {{ url: \"http://{}/\" }} }}\n{down}", pager.address);
    let mut world = World::start(Options { report, ..Options::default() });
    world.member_mut("broker-a").kill();
    world.wait_within("the failover does not wait", Duration::from_secs(9), |world| {
        world.cluster().filter(|c| c["primary"] == "broker-b" && c["incident"].is_null())
    });
    let before = pager.requests().len();
    pager.answer(|_| Answer::Status(200, "{}".into()));
    world.wait_within("the report comes", Duration::from_secs(40), |_| {
        let requests = pager.requests();
        let text = |r: &crate::http::Request| String::from_utf8_lossy(&r.body).into_owned();
        requests[before..].iter().any(|r| text(r).contains("broker-b") && text(r).contains("resolved")).then_some(())
    });
}

#[test]
fn h17_p5_an_old_primary_that_wakes_up_is_demoted_its_tail_counted_and_kept_and_it_serves_again() {
    // A fence that stops the process and does not end it: what a paused virtual machine looks like.
    let stop = "#!/bin/sh\nkill -STOP $(cat \"@DIR@/$CORONER_MEMBER.pid\")\n";
    let is_stopped = "#!/bin/sh\npid=$(cat \"@DIR@/$CORONER_MEMBER.pid\")\n[ -e /proc/$pid ] || exit 0\ngrep -q '^State:.[TZ]' /proc/$pid/status\n";
    let mut world = World::start(Options {
        broker: "{ redis: { keep_tail_in: \"@DIR@\" } }",
        fence: "- { exec: { command: [\"@DIR@/stop\"], status: [\"@DIR@/is-stopped\"], proof: gate }, deadline: 2s }"
            .into(),
        scripts: vec![("stop", stop.into()), ("is-stopped", is_stopped.into())],
        ..Options::default()
    });
    let mut client = Client::connect(&world.member("broker-a").address()).unwrap();
    world.member("broker-a").freeze();
    // A write that waits in the socket, and is taken under the old epoch when the process wakes.
    let late = thread::spawn(move || client.command(&["SET", "tail", "divergent"]));
    world.wait_primary("broker-b");
    world.member("broker-a").thaw();
    drop(late.join());
    world.wait_standby("broker-a");
    let rejoin = world.incidents().into_iter().find(|i| i["kind"] == "rejoin").unwrap();
    let rejoin = world.incident(&rejoin["id"]);
    assert!(rejoin["rejoin"]["divergent"].as_u64().unwrap() > 0, "{:#}", rejoin["rejoin"]);
    let kept = fs::read_dir(world.dir()).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let data = fs::read(&path).ok()?;
        data.windows(9).any(|part| part == b"divergent").then_some(path)
    });
    assert!(kept.count() >= 1, "the tail lies in a file");
    assert_eq!(world.member("broker-a").command(&["GET", "tail"]), "$-1\r\n", "it is no longer part of the data");
    assert!(world.member("broker-a").command(&["SET", "tail", "again"]).starts_with("-READONLY"));

    // H18: not at once.
    world.member_mut("broker-b").kill();
    world.wait_until("the cooldown stands against it", |world| {
        world.cluster().is_some_and(|c| c["verdict"] == "dead") && world.blocking().iter().any(|g| g == "cooldown")
    });
    world.stays("it does not flip back", Duration::from_secs(2), |world| world.failovers().len() == 1);
    let first = world.failovers()[0]["id"].as_str().unwrap().to_owned();
    world.cli(&["incidents", "ack", &first, "--note", "seen"]).ok();
    world.wait_primary("broker-a");
    assert_eq!(world.cluster().unwrap()["epoch"], 3);
    assert_eq!(world.incident(&first.into())["acknowledged"]["note"], "seen");
}

#[test]
fn h18_the_cooldown_ends_by_itself() {
    let mut world = World::start(Options { cooldown: "20s", ..Options::default() });
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    world.member_mut("broker-a").restart();
    world.wait_standby("broker-a");
    world.member_mut("broker-b").kill();
    world.wait_until("the cooldown stands against it", |world| world.blocking().iter().any(|g| g == "cooldown"));
    assert_eq!(world.failovers().len(), 1);
    world.wait_within("it is over", Duration::from_secs(40), |world| {
        world.cluster().filter(|c| c["primary"] == "broker-a")
    });
}

#[test]
fn no_workable_fence_and_no_candidate_are_told_before_they_matter() {
    let pager = Server::start(|_| Answer::Status(200, "{}".into()));
    let mut world = World::start(Options {
        signals: format!("{ARRIVALS}\n{ASKED}"),
        report: format!("- {{ webhook: {{ url: \"http://{}/\" }} }}", pager.address),
        fence: "- { exec: { command: [\"@DIR@/is-dead\"], status: [\"@DIR@/is-dead\"], check: [\"@DIR@/check\"], proof: gate }, deadline: 2s }".into(),
        scripts: vec![("is-dead", IS_DEAD.into()), ("check", "#!/bin/sh\n[ ! -e \"@DIR@/broken\" ]\n".into())],
        ..Options::default()
    });
    let told = |what: &str| pager.requests().iter().any(|r| String::from_utf8_lossy(&r.body).contains(what));
    fs::write(world.dir().join("broken"), "").unwrap();
    world.wait_until("the fence is known to be broken", |world| world.blocking().iter().any(|g| g == "no_fence"));
    world.wait_until("people are told of the fence", |_| told("no_fence") || told("no fence"));
    world.member_mut("broker-a").kill();
    world.stays_untouched(Duration::from_secs(2));
    // It is mended: what had to be done is done.
    fs::remove_file(world.dir().join("broken")).unwrap();
    world.wait_primary("broker-b");
}
