//! `coroner doctor` and `coroner fence test` against the live arbiter, without agents.

use serde_json::Value;

use crate::{
    http,
    node::token_of,
    world::{Options, World},
};

fn findings<'a>(report: &'a Value, section: &str, level: &str) -> Vec<&'a str> {
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|f| f["section"] == section && f["level"] == level).map(|f| f["text"].as_str().unwrap()).collect()
}

fn rehearsed(world: &mut World) {
    world.wait_until("the fences were rehearsed", |world| {
        let report = world.get("/v1/doctor").unwrap();
        report["rehearsals"].as_array().unwrap().iter().all(|rehearsal| rehearsal["age_ms"].is_number())
    });
}

#[test]
fn a_healthy_deployment_without_agents_has_nothing_to_be_warned_of() {
    let mut world = World::start(Options::default());
    rehearsed(&mut world);
    let ran = world.cli(&["doctor"]).ok();
    let report = ran.json();
    // How fast its disk and its loop are is this machine's affair, which other tests share.
    for section in ["file", "mesh", "leases", "fences", "brokers", "nodes", "readiness"] {
        assert_eq!(findings(&report, section, "warn"), Vec::<String>::new(), "{section}: {report:#}");
    }
    for section in ["file", "arbiter", "mesh", "leases", "fences", "brokers", "nodes", "readiness"] {
        assert!(!findings(&report, section, "ok").is_empty(), "{section}: {report:#}");
    }
    assert!(report["mesh"].is_null());
    assert!(findings(&report, "mesh", "ok")[0].contains("no agents"));
    assert!(findings(&report, "nodes", "ok")[0].starts_with("3 of 3 nodes report; 3 say"), "{report:#}");

    let timeline = &report["timelines"][0];
    let step = |name: &str| {
        let steps = timeline["steps"].as_array().unwrap();
        steps.iter().find(|step| step["step"].as_str().unwrap().starts_with(name)).cloned().unwrap_or_default()
    };
    // The slower rule: arrivals are silent for 1s, told with the next report.
    assert_eq!(step("detect: silent to everyone")["worst_ms"], 1100.0, "{timeline:#}");
    assert_eq!(step("detect: the port is closed")["counts"], false, "{timeline:#}");
    assert_eq!(step("fence, level 1")["worst_ms"], 2000.0);
    assert!(step("fence, level 1")["measured_in"].as_str().unwrap().starts_with("a rehearsal"), "{timeline:#}");
    let counted = timeline["steps"].as_array().unwrap().iter().filter(|step| step["counts"] == true);
    let sum: f64 = counted.map(|step| step["worst_ms"].as_f64().unwrap()).sum();
    assert_eq!(timeline["worst_ms"], sum);

    let text = world.cli_text(&["doctor", "orders"]).ok().out;
    for part in
        ["Fences\n", "A failover of orders, step by step", "detect: silent to everyone", "All is as it should be."]
    {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let quiet = world.cli_text(&["doctor", "--problems"]).ok().out;
    assert!(!quiet.contains("Fences\n"), "{quiet}");
    assert_eq!(world.cli(&["doctor", "payments"]).code, 65);
    let ask = |token: Option<&str>| http::tcp(world.http, "GET", "/v1/doctor", token, b"").unwrap().0;
    assert_eq!((ask(None), ask(Some(&token_of("node-1"))), ask(Some(&token_of("viewer")))), (401, 403, 200));
}

#[test]
fn what_is_amiss_is_named_with_its_remedy_and_the_exit_code() {
    let broken = "- { exec: { command: [\"@DIR@/fence\"], check: [\"@DIR@/check\"], status: [\"@DIR@/fence\"], proof: stopped }, deadline: 2s }";
    let mut world = World::start(Options {
        fence: broken.into(),
        scripts: vec![
            ("fence", "#!/bin/sh\nexit 0\n".into()),
            ("check", "#!/bin/sh\ntest \"$CORONER_MEMBER\" != broker-a || test ! -e @DIR@/broken\n".into()),
        ],
        ..Options::default()
    });
    rehearsed(&mut world);
    world.cli(&["doctor"]).ok();
    assert_eq!(world.cli(&["fence", "test"]).code, 0);

    std::fs::write(world.dir().join("broken"), "").unwrap();
    let ran = world.cli(&["fence", "test", "--member", "broker-a", "--method", "exec"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["rehearsals"][0]["usable"], &report["members"][0]["reaches"]), (&false.into(), &false.into()));
    assert!(report["rehearsals"][0]["took_ms"].as_f64().unwrap() > 0.0);
    assert!(report["rehearsals"][0]["proof_age_ms"].is_number(), "it was proved before: {report:#}");
    // What was found counts at once.
    world.wait_until("the guard stands", |world| world.blocking().contains(&"no_fence".to_owned()));
    let text = world.cli_text(&["fence", "test", "orders"]);
    assert!(text.code == 1 && text.out.contains("broker-a cannot be fenced with proof 3"), "{text:?}");
    assert!(text.out.contains("broker-b can be fenced with proof 4"), "{text:?}");
    assert_eq!(world.cli(&["fence", "test", "--member", "broker-b"]).code, 0);
    for wrong in [["--member", "broker-x"], ["--method", "gate"]] {
        assert_eq!(world.cli(&["fence", "test", wrong[0], wrong[1]]).code, 65, "{wrong:?}");
    }
    assert_eq!(world.cli(&["fence", "test", "payments"]).code, 65);
    let path = "/v1/clusters/orders/fence-test";
    let ask = |token: &str| http::tcp(world.http, "POST", path, Some(&token_of(token)), b"{}").unwrap().0;
    assert_eq!((ask("viewer"), ask("node-1"), ask("alice")), (403, 403, 200));

    let ran = world.cli(&["doctor"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = ran.json();
    assert!(findings(&report, "fences", "fail")[0].starts_with("the primary broker-a cannot be fenced"), "{report:#}");
    assert!(findings(&report, "readiness", "fail")[0].starts_with("no_fence: "), "{report:#}");
    let metric = |name: &str, member: &str| {
        let method = world.fill("exec @DIR@/fence");
        let labels = format!("cluster=\"orders\",level=\"1\",member=\"{member}\",method=\"{method}\"");
        world.metric(&format!("{name}{{{labels}}}"))
    };
    assert_eq!(metric("coroner_fence_usable", "broker-a"), Some(0.0));
    assert_eq!(metric("coroner_fence_usable", "broker-b"), Some(1.0));
    assert!(
        metric("coroner_fence_proof_age_seconds", "broker-a")
            > metric("coroner_fence_rehearsal_age_seconds", "broker-a")
    );
    assert_eq!(world.metric("coroner_fence_check_interval_seconds"), Some(1.0));

    // A file that could not be loaded again.
    std::fs::remove_file(world.dir().join("broken")).unwrap();
    world.wait_until("the guard is gone", |world| world.blocking().is_empty());
    let text = std::fs::read_to_string(&world.config).unwrap();
    std::fs::write(&world.config, text.replace("mode: auto", "mode: autto")).unwrap();
    let report = world.cli(&["doctor"]).json();
    assert!(findings(&report, "file", "fail")[0].contains("could not start again"), "{report:#}");
    std::fs::write(&world.config, text.replace("mode: auto", "mode: manual")).unwrap();
    let report = world.cli(&["doctor"]).ok().json();
    assert!(findings(&report, "file", "warn")[0].contains("decides otherwise"), "{report:#}");

    // A standby that is gone.
    world.member_mut("broker-b").kill();
    world.wait_until("it is missed", |world| {
        let report = world.cli(&["doctor"]).json();
        findings(&report, "brokers", "fail").iter().any(|text| text.starts_with("broker-b was last seen"))
    });
}

#[test]
fn the_timeline_is_measured_by_what_happened() {
    let mut world = World::start(Options::default());
    world.member_mut("broker-a").kill();
    world.wait_end("broker-b");
    world.wait_primary("broker-b");
    let id = world.failovers()[0]["id"].clone();
    let timeline = world.cli(&["doctor"]).json()["timelines"][0].clone();
    assert_eq!(timeline["measured_in"], id, "{timeline:#}");
    let outage = timeline["measured_ms"].as_f64().unwrap();
    let steps = timeline["steps"].as_array().unwrap();
    let measured = |name: &str| {
        let step = steps.iter().find(|step| step["step"].as_str().unwrap().starts_with(name));
        let step = step.unwrap_or_else(|| panic!("{name}: {timeline:#}"));
        assert_eq!(step["measured_in"], id, "{name}: {timeline:#}");
        step["measured_ms"].as_f64().unwrap()
    };
    let took: f64 = ["fence, level 1", "let the standby catch up", "promote"].into_iter().map(measured).sum();
    assert!(took > 0.0 && took < outage, "{timeline:#}");
    let detections = ["detect: the port is closed", "detect: silent to everyone"];
    let by_rule = detections.iter().filter(|name| {
        steps.iter().any(|step| {
            step["step"] == **name && step["measured_in"] == id && step["measured_ms"].as_f64() < Some(outage)
        })
    });
    assert_eq!(by_rule.count(), 1, "one rule saw it: {timeline:#}");
}
