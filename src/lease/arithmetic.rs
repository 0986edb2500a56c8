//! TODO arithmetic
