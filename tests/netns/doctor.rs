//! What the doctor says of a deployment with agents.

use std::thread::sleep;

use serde_json::Value;

use crate::{
    lab::{Lab, Options},
    scenarios::one_at_a_time,
};

fn examined(lab: &Lab) -> Value {
    let (_, text) = lab.coroner(&["doctor", "-o", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn findings(report: &Value, level: &str) -> Vec<String> {
    let all = report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == level);
    all.map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_whole_deployment_has_no_failure_and_what_is_cut_is_named() {
    let _one = one_at_a_time();
    let lab = Lab::new(&Options::agents());
    lab.until("the fences were rehearsed", || {
        let report = examined(&lab);
        report["rehearsals"].as_array().unwrap().iter().all(|rehearsal| rehearsal["usable"] == true)
    });
    let (is_well, text) = lab.coroner(&["doctor"]);
    println!("{text}");
    assert!(is_well && !text.contains("  fail  "), "{text}");
    let report = examined(&lab);
    let well = findings(&report, "ok");
    let says = |all: &[String], what: &str| all.iter().any(|text| text.contains(what));
    for what in [
        "all 3 voters are heard",
        "m holds the lease of epoch 1",
        "rounds of renewals were granted; the least that was left was",
        "the gate of m is open",
        "the gate of s is shut",
        "; proved",
        "agent gate (level 1) at m: rehearsed",
        "agent kill (level 1) at s: rehearsed",
        "m can be fenced with proof 4",
        "s is heard directly",
        "all 3 nodes whose agents are heard reach s",
    ] {
        assert!(says(&well, what), "{what}\n{text}");
    }
    let steps = report["timelines"][0]["steps"].as_array().unwrap();
    let wait = steps.iter().find(|step| step["step"] == "wait until the lease is over").expect("a row for the lease");
    assert!(wait["counts"] == true && wait["worst_ms"].as_f64() < Some(400.0), "{wait}");

    let (is_reached, table) = lab.coroner(&["fence", "test", "--method", "gate"]);
    println!("{table}");
    assert!(is_reached && table.contains("m can be fenced with proof 4"), "{table}");
    let (_, status) = lab.coroner(&["status"]);
    println!("{status}");
    assert!(status.contains("GATE") && status.contains(" left  open"), "{status}");

    // Relayed, one way only, and not at all.
    lab.net.cut("a", "s");
    lab.until("it is named", || says(&findings(&examined(&lab), "warn"), "s is heard through others only"));
    lab.net.heal();
    lab.net.cut_one_way("a", "s");
    lab.net.cut_one_way("n1", "m");
    lab.until("both are named", || {
        let warned = findings(&examined(&lab), "warn");
        says(&warned, "s is heard directly, and what is sent to it directly is lost")
            && says(&warned, "n1 hears m directly, and what it sends to it directly is lost")
    });
    lab.net.heal();
    lab.kill("agent-n3");
    lab.until("the silent one is named", || says(&findings(&examined(&lab), "warn"), "n3 was last heard"));
    lab.freeze("agent-s");
    lab.until("a member's silence is a failure", || {
        let report = examined(&lab);
        says(&findings(&report, "fail"), "s was last heard") && says(&findings(&report, "warn"), "not heard: s")
    });
    lab.thaw("agent-s");
    sleep(std::time::Duration::from_millis(500));
    lab.until("it is well again", || findings(&examined(&lab), "fail").is_empty());
}
