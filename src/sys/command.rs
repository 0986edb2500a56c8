//! A child process with bounds: no shell, its own process group, a deadline, capped output.
