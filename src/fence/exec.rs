//! A program of the operator's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Proof;

/// Runs a program with arguments, without a shell. Its environment says whom, why and in which epoch:
/// `CORONER_ACTION` (`fence`, `unfence`, `check`), `CORONER_CLUSTER`, `CORONER_MEMBER`, `CORONER_ADDRESS`,
/// `CORONER_EPOCH`, `CORONER_INCIDENT`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments that fence. Exit 0: claims to have fenced. `{member}` and the like are put in.
    pub command: Vec<String>,
    /// Reads back, independently of `command`: exit 0 fenced, 1 not fenced, anything else unknown.
    pub status: Vec<String>,
    /// Lifts the fence. Without it, nothing is to be lifted.
    pub unfence: Vec<String>,
    /// Finds out without harm whether `command` could work: exit 0 it could.
    pub check: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
    /// What the operator vouches for when `status` confirms: default `claim`; `power_off` for a program that
    /// cuts power and reads it back, `gate` for one that cuts the port at a switch.
    pub proof: Option<Proof>,
}
