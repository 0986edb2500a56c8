//! The `coroner-relay` program: `coroner relay` under a name of its own.

fn main() -> std::process::ExitCode {
    coroner::cli::relay_main()
}
