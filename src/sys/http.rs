//! HTTP clients that build even without a CA bundle, and JSON assertions.
