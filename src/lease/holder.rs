//! TODO holder
