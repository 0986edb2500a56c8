//! The saga, pure.
