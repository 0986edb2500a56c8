//! What answers as Redis: a reply ends where it ends, however much of it has come; what is none of Redis's says nothing of
//! its health; and `INFO` makes a primary of nobody who does not say so.

use coroner::{
    broker::redis::{info::Info, reply},
    model::{FailureKind, Role},
};

use super::Reached;

/// What a failure says, at most.
const WORDS_MAX: usize = 2_048;

pub fn run(input: &[u8]) -> Reached {
    let Some((choice, bytes)) = input.split_first() else { return Reached::Refused };
    if choice & 1 == 1 {
        return match std::str::from_utf8(bytes) {
            Ok(text) => info(text),
            Err(_) => Reached::Refused,
        };
    }
    let longest = if choice & 2 == 0 { 256 * 1024 } else { 64 };
    replies(bytes, longest)
}

/// A stream of replies, as a connection takes them.
fn replies(bytes: &[u8], longest: usize) -> Reached {
    let (mut rest, mut is_taken) = (bytes, false);
    loop {
        let found = reply::length(rest, longest);
        // What was decided stays decided, whatever comes behind it.
        let more = [rest, b"+OK\r\n$3\r\nabc\r\n"].concat();
        match &found {
            Ok(None) => {}
            Ok(Some(length)) => assert_eq!(reply::length(&more, longest).ok(), Some(Some(*length))),
            Err(_) => assert!(reply::length(&more, longest).is_err(), "what was no reply became one"),
        }
        let length = match found {
            Err(failure) => {
                assert!(!failure.kind.is_evidence(), "{failure}: what is no Redis is no death");
                return Reached::of(is_taken);
            }
            Ok(None) => return Reached::of(is_taken),
            Ok(Some(length)) => length,
        };
        assert!((1..=rest.len()).contains(&length), "a reply of {length} bytes out of {}", rest.len());
        for cut in 0..length.min(64) {
            let early = reply::length(&rest[..cut], longest);
            assert!(matches!(early, Ok(None)), "{cut} of {length} bytes are {early:?}");
        }
        let (whole, behind) = rest.split_at(length);
        rest = behind;
        match reply::read(whole) {
            Ok(value) => {
                is_taken = true;
                if let Err(failure) = reply::said(value) {
                    assert!(failure.text.len() <= WORDS_MAX, "a failure of {} bytes", failure.text.len());
                    assert!(!failure.text.contains(['\r', '\n']), "{failure:?}: more than a line");
                }
            }
            Err(failure) => {
                assert!(!failure.kind.is_evidence(), "{failure}: garbage counts towards a death");
                assert!(failure.text.len() <= WORDS_MAX, "a failure of {} bytes", failure.text.len());
                let may_be = [FailureKind::Parse, FailureKind::Auth, FailureKind::NotFound, FailureKind::Tls];
                assert!(may_be.contains(&failure.kind), "{failure:?}");
            }
        }
    }
}

fn info(text: &str) -> Reached {
    let Some(info) = Info::parse(text) else { return Reached::Refused };
    let said = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let expected = match said("role") {
        Some("master") => Role::Primary,
        Some("slave" | "replica") => Role::Standby,
        other => panic!("a role was made out of {other:?}"),
    };
    assert_eq!(info.role, expected);
    match info.role {
        Role::Primary => {
            assert_eq!((info.link_up, info.last_io, &info.follows, info.received), (None, None, &None, None));
            assert_eq!(info.position, said("master_repl_offset").and_then(|at| at.parse().ok()));
        }
        Role::Standby => {
            assert_eq!(info.link_up, Some(said("master_link_status") == Some("up")));
            let told: Option<u64> = said("slave_repl_offset").and_then(|at| at.parse().ok());
            assert!(info.position.is_none() || info.position == told, "{info:?}: a position that nobody told");
            assert!(info.received.is_none() == info.position.is_none());
        }
    }
    assert!(info.replid.as_ref().is_none_or(|id| id.bytes().any(|byte| byte != b'0')), "{info:?}");
    // The rest of INFO, and the ends of lines, change nothing.
    let longer = format!("# Server\nredis_version:7\n{}\nused_memory:1\n", text.trim_end_matches('\r'));
    assert_eq!(Info::parse(&longer).as_ref(), Some(&info), "other sections change what this one says");
    let report = info.clone().report(None);
    assert_eq!((report.role, report.position, report.link_up), (info.role, info.position, info.link_up));
    Reached::Taken
}
