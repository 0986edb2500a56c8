//! Every word of every kind of signal, against the condition that it is made for.

use super::{fails, passes};

/// It fires first at exactly this moment.
fn fires_at(when: &str, given: &str, at: &str) {
    passes(when, given, &format!("{{ fires: r, not_before: {at}, by: {at} }}"));
}

fn never_fires(when: &str, given: &str) {
    passes(when, given, "{ never: r }");
    fails(when, given, "{ fires: r }");
}

#[test]
fn all_is_well_unless_something_is_said() {
    for when in [
        "{ heartbeat: { silent: 2s } }",
        "{ heartbeat: { phi_above: 3 } }",
        "{ arrivals: { silent: 2s } }",
        "{ busy: { silent: 2s } }",
        "{ ping: failing }",
        "{ not: { ping: ok } }",
        "{ ping: { latency_above: 100ms } }",
        "{ canary: failing }",
        "{ canary: { latency_above: 100ms } }",
        "{ at_least: { count: all, of: role, are: { role_is: standby } } }",
        "{ role: { lag_above: 10 } }",
        "{ position: { stalled: 2s } }",
        "{ link: down }",
        "{ link: { lag_above: 1s } }",
        "{ write: { writable: false } }",
        "{ process: exited }",
        "{ frozen: firing }",
        "{ disk: { above: 95 } }",
        "{ disk: { above: 0 } }",
        "{ disk: { below: 1 } }",
        "{ not: { disk: { above: 10 } } }",
        "{ all: [{ disk: { above: 10 } }, { disk: { below: 20 } }, { disk: { stalled: 1m } }] }",
        "{ flag: { text: broken } }",
        "{ not: { flag: { text: good } } }",
        "{ ping: { unreachable_by: 1 } }",
    ] {
        passes(when, "{}", "{ verdict: alive, then: nothing, never: r }");
    }
    // What grows with every report was not attempted since: whether it stalls is not known.
    for when in ["{ arrivals: { stalled: 2s } }", "{ counter: { stalled: 4s } }"] {
        passes(when, "{}", "{ then: nothing, never: r }");
    }
    // What nobody ever said is not known.
    passes("{ pager: firing }", "{}", "{ verdict: unknown, then: nothing, never: [r, alive] }");
}

#[test]
fn heartbeats() {
    let silent = "{ heartbeat: { silent: 10s } }";
    passes(silent, "{ heartbeat: silent for 10s }", "{ fires: r, verdict: suspect, then: alert, rule: r }");
    fails(silent, "{ heartbeat: silent for 9999ms }", "{ fires: r }");
    fires_at(silent, "{ heartbeat: silent }", "10s");
    fires_at(silent, "{ heartbeat: silent from 3s }", "13s");
    fires_at(silent, "{ heartbeat: [fresh for 3s, silent] }", "13s");
    fires_at(silent, "{ heartbeat: silent from 2500ms }", "12500ms");
    never_fires(silent, "{ heartbeat: silent from 3s until 12s }");
    // The last one that counts came a period before.
    fires_at(silent, "{ heartbeat: absent }", "9s");
    fires_at(silent, "{ heartbeat: not echoed }", "9s");
    passes("{ heartbeat: { phi_above: 8 } }", "{ heartbeat: silent }", "{ fires: r, not_before: 1200ms, by: 3s }");
    never_fires(silent, "{ beats: silent }");
    let two = "{ at_least: { count: 2, of: beats, are: { silent: 5s } } }";
    passes(two, "{ beats: { \"b, c\": silent for 5s } }", "{ fires: r }");
    passes(two, "{ beats: { standbys: silent for 5s } }", "{ fires: r }");
    never_fires(two, "{ beats: { primary: silent } }");
    passes(two, "{ beats: { a: fresh, others: silent for 5s } }", "{ fires: r }");
}

#[test]
fn arrivals() {
    let silent = "{ at_least: { count: majority, of: arrivals, are: { silent: 5s } } }";
    passes(silent, "{ arrivals: silent for 5s }", "{ fires: r }");
    fires_at(silent, "{ arrivals: silent }", "5s");
    fires_at(silent, "{ arrivals: silent from 7s }", "12s");
    fires_at(silent, "{ arrivals: { n1: fresh, others: silent } }", "5s");
    never_fires(silent, "{ arrivals: { n1: silent, others: fresh } }");
    never_fires(silent, "{ arrivals: idle, busy: idle }");
    never_fires(silent, "{ arrivals: not attempting, busy: not attempting }");
    never_fires(silent, "{ arrivals: absent }");
    // What nobody sends until then is no silence.
    fires_at(silent, "{ arrivals: [idle for 60s, silent], busy: idle }", "65s");
    fires_at("{ arrivals: { stalled: 5s } }", "{ arrivals: stalled }", "5s");
    fires_at("{ arrivals: { lag_above: 5s } }", "{ arrivals: lag 6s }", "0s");
    never_fires("{ arrivals: { lag_above: 5s } }", "{ arrivals: lag 4s }");
    // Where messages are always expected, nobody has to be seen sending.
    fires_at("{ busy: { silent: 5s } }", "{ busy: idle }", "5s");
    fires_at("{ busy: { silent: 5s } }", "{ busy: silent }", "5s");
    never_fires("{ busy: { silent: 5s } }", "{ busy: absent }");
    // A counter knows neither ages nor attempts: the others' attempts count.
    passes("{ counter: { stalled: 5s } }", "{ counter: silent }", "{ fires: r, not_before: 3s, by: 6s }");
    never_fires("{ counter: { stalled: 5s } }", "{ counter: silent, arrivals: idle, busy: idle }");
    never_fires("{ counter: { stalled: 5s } }", "{ counter: local }");
}

#[test]
fn canaries() {
    let failing = "{ at_least: { count: majority, of: canary, are: { failing: 5 of 5 } } }";
    fires_at(failing, "{ canary: timed_out }", "4s");
    fires_at(failing, "{ canary: failing }", "4s");
    fires_at(failing, "{ canary: { n1: fresh, others: refused } }", "4s");
    never_fires(failing, "{ canary: { \"n1, n2\": local, n3: refused } }");
    fires_at("{ canary: { latency_above: 200ms } }", "{ canary: ok in 250ms }", "0s");
    never_fires("{ canary: { latency_above: 200ms } }", "{ canary: ok in 150ms }");
    // A canary that fails is an attempt.
    let silent = "{ arrivals: { silent: 5s } }";
    never_fires(silent, "{ arrivals: idle, busy: idle }");
    passes(silent, "{ arrivals: idle, canary: timed_out from 1s, busy: idle }", "{ fires: r, by: 8s }");
}

#[test]
fn looks() {
    let thrice = "{ ping: { failing: 3 of 3 } }";
    fires_at(thrice, "{ ping: refused }", "1s");
    fires_at(thrice, "{ ping: timed out from 10s }", "11s");
    fires_at(thrice, "{ ping: [refused for 1s, ok for 1s, refused] }", "3s");
    never_fires(thrice, "{ ping: refused until 900ms }");
    for kind in
        ["refused", "timed_out", "unreachable", "reset", "wrong_answer", "full", "read_only", "loading", "overloaded"]
    {
        fires_at("{ ping: failing }", &format!("{{ ping: {kind} }}"), "0s");
        fires_at(&format!("{{ ping: {{ failed_with: {kind} }} }}"), &format!("{{ ping: {kind} }}"), "0s");
    }
    for kind in ["auth", "tls", "parse", "not_found", "local"] {
        never_fires("{ any: [{ ping: failing }, { not: { ping: ok } }] }", &format!("{{ ping: {kind} }}"));
    }
    never_fires("{ ping: { failed_with: refused } }", "{ ping: timed_out }");
    fires_at("{ ping: { silent: 5s } }", "{ ping: silent }", "5s");
    never_fires("{ ping: { silent: 5s } }", "{ ping: absent }");
    fires_at("{ ping: { latency_above: 100ms } }", "{ ping: ok in 150ms }", "0s");
    passes("{ ping: ok }", "{}", "{ fires: r, at: 0s }");
    passes("{ ping: ok, for: 5s }", "{ ping: absent from 3s }", "[{ fires: r, at: 0s }, { never: r, from: 5s }]");
    fires_at("{ ping: { failing: 3 of 3 }, for: 2s }", "{ ping: refused }", "3s");
    fires_at("{ ping: failing, within: { true_for: 3s, of: 10s } }", "{ ping: refused }", "3s");
}

#[test]
fn roles_positions_and_links() {
    passes(
        "{ at_least: { count: all, of: role, are: { role_is: standby } } }",
        "{ role: { a: standby } }",
        "{ fires: r }",
    );
    passes(
        "{ at_least: { count: 2, of: role, are: { role_is: primary } } }",
        "{ role: { c: primary } }",
        "{ fires: r }",
    );
    passes("{ role: { lag_above: 1000 } }", "{ role: { b: 5000 behind } }", "{ fires: r }");
    never_fires("{ role: { lag_above: 1000 } }", "{ role: { b: 500 behind } }");
    passes("{ role: down }", "{ role: { standbys: down } }", "{ fires: r }");
    never_fires("{ role: down }", "{ role: { standbys: up } }");
    fires_at("{ at_least: { count: 1, of: role, are: { stalled: 10s } } }", "{ role: { b: stalled } }", "10s");
    fires_at("{ position: { stalled: 10s } }", "{ position: stalled }", "10s");
    passes("{ position: { below: 100 } }", "{ position: 50 }", "{ fires: r }");
    never_fires("{ position: { below: 100 } }", "{ position: 150 }");
    passes("{ position: { lag_above: 1000 } }", "{ position: { c: 5000 behind } }", "{ fires: r }");
    fires_at("{ link: down }", "{ link: { b: down, c: up } }", "0s");
    never_fires("{ not: { link: up } }", "{ link: { b: down, c: up } }");
    fires_at("{ not: { link: up } }", "{ link: down }", "0s");
    fires_at("{ link: { lag_above: 5s } }", "{ link: quiet }", "5500ms");
    passes("{ link: { lag_above: 5s } }", "{ link: quiet for 6s }", "{ fires: r }");
    never_fires("{ link: { lag_above: 5s } }", "{ link: quiet for 4s }");
    fires_at("{ link: { lag_above: 5s } }", "{ link: lag 6s }", "0s");
    never_fires("{ link: down }", "{ link: timed_out }");
}

#[test]
fn writes_processes_numbers_texts_and_alerts() {
    for word in ["not writable", "false", "read_only", "full"] {
        passes("{ write: { writable: false } }", &format!("{{ write: {word} }}"), "{ fires: r }");
    }
    for word in ["writable", "true", "auth"] {
        never_fires("{ write: { writable: false } }", &format!("{{ write: {word} }}"));
    }
    fires_at("{ process: exited }", "{ process: exited from 3s }", "3s");
    never_fires("{ process: exited }", "{ process: running }");
    never_fires("{ process: exited }", "{ process: silent }");
    passes(
        "{ at_least: { count: 2, of: processes, are: exited } }",
        "{ processes: { standbys: exited } }",
        "{ fires: r }",
    );
    fires_at("{ frozen: firing, for: 1s }", "{ frozen: firing from 2s }", "3s");
    never_fires("{ frozen: firing }", "{ frozen: not firing }");
    never_fires("{ frozen: firing }", "{ frozen: silent }");
    passes("{ disk: { above: 95 } }", "{ disk: 97.5 }", "{ fires: r }");
    fires_at("{ disk: { above: 95 } }", "{ disk: [40 for 60s, 96] }", "60s");
    never_fires("{ disk: { above: 95 } }", "{ disk: 95 }");
    passes("{ clients: { below: 1 }, for: 1m }", "{ clients: 0 for 1m }", "{ fires: r }");
    passes("{ disk: { stalled: 2m } }", "{ disk: stalled for 3m }", "{ fires: r }");
    passes("{ disk: { stalled: 2m } }", "{ disk: 12 for 3m }", "{ fires: r }");
    passes("{ at_least: { count: 2, of: load, are: { above: 3 } } }", "{ load: { n1: 1, others: 5 } }", "{ fires: r }");
    never_fires("{ load: failing }", "{ load: local }");
    passes("{ flag: { text: ok } }", "{ flag: ok }", "{ fires: r }");
    passes("{ flag: { text: waiting for work } }", "{ flag: waiting for work for 5s }", "{ fires: r }");
    never_fires("{ flag: { text: ok } }", "{ flag: not ok }");
    fires_at("{ pager: firing }", "{ pager: firing from 4s }", "4s");
    passes("{ pager: firing }", "{ pager: firing from 4s until 9s }", "[{ fires: r, at: 8s }, { never: r, from: 9s }]");
    // What was never told is not known to be over.
    never_fires("{ not: { pager: firing } }", "{}");
    passes("{ not: { pager: firing } }", "{ pager: resolved }", "{ fires: r }");
}

#[test]
fn several_arbiters_look() {
    let majority = "{ ping: { unreachable_by: majority } }";
    passes(majority, "{ ping: refused }", "{ fires: r }");
    never_fires(majority, "{ ping: { arbiter-1: refused, others: ok } }");
    passes(majority, "{ ping: { arbiter-3: ok, others: refused } }", "{ fires: r }");
    // One that tells nothing is not counted after a while.
    passes(majority, "{ ping: { arbiter-1: refused, arbiter-2: absent, arbiter-3: ok } }", "{ never: r, from: 6s }");
}

#[test]
fn a_timeline_is_held_against_several_expectations() {
    let when = "{ ping: { failing: 3 of 3 }, for: 2s }";
    let given = "{ ping: [ok for 10s, refused for 20s, ok] }";
    passes(
        when,
        given,
        "[{ at: 10s, verdict: alive }, { verdict: suspect, not_before: 13s, by: 13s }, { at: 29s, then: alert, rule: r }, \
         { at: 30s, then: nothing }, { never: failover }, { never: [dead, gray] }, { never: { rule: r }, until: 12s }]",
    );
    for wrong in [
        "{ at: 10s, verdict: suspect }",
        "{ verdict: suspect, by: 12s }",
        "{ verdict: suspect, not_before: 14s, by: 20s }",
        "{ never: suspect }",
        "{ never: { then: alert } }",
        "{ never: r, from: 12s, until: 14s }",
        "{ verdict: suspect }",
    ] {
        fails(when, given, wrong);
    }
}
