//! What `INFO replication` tells.

use std::time::Duration;

use crate::model::{Epoch, Role, observation::RoleReport};

/// Role and replication state, as the instance tells them.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// What it says it is.
    pub role: Role,
    /// Identity of its history, and of the history that it continues since it was promoted.
    pub replid: Option<String>,
    /// See `replid`.
    pub replid2: Option<String>,
    /// A primary's end of log; what a standby has applied. `None` where a standby cannot know it: after it threw
    /// its place away for a full copy that it did not get.
    pub position: Option<u64>,
    /// What a standby has received, applied or not.
    pub received: Option<u64>,
    /// The end of the history `replid2`: where the instance was promoted.
    pub promoted_at: Option<u64>,
    /// The first byte of its stream that it can still hand out.
    pub backlog_from: Option<u64>,
    /// A standby's link to its primary.
    pub link_up: Option<bool>,
    /// How long ago something came over that link.
    pub last_io: Option<Duration>,
    /// A standby's primary: `host:port`.
    pub follows: Option<String>,
    /// A standby's priority; 0: never to be promoted.
    pub priority: Option<u32>,
}

impl Info {
    /// Reads the section. `None`: it is not one, or the role is none that we know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name: &str| field(name).and_then(|value| value.parse::<u64>().ok());
        let history = |name: &str| {
            field(name).filter(|id| !id.is_empty() && id.bytes().any(|b| b != b'0')).map(ToOwned::to_owned)
        };
        let role = match field("role")? {
            "master" => Role::Primary,
            "slave" | "replica" => Role::Standby,
            _ => return None,
        };
        let mut info = Self {
            role,
            replid: history("master_replid"),
            replid2: history("master_replid2"),
            position: number("master_repl_offset"),
            received: None,
            promoted_at: number("second_repl_offset").and_then(|end| end.checked_sub(1)),
            backlog_from: number("repl_backlog_first_byte_offset")
                .filter(|_| field("repl_backlog_active") == Some("1")),
            link_up: None,
            last_io: None,
            follows: None,
            priority: None,
        };
        if role == Role::Standby {
            let link_up = field("master_link_status") == Some("up");
            // Zero is said without a place too. It is a place where a full copy of a primary that wrote nothing since
            // was finished: loading a copy frees the backlog, and only its end makes a new one, at the same offset.
            let is_copy_of_unwritten = info.backlog_from.is_some() && info.position == Some(0);
            info.position = number("slave_repl_offset").filter(|at| link_up || *at > 0 || is_copy_of_unwritten);
            // Where it does not know what it has applied, what it received is of a stream that it threw away.
            info.received = info.position.map(|applied| number("slave_read_repl_offset").unwrap_or(applied));
            info.link_up = Some(link_up);
            info.last_io = number("master_last_io_seconds_ago").map(Duration::from_secs);
            info.priority = number("slave_priority").and_then(|n| u32::try_from(n).ok());
            info.follows = field("master_host").zip(field("master_port")).map(|(host, port)| {
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
            });
        }
        Some(info)
    }

    /// What of it the engine is told.
    #[must_use]
    pub fn report(self, epoch: Option<Epoch>) -> RoleReport {
        RoleReport {
            role: self.role,
            position: self.position,
            link_up: self.link_up,
            follows: self.follows,
            lineage: self.replid,
            epoch,
            priority: self.priority,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_lost_its_place_has_no_position() {
        let standby = "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\n\
             master_last_io_seconds_ago:-1\r\nslave_read_repl_offset:0\r\nslave_repl_offset:0\r\nslave_priority:100\r\n\
             master_replid:8c6e\r\nmaster_replid2:0000\r\nmaster_repl_offset:77\r\nsecond_repl_offset:-1\r\n";
        let info = Info::parse(standby).unwrap();
        assert_eq!((info.role, info.position, info.link_up), (Role::Standby, None, Some(false)));
        assert_eq!(info.received, None, "a candidate would wait in vain to apply it");
        assert_eq!((info.last_io, info.follows.as_deref()), (None, Some("10.0.0.1:6379")));
        assert_eq!((info.replid2, info.promoted_at), (None, None));
        let up = standby.replace("down", "up").replace("slave_repl_offset:0", "slave_repl_offset:41");
        assert_eq!(Info::parse(&up).unwrap().position, Some(41));
    }

    #[test]
    fn a_standby_of_a_primary_that_wrote_nothing_is_at_zero() {
        let standby = "role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:0\r\nmaster_repl_offset:0\r\n\
             repl_backlog_active:1\r\nrepl_backlog_first_byte_offset:1\r\n";
        assert_eq!(Info::parse(standby).unwrap().position, Some(0));
        for (without, with) in
            [("repl_backlog_active:1", "repl_backlog_active:0"), ("master_repl_offset:0", "master_repl_offset:77")]
        {
            assert_eq!(Info::parse(&standby.replace(without, with)).unwrap().position, None, "{with}");
        }
    }

    #[test]
    fn what_is_no_replication_section_is_none() {
        for text in ["", "role:sentinel\r\n", "no colon here", "role"] {
            assert_eq!(Info::parse(text), None, "{text:?}");
        }
    }
}
