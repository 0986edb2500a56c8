//! SQLite: the embedded default, for one arbiter.
