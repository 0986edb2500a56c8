//! A client's connection to Redis, as nodes and the sender use it: bounded in time, opened anew after any error.

use std::time::Duration;

use redis::{AsyncConnectionConfig, RedisResult, Value, aio::MultiplexedConnection};

/// The stream that carries the service's messages.
pub(crate) const STREAM: &str = "demo:messages";

/// Opens a connection. `response`: how long one answer may take.
pub(crate) async fn open(address: &str, response: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(500)))
        .set_response_timeout(Some(response));
    redis::Client::open(format!("redis://{address}"))?.get_multiplexed_async_connection_with_config(&config).await
}

/// One message of the stream: its id and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) number: u64,
}

/// Reads the messages out of an `XREAD` answer over one stream. What is no message of ours is passed over.
pub(crate) fn messages_of_xread(answer: &Value) -> Vec<Message> {
    let Value::Array(streams) = answer else { return Vec::new() };
    streams
        .iter()
        .filter_map(|stream| match stream {
            Value::Array(pair) => pair.get(1),
            _ => None,
        })
        .flat_map(messages)
        .collect()
}

/// Reads the messages out of an `XRANGE` answer.
pub(crate) fn messages(entries: &Value) -> Vec<Message> {
    let Value::Array(entries) = entries else { return Vec::new() };
    entries.iter().filter_map(message).collect()
}

fn message(entry: &Value) -> Option<Message> {
    let Value::Array(pair) = entry else { return None };
    let [id, Value::Array(fields)] = pair.as_slice() else { return None };
    let number = fields.chunks_exact(2).find(|f| text(&f[0]).as_deref() == Some("n")).and_then(|f| text(&f[1]))?;
    Some(Message { id: text(id)?, number: number.parse().ok()? })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(n) => Some(n.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_others_passed_over() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry =
            |id: &str, key: &str, value: &str| Value::Array(vec![bulk(id), Value::Array(vec![bulk(key), bulk(value)])]);
        let entries =
            Value::Array(vec![entry("1-0", "n", "7"), entry("2-0", "x", "y"), entry("3-0", "n", "eight"), Value::Nil]);
        let answer = Value::Array(vec![Value::Array(vec![bulk(STREAM), entries])]);
        assert_eq!(messages_of_xread(&answer), [Message { id: "1-0".into(), number: 7 }]);
        assert_eq!(messages_of_xread(&Value::Nil), []);
    }
}
