//! HTTP, UDP and Unix socket: ingest, control, metrics, events.
