//! A sender's connection.

use std::{collections::VecDeque, io, sync::Arc};

use tokio::{
    net::tcp::OwnedWriteHalf,
    sync::{Notify, mpsc, oneshot},
};

use super::{Common, Frames, Kind, Refusal, Why, gone, refuse_with, until_no_primary, wire, write};
use crate::relay::core::{Append, Job};

/// Frames of one sender that wait for the storage.
const IN_FLIGHT: usize = 16;

pub(super) async fn serve(
    mut frames: Frames,
    mut writer: OwnedWriteHalf,
    common: &Common,
    name: String,
    epoch: u64,
) -> io::Result<()> {
    let (generation, replaced) = register(common, &name);
    let _leave = Leave { common, name: &name, generation };
    let (reply, answered) = oneshot::channel();
    common.jobs.send(Job::Hello { sender: name.clone(), epoch, reply }).await.map_err(gone)?;
    let welcome = match answered.await.map_err(gone)? {
        Ok(welcome) => welcome,
        Err(refusal) => return refuse_with(writer, &refusal).await,
    };
    write(&mut writer, &wire::json(Kind::Welcome, &welcome)?).await?;
    let mut serving = common.shared.serving.subscribe();
    let (pass, answers) = mpsc::channel(IN_FLIGHT);
    let sender: Arc<str> = name.as_str().into();
    let take = async {
        while let Some(frame) = frames.next().await? {
            if frame.kind != Kind::Messages {
                return Err(wire::bad(format!("{:?} from a sender", frame.kind)));
            }
            let (first, payloads) = wire::read_messages(&frame)?;
            // A frame is far smaller than all the memory there is for them.
            let size = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
            let memory = Arc::clone(&common.memory).acquire_many_owned(size).await.map_err(gone)?;
            let (reply, answered) = oneshot::channel();
            // A place in the queue of answers first: a sender that takes no answers is not worked for.
            pass.send(answered).await.map_err(gone)?;
            let append = Append { sender: Arc::clone(&sender), generation, first, payloads, memory, reply };
            common.jobs.send(Job::Append(append)).await.map_err(gone)?;
        }
        Ok(None)
    };
    let ended = tokio::select! {
        ended = take => ended,
        ended = acknowledge(&mut writer, answers, welcome.epoch) => ended,
        () = replaced.notified() => Ok(Some((Why::Replaced, "a newer connection of this sender came"))),
        () = until_no_primary(&mut serving, welcome.epoch) => Ok(Some((Why::NotPrimary, "it is no primary any more"))),
    };
    match ended? {
        None => Ok(()),
        Some((why, detail)) => {
            let epoch = common.shared.lock().stored_epoch;
            refuse_with(writer, &Refusal { why, detail: detail.to_owned(), epoch }).await
        }
    }
}

type Answered = oneshot::Receiver<Result<u64, Refusal>>;

/// Passes on the answers of the storage, in order, several as one where they come together.
async fn acknowledge(
    writer: &mut OwnedWriteHalf,
    mut answers: mpsc::Receiver<Answered>,
    epoch: u64,
) -> io::Result<Option<(Why, &'static str)>> {
    let mut waiting = VecDeque::new();
    while let Some(first) = answers.recv().await {
        waiting.push_back(first);
        while let Some(answered) = waiting.pop_front() {
            match answered.await.map_err(gone)? {
                Ok(number) => write(writer, &wire::numbers(Kind::Acked, [number, epoch])).await?,
                Err(refusal) => {
                    // What this sender sent behind it is refused by its number: nothing is taken with a gap.
                    write(writer, &wire::json(Kind::Refused, &refusal)?).await?;
                    return Ok(None);
                }
            }
        }
    }
    Ok(None)
}

/// The newest connection of a sender is the only one; the one before is sent away.
fn register(common: &Common, name: &str) -> (u64, Arc<Notify>) {
    let mut inner = common.shared.lock();
    inner.generations += 1;
    let (generation, notify) = (inner.generations, Arc::new(Notify::new()));
    if let Some((_, before)) = inner.senders.insert(name.to_owned(), (generation, Arc::clone(&notify))) {
        before.notify_one();
    }
    (generation, notify)
}

struct Leave<'a> {
    common: &'a Common,
    name: &'a str,
    generation: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut inner = self.common.shared.lock();
        if inner.senders.get(self.name).is_some_and(|(newest, _)| *newest == self.generation) {
            inner.senders.remove(self.name);
        }
    }
}
