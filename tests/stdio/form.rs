//! Is a line an answer, and in the form of the samples? Told without the code that writes them.

use serde_json::Value;

/// The codes of the protocol.
const CODES: [u64; 11] = [0, 1, 10, 11, 12, 13, 14, 20, 21, 22, 30];

/// Checks one line, which is to carry this number, and gives its object back.
pub(crate) fn check(line: &str, msg_id: u64) -> Value {
    assert!(!line.contains(['\n', '\r']) && line.is_ascii(), "{line:?} is not one line for everybody");
    let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}"));
    assert!(object["src"].is_string() && object["dest"].is_string(), "{line}");
    assert_eq!(object.as_object().unwrap().len(), 3, "{line}");
    let body = object["body"].as_object().unwrap_or_else(|| panic!("{line}"));
    assert_eq!(body["msg_id"], msg_id, "{line}");
    assert!(body.get("in_reply_to").is_none_or(Value::is_u64), "{line}");
    let kind = body["type"].as_str().unwrap();
    if kind == "error" {
        assert!(CODES.contains(&body["code"].as_u64().unwrap()), "{line}");
        assert!(!body["text"].as_str().unwrap().is_empty(), "{line}");
    } else {
        assert!(kind.ends_with("_ok") && body.contains_key("in_reply_to"), "{line}");
    }
    let head = ["{\"src\": ", ", \"dest\": ", ", \"body\": {\"type\": "].map(|part| line.find(part));
    assert!(head[0] == Some(0) && head.is_sorted() && head[2].is_some(), "{line} has not the keys in their order");
    check_spaces(line);
    object
}

/// Outside strings, one space follows each `:` and each `,`, and none stands anywhere else.
fn check_spaces(line: &str) {
    let bytes = line.as_bytes();
    let (mut is_in_string, mut is_escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        if is_in_string {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => is_in_string = true,
            b':' | b',' => assert_eq!(bytes[at + 1], b' ', "{line} at {at}"),
            b' ' => assert!(matches!(bytes[at - 1], b':' | b','), "{line} at {at}"),
            _ => {}
        }
    }
    assert!(!is_in_string, "{line}");
}
