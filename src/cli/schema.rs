//! `coroner schema`.

use clap::ValueEnum;
use schemars::{Schema, schema_for};

use super::{
    exit::{Exit, Failure},
    json, print,
};
use crate::model::{Command, Incident, Notice, Report, doctor, status};

/// Print a JSON Schema.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Of what.
    #[arg(value_enum, default_value_t = Of::Config)]
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Of {
    /// The configuration file, for editors.
    Config,
    /// `status -o json`.
    Status,
    /// `why -o json`.
    Why,
    /// `why-not -o json`.
    WhyNot,
    /// An incident.
    Incident,
    /// A command, as the API takes it.
    Command,
    /// A report, as webhooks and programs get it.
    Report,
    /// An event of the event stream.
    Event,
    /// `doctor -o json`.
    Doctor,
    /// `fence test -o json`.
    FenceTest,
    /// `backtest -o json`.
    Backtest,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    print(&format!("{}\n", json(&schema(args.of))?))
}

fn schema(of: Of) -> serde_json::Value {
    let schema: Schema = match of {
        Of::Config => return crate::config::schema_json(),
        Of::Status => schema_for!(status::Status),
        Of::Why => schema_for!(status::Why),
        Of::WhyNot => schema_for!(status::WhyNot),
        Of::Incident => schema_for!(Incident),
        Of::Command => schema_for!(Command),
        Of::Report => schema_for!(Report),
        Of::Event => schema_for!(Notice),
        Of::Doctor => schema_for!(doctor::DoctorReport),
        Of::FenceTest => schema_for!(doctor::FenceTestReport),
        Of::Backtest => schema_for!(crate::backtest::Report),
    };
    schema.into()
}
