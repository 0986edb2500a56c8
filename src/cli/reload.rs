//! `coroner reload`.

use super::{
    Context,
    exit::{Code, Exit, Failure},
};

/// Let the arbiter load its file again. A bad file changes nothing and is told here.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(context: &Context, _: &Args) -> Result<Exit, Failure> {
    let answer: serde_json::Value =
        context.client()?.post("/v1/reload", &serde_json::json!({})).await.map_err(|failure| match failure.code {
            // The arbiter read the file and refused it: the file is at fault, not the request.
            Code::Data => Failure::new(Code::Config, failure.text),
            _ => failure,
        })?;
    let text = answer.get("text").or(Some(&answer)).and_then(|v| v.as_str()).unwrap_or("Loaded.").to_owned();
    context.emit(&answer, |_| format!("{}\n", text.trim_end()))
}
