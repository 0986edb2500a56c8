//! The conversation: one line in, one line out.

use super::{
    Line, Pair,
    envelope::Envelope,
    error::{Code, Refusal, quoted},
    lines::LINE_MAX,
    request::Request,
    write::{Answer, Reply},
};

/// To whom, or from whom, when a line did not let itself be read so far.
const UNKNOWN: &str = "unknown";

/// One conversation over one [`Pair`].
#[derive(Debug)]
pub struct Session<P> {
    pair: P,
    begun: Option<Begun>,
    /// The number of the next answer.
    next_id: u64,
}

/// What `init` said.
#[derive(Debug, PartialEq, Eq)]
struct Begun {
    node_id: String,
    node_ids: Vec<String>,
}

impl<P: Pair> Session<P> {
    /// Nothing was said yet.
    #[must_use]
    pub const fn new(pair: P) -> Self {
        Self { pair, begun: None, next_id: 0 }
    }

    /// Ends it, and gives the pair back.
    #[must_use]
    pub fn into_pair(self) -> P {
        self.pair
    }

    /// Carries out what a line asks, and answers: one line, without its end.
    pub async fn answer(&mut self, line: &Line) -> String {
        let (bytes, is_whole) = match line {
            Line::Whole(bytes) => (bytes, true),
            Line::TooLong(bytes) => (bytes, false),
        };
        let (envelope, fault) = Envelope::read(bytes);
        let answer = match fault {
            _ if !is_whole => Answer::Error(Refusal::malformed(format!("the line is longer than {LINE_MAX} bytes."))),
            Some(fault) => Answer::Error(fault),
            None => self.carry_out(&envelope).await.unwrap_or_else(Answer::Error),
        };
        let msg_id = self.next_id;
        self.next_id = msg_id.wrapping_add(1);
        let dest = envelope.src.as_deref().unwrap_or(UNKNOWN);
        let src = self.speaks_as(envelope.dest.as_deref());
        Reply { src, dest, in_reply_to: envelope.msg_id, msg_id, answer: &answer }.line()
    }

    /// The node that was spoken to, if it is one of ours; before `init`, whoever was meant.
    fn speaks_as<'a>(&'a self, dest: Option<&'a str>) -> &'a str {
        match (&self.begun, dest) {
            (None, Some(dest)) => dest,
            (None, None) => UNKNOWN,
            (Some(begun), dest) => {
                let found = begun.node_ids.iter().find(|name| Some(name.as_str()) == dest);
                found.unwrap_or(&begun.node_id)
            }
        }
    }

    async fn carry_out(&mut self, envelope: &Envelope) -> Result<Answer, Refusal> {
        // The envelope was found whole: both are there.
        let (Some(dest), Some(body)) = (&envelope.dest, &envelope.body) else {
            return Err(Refusal::malformed("the envelope is not whole."));
        };
        let request = Request::read(body)?;
        if let Request::Init { node_id, node_ids } = request {
            return self.begin(dest, Begun { node_id, node_ids }).await;
        }
        let Some(begun) = &self.begun else {
            let text = "there was no `init` yet: it comes first, with `node_id` and `node_ids`.";
            return Err(Refusal::new(Code::TemporarilyUnavailable, text));
        };
        let is_ours = |name: &str| begun.node_ids.iter().any(|node| node == name);
        if !is_ours(dest) {
            return Err(no_such_node(dest, &begun.node_ids));
        }
        Ok(match request {
            Request::Init { .. } | Request::ShadowStatus => Answer::ShadowStatusOk(self.pair.status().await?),
            Request::TriggerFailover { failed_master } => {
                if !is_ours(&failed_master) {
                    return Err(no_such_node(&failed_master, &begun.node_ids));
                }
                Answer::TriggerFailoverOk(self.pair.trigger_failover(&failed_master).await?)
            }
            Request::Append(entry) => Answer::AppendOk(self.pair.append(entry).await?),
            Request::Read { from, limit } => Answer::ReadOk(self.pair.read(from, limit).await?),
            Request::PauseShadow => Answer::PauseShadowOk { shadow: self.pair.pause_shadow().await? },
            Request::ResumeShadow => Answer::ResumeShadowOk { shadow: self.pair.resume_shadow().await? },
        })
    }

    async fn begin(&mut self, dest: &str, wanted: Begun) -> Result<Answer, Refusal> {
        if let Some(begun) = &self.begun {
            // Sent again, because the answer was lost: it is so already.
            if *begun == wanted {
                return Ok(Answer::InitOk);
            }
            let text = format!("this is {} of {} already.", quoted(&begun.node_id), begun.node_ids.join(", "));
            return Err(Refusal::new(Code::PreconditionFailed, text));
        }
        if dest != wanted.node_id {
            let (dest, id) = (quoted(dest), quoted(&wanted.node_id));
            return Err(Refusal::malformed(format!("this `init` is sent to {dest}, and says that it is {id}.")));
        }
        self.pair.begin(&wanted.node_ids).await?;
        self.begun = Some(wanted);
        Ok(Answer::InitOk)
    }
}

fn no_such_node(name: &str, nodes: &[String]) -> Refusal {
    let text = format!("there is no node {}; there are {}.", quoted(name), nodes.join(", "));
    Refusal::new(Code::NodeNotFound, text)
}
