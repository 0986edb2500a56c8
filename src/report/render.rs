//! An incident as Markdown that a stranger understands, and as one line.
