//! Replies, pure: where one ends, what it says, what an error in it means.

use redis::{ErrorKind, RedisError, Value};

use crate::model::{Failure, FailureKind};

/// So much of what an error says is kept.
const TEXT_MAX: usize = 300;

pub(super) fn garbage(text: &str) -> Failure {
    Failure::new(FailureKind::Parse, format!("what answers does not speak the protocol of Redis: {text}"))
}

/// Length of the first whole reply in `bytes`; `None` while it is incomplete.
///
/// # Errors
/// It is no reply, or longer than `longest`.
pub fn length(bytes: &[u8], longest: usize) -> Result<Option<usize>, Failure> {
    fn at(bytes: &[u8], start: usize, depth: usize, longest: usize) -> Result<Option<usize>, Failure> {
        let Some(kind) = bytes.get(start) else { return Ok(None) };
        if !b"+-:$*".contains(kind) || depth > 8 {
            return Err(garbage("an unknown kind of answer"));
        }
        let Some(line) = bytes[start..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let end = start + line + 2;
        if !b"$*".contains(kind) {
            return Ok(Some(end));
        }
        let count = std::str::from_utf8(&bytes[start + 1..start + line]).ok().and_then(|text| text.parse::<i64>().ok());
        let Some(count) = count else { return Err(garbage("a length that is no number")) };
        let Ok(count) = usize::try_from(count) else { return Ok(Some(end)) };
        if count > longest {
            return Err(garbage("the answer is too long"));
        }
        if *kind == b'$' {
            let whole = end + count + 2;
            return Ok((bytes.len() >= whole).then_some(whole));
        }
        let mut next = end;
        for _ in 0..count {
            let Some(after) = at(bytes, next, depth + 1, longest)? else { return Ok(None) };
            next = after;
        }
        Ok(Some(next))
    }
    at(bytes, 0, 0, longest)
}

/// Reads one whole reply, as [`length`] found it. An error that was replied is a value too: see [`said`].
///
/// # Errors
/// It is none.
pub fn read(bytes: &[u8]) -> Result<Value, Failure> {
    redis::parse_redis_value(bytes).map_err(|e| failure_of(&e))
}

/// What a reply says, unless it is an error, or there is one in it.
///
/// # Errors
/// The error that was replied, by its meaning.
pub fn said(reply: Value) -> Result<Value, Failure> {
    reply.extract_error().map_err(|e| failure_of(&e))
}

/// What an error reply means.
fn failure_of(error: &RedisError) -> Failure {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    let kind = match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => FailureKind::Auth,
        "LOADING" => FailureKind::Loading,
        "OOM" | "MISCONF" => FailureKind::Full,
        "READONLY" | "NOREPLICAS" => FailureKind::ReadOnly,
        "BUSY" => FailureKind::Overloaded,
        "ERR" if detail.contains("max number of clients") => FailureKind::Overloaded,
        "ERR" if detail.contains("invalid password") || detail.contains("AUTH") => FailureKind::Auth,
        _ if error.kind() == ErrorKind::Parse => FailureKind::Parse,
        _ => FailureKind::WrongAnswer,
    };
    let text = if code.is_empty() { error.to_string() } else { format!("{code} {detail}") };
    Failure::new(kind, short(&text))
}

/// Whatever it says is kept with every observation, and shown on one line.
fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY_MAX: usize = 256 * 1024;

    #[test]
    fn replies_are_cut_where_they_end() {
        let whole: [(&[u8], usize); 6] = [
            (b"+OK\r\n+next", 5),
            (b"-ERR no\r\n", 9),
            (b"$3\r\nabc\r\n", 9),
            (b"$-1\r\n", 5),
            (b"*2\r\n$1\r\na\r\n:5\r\nrest", 15),
            (b"*0\r\n", 4),
        ];
        for (bytes, length) in whole {
            assert_eq!(super::length(bytes, REPLY_MAX).unwrap(), Some(length), "{}", bytes.escape_ascii());
            for cut in 0..length {
                assert_eq!(
                    super::length(&bytes[..cut], REPLY_MAX).unwrap(),
                    None,
                    "{} cut at {cut}",
                    bytes.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn what_is_not_redis_is_garbage_and_not_a_death() {
        for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"$x\r\n", b"$99999999999\r\n", b"\x15\x03\x03"] {
            let failure = length(bytes, REPLY_MAX).unwrap_err();
            assert!(!failure.kind.is_evidence(), "{failure}");
        }
        let deep = "*1\r\n".repeat(100);
        assert!(length(deep.as_bytes(), REPLY_MAX).is_err(), "nesting is bounded");
    }

    #[test]
    fn an_error_without_end_is_told_in_short_and_on_one_line() {
        let reply = format!("-ERR a\nb{}\r\n", "x".repeat(200_000));
        let failure = read(reply.as_bytes()).and_then(said).unwrap_err();
        assert!(failure.text.starts_with("ERR a bxx") && failure.text.len() <= TEXT_MAX, "{}", failure.text.len());
    }

    #[test]
    fn error_replies_keep_their_kind() {
        let cases = [
            ("NOAUTH Authentication required.", FailureKind::Auth),
            ("WRONGPASS invalid username-password pair or user is disabled.", FailureKind::Auth),
            ("NOPERM this user has no permissions to run the 'set' command", FailureKind::Auth),
            ("DENIED Redis is running in protected mode", FailureKind::Auth),
            ("LOADING Redis is loading the dataset in memory", FailureKind::Loading),
            ("OOM command not allowed when used memory > 'maxmemory'.", FailureKind::Full),
            ("MISCONF Errors writing to the AOF file: No space left on device", FailureKind::Full),
            ("READONLY You can't write against a read only replica.", FailureKind::ReadOnly),
            ("NOREPLICAS Not enough good replicas to write.", FailureKind::ReadOnly),
            ("BUSY Redis is busy running a script.", FailureKind::Overloaded),
            ("ERR max number of clients reached", FailureKind::Overloaded),
            ("ERR Client sent AUTH, but no password is set", FailureKind::Auth),
            ("ERR unknown command 'PING'", FailureKind::WrongAnswer),
        ];
        for (text, kind) in cases {
            let failure = read(format!("-{text}\r\n").as_bytes()).and_then(said).unwrap_err();
            assert_eq!(failure.kind, kind, "{text}");
            assert!(failure.text.contains(text.split_once(' ').unwrap().1), "{failure}");
        }
    }
}
