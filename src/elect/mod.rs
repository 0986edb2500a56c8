//! Election in a process: the keeper that runs a candidate over a database, and the program that runs where it is elected.

pub mod keeper;
