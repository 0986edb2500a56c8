//! `coroner replay`.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use super::{
    Context,
    exit::{Code, Exit, Failure},
    json, print,
    style::Paint,
    when,
};
use crate::{
    config::{self, WithoutSecrets},
    journal::{
        Journal, Mark, Reader, Segment, Trouble, What,
        story::{Line, Teller, Wanted},
    },
    model::ClusterName,
    sim::{self, explore, run::Recorded},
    sys::clock,
};

/// How long before an incident its story begins, and how long after it that ends.
const AROUND_MS: i64 = 60_000;
/// Lines that are printed at once.
const AT_ONCE: usize = 256;

/// Tell what an arbiter saw and decided, event by event.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file alone: one segment of a journal, or a run that `coroner simulate --save` kept.
    #[arg(conflicts_with_all = ["journal", "config"])]
    file: Option<PathBuf>,
    /// The journal. Default: the one of the configuration file.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// The configuration file, for where the journal is. No secrets are read.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    config: PathBuf,
    /// From when on: `2h` ago, or a date. Default: 1h, or the beginning of a file.
    #[arg(long, visible_alias = "since", value_name = "TIME", value_parser = when::check)]
    from: Option<String>,
    /// Until when. Default: the end.
    #[arg(long, visible_alias = "until", value_name = "TIME", value_parser = when::check)]
    to: Option<String>,
    /// Only this cluster, and the arbiter itself.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// One incident, from a minute before it to a minute after; a beginning of its name is enough, `last` is the newest.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    incident: Option<String>,
    /// Every single observation, changed or not.
    #[arg(long)]
    all: bool,
    /// Without the trees of rules and the lines of incidents.
    #[arg(long)]
    short: bool,
}

/// What is replayed. A form that is added here is recognised in [`Source::of`] and told in [`run`].
enum Source {
    /// Segments of a journal, and what is wrong with others.
    Journal(Journal),
    /// A run of the simulator, told by its content: JSON, where a segment is not.
    Simulated(Box<Recorded>),
}

impl Source {
    fn of(args: &Args) -> Result<Self, Failure> {
        if let Some(file) = &args.file {
            if let Some(recorded) = simulated(file)? {
                return Ok(Self::Simulated(Box::new(recorded)));
            }
            let journal = Journal::of_file(file);
            if journal.segments.is_empty() {
                let why =
                    journal.troubles.first().map_or_else(|| "it is empty".to_owned(), |trouble| trouble.what.clone());
                return Err(Failure::new(Code::Data, format!("{} cannot be replayed: {why}.", file.display())));
            }
            return Ok(Self::Journal(journal));
        }
        let dir = match &args.journal {
            Some(dir) => dir.clone(),
            None => {
                let config = config::load_with(&args.config, &WithoutSecrets);
                config.map_err(|mistakes| Failure::new(Code::Config, mistakes.to_string()))?.arbiter.journal.path
            }
        };
        let journal = Journal::open(&dir).map_err(|e| {
            let text = format!("The journal {} cannot be read: {e}. Say where it is with --journal.", dir.display());
            Failure::new(Code::Io, text)
        })?;
        Ok(Self::Journal(journal))
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match Source::of(args)? {
        Source::Journal(journal) => replay_journal(context, args, &journal),
        Source::Simulated(recorded) => replay_simulated(context, &recorded),
    }
}

/// A file that begins like JSON is a run of the simulator, or nothing that we know.
fn simulated(file: &Path) -> Result<Option<Recorded>, Failure> {
    let cannot = |why: String| Failure::new(Code::Data, format!("{} cannot be replayed: {why}.", file.display()));
    let bytes = std::fs::read(file).map_err(|e| cannot(e.to_string()))?;
    if bytes.first() != Some(&b'{') {
        return Ok(None);
    }
    let recorded: Recorded = serde_json::from_slice(&bytes)
        .map_err(|e| cannot(format!("it is no run that `coroner simulate` kept: {e}")))?;
    if !recorded.setting.is_whole() {
        return Err(cannot("its setting lacks the cluster that it names".into()));
    }
    Ok(Some(recorded))
}

fn replay_simulated(context: &Context, recorded: &Recorded) -> Result<Exit, Failure> {
    let outcome = sim::run_told(&recorded.setting, &recorded.schedule);
    context.emit(&outcome, |paint| {
        let mut out = format!("{}\n", paint.bold(&explore::words(&recorded.setting, &recorded.schedule)));
        for line in &outcome.story {
            let _ = writeln!(out, "{line}");
        }
        for violation in &outcome.violations {
            let _ = writeln!(out, "{} {}: {}", paint.bad("BROKEN"), violation.invariant, violation.text);
        }
        let _ = writeln!(out, "At the end: {}.", outcome.ending);
        out
    })?;
    Ok(if outcome.violations.is_empty() { Exit::OK } else { Exit::FOUND })
}

fn replay_journal(context: &Context, args: &Args, journal: &Journal) -> Result<Exit, Failure> {
    let now_ms = clock::anchor().unix_ms;
    let moment = |text: &String| when::parse(text, now_ms).map_err(|e| Failure::new(Code::Usage, e));
    let default_from = if args.file.is_some() { i64::MIN } else { now_ms - 3_600_000 };
    let (from_unix_ms, to_unix_ms) = match &args.incident {
        Some(id) => span_of(journal, id)?,
        None => (args.from.as_ref().map_or(Ok(default_from), moment)?, args.to.as_ref().map_or(Ok(i64::MAX), moment)?),
    };
    let cluster = args.cluster.as_deref().map(ClusterName::from);
    let mut teller = Teller::new(Wanted { from_unix_ms, to_unix_ms, cluster, all: args.all });
    let mut out = String::new();
    let mut lines = 0;
    let mut result = Ok(Exit::OK);
    let mut troubles: Vec<Trouble> = journal.troubles.clone();
    for segment in journal.between(from_unix_ms, to_unix_ms) {
        let mut tell = |line: Line| {
            lines += 1;
            if context.is_json() {
                match json_line(&line) {
                    Ok(text) => out.push_str(&text),
                    Err(failure) => result = Err(failure),
                }
            } else {
                render(&mut out, &line, args.short, context.paint);
            }
            if lines % AT_ONCE == 0 {
                result = print(&std::mem::take(&mut out));
            }
            result.is_ok()
        };
        let told = teller.segment(segment, &mut tell, &mut |trouble| troubles.push(trouble));
        told.map_err(|e| unreadable(&segment.path, &e))?;
        std::mem::replace(&mut result, Ok(Exit::OK))?;
    }
    if lines == 0 && !context.is_json() {
        out.push_str("Nothing of that time is recorded.\n");
    }
    print(&out)?;
    for trouble in troubles {
        eprintln_trouble(&trouble);
    }
    Ok(Exit::OK)
}

fn eprintln_trouble(trouble: &Trouble) {
    use io::Write as _;
    // Nothing can be done when standard error is gone.
    let _ = writeln!(io::stderr(), "coroner: {trouble}");
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Io, format!("{} cannot be read: {error}.", path.display()))
}

fn json_line(line: &Line) -> Result<String, Failure> {
    // One value a line, so that a reader can begin before the end.
    serde_json::to_string(line).map(|text| text + "\n").or_else(|_| json(line))
}

/// The time around a recorded incident.
fn span_of(journal: &Journal, id: &str) -> Result<(i64, i64), Failure> {
    let mut found: Option<(String, i64, i64)> = None;
    for segment in &journal.segments {
        let span = incident_in(segment, id).map_err(|e| unreadable(&segment.path, &e))?;
        for (name, opened, last) in span {
            found = match found {
                Some((known, from, to)) if known == name => Some((known, from.min(opened), to.max(last))),
                Some((known, ..)) if id != "last" => {
                    let text =
                        format!("More than one incident begins with {id}: {known}, {name}, …; write more of the name.");
                    return Err(Failure::new(Code::Data, text));
                }
                _ => Some((name, opened, last)),
            };
        }
    }
    found.map(|(_, from, to)| (from - AROUND_MS, to + AROUND_MS)).ok_or_else(|| {
        Failure::new(
            Code::Data,
            format!("No incident `{id}` is recorded; `coroner incidents list` lists those of the store."),
        )
    })
}

/// The incidents of a segment: when each was opened, and when it was told of last.
fn incident_in(segment: &Segment, id: &str) -> io::Result<Vec<(String, i64, i64)>> {
    let bytes = segment.read()?;
    let Ok(mut reader) = Reader::over(&bytes) else { return Ok(Vec::new()) };
    let mut anchor = reader.header().anchor;
    let mut found: Vec<(String, i64, i64)> = Vec::new();
    let wanted = id.to_ascii_lowercase();
    while let Some(seen) = reader.next_entry() {
        let What::Mark(mark) = seen.what else { continue };
        match *mark {
            Mark::Wall(new) => anchor = new,
            Mark::Incident(incident) => {
                let (name, at) = (incident.brief.id.to_string(), anchor.unix_ms_at(seen.now));
                if id != "last" && !name.to_ascii_lowercase().starts_with(&wanted) {
                    continue;
                }
                match found.iter_mut().find(|(known, ..)| *known == name) {
                    Some((_, _, last)) => *last = at,
                    None => found.push((name, incident.brief.opened_unix_ms, at)),
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn render(out: &mut String, line: &Line, is_short: bool, paint: Paint) {
    let cluster = line.cluster.as_ref().map_or_else(String::new, |cluster| format!("{cluster}: "));
    let text = match line.kind {
        "verdict" | "incident" | "primary" => paint.bold(&line.text),
        "hole" => paint.warn(&line.text),
        "seen" => paint.dim(&line.text),
        _ => line.text.clone(),
    };
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let text = if line.text.chars().any(char::is_control) { clean(&line.text) } else { text };
    let _ = writeln!(out, "{}  {cluster}{text}", when::precise(line.unix_ms));
    if is_short {
        return;
    }
    for more in line.more.lines() {
        let _ = writeln!(out, "{:26}{}", "", clean(more));
    }
}
