//! A11, C3: the arbiter is stopped and goes on; what lay in its queues meanwhile does not confuse it. To a process, a
//! suspended machine and SIGSTOP look the same.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use crate::world::{Options, World};

/// A fence that takes two seconds and is read back independently.
pub fn slow_fence() -> Options {
    Options {
        fence: "- { exec: { command: [\"@DIR@/slow\"], status: [\"@DIR@/is-dead\"], proof: stopped }, deadline: 8s }".into(),
        scripts: vec![
            ("slow", "#!/bin/sh\ntouch \"@DIR@/fencing\"\nsleep 2\nkill -9 $(cat \"@DIR@/$CORONER_MEMBER.pid\") 2>/dev/null\nexit 0\n".into()),
            ("is-dead", IS_DEAD.into()),
        ],
        ..Options::default()
    }
}

/// Exit 0 if the member's process is gone or a zombie.
pub const IS_DEAD: &str = "#!/bin/sh
pid=$(cat \"@DIR@/$CORONER_MEMBER.pid\") || exit 2
for look in 1 2 3 4 5 6 7 8 9 10; do
  [ -e /proc/$pid ] || exit 0
  grep -q '^State:.Z' /proc/$pid/status && exit 0
  sleep 0.05
done
exit 1
";

/// The arbiter does not run for so long.
fn sleep_through(world: &World, for_: Duration) {
    world.signal(Signal::SIGSTOP);
    thread::sleep(for_);
    world.signal(Signal::SIGCONT);
}

#[test]
fn a11_an_arbiter_that_was_stopped_in_the_middle_of_a_fence_goes_on_to_the_same_end() {
    let mut world = World::start(slow_fence());
    world.member_mut("broker-a").kill();
    world.wait_until("the fence runs", |world| world.dir().join("fencing").exists());
    sleep_through(&world, Duration::from_secs(3));
    world.wait_primary("broker-b");
    assert_eq!(world.failovers().len(), 1);
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
    assert!(world.metric("coroner_tilt_total").unwrap() >= 1.0, "it noticed that it had been stopped");
    world.member_mut("broker-a").restart();
    world.wait_standby("broker-a");
}

#[test]
fn a11_c3_an_arbiter_that_slept_while_all_was_well_does_nothing_when_it_wakes() {
    let mut world = World::start(Options::default());
    sleep_through(&world, Duration::from_secs(3));
    world.wait_until("it says that it was stopped", |world| {
        world.status().is_some_and(|status| status["tilt"].is_string())
    });
    world.stays_untouched(Duration::from_secs(3));
    assert_eq!(world.metric("coroner_tilt_total"), Some(1.0));
    world.wait_ready();
}

#[test]
fn a11_c3_a_trouble_that_came_and_went_while_it_slept_causes_nothing() {
    let mut world = World::start(Options::default());
    world.signal(Signal::SIGSTOP);
    world.member("broker-a").freeze();
    thread::sleep(Duration::from_millis(2_500));
    world.member("broker-a").thaw();
    world.signal(Signal::SIGCONT);
    world.stays_untouched(Duration::from_secs(4));
    world.wait_ready();
}

#[test]
fn a11_c3_a_primary_that_died_while_it_slept_is_failed_over_once_it_has_looked_for_itself() {
    let mut world = World::start(Options { arbiter: "tilt: { after: 500ms, for: 2s }".into(), ..Options::default() });
    world.signal(Signal::SIGSTOP);
    world.member_mut("broker-a").kill();
    thread::sleep(Duration::from_secs(2));
    world.signal(Signal::SIGCONT);
    world.wait_until("it is tilted and does nothing", |world| world.blocking().iter().any(|guard| guard == "tilt"));
    assert!(world.failovers().is_empty());
    world.wait_primary("broker-b");
    assert_eq!(world.failovers().len(), 1);
}
