//! `coroner simulate`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use super::{
    Context,
    exit::{Code, Exit, Failure},
    style::Paint,
    table::Table,
};
use crate::{
    config::{self, Config, Part, Source as From},
    model::{ClusterName, ClusterPolicy, time::human},
    sim::{
        self, Replication, Setting, Source,
        explore::{self, Case, Danger, Family, Tally},
        run::Recorded,
    },
    sys::clock::Stopwatch,
};

/// Lines of a story that are shown; the whole of it is what `coroner replay` prints.
const STORY_LINES: usize = 60;

/// Play every fault, every pair of faults and thousands by chance against a file's clusters: could two masters serve, is a
/// failover missed, is one false, how long is the worst outage? Touches nothing: no host, no broker, no store.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file.
    #[arg(default_value = "/etc/coroner/coroner.yaml", env = "CORONER_CONFIG")]
    file: PathBuf,
    /// Only this cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// How many runs of up to six faults, drawn by chance.
    #[arg(long, default_value_t = 2_000)]
    random: u64,
    /// How many pairs of faults at most; more than there are: all of them.
    #[arg(long, default_value_t = 2_000)]
    pairs: usize,
    /// From which number chance begins: the same number, the same runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The standbys get every write before it is acknowledged.
    #[arg(long)]
    synchronous: bool,
    /// Nobody restarts a broker that ended.
    #[arg(long)]
    no_supervisor: bool,
    /// Exit with 1 if anything was found.
    #[arg(long)]
    strict: bool,
    /// Say what the runs reached, and what they did not.
    #[arg(long)]
    coverage: bool,
    /// Write each finding to a file in this directory, for `coroner replay`.
    #[arg(long, value_name = "DIRECTORY")]
    save: Option<PathBuf>,
}

/// What came of it, for one cluster.
#[derive(Serialize)]
struct Report {
    cluster: ClusterName,
    runs: u64,
    seconds: f64,
    promoted: u64,
    held: u64,
    findings: Vec<Finding>,
    worst_outage: BTreeMap<Family, Outage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Lost>,
    #[serde(skip)]
    coverage: String,
    #[serde(skip)]
    max_loss: Option<u64>,
}

#[derive(Serialize)]
struct Finding {
    danger: Danger,
    runs: u64,
    faults: String,
    story: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outage {
    outage_ms: f64,
    faults: String,
}

#[derive(Serialize)]
struct Lost {
    writes: usize,
    faults: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let config = config::load_with(&args.file, &config::WithoutSecrets)
        .map_err(|mistakes| Failure::new(Code::Config, mistakes.to_string()))?;
    let chosen: Vec<&ClusterPolicy> = config
        .policy
        .clusters
        .values()
        .filter(|cluster| args.cluster.as_deref().is_none_or(|name| name == cluster.name.as_str()))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = config.policy.clusters.keys().map(|name| name.as_str()).collect();
        let text = format!("There is no such cluster in {}; it has: {}.", args.file.display(), names.join(", "));
        return Err(Failure::new(Code::Data, text));
    }
    let mut reports = Vec::new();
    for cluster in chosen {
        reports.push(simulate(&config, cluster, args)?);
    }
    let found = reports.iter().map(|report| report.findings.len()).sum::<usize>();
    context.emit(&reports, |paint| {
        let mut text = String::new();
        for report in &reports {
            text.push_str(&render(report, args, paint));
        }
        text
    })?;
    Ok(if args.strict && found > 0 { Exit::FOUND } else { Exit::OK })
}

/// The file's cluster in its surroundings, as far as the file knows them.
#[must_use]
pub fn setting(config: &Config, cluster: &ClusterPolicy) -> Setting {
    let mut setting = Setting::new(&config.policy, cluster);
    if let Some(parts) = config.clusters.get(&cluster.name) {
        for (name, source) in &parts.sources {
            if let From::Agent { watch } = source {
                setting.sources.insert(name.clone(), Source::Agent(*watch));
            }
        }
        setting.gates = parts.guards.values().filter(|g| g.gate.is_some()).map(|g| g.member.clone()).collect();
        if let Some(longest) = parts.guards.values().map(|guard| guard.progress_timeout).max() {
            setting.progress_timeout = longest;
        }
    }
    if let Some(mesh) = &config.mesh {
        setting.has_relays = mesh.relays;
        setting.beat_every = mesh.beat_every;
        setting.order_valid_for = mesh.order_valid_for;
        for (name, party) in &mesh.parties {
            if let Part::Members(members) = &party.part {
                let own = members.iter().filter(|(of, _)| *of == cluster.name);
                setting.agents.extend(own.map(|(_, member)| (name.clone(), member.clone())));
            }
        }
    }
    if config.arbiter.shared.is_some() {
        let arbiters = config
            .mesh
            .as_ref()
            .map_or(2, |mesh| mesh.parties.values().filter(|party| party.part == Part::Arbiter).count());
        setting.arbiters = arbiters.clamp(2, 3);
    }
    setting
}

fn simulate(config: &Config, cluster: &ClusterPolicy, args: &Args) -> Result<Report, Failure> {
    let mut setting = setting(config, cluster);
    if args.synchronous {
        setting.replication = Replication::Sync;
    }
    if args.no_supervisor {
        setting.restarts_after = None;
    }
    let mut cases = explore::cases(&setting, args.seed, args.random);
    explore::thin(&mut cases, args.pairs, args.seed);
    let watch = Stopwatch::start();
    let tally = play(&setting, &cases, cluster.name.as_str());
    let seconds = watch.elapsed().as_secs_f64();
    let mut findings = Vec::new();
    for (danger, found) in &tally.findings {
        let small = sim::shrink(&setting, &found.case.schedule, |outcome| explore::dangers(outcome).contains(danger));
        let told = sim::run_told(&setting, &small);
        let file = match &args.save {
            Some(directory) => {
                let recorded = Recorded { setting: setting.clone(), schedule: small.clone() };
                Some(save(directory, cluster, *danger, &recorded)?)
            }
            None => None,
        };
        findings.push(Finding {
            danger: *danger,
            runs: found.times,
            faults: explore::words(&setting, &small),
            story: story(&told),
            file,
        });
    }
    let outage = |(family, (outage, case)): (&Family, &(Duration, Case))| {
        let faults = explore::words(&setting, &case.schedule);
        (*family, Outage { outage_ms: outage.as_secs_f64() * 1e3, faults })
    };
    Ok(Report {
        cluster: cluster.name.clone(),
        runs: tally.total(),
        seconds,
        promoted: tally.promoted,
        held: tally.held,
        findings,
        worst_outage: tally.worst_outage.iter().map(outage).collect(),
        lost: tally
            .worst_loss
            .as_ref()
            .map(|(writes, case)| Lost { writes: *writes, faults: explore::words(&setting, &case.schedule) }),
        coverage: tally.coverage.report(),
        max_loss: cluster.failover.max_loss,
    })
}

/// The story from shortly before the first fault on; what the judge said stands at its end.
fn story(told: &sim::Outcome) -> Vec<String> {
    let begin = told.story.iter().position(|line| line.contains("FAULT")).unwrap_or(0);
    let mut lines: Vec<String> = told.story[begin..].to_vec();
    let judged = told.violations.iter().map(|violation| format!("            BROKEN: {}", violation.text));
    if !told.violations.is_empty() {
        // What came after that moment explains nothing.
        lines.extend(judged);
    }
    lines
}

/// Plays all of them on all cores, each result told on standard error where somebody looks.
fn play(setting: &Setting, cases: &[Case], name: &str) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let is_watched = io::stderr().is_terminal();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (next, total) = (&next, &total);
            scope.spawn(move || {
                let mut own = Tally::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { break };
                    own.add(case, &sim::run(setting, &case.schedule));
                    if is_watched && thread == 0 && number % 16 < threads {
                        progress(name, number, cases.len());
                    }
                }
                match total.lock() {
                    Ok(mut total) => total.merge(own),
                    // Another thread panicked, which is passed on by the scope.
                    Err(poisoned) => poisoned.into_inner().merge(own),
                }
            });
        }
    });
    if is_watched {
        // The line is wiped; what it said is in the table.
        let _ = write!(io::stderr(), "\r\x1b[2K");
    }
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn progress(name: &str, done: usize, all: usize) {
    const WIDTH: usize = 40;
    let filled = (done * WIDTH).checked_div(all).unwrap_or(0);
    let bar: String = (0..WIDTH).map(|n| if n < filled { '█' } else { '░' }).collect();
    let _ = write!(io::stderr(), "\r{name} {bar} {done}/{all}");
}

fn save(
    directory: &std::path::Path,
    cluster: &ClusterPolicy,
    danger: Danger,
    recorded: &Recorded,
) -> Result<PathBuf, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::new(Code::CannotCreate, format!("{} cannot be written: {error}.", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(|error| cannot(&error))?;
    let name: String = danger.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = directory.join(format!("{}-{name}.json", cluster.name));
    let text = serde_json::to_string_pretty(recorded).map_err(|error| cannot(&error))?;
    std::fs::write(&path, text).map_err(|error| cannot(&error))?;
    Ok(path)
}

fn render(report: &Report, args: &Args, paint: Paint) -> String {
    let mut out = String::new();
    let speed = report.runs as f64 / report.seconds.max(1e-9);
    let _ = writeln!(
        out,
        "{}: {} runs in {:.1} s ({speed:.0} a second), {} with a new primary, {} with a person needed\n",
        paint.bold(report.cluster.as_str()),
        report.runs,
        report.seconds,
        report.promoted,
        report.held
    );
    let find = |is_it: &dyn Fn(Danger) -> bool| -> u64 {
        report.findings.iter().filter(|finding| is_it(finding.danger)).map(|finding| finding.runs).sum()
    };
    let mut table = Table::new(paint, 0, &["QUESTION", "ANSWER", "WHEN"]);
    let questions: [(&str, &dyn Fn(Danger) -> bool); 4] = [
        ("two masters possible?", &|danger| danger == Danger::TwoMasters),
        ("another promise broken?", &|danger| matches!(danger, Danger::Promise(_))),
        ("failover missed?", &|danger| danger == Danger::Missed),
        ("false failover?", &|danger| danger == Danger::FalseFailover),
    ];
    for (question, is_it) in questions {
        let times = find(is_it);
        let first = report.findings.iter().find(|finding| is_it(finding.danger));
        let answer = if times == 0 { "not in these runs".to_owned() } else { format!("YES, in {times} runs") };
        table.row([question, &answer, first.map_or("", |finding| finding.faults.as_str())]);
        table.paint_last(1, |paint, text| if times == 0 { paint.good(text) } else { paint.bad(text) });
    }
    for (family, worst) in report.worst_outage.iter().filter(|(family, _)| **family != Family::Quiet) {
        let outage = human(Duration::try_from_secs_f64(worst.outage_ms / 1e3).unwrap_or_default());
        table.row([&format!("worst outage, {family}"), &outage, &worst.faults]);
    }
    if let Some(lost) = &report.lost {
        let allowed =
            report.max_loss.map_or_else(|| "any loss is allowed".to_owned(), |n| format!("`max_loss` is {n}"));
        let answer = format!("{} writes ({allowed})", lost.writes);
        table.row(["most acknowledged writes lost", &answer, &lost.faults]);
    }
    out.push_str(&table.to_text());
    for finding in &report.findings {
        let _ = writeln!(out, "\n{} {}", paint.bad(&format!("{}:", finding.danger)), finding.faults);
        let hidden = finding.story.len().saturating_sub(STORY_LINES);
        // The end tells what came of it.
        for line in finding.story.iter().skip(hidden) {
            let _ = writeln!(out, "  {line}");
        }
        if hidden > 0 {
            let _ = writeln!(out, "  ({hidden} lines before that)");
        }
        match &finding.file {
            Some(file) => {
                let _ = writeln!(out, "  again: coroner replay {}", file.display());
            }
            None => {
                let _ = writeln!(out, "  `--save DIRECTORY` keeps it for `coroner replay`");
            }
        }
    }
    if args.coverage {
        let _ = writeln!(out, "\n{}", report.coverage);
    }
    let _ = writeln!(
        out,
        "\nNot played: what is beyond the file (the broker's own bugs, a virtual machine that wakes with an old clock, a fence \
         that lies about its kernel), and signals whose source nobody knows; they stay as on a good day.\n"
    );
    out
}
