//! The agent as a process that is stopped or killed: the kernel shuts the gate.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use coroner::{
    agent::{
        gate::Gate,
        spec::{GateSpec, LocalClients},
    },
    model::Time,
    sys::clock,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::lab::{Broker, LATE_MAX, Lab};

const LEASE: Duration = Duration::from_millis(200);
const PORT: &str = "GATE_LAB_PORT";

/// Not a test of its own: what the agent of these tests does, in a process of its own. Renews, and says until when.
#[test]
fn role_of_the_agent() {
    let Ok(port) = std::env::var(PORT) else { return };
    let spec = GateSpec {
        table: "coroner_orders_a".into(),
        ports: vec![port.parse().unwrap()],
        local: LocalClients::Open,
        peers: Vec::new(),
        admit: Vec::new(),
    };
    let mut gate = Gate::install(&spec).unwrap();
    loop {
        let end = clock::now() + LEASE;
        gate.open_for(LEASE).unwrap();
        println!("\nuntil {}", end.0);
        std::thread::sleep(LEASE / 4);
    }
}

struct Agent {
    child: Child,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts an agent in this namespace, stops it by a signal in the middle of a lease, and returns the lease's end.
fn stop_by(signal: Signal, broker: &Broker, meanwhile: impl FnOnce()) -> (Agent, Time) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "process::role_of_the_agent", "--nocapture"]).env(PORT, broker.port.to_string());
    let child = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
    let mut agent = Agent { child };
    let output = agent.child.stdout.take().unwrap();
    let mut ends = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("until ").map(|number| Time(number.parse().unwrap())));
    ends.next().unwrap();
    meanwhile();
    ends.nth(3).unwrap();
    kill(Pid::from_raw(agent.child.id().cast_signed()), signal).unwrap();
    // Whatever it renewed, it renewed before.
    let last = clock::now() + LEASE;
    (agent, last)
}

#[test]
fn a_stopped_or_killed_agent_cannot_keep_the_port_open() {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        Lab::run(|lab| {
            let broker = Broker::start();
            let mut clients = Vec::new();
            let (_agent, end) = stop_by(signal, &broker, || {
                clients = vec![lab.client(broker.v4()).unwrap(), lab.client(broker.v6()).unwrap()];
            });
            for client in &clients {
                let late = client.falls_silent().since(end);
                println!("{signal}: the last byte came {:.1} ms after the end", late.as_secs_f64() * 1e3);
                assert!(late <= LATE_MAX, "{signal}: {late:?}");
            }
            assert!(!lab.is_served(broker.v4()));
            // The table outlives the process, shut.
            let mut gate = Gate::install(&broker.spec()).unwrap();
            assert_eq!(gate.is_open(), Ok(None));
            assert!(!lab.is_served(broker.v6()));
            assert!(gate.verify().is_ok());
        });
    }
}
