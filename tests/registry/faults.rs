//! Servers that fail.
