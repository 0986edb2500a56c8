//! keepalived: VRRP between the two hosts, a virtual address, and a script that promotes whoever gets it.
//!
//! The server's process is looked at by a script, whose shortest interval is one second; a host that is gone is missed
//! after three adverts. Nothing stops the old primary but its own keepalived.

use std::time::Duration;

use crate::{
    Rival,
    net::address,
    stage::{MEMBERS, Stage, other, script},
};

/// The virtual address.
pub(crate) const VIRTUAL: &str = "10.213.0.100";

pub(crate) struct Keepalived {
    /// Between two adverts.
    pub(crate) advert: Duration,
}

fn name_of(host: &str) -> String {
    format!("keepalived-{host}")
}

impl Keepalived {
    fn run(stage: &Stage, host: &str) {
        let file = |kind: &str| stage.path(&format!("keepalived-{host}.{kind}"));
        let mut command = stage.net.command(host);
        command.args(["keepalived", "--dont-fork", "--log-console", "--vrrp"]);
        command.arg("--use-file").arg(file("conf")).arg("--pid").arg(file("pid")).arg("--vrrp_pid").arg(file("vrrp"));
        stage.start(&name_of(host), command);
    }
}

impl Rival for Keepalived {
    fn name(&self) -> String {
        format!("keepalived-{}", self.advert.as_millis())
    }

    fn start(&self, stage: &Stage) {
        for member in MEMBERS {
            let cli = format!("redis-cli -s {}", stage.path(&format!("{member}.sock")).display());
            // As its manual advises: short, and with a bound of its own.
            let check = format!("#!/bin/sh\n[ \"$(timeout 0.2 {cli} ping)\" = PONG ]\n");
            script(&stage.path(&format!("check-{member}")), &check);
            let notify = format!(
                "#!/bin/sh\ncase $3 in\nMASTER) timeout 2 {cli} replicaof no one ;;\n\
                 BACKUP) timeout 2 {cli} replicaof {} 6379 ;;\nesac\n",
                address(other(member))
            );
            script(&stage.path(&format!("notify-{member}")), &notify);
            let conf = format!(
                "global_defs {{\n router_id {member}\n vrrp_version 3\n script_user root\n enable_script_security\n \
                 vrrp_garp_master_delay 0\n}}\n\
                 vrrp_script check {{\n script \"{check}\"\n interval 1\n timeout 1\n fall 1\n rise 1\n}}\n\
                 vrrp_instance lab {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {priority}\n \
                 nopreempt\n advert_int {advert}\n unicast_src_ip {own}\n unicast_peer {{\n {peer}\n }}\n \
                 virtual_ipaddress {{\n {VIRTUAL}/24 dev eth0\n }}\n track_script {{\n check\n }}\n \
                 notify \"{notify}\"\n}}\n",
                check = stage.path(&format!("check-{member}")).display(),
                notify = stage.path(&format!("notify-{member}")).display(),
                priority = if member == "m" { 101 } else { 100 },
                advert = self.advert.as_secs_f64(),
                own = address(member),
                peer = address(other(member)),
            );
            std::fs::write(stage.path(&format!("keepalived-{member}.conf")), conf).unwrap();
        }
        Self::run(stage, "m");
        std::thread::sleep(Duration::from_secs(2));
        Self::run(stage, "s");
    }

    fn missing(&self, stage: &Stage) -> Option<String> {
        let primary = match stage.primary() {
            Ok(primary) => primary,
            Err(why) => return Some(why),
        };
        for member in MEMBERS {
            let output = stage.net.command(member).args(["ip", "-o", "-4", "addr", "show", "dev", "eth0"]).output();
            let has_it = String::from_utf8_lossy(&output.unwrap().stdout).contains(&format!("{VIRTUAL}/"));
            if has_it != (member == primary) {
                return Some(format!("{primary} is primary; {member} has the virtual address: {has_it}"));
            }
        }
        None
    }

    fn beside(&self, member: &str) -> Vec<String> {
        vec![name_of(member)]
    }

    fn come_back(&self, stage: &Stage, member: &str) {
        if !stage.runs(member) {
            stage.start_redis(member, Some(other(member)));
        }
        if !stage.runs(&name_of(member)) {
            // What a keepalived that was killed has left behind, a host that was off would have lost.
            for kind in ["pid", "vrrp"] {
                let _ = std::fs::remove_file(stage.path(&format!("keepalived-{member}.{kind}")));
            }
            let _ =
                stage.net.command(member).args(["ip", "addr", "del", &format!("{VIRTUAL}/24"), "dev", "eth0"]).output();
            Self::run(stage, member);
        }
    }

    fn virtual_address(&self) -> Option<&'static str> {
        Some(VIRTUAL)
    }

    fn beyond(&self) -> &'static str {
        "VRRP 3, unicast, nopreempt, check every 1 s (its shortest), promotion by notify, client on the virtual address"
    }
}
