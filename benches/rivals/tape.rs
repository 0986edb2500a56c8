//! What the agents cost, and a tape of disturbances none of which may cause a failover.

use std::{
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    Rival,
    client::now,
    coroner::{Coroner, agent_of, epoch},
    ms, ready,
    stage::Stage,
};

/// Sebastiano Vigna's splitmix64: the same seed gives the same tape.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

/// A pair under load that is whole, and who is primary.
fn stand_up() -> (Stage, &'static str) {
    let stage = Stage::new(false, None);
    Coroner.start(&stage);
    let primary = ready(&Coroner, &stage).unwrap_or_else(|why| panic!("not ready: {why}\n{}", stage.story()));
    (stage, primary)
}

/// Clock ticks of a process, of the kernel's hundred in a second.
fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Prints what each process takes over twenty quiet seconds under the clients' load.
pub(crate) fn footprint() {
    const FOR: Duration = Duration::from_secs(20);
    let (stage, primary) = stand_up();
    let names = ["m", "s", "n1"].map(agent_of).into_iter().chain(["arbiter".to_owned()]);
    let before: Vec<(String, u32, u64)> =
        names.map(|name| (stage.pid(&name).unwrap(), name)).map(|(pid, name)| (name, pid, ticks(pid))).collect();
    sleep(FOR);
    println!("\nover {} s, the lease of 200 ms renewed every 50 ms by the agent of {primary}", FOR.as_secs());
    for (name, pid, was) in before {
        let share = (ticks(pid) - was) as f64 / 100.0 / FOR.as_secs_f64() * 100.0;
        println!("{name:<16} {:.1} MiB resident   {share:.2} % of a core", resident_kib(pid) as f64 / 1024.0);
    }
}

/// What holds the processor, ended when dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start(count: u64) -> Self {
        let hog = |_| Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Self((0..count).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// Plays disturbances for so long, and counts the failovers, of which there must be none.
pub(crate) fn play(length: Duration) {
    let seed = std::env::var("CORONER_BENCH_TAPE_SEED").ok().map_or_else(now, |text| text.parse().unwrap());
    let mut random = Random(seed);
    let (stage, _) = stand_up();
    println!("\nthe tape of disturbances, {} s, seed {seed}", length.as_secs());
    let started = now();
    let (mut epoch_was, mut moves) = (epoch(&stage).unwrap(), 0);
    let mut counts = [0_u32; 3];
    let mut longest = Duration::ZERO;
    while now() - started < u64::try_from(length.as_nanos()).unwrap() {
        stage.clients.log().clear();
        let begun = now();
        let kind = usize::try_from(random.next() % 3).unwrap();
        counts[kind] += 1;
        let what = match kind {
            0 => {
                let (count, time) = (2 + random.next() % 5, random.ms(500, 3_000));
                let _hogs = Hogs::start(count);
                sleep(time);
                format!("{count} processor hogs for {time:?}")
            }
            1 => {
                let names = ["m", "s", "agent-m", "agent-s", "arbiter"];
                let name = names[usize::try_from(random.next() % 5).unwrap()];
                let time = random.ms(50, 150);
                stage.signal(name, Signal::SIGSTOP);
                sleep(time);
                stage.signal(name, Signal::SIGCONT);
                format!("{name} frozen for {time:?}")
            }
            _ => {
                let (share, time) = (5 + random.next() % 26, random.ms(200, 2_000));
                let rule = format!("add rule bridge lab forward numgen random mod 100 < {share} drop\n");
                stage.net.nft("b", &rule);
                sleep(time);
                stage.mend_network();
                format!("{share} % of all packets lost for {time:?}")
            }
        };
        sleep(random.ms(200, 1_000));
        let gap = longest_gap(&stage, begun);
        longest = longest.max(gap);
        if let Some(epoch_now) = epoch(&stage)
            && epoch_now != epoch_was
        {
            moves += 1;
            println!("FALSE FAILOVER: {what}; no write for {}\n{}", ms(Some(gap)), Coroner.story(&stage));
            epoch_was = epoch_now;
            for member in ["m", "s"] {
                Coroner.come_back(&stage, member);
            }
            ready(&Coroner, &stage).unwrap_or_else(|why| panic!("not ready: {why}\n{}", stage.story()));
        }
    }
    println!(
        "{} hogs, {} freezes, {} bursts of loss: {moves} false failovers; the longest time without an acknowledged write {}",
        counts[0],
        counts[1],
        counts[2],
        ms(Some(longest))
    );
}

fn longest_gap(stage: &Stage, begun: u64) -> Duration {
    let mut at: Vec<u64> = stage.clients.log().iter().filter(|ack| ack.is_remote).map(|ack| ack.at).collect();
    at.insert(0, begun);
    Duration::from_nanos(at.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0))
}
