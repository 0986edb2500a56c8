//! A file made from a template, and a reload.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Redirect;
use crate::{
    model::{ActError, Done, NodeTarget, Order, StepResult},
    sys::{command::Run, file, hook},
};

/// Writes a file atomically and runs a reload: for HAProxy, envoy, an application's own settings. Owner and
/// permissions of a file that is there are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The file to write.
    pub path: String,
    /// The template: `{{ cluster }}`, `{{ member }}`, `{{ address }}`, `{{ host }}`, `{{ port }}`, `{{ epoch }}`.
    pub template: Option<String>,
    /// A file that holds the template. It is read again for each redirect.
    pub template_file: Option<String>,
    /// The program that makes others read the file again; no shell. It is told what the `exec` redirect is told.
    pub reload: Vec<String>,
}

impl File {
    pub(super) fn build(&self) -> Result<Box<dyn Redirect>, String> {
        if self.path.is_empty() {
            return Err("`path` is missing".into());
        }
        match (&self.template, &self.template_file) {
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err("exactly one of `template`, `template_file` has to say what is written".into()),
        }
        hook::check_template(&self.text()?)?;
        Ok(Box::new(self.clone()))
    }

    fn text(&self) -> Result<String, String> {
        match (&self.template, &self.template_file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) => {
                std::fs::read_to_string(path).map_err(|e| format!("`template_file: {path}` cannot be read: {e}"))
            }
            (None, None) => Err("there is no template".into()),
        }
    }

    fn write(&self, order: &Order) -> Result<String, String> {
        let path = order.target.expand(&self.path);
        let content = hook::render(&self.text()?, order)?;
        if std::fs::read(&path).is_ok_and(|old| old == content.as_bytes()) {
            return Ok(format!("{path} says so already"));
        }
        file::replace(Path::new(&path), content.as_bytes()).map_err(|e| format!("{path} cannot be written: {e}"))?;
        Ok(format!("{path} was written"))
    }
}

#[async_trait]
impl Redirect for File {
    fn label(&self) -> String {
        format!("file {}", self.path)
    }

    async fn redirect(&self, order: &Order, _: &[NodeTarget], deadline: Duration) -> StepResult {
        let attempted = format!("redirect by {}", self.label());
        let written = match self.write(order) {
            Ok(written) => written,
            Err(e) => return StepResult::Failed(ActError::nothing_done(attempted, e)),
        };
        if self.reload.is_empty() {
            return StepResult::Done(Done::new(written));
        }
        // Even if the file said so already: nobody knows whether the others had read it.
        let words = self.reload.iter().map(|word| order.target.expand(word));
        let environment = hook::environment("redirect", order, &Default::default());
        let output = Run::new(words, deadline).envs(environment).output().await;
        let said = format!("{written}; the reload program {}", output.describe());
        if output.is_success() {
            StepResult::Done(Done::new(said))
        } else {
            StepResult::Failed(ActError::uncertain(attempted, said))
        }
    }
}
