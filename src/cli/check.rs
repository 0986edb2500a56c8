//! `coroner check`.

mod trials;

use std::{fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::{
    Context,
    exit::{Code, Exit, Failure},
    json, print,
    style::Paint,
    table::Table,
};
use crate::{
    arbiter::hands,
    config::{
        self, Config, Mistakes,
        lint::{Finding, lint},
    },
    mesh::keys::PrivateKey,
    model::{ClusterPolicy, Mode, Proof},
};

/// Check a configuration file: all its mistakes at once, each with its place, then what is legal and dangerous, then its
/// own tests of the death rules.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The file may say what it expects of its rules, and each such test is played against the engine:

  tests:
    - name: a frozen primary is failed over, but not for a hiccup
      given: { primary: frozen from 10s }
      expect:
        - { never: failover, until: 15s }
        - { verdict: dead, then: failover, by: 25s }

A test that fails is shown with what was believed at each moment and with the rules explained as `coroner why` does; the
exit code is 1 then, and 78 if the file has mistakes. All words: src/docs/testing-rules.md.")]
pub(super) struct Args {
    /// The file.
    #[arg(default_value = "/etc/coroner/coroner.yaml", env = "CORONER_CONFIG")]
    file: PathBuf,
    /// Warnings and what the linter finds are errors too.
    #[arg(long)]
    strict: bool,
    /// Do not read secrets: for a machine that does not have them. Certificates and templates are not tried either.
    #[arg(long)]
    without_secrets: bool,
    /// As an agent reads it: what only the arbiter needs may be missing.
    #[arg(long, conflicts_with = "without_secrets")]
    agent: bool,
    /// Do not run the file's `tests:`. Their mistakes are mistakes of the file all the same.
    #[arg(long)]
    no_tests: bool,
    /// Run only the test of this name.
    #[arg(long, value_name = "NAME", conflicts_with = "no_tests")]
    test: Option<String>,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    /// Whether the file can be used.
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mistakes: Option<Mistakes>,
    warnings: Vec<String>,
    findings: Vec<Finding>,
    clusters: Vec<Cluster>,
    /// What came of the file's tests; absent with `--no-tests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    tests: Option<trials::Played>,
}

/// A cluster in one line.
#[derive(Serialize)]
struct Cluster {
    cluster: String,
    mode: Mode,
    members: usize,
    nodes: usize,
    signals: usize,
    rules: usize,
    fence: Vec<Level>,
    proof_needed: Proof,
}

/// One level of fences.
#[derive(Serialize)]
struct Level {
    methods: Vec<String>,
    /// The best proof that the level can give by itself.
    best_proof: Proof,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let loaded = match (args.without_secrets, args.agent) {
        (true, _) => config::load_with(&args.file, &config::WithoutSecrets),
        (_, true) => config::load_with(&args.file, &config::AgentEnvironment),
        _ => config::load(&args.file),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(mistakes) if context.is_json() => {
            let count = mistakes.list.len();
            let none = (Vec::new(), Vec::new(), Vec::new());
            let report = Report {
                ok: false,
                mistakes: Some(mistakes),
                warnings: none.0,
                findings: none.1,
                clusters: none.2,
                tests: None,
            };
            print(&format!("{}\n", json(&report)?))?;
            return Err(Failure::new(Code::Config, format!("{count} mistakes in {}.", args.file.display())));
        }
        Err(mistakes) => return Err(Failure::new(Code::Config, mistakes.to_string())),
    };
    let refuse = |why: String| Failure::new(Code::Config, format!("{}: {why}", args.file.display()));
    if !args.without_secrets {
        check_key(&config).map_err(refuse)?;
    }
    if !args.without_secrets && !args.agent {
        hands::build(&config, None).map_err(refuse)?;
    }
    let tests = if args.no_tests { None } else { Some(trials::play(&config, args.test.as_deref())?) };
    let has_failed = tests.as_ref().is_some_and(|played| played.failed > 0);
    let report = report(&config, tests);
    // What the linter found is among the warnings, there with its place.
    let worrying = report.warnings.len();
    context.emit(&report, |paint| render(&report, &args.file.display().to_string(), paint))?;
    if args.strict && worrying > 0 {
        return Err(Failure::new(Code::Config, format!("--strict: {worrying} warnings in {}.", args.file.display())));
    }
    Ok(if has_failed { Exit::FOUND } else { Exit::OK })
}

/// The key of this host, if there is one, must be a party's: nobody would listen to it.
fn check_key(config: &Config) -> Result<(), String> {
    let Some((mesh, key)) = config.mesh.as_ref().and_then(|mesh| Some((mesh, mesh.key.as_ref()?))) else {
        return Ok(());
    };
    let own = PrivateKey::parse(key.expose()).map_err(|why| format!("`mesh.key`: {why}."))?.public();
    if mesh.parties.values().any(|party| party.public_key == own.0) {
        return Ok(());
    }
    Err(format!("the key of this host (`mesh.key`) is nobody's: write its public line under `mesh.parties`: {own}"))
}

fn report(config: &Config, tests: Option<trials::Played>) -> Report {
    let clusters = config.policy.clusters.values().map(cluster).collect();
    Report { ok: true, mistakes: None, warnings: config.warnings.clone(), findings: lint(config), clusters, tests }
}

fn cluster(policy: &ClusterPolicy) -> Cluster {
    let fence = policy.failover.fence.iter().map(|level| Level {
        methods: level.iter().map(|method| method.label.clone()).collect(),
        best_proof: level.iter().map(|method| method.best_proof).max().unwrap_or_default(),
    });
    Cluster {
        cluster: policy.name.to_string(),
        mode: policy.mode,
        members: policy.members.len(),
        nodes: policy.nodes.len(),
        signals: policy.signals.len(),
        rules: policy.rules.len(),
        fence: fence.collect(),
        proof_needed: policy.failover.proof_needed,
    }
}

fn render(report: &Report, file: &str, paint: Paint) -> String {
    let mut out = String::new();
    for warning in &report.warnings {
        let _ = writeln!(out, "{} {warning}\n", paint.warn("warning:"));
    }
    let mut table =
        Table::new(paint, 0, &["CLUSTER", "MODE", "MEMBERS>", "NODES>", "SIGNALS>", "RULES>", "PROOF NEEDED"]);
    for cluster in &report.clusters {
        table.row([
            &cluster.cluster,
            &cluster.mode.to_string(),
            &cluster.members.to_string(),
            &cluster.nodes.to_string(),
            &cluster.signals.to_string(),
            &cluster.rules.to_string(),
            &cluster.proof_needed.to_string(),
        ]);
    }
    out.push_str(&table.to_text());
    for cluster in &report.clusters {
        let _ = writeln!(out, "\n{}, fence levels:", paint.bold(&cluster.cluster));
        for (i, level) in cluster.fence.iter().enumerate() {
            let _ = writeln!(out, "  {}  {}  best proof {}", i + 1, level.methods.join(" + "), level.best_proof);
        }
    }
    let worrying = report.warnings.len() + report.findings.len();
    let words = if worrying == 0 { String::new() } else { format!(", with {worrying} warnings") };
    out.push('\n');
    if let Some(played) = &report.tests {
        out.push_str(&trials::render(played, file, paint));
    }
    let _ = writeln!(out, "{}", paint.good(&format!("{file} is well-formed{words}.")));
    out
}
