//! Ten instances on one store, with kills, pauses and cuts at random. `CORONER_ELECT_EVENTS=200` makes it long;
//! `CORONER_ELECT_STORES` names more stores than SQLite and Redis: `postgres mysql etcd`, or URLs of running servers;
//! `CORONER_ELECT_SEED` repeats a run, as far as processes let themselves be repeated.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    thread::sleep,
    time::Duration,
};

use coroner::sys::clock::Stopwatch;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    databases::{Kind, Server},
    kv,
    lab::{Instance, Lab, now},
    proxy::Proxy,
};

const INSTANCES: usize = 10;

struct Dice(u64);

impl Dice {
    /// A number below the limit: xorshift.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// The server's address in a URL, and the URL with another one in its place.
fn through(url: &str, proxy: &mut Option<Proxy>) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    if scheme == "sqlite" {
        return url.to_owned();
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    let address: SocketAddr =
        host.to_socket_addrs().unwrap_or_else(|e| panic!("{host}: {e}; write host:port")).next().unwrap();
    let made = Proxy::to(address);
    let user = if user.is_empty() { String::new() } else { format!("{user}@") };
    let url = format!("{scheme}://{user}127.0.0.1:{}{path}", made.port);
    *proxy = Some(made);
    url
}

/// Something that ends later.
enum Later {
    Continue(i32),
    Whole(usize),
}

fn torture(url: &str, seed: u64, events: u64) {
    let lab = Lab::new();
    let mut dice = Dice(seed | 1);
    let mut proxies: Vec<Option<Proxy>> = (0..INSTANCES).map(|_| None).collect();
    let urls: Vec<String> = proxies.iter_mut().map(|proxy| through(url, proxy)).collect();
    let programs = [lab.program(&[]), lab.program(&["deaf"]), lab.program(&["escape"])];
    let start = |who: usize| lab.start(&urls[who], &format!("app{who}"), &[], &programs[who % programs.len()]);
    let mut instances: Vec<Instance> = (0..INSTANCES).map(start).collect();
    lab.runs_after(0);
    let mut later: Vec<(u64, Later)> = Vec::new();
    let end_of = |later: Later, proxies: &[Option<Proxy>]| match later {
        // It may have ended meanwhile; within seconds its number is nobody else's.
        Later::Continue(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGCONT)),
        Later::Whole(who) => {
            if let Some(proxy) = &proxies[who] {
                proxy.cut(false);
            }
        }
    };
    for _ in 0..events {
        let due: Vec<usize> = (0..later.len()).rev().filter(|at| later[*at].0 <= now()).collect();
        for at in due {
            end_of(later.swap_remove(at).1, &proxies);
        }
        // Whoever runs the program is hit half of the time.
        let running = lab.lines().last().and_then(|line| line.instance.strip_prefix("app")?.parse::<usize>().ok());
        let anyone = usize::try_from(dice.below(INSTANCES as u64)).unwrap();
        let who = running.filter(|_| dice.below(2) == 0).unwrap_or(anyone);
        let until = now() + dice.below(4_000_000_000);
        let own = instances[who].pid();
        let stop = |pid: i32, later: &mut Vec<(u64, Later)>| {
            if kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok() {
                later.push((until, Later::Continue(pid)));
            }
        };
        let program = lab.lines().last().filter(|line| line.instance == format!("app{who}")).map(|line| line.pid);
        match dice.below(6) {
            0 => instances[who].signal(Signal::SIGKILL),
            1 => instances[who].signal(Signal::SIGTERM),
            2 => stop(own, &mut later),
            3 => {
                if let Some(pid) = program.filter(|pid| coroner::sys::process::look(*pid).is_some()) {
                    stop(pid, &mut later);
                }
            }
            4 => {
                stop(own, &mut later);
                if let Some(pid) = program.filter(|pid| coroner::sys::process::look(*pid).is_some()) {
                    stop(pid, &mut later);
                }
            }
            _ => {
                if let Some(proxy) = &proxies[who] {
                    proxy.cut(true);
                    later.push((until, Later::Whole(who)));
                } else {
                    instances[who].signal(Signal::SIGKILL);
                }
            }
        }
        sleep(Duration::from_millis(100 + dice.below(900)));
        for who in 0..INSTANCES {
            if instances[who].has_ended() && dice.below(2) == 0 {
                instances[who] = start(who);
            }
        }
    }
    for (_, later) in later {
        end_of(later, &proxies);
    }
    for who in 0..INSTANCES {
        if instances[who].has_ended() {
            instances[who] = start(who);
        }
    }
    // Everything is well: somebody runs, within the bound, and keeps running.
    let (healed, watch) = (now(), Stopwatch::start());
    let line = lab.runs_after(healed + 3_000_000_000);
    eprintln!(
        "{url}: {} runs, then {} in epoch {} after {:?}",
        lab.check(),
        line.instance,
        line.epoch,
        watch.elapsed()
    );
}

fn budget() -> (u64, u64) {
    (number("CORONER_ELECT_SEED").unwrap_or(4), number("CORONER_ELECT_EVENTS").unwrap_or(12))
}

fn by_sqlite(seed: u64, events: u64) {
    let dir = tempfile::tempdir().unwrap();
    torture(&format!("sqlite:{}", dir.path().join("elect.db").display()), seed, events);
}

fn by_redis(seed: u64, events: u64) {
    torture(&kv::Server::start(kv::Kind::Redis).url(), seed, events);
}

#[test]
fn never_two_programs_at_once_by_sqlite() {
    let (seed, events) = budget();
    by_sqlite(seed, events);
}

#[test]
fn never_two_programs_at_once_by_redis() {
    let (seed, events) = budget();
    by_redis(seed, events);
}

/// Nothing is named by default: the two above are the small budget.
#[test]
fn never_two_programs_at_once_by_the_stores_that_are_named() {
    let (seed, events) = budget();
    for name in std::env::var("CORONER_ELECT_STORES").unwrap_or_default().split_whitespace() {
        match name {
            "sqlite" => by_sqlite(seed, events),
            "redis" => by_redis(seed, events),
            "etcd" => torture(&kv::Server::start(kv::Kind::Etcd).url(), seed, events),
            "postgres" => torture(&Server::start(Kind::Postgres).url(), seed, events),
            "mysql" => torture(&Server::start(Kind::MariaDb).url(), seed, events),
            url => torture(url, seed, events),
        }
    }
}
