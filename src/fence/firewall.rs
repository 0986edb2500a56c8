//! Drop the broker's port with nftables, established connections too.
//!
//! When it lies: a broker in another network namespace, behind XDP, or served over a Unix socket does not pass these
//! hooks. The rules are read back, but whether they stop *this* broker's clients is shown only by a forbidden write.
//!
//! What the broker says while the port is closed is not dropped but answered with a reset, to the broker: else a frozen
//! one that wakes behind the fence would take the writes that wait in its sockets, and the kernel would keep repeating
//! its acknowledgements until the fence is lifted. What was acknowledged before the fence and got lost on its way may
//! still arrive late: no fence calls back a packet.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::Fence;
use crate::{
    model::{ActError, Done, Epoch, FenceHealth, FenceReport, FenceVerdict, Order, Proof, Target},
    sys::{
        clock::Stopwatch,
        command::{Ended, Output, Run},
    },
};

/// A table of its own, `inet coroner_fence_<cluster>_<member>`, that drops what goes to and comes from the port:
/// over IPv4 and IPv6, on loopback too, on new connections and on established ones, and what is forwarded to a
/// container. It is set in one transaction and read back. The epoch stands in the rules' comments; an order with a
/// smaller one is refused.
///
/// A container of that host cannot reach another host's broker at the same port either while the table stands,
/// except at an address under `allow`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Firewall {
    /// Ports to close. Default: the member's own.
    pub ports: Vec<u16>,
    /// Addresses that are let in again once the standby is promoted, such as `10.0.0.13` or `10.1.0.0/16`: the
    /// arbiter's, to bring the member back. Until then everyone is dropped, the arbiter too, so that its forbidden
    /// write shows what clients would meet. Not a member's own address: clients on that host would come in with it.
    /// Names are not taken: nobody should have to ask a name server in an
    /// emergency.
    pub allow: Vec<String>,
    /// Words to put before `nft`: `[ssh, root@{host}]`, to close the port on the member's own host. Without it,
    /// the rules are set on this host. The operator vouches that these words lead to that host and no other.
    pub via: Vec<String>,
}

impl Firewall {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        let mut allow = Allow::default();
        for text in &self.allow {
            allow.add(text)?;
        }
        if self.ports.contains(&0) {
            return Err("port 0 cannot be closed".into());
        }
        Ok(Box::new(Method { config: self.clone(), allow, nobody: Allow::default() }))
    }
}

/// Who may still come in, as nft writes it.
#[derive(Clone, Debug, Default)]
struct Allow {
    v4: BTreeSet<String>,
    v6: BTreeSet<String>,
}

impl Allow {
    fn add(&mut self, text: &str) -> Result<(), String> {
        let bad = || format!("`allow: {text}` is no address: write for example `10.0.0.13` or `10.1.0.0/16`");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let (width, set) = if address.is_ipv4() { (32, &mut self.v4) } else { (128, &mut self.v6) };
        match prefix {
            None => set.insert(address.to_string()),
            Some(0) => return Err(format!("`allow: {text}` would let everyone in")),
            Some(prefix) if prefix == width => set.insert(address.to_string()),
            Some(prefix) if prefix < width => set.insert(format!("{}/{prefix}", network(address, prefix))),
            Some(_) => return Err(bad()),
        };
        Ok(())
    }
}

/// The address with the bits beyond the prefix cleared: nft prints it so, however it was written.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()),
        IpAddr::V6(a) => {
            IpAddr::V6((u128::from(a) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
        }
    }
}

struct Method {
    config: Firewall,
    allow: Allow,
    nobody: Allow,
}

/// A chain: its name, which is its hook, and the rules that belong into it.
struct Chain {
    hook: &'static str,
    rules: Vec<Rule>,
}

/// A rule, both as it is written and as it has to be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// Lets `side` (`saddr` or `daddr`) of this address pass, to or from the ports. One rule for each: nft would
    /// merge neighbours in a set, and what is read back would not be what was written.
    Accept { protocol: &'static str, side: &'static str, address: String, field: &'static str },
    /// Drops what goes to the ports.
    Drop { field: &'static str },
    /// Drops what comes from the ports, and ends the connection at the broker's side.
    Reset { field: &'static str },
    /// Lets that ending pass to the broker. Nobody can do more with it than end a connection.
    AcceptReset { field: &'static str },
}

/// What stands on the host.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Nothing,
    /// A table of that name: of this member, in this epoch, and whether it is as it has to be.
    Table {
        owner: Option<(Epoch, String)>,
        difference: Option<String>,
    },
}

impl Method {
    fn ports(&self, target: &Target) -> Result<BTreeSet<u16>, String> {
        if !self.config.ports.is_empty() {
            return Ok(self.config.ports.iter().copied().collect());
        }
        let port = target.port().ok_or_else(|| format!("`{}` has no port: name `ports`", target.address))?;
        Ok([port].into())
    }

    fn chains(allow: &Allow) -> [Chain; 3] {
        let accept = |source: bool, field| {
            let side = if source { "saddr" } else { "daddr" };
            [("ip", &allow.v4), ("ip6", &allow.v6)].into_iter().flat_map(move |(protocol, set)| {
                set.iter().map(move |address| Rule::Accept { protocol, side, address: address.clone(), field })
            })
        };
        let to: Vec<_> = accept(true, "dport").collect();
        let from: Vec<_> = accept(false, "sport").collect();
        let (drop_to, reset_from) = (Rule::Drop { field: "dport" }, Rule::Reset { field: "sport" });
        let ended = Rule::AcceptReset { field: "dport" };
        let chain = |hook, parts: &[&[Rule]]| Chain { hook, rules: parts.concat() };
        // What this host itself asks of another host's broker at the same port is left alone: it has to be able to
        // follow the new primary. In a forwarded packet the two cannot be told apart.
        [
            chain("input", &[&to, &[ended, drop_to.clone()]]),
            chain("output", &[&from, std::slice::from_ref(&reset_from)]),
            chain("forward", &[&to, &from, &[drop_to, reset_from]]),
        ]
    }

    /// The whole table, replaced in one transaction: at no moment is there none.
    fn script(allow: &Allow, table: &str, ports: &BTreeSet<u16>, comment: &str) -> String {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let mut text = format!("add table inet {table}\ndelete table inet {table}\nadd table inet {table}\n");
        for chain in Self::chains(allow) {
            let hook = chain.hook;
            text.push_str(&format!(
                "add chain inet {table} {hook} {{ type filter hook {hook} priority -300; policy accept; }}\n"
            ));
            for rule in chain.rules {
                let words = match rule {
                    Rule::Accept { protocol, side, address, field } => {
                        format!("{protocol} {side} {address} tcp {field} {{ {ports} }} accept")
                    }
                    Rule::Drop { field } => format!("tcp {field} {{ {ports} }} drop comment \"{comment}\""),
                    Rule::Reset { field } => {
                        format!("tcp {field} {{ {ports} }} reject with tcp reset comment \"{comment}\"")
                    }
                    Rule::AcceptReset { field } => format!("tcp {field} {{ {ports} }} tcp flags & rst == rst accept"),
                };
                text.push_str(&format!("add rule inet {table} {hook} {words}\n"));
            }
        }
        text
    }

    async fn nft(&self, target: &Target, words: &[&str], stdin: &str, deadline: Duration) -> Output {
        let via = self.config.via.iter().map(|word| target.expand(word));
        let words = via.chain(["nft".to_owned()]).chain(words.iter().map(|word| (*word).to_owned()));
        Run::new(words, deadline).cap(1024 * 1024).stdin(stdin).output().await
    }

    /// Reads back what stands, compared with a table that lets these in.
    async fn look(&self, allow: &Allow, target: &Target, deadline: Duration) -> Result<Standing, String> {
        let table = table_name(target);
        let output = self.nft(target, &["-j", "list", "table", "inet", &table], "", deadline).await;
        if !output.is_success() {
            // nft has no exit code of its own for this.
            let missing = String::from_utf8_lossy(&output.stderr).contains("No such file or directory");
            let missing = missing && matches!(output.ended, Ended::Exited(1));
            return if missing { Ok(Standing::Nothing) } else { Err(format!("`nft list` {}", output.describe())) };
        }
        let value: Value =
            serde_json::from_slice(&output.stdout).map_err(|e| format!("`nft -j list` gave no JSON: {e}"))?;
        Ok(Self::judge(allow, &value, &table, &self.ports(target)?))
    }

    /// Compares what `nft -j list table` shows with what has to stand, rule by rule.
    fn judge(allow: &Allow, value: &Value, table: &str, ports: &BTreeSet<u16>) -> Standing {
        let objects = value["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
        let owner = of("rule").filter_map(|rule| rule["comment"].as_str()).find_map(read_comment);
        let difference = || -> Result<(), String> {
            let found =
                of("table").find(|t| t["name"] == table && t["family"] == "inet").ok_or("the table is missing")?;
            if found.get("flags").is_some_and(|flags| flags.to_string().contains("dormant")) {
                return Err("the table is dormant".into());
            }
            for chain in Self::chains(allow) {
                let hook = chain.hook;
                let has_hook = of("chain")
                    .any(|c| c["name"] == hook && c["hook"] == hook && c["type"] == "filter" && c["prio"] == -300);
                if !has_hook {
                    return Err(format!("the chain `{hook}` is missing or hangs elsewhere"));
                }
                let rules: Vec<_> = of("rule").filter(|rule| rule["chain"] == hook).collect();
                let matches = rules.len() == chain.rules.len()
                    && rules.iter().zip(&chain.rules).all(|(have, want)| is_rule(&have["expr"], want, ports));
                if !matches {
                    return Err(format!("the rules of the chain `{hook}` are not those that were set"));
                }
            }
            Ok(())
        };
        Standing::Table { owner, difference: difference().err() }
    }

    /// Sets the table so that it lets in these and no others, and reads it back.
    async fn close(&self, allow: &Allow, order: &Order, deadline: Duration) -> FenceReport {
        let watch = Stopwatch::start();

        let left = || deadline.saturating_sub(watch.elapsed());
        let target = &order.target;
        let ports = match self.ports(target) {
            Ok(ports) => ports,
            Err(e) => return FenceReport::refuted(format!("nothing was done: {e}")),
        };
        // Not being able to look is no reason not to act: only a newer epoch that was seen is.
        let before = self.look(allow, target, left() / 3).await;
        if let Some(why) = before.as_ref().ok().and_then(|standing| refusal(standing, order)) {
            return FenceReport::refuted(format!("nothing was done: {why}"));
        }
        let wanted = Standing::Table { owner: Some((order.epoch, owner(target))), difference: None };
        let closed = format!(
            "tcp port {} is dropped in and out, established connections too, by the table `inet {}` of epoch {}",
            ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
            table_name(target),
            order.epoch
        );
        if before.as_ref() == Ok(&wanted) {
            return FenceReport::confirmed(Proof::Gate, format!("{closed}; it stood already and was read back"));
        }
        let script = Self::script(allow, &table_name(target), &ports, &comment(order));
        let output = self.nft(target, &["-f", "-"], &script, left() * 2 / 3).await;
        let said = format!("`nft -f -` {}", output.describe());
        if let Ended::NotStarted(_) = output.ended {
            return FenceReport::refuted(format!("nothing was done: {said}"));
        }
        match self.look(allow, target, left()).await {
            Ok(standing) if standing == wanted => {
                FenceReport::confirmed(Proof::Gate, format!("{closed}; it was read back"))
            }
            Ok(Standing::Nothing) => FenceReport::refuted(format!("{said}; read back, there is no such table")),
            Ok(Standing::Table { difference, .. }) => FenceReport::unknown(format!(
                "{said}; read back, {}",
                difference.unwrap_or_else(|| "the table belongs to another order".into())
            )),
            Err(e) => FenceReport::unknown(format!("{said}; it cannot be read back: {e}")),
        }
    }
}

/// Whether an expression that was read back is this rule and nothing more.
fn is_rule(expression: &Value, want: &Rule, ports: &BTreeSet<u16>) -> bool {
    let ports: BTreeSet<String> = ports.iter().map(u16::to_string).collect();
    let parts = expression.as_array().map(Vec::as_slice).unwrap_or_default();
    match (want, parts) {
        (Rule::Drop { field }, [match_ports, end]) => {
            is_match(match_ports, "tcp", field, &ports) && end.get("drop").is_some()
        }
        (Rule::Reset { field }, [match_ports, end]) => {
            is_match(match_ports, "tcp", field, &ports) && end["reject"]["type"] == "tcp reset"
        }
        (Rule::AcceptReset { field }, [match_ports, match_flag, end]) => {
            is_match(match_ports, "tcp", field, &ports) && is_reset_flag(match_flag) && end.get("accept").is_some()
        }
        (Rule::Accept { protocol, side, address, field }, [match_side, match_ports, end]) => {
            is_match(match_side, protocol, side, &[address.clone()].into())
                && is_match(match_ports, "tcp", field, &ports)
                && end.get("accept").is_some()
        }
        _ => false,
    }
}

/// Whether this is "the reset flag is set", in either of the ways in which versions of nft write it.
fn is_reset_flag(part: &Value) -> bool {
    let part = &part["match"];
    let flags = serde_json::json!({ "payload": { "protocol": "tcp", "field": "flags" } });
    part["right"] == "rst"
        && ((part["op"] == "==" && part["left"] == serde_json::json!({ "&": [flags, "rst"] }))
            || (part["op"] == "in" && part["left"] == flags))
}

/// Whether this is "the field is one of these". nft shows one alone without the set around it.
fn is_match(part: &Value, protocol: &str, field: &str, values: &BTreeSet<String>) -> bool {
    let Some(part) = part.get("match") else { return false };
    let payload = &part["left"]["payload"];
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(_) => {
            let prefix = &value["prefix"];
            format!("{}/{}", prefix["addr"].as_str().unwrap_or("?"), prefix["len"])
        }
        other => other.to_string(),
    };
    let right = &part["right"];
    let have: BTreeSet<String> =
        right["set"].as_array().map_or_else(|| [word(right)].into(), |set| set.iter().map(word).collect());
    (part["op"] == "==" || part["op"] == "in")
        && payload["protocol"] == protocol
        && payload["field"] == field
        && have == *values
}

/// The table's name: letters, digits and `_` only.
fn table_name(target: &Target) -> String {
    let clean = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).take(80).collect()
    };
    format!("coroner_fence_{}_{}", clean(target.cluster.as_str()), clean(target.member.as_str()))
}

/// Whose the table is. Two names may be cleaned into the same table name, so the owner stands in it in full.
fn owner(target: &Target) -> String {
    let name = format!("{}/{}", target.cluster, target.member);
    name.chars().map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '_' }).take(80).collect()
}

fn comment(order: &Order) -> String {
    format!("coroner epoch={} {}", order.epoch, owner(&order.target))
}

fn read_comment(text: &str) -> Option<(Epoch, String)> {
    let (epoch, owner) = text.strip_prefix("coroner epoch=")?.split_once(' ')?;
    Some((Epoch(epoch.parse().ok()?), owner.to_owned()))
}

/// Why the order must not touch this table, if so.
fn refusal(standing: &Standing, order: &Order) -> Option<String> {
    let Standing::Table { owner: Some((epoch, whose)), .. } = standing else { return None };
    if *whose != owner(&order.target) {
        return Some(format!("the table `{}` belongs to {whose}", table_name(&order.target)));
    }
    (*epoch > order.epoch)
        .then(|| format!("the table stands in the name of epoch {epoch}, and this order is of epoch {}", order.epoch))
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        match self.config.via.as_slice() {
            [] => "firewall".into(),
            via => format!("firewall via {}", via.join(" ")),
        }
    }

    fn best_proof(&self) -> Proof {
        Proof::Gate
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        let health = |usable, detail| FenceHealth { usable, detail };
        let ports = match self.ports(target) {
            Ok(ports) => ports,
            Err(e) => return health(Some(false), e),
        };
        let comment = format!("coroner epoch=0 {}", owner(target));
        let script = Self::script(&self.allow, &table_name(target), &ports, &comment);
        let output = self.nft(target, &["--check", "-f", "-"], &script, deadline).await;
        let usable = match output.ended {
            Ended::Exited(code) => Some(code == 0),
            Ended::NotStarted(_) => Some(false),
            Ended::Signalled(_) | Ended::TimedOut(_) => None,
        };
        health(usable, format!("`nft --check` {}", output.describe()))
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        self.close(&self.nobody, order, deadline).await
    }

    async fn admit(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = format!("let the arbiter in at {}", order.target.member);
        let report = self.close(&self.allow, order, deadline).await;
        match report.verdict {
            FenceVerdict::Confirmed => Ok(Done::new(report.detail)),
            FenceVerdict::Refuted => Err(ActError::nothing_done(attempted, report.detail)),
            FenceVerdict::Unknown => Err(ActError::uncertain(attempted, report.detail)),
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let watch = Stopwatch::start();
        let left = || deadline.saturating_sub(watch.elapsed());
        let (target, table) = (&order.target, table_name(&order.target));
        let attempted = format!("open the port of {}", target.member);
        match self.look(&self.allow, target, left() / 3).await {
            Err(e) => return Err(ActError::nothing_done(attempted, e)),
            Ok(Standing::Nothing) => return Ok(Done::new(format!("there is no table `inet {table}`"))),
            Ok(standing) => {
                if let Some(why) = refusal(&standing, order) {
                    return Err(ActError::nothing_done(attempted, why));
                }
            }
        }
        let output = self.nft(target, &["delete", "table", "inet", &table], "", left() * 2 / 3).await;
        match self.look(&self.allow, target, left()).await {
            Ok(Standing::Nothing) => Ok(Done::new(format!("the table `inet {table}` was deleted"))),
            Ok(_) => {
                Err(ActError::nothing_done(attempted, format!("the table still stands: nft {}", output.describe())))
            }
            Err(e) => Err(ActError::uncertain(attempted, format!("nft {}; {e}", output.describe()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(texts: &[&str]) -> Result<Allow, String> {
        let mut allow = Allow::default();
        texts.iter().try_for_each(|text| allow.add(text)).map(|()| allow)
    }

    #[test]
    fn allowed_addresses_are_written_as_nft_shows_them() {
        let a = allow(&["10.0.0.1", "10.1.2.3/16", "10.0.0.9/32", "2001:DB8::1", "2001:db8::1/32"]).unwrap();
        assert_eq!(a.v4.into_iter().collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.9", "10.1.0.0/16"]);
        assert_eq!(a.v6.into_iter().collect::<Vec<_>>(), ["2001:db8::/32", "2001:db8::1"]);
        for bad in ["arbiter.example", "10.0.0.1/33", "0.0.0.0/0", "::/0", "10.0.0", "1 }; drop", ""] {
            assert!(allow(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_script() {
        let target =
            Target { cluster: "a\"; flush ruleset".into(), member: "ü/b".into(), address: "10.0.0.1:6379".into() };
        assert!(table_name(&target).chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        assert!(owner(&target).chars().all(|c| c.is_ascii_graphic() && c != '"'));
    }

    #[test]
    fn a_comment_gives_back_the_epoch() {
        assert_eq!(read_comment("coroner epoch=7 orders/a"), Some((Epoch(7), "orders/a".into())));
        assert_eq!(read_comment("somebody else's"), None);
    }
}
