//! Log, metrics, operator-visible events.
