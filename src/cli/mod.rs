//! One file per verb.

/// Parses the arguments, runs the verb, and turns the result into an exit code.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
