//! What the kernel and the service manager know of a broker.
