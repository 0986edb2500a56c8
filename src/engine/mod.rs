//! THE DECISION. Pure.
