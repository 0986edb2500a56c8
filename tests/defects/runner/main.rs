//! Breaks the pure parts on purpose, one defect at a time, and says which tests notice.

mod crates;
mod list;
mod package;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crates::{Bench, Run, UNIT, Verdict};
use list::Defect;

const HELP: &str = "\
Breaks the pure parts on purpose, one defect of tests/defects/list at a time, and says which tests notice.

tests/defects/run [OPTION…] [NAME…]

NAME            only this defect; a part of a name with a star: 'guard-*'; or a file of the list: 'lease.txt'
--first         stop at the first test crate that notices, its own part's first; the others' cells stay a dash
--only CRATES   only these test crates, divided by commas (unit, lease, engine, …); the table is not written
--skip TEST     leave out the tests whose names hold this, a slow one say; the table is not written
--limit SECONDS how much of the processor's time one test crate may take; what takes more has noticed, by hanging
                (default: 60 and ten times what it takes unbroken)
--list          the names and what they break; nothing is built
--prepare       only makes the package of the pure parts, and says where it is

Ends with 1 if nobody notices a defect, or one does not compile. The table is tests/defects/caught.md; a run of some names
brings their rows up to date. It needs cargo, and the C compiler that `ring` needs; a whole run takes about an hour on two
cores.";

#[derive(Debug, Default)]
struct Options {
    names: Vec<String>,
    only: Vec<String>,
    skip: Vec<String>,
    is_first: bool,
    is_list: bool,
    is_prepare: bool,
    limit: Option<Duration>,
}

fn main() -> ExitCode {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-h" | "--help" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            "--first" => options.is_first = true,
            "--list" => options.is_list = true,
            "--prepare" => options.is_prepare = true,
            "--only" => options.only = arguments.next().unwrap_or_default().split(',').map(str::to_owned).collect(),
            "--skip" => options.skip.extend(arguments.next()),
            "--limit" => match arguments.next().and_then(|text| text.parse().ok()) {
                Some(seconds) => options.limit = Some(Duration::from_secs(seconds)),
                None => return refuse("--limit needs whole seconds"),
            },
            option if option.starts_with('-') => return refuse(&format!("there is no option {option}; see --help")),
            name => options.names.push(name.to_owned()),
        }
    }
    match work(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => refuse(&why),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

/// `true`: every defect was caught.
fn work(options: &Options) -> Result<bool, String> {
    let root = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.."));
    let root = root.map_err(|e| format!("the repository: {e}"))?;
    let list = list::read(&root.join("tests/defects/list"))?;
    let wrong: Vec<String> = list.iter().filter_map(|defect| defect.apply_below(&root).err()).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let chosen = choose(&list, &options.names)?;
    if options.is_list {
        let mut out = io::stdout().lock();
        for defect in chosen {
            let written = writeln!(out, "{}: {} ({})", defect.name, defect.sentence, defect.file);
            match written {
                // Whoever reads it has read enough.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
                written => written.map_err(|e| format!("standard output: {e}"))?,
            }
        }
        return Ok(true);
    }
    let base = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(PathBuf::from(folder)).map_err(|e| format!("CARGO_TARGET_DIR: {e}"))?,
        None => root.join("target"),
    };
    let base = base.join("defects");
    let package = package::make(&root, &base.join("package"))?;
    for left_out in &package.left_out {
        eprintln!("left out: {left_out}");
    }
    if options.is_prepare {
        println!("{}", package.folder.display());
        return Ok(true);
    }
    let bench = Bench { package: package.folder.clone(), target: base.join("build"), skip: options.skip.clone() };
    let all: Vec<String> = std::iter::once(UNIT.to_owned()).chain(package.tests.clone()).collect();
    let mut crates = all.clone();
    if !options.only.is_empty() {
        if let Some(name) = options.only.iter().find(|name| !all.contains(name)) {
            return Err(format!("there is no test crate {name}; there are {}", all.join(", ")));
        }
        crates.retain(|name| options.only.contains(name));
    }
    let unbroken = unbroken(&bench, &crates)?;
    let is_whole = options.only.is_empty() && options.skip.is_empty();
    let path = root.join("tests/defects/caught.md");
    let mut rows = table::read(&fs::read_to_string(&path).unwrap_or_default());
    let mut uncaught = Vec::new();
    for (number, defect) in chosen.iter().enumerate() {
        let begun = crates::now();
        eprint!("{}/{} {} … ", number + 1, chosen.len(), defect.name);
        let concerned = |name: &str| {
            let part = defect.file.strip_prefix("src/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
            package.runs.get(name).is_none_or(|parts| parts.contains(part))
        };
        let concerned: Vec<&(String, Run)> = unbroken.iter().filter(|(name, _)| concerned(name)).collect();
        let outcome = try_out(&bench, &root, defect, concerned, options);
        // Whatever came of it, the package is whole again.
        let file = fs::read_to_string(root.join(&defect.file)).map_err(|e| format!("{}: {e}", defect.file))?;
        package::write(&package.folder.join(&defect.file), &file)?;
        match outcome {
            Ok(verdicts) => {
                eprintln!("{} ({:.0} s)", words(&verdicts), begun.elapsed().as_secs_f64());
                if !verdicts.iter().any(|(_, verdict)| verdict.is_caught()) {
                    uncaught.push(format!("{}: nobody notices", defect.name));
                }
                if is_whole {
                    rows.insert(defect.name.clone(), table::row(&verdicts));
                    // After each: what is known is not lost if the run is ended.
                    package::write(&path, &table::write(&list, &all, &rows))?;
                }
            }
            Err(why) => {
                eprintln!("does not compile");
                uncaught.push(format!("{}: does not compile:\n{why}", defect.name));
            }
        }
    }
    println!("{} defects, {} not caught", chosen.len(), uncaught.len());
    for line in &uncaught {
        println!("{line}");
    }
    Ok(uncaught.is_empty())
}

fn choose<'a>(list: &'a [Defect], names: &[String]) -> Result<Vec<&'a Defect>, String> {
    let fits = |name: &str, defect: &Defect| match (name.strip_suffix('*'), name.strip_suffix(".txt")) {
        (Some(beginning), _) => defect.name.starts_with(beginning),
        (_, Some(part)) => defect.part == part,
        _ => defect.name == name,
    };
    if let Some(name) = names.iter().find(|name| !list.iter().any(|defect| fits(name, defect))) {
        return Err(format!("there is no defect {name}; `tests/defects/run --list` names them"));
    }
    Ok(list.iter().filter(|defect| names.is_empty() || names.iter().any(|name| fits(name, defect))).collect())
}

/// The unbroken tree must be green; how long each crate takes there, cheapest first.
fn unbroken(bench: &Bench, crates: &[String]) -> Result<Vec<(String, Run)>, String> {
    eprint!("unbroken … ");
    let programs = bench.build(crates)?;
    let mut runs = Vec::new();
    for name in crates {
        let Some(program) = programs.get(name) else { continue };
        let run = bench.run(program, Duration::from_secs(1_200), &[])?;
        if run.verdict != Verdict::Passed {
            let first = run.verdict.first().unwrap_or_default();
            return Err(format!("the unbroken tree is not green: {name}: {first}\n{}", run.output));
        }
        runs.push((name.clone(), run));
    }
    runs.sort_by_key(|(_, run)| run.took);
    let times: Vec<String> = runs
        .iter()
        .map(|(name, run)| format!("{name} {:.1} s, {} tests", run.took.as_secs_f64(), run.names.len()))
        .collect();
    eprintln!("green: {}", times.join("; "));
    Ok(runs)
}

/// What each test crate makes of it.
fn try_out(
    bench: &Bench,
    root: &Path,
    defect: &Defect,
    mut order: Vec<&(String, Run)>,
    options: &Options,
) -> Result<Vec<(String, Verdict)>, String> {
    package::write(&bench.package.join(&defect.file), &defect.apply_below(root)?)?;
    // Its own part's tests are the likeliest to notice.
    order.sort_by_key(|(name, _)| *name != defect.part);
    let all: Vec<String> = order.iter().map(|(name, _)| name.clone()).collect();
    let mut programs = BTreeMap::new();
    if !options.is_first {
        programs = bench.build(&all)?;
    }
    let mut verdicts = Vec::new();
    for (name, whole) in order {
        if options.is_first {
            programs = bench.build(std::slice::from_ref(name))?;
        }
        let Some(program) = programs.get(name) else { continue };
        let limit = options.limit.unwrap_or(Duration::from_secs(60) + whole.took * 10);
        let run = bench.run(program, limit, &whole.names)?;
        let is_caught = run.verdict.is_caught();
        verdicts.push((name.clone(), run.verdict));
        if is_caught && options.is_first {
            break;
        }
    }
    Ok(verdicts)
}

fn words(verdicts: &[(String, Verdict)]) -> String {
    let caught: Vec<String> = verdicts
        .iter()
        .filter_map(|(name, verdict)| Some(format!("{name} {} ({})", verdict.cell(), verdict.first()?)))
        .collect();
    if caught.is_empty() { "NOBODY NOTICES".to_owned() } else { caught.join(", ") }
}
