//! The gate before a broker's port.
