//! `coroner agent`.

use std::path::PathBuf;

use super::exit::{Code, Exit, Failure};
use crate::{
    agent::{self, AgentError},
    telemetry::log::{self, Format},
};

/// Run the agent beside a broker or a node.
///
/// It finds its part in the file by name: --name, or this host's name, or the only agent whose address is this host's.
/// Beside a broker it holds the lease and the gate, watches the process, and carries out what the arbiter orders, by this
/// host's own file. Beside a node it tells what arrives, and keeps the traffic of a fenced primary out.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
SIGTERM and SIGINT end it. The gate is left as it is: what stands open in it shuts when the lease runs out, and an agent \
that is back before that goes on with it. SIGHUP is not heeded: restart the agent to load a changed file.")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The party of the file that this agent is.
    #[arg(short, long, env = "CORONER_NAME", value_name = "NAME")]
    pub(super) name: Option<String>,
    /// How to log. The level is set with CORONER_LOG.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub(super) log: Format,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    log::init(args.log, None).map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    agent::run(&args.config, args.name.as_deref()).await.map_err(|error| failure(&error))?;
    Ok(Exit::OK)
}

/// The code of a failure of an agent.
pub(super) fn failure(error: &AgentError) -> Failure {
    let code = match error {
        AgentError::Config(_) | AgentError::Setup(_) | AgentError::Build(_) => Code::Config,
        AgentError::Durable(_) => Code::Io,
        AgentError::Socket(_) => Code::CannotCreate,
        AgentError::Gate { .. } | AgentError::Thread(_) => Code::Unavailable,
        AgentError::Signals(_) | AgentError::Ended => Code::Internal,
    };
    Failure::new(code, error.to_string())
}
