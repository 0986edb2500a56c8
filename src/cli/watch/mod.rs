//! `coroner watch`: a live view in the terminal.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::sync::{mpsc, watch};

use super::{
    Context,
    client::{Client, segment},
    exit::{Code, Exit, Failure},
};
use crate::model::{
    ClusterName, Incident,
    status::{Status, Why},
};

mod draw;

pub use draw::draw;

/// Show a live view; q ends it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster to begin with.
    cluster: Option<String>,
}

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Where the arbiter is.
    pub place: String,
    /// The newest status; kept, and marked as old, when the connection is lost.
    pub status: Option<Status>,
    /// The rules of the chosen cluster.
    pub why: Option<Why>,
    /// The incident under way in the chosen cluster, or the one that was under way last.
    pub incident: Option<Incident>,
    /// Why nothing new comes.
    pub lost: Option<String>,
    /// The place of the chosen cluster.
    pub chosen: usize,
    /// Whether the trees of the rules are shown instead of the members.
    pub explain: bool,
    /// How far the trees are scrolled.
    pub scroll: u16,
}

/// What came of one look.
struct Look {
    status: Status,
    why: Option<Why>,
    incident: Option<Incident>,
}

/// How often the arbiter is asked.
const EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let text = "`watch` needs a terminal. For scripts there is `coroner status -o json`.";
        return Err(Failure::new(Code::Usage, text));
    }
    let client = context.client()?;
    // The first look tells a wrong address as an error, before the screen is taken.
    let first = client.status().await?;
    let mut view = View { place: client.place().to_owned(), ..View::default() };
    if let Some(name) = &args.cluster {
        view.chosen = first
            .clusters
            .iter()
            .position(|c| c.cluster.as_str() == name)
            .ok_or_else(|| Failure::new(Code::Data, format!("The arbiter watches no cluster `{name}`.")))?;
    }
    view.status = Some(first);

    let (choice, chosen) = watch::channel(chosen_name(&view));
    let (looks, mut seen) = mpsc::channel(1);
    let looker = tokio::spawn(look_on(client, chosen, looks));
    let (keys, mut pressed) = mpsc::channel(16);
    // Reading keys blocks, so it has a thread. It ends by itself once nobody takes the keys any more.
    std::thread::spawn(move || read_keys(&keys));

    let terminal =
        ratatui::try_init().map_err(|e| Failure::new(Code::Io, format!("The terminal cannot be used: {e}.")))?;
    let result = show(terminal, view, &choice, &mut seen, &mut pressed).await;
    ratatui::restore();
    looker.abort();
    result.map(|()| Exit::OK).map_err(|e| Failure::new(Code::Io, format!("The terminal cannot be written to: {e}.")))
}

async fn show(
    mut terminal: DefaultTerminal,
    mut view: View,
    choice: &watch::Sender<Option<ClusterName>>,
    seen: &mut mpsc::Receiver<Result<Look, Failure>>,
    pressed: &mut mpsc::Receiver<Event>,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| draw(frame, &view))?;
        tokio::select! {
            look = seen.recv() => match look {
                Some(look) => take(&mut view, look),
                None => return Ok(()),
            },
            event = pressed.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if !press(&mut view, key) {
                        return Ok(());
                    }
                    choice.send_if_modified(|name| {
                        let now = chosen_name(&view);
                        std::mem::replace(name, now.clone()) != now
                    });
                }
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

fn chosen_name(view: &View) -> Option<ClusterName> {
    view.status.as_ref().and_then(|s| s.clusters.get(view.chosen)).map(|c| c.cluster.clone())
}

fn take(view: &mut View, look: Result<Look, Failure>) {
    match look {
        Ok(look) => {
            view.chosen = view.chosen.min(look.status.clusters.len().saturating_sub(1));
            view.status = Some(look.status);
            view.why = look.why;
            view.incident = look.incident;
            view.lost = None;
        }
        Err(failure) => view.lost = Some(failure.text),
    }
}

/// Acts on a key; `false` ends the view.
fn press(view: &mut View, key: KeyEvent) -> bool {
    let count = view.status.as_ref().map_or(0, |s| s.clusters.len());
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Down | KeyCode::Right | KeyCode::Tab if count > 0 => view.chosen = (view.chosen + 1) % count,
        KeyCode::Up | KeyCode::Left | KeyCode::BackTab if count > 0 => view.chosen = (view.chosen + count - 1) % count,
        KeyCode::Char('w') => {
            view.explain = !view.explain;
            view.scroll = 0;
        }
        KeyCode::PageDown => view.scroll = view.scroll.saturating_add(10),
        KeyCode::PageUp => view.scroll = view.scroll.saturating_sub(10),
        _ => {}
    }
    true
}

fn read_keys(keys: &mpsc::Sender<Event>) {
    while !keys.is_closed() {
        match event::poll(Duration::from_millis(100)) {
            Ok(true) => {
                let Ok(event) = event::read() else { return };
                if keys.blocking_send(event).is_err() {
                    return;
                }
            }
            Ok(false) => {}
            Err(_) => return,
        }
    }
}

/// Looks twice a second, and at once when another cluster is chosen.
async fn look_on(
    client: Client,
    mut chosen: watch::Receiver<Option<ClusterName>>,
    looks: mpsc::Sender<Result<Look, Failure>>,
) {
    loop {
        let name = chosen.borrow_and_update().clone();
        if looks.send(look(&client, name).await).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            changed = chosen.changed() => if changed.is_err() { return },
        }
    }
}

async fn look(client: &Client, name: Option<ClusterName>) -> Result<Look, Failure> {
    let status = client.status().await?;
    let cluster =
        status.clusters.iter().find(|c| Some(&c.cluster) == name.as_ref()).or_else(|| status.clusters.first());
    let Some(cluster) = cluster else { return Ok(Look { status, why: None, incident: None }) };
    let path = format!("/v1/clusters/{}/why", segment(cluster.cluster.as_str()));
    let why = client.get(&path).await?;
    let incident = match &cluster.incident {
        // An incident that cannot be read is shown by its one line, which the status has.
        Some(brief) => client.incident(&brief.id).await.ok().map(|detail| detail.incident),
        None => None,
    };
    Ok(Look { status, why: Some(why), incident })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::sample;

    #[test]
    fn keys_choose_and_end() {
        let mut status = sample();
        let mut second = status.clusters[0].clone();
        second.cluster = "billing".into();
        status.clusters.push(second);
        let mut view = View { status: Some(status), ..View::default() };
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
        assert!(press(&mut view, key(KeyCode::Down)));
        assert_eq!(chosen_name(&view), Some("billing".into()));
        assert!(press(&mut view, key(KeyCode::Down)));
        assert!(press(&mut view, key(KeyCode::Up)));
        assert_eq!(view.chosen, 1);
        assert!(press(&mut view, key(KeyCode::Char('w'))) && view.explain);
        assert!(!press(&mut view, key(KeyCode::Char('q'))));
        assert!(!press(&mut view, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn a_lost_connection_keeps_what_was_seen_last() {
        let mut view = View { status: Some(sample()), ..View::default() };
        take(&mut view, Err(Failure::new(Code::Unavailable, "It is not reachable.")));
        assert!(view.status.is_some() && view.lost.is_some());
        let look = Look { status: Status::default(), why: None, incident: None };
        view.chosen = 3;
        take(&mut view, Ok(look));
        assert_eq!((view.chosen, view.lost), (0, None));
    }
}
