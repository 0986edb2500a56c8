//! What answers as a Jolokia agent: nobody is called a primary whose attribute does not say so, and nothing that is not the
//! MBean's own word counts towards a death.

use std::{collections::BTreeMap, sync::LazyLock};

use coroner::{
    broker::jolokia::{
        Jolokia, JolokiaBroker, Preset,
        protocol::{self, Request, escape, inner_path, unescape},
    },
    model::{Failure, FailureKind, Role, Target},
};
use serde_json::Value;

use super::{Reached, draw::Draw};

/// What a failure says, at most: the request, in words, and a line of the answer.
const WORDS_MAX: usize = 4_096;

static BROKER: LazyLock<JolokiaBroker> = LazyLock::new(|| {
    let facts = |node: &str| BTreeMap::from([("node".to_owned(), format!("http://{node}:7200/repositories/r"))]);
    let config = Jolokia {
        preset: Some(Preset::Graphdb),
        repository: Some("r".into()),
        members: [("m1".to_owned(), facts("10.0.0.1")), ("m2".to_owned(), facts("10.0.0.2"))].into(),
        ..Jolokia::default()
    };
    JolokiaBroker::new(&config).expect("the preset is whole")
});

fn target() -> Target {
    Target { cluster: "graph".into(), member: "m1".into(), address: "10.0.0.1:7200".into() }
}

pub fn run(input: &[u8]) -> Reached {
    let mut draw = Draw::new(input);
    if draw.below(8) == 7 {
        return paths(&mut draw);
    }
    let status = draw.one_of(&[200_u16, 200, 200, 204, 301, 400, 401, 403, 404, 408, 429, 500, 503]);
    let body = draw.rest();
    let answer = match protocol::read(status, body) {
        Ok(answer) => answer,
        Err(failure) => {
            check(&failure);
            assert!(status >= 300 || failure.kind == FailureKind::Parse, "{failure}: {status} with garbage");
            return Reached::Refused;
        }
    };
    let is_one = answer.is_object();
    let questions = BROKER.questions_of_role(&target());
    assert!(questions.len() >= 2);
    if let Err(failure) = protocol::judge(&questions[0], &answer) {
        check(&failure);
        check_kind(&answer, &failure);
    }
    let answers = match protocol::judge_all(&questions, &answer) {
        Ok(answers) => answers,
        Err(failure) => {
            check(&failure);
            assert!(is_one || failure.kind == FailureKind::Parse);
            // An object that says that all is well is no answer to several questions.
            return Reached::of(is_one && answer["status"].is_u64());
        }
    };
    assert_eq!(answers.len(), questions.len());
    for failure in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        check(failure);
    }
    let read_only = &answer[0]["value"];
    match BROKER.role_of(&target(), answers) {
        Ok(report) => {
            assert_eq!(answer[0]["status"], 200, "a role out of an error");
            let says_no = *read_only == Value::Bool(false) || *read_only == "false";
            assert_eq!(report.role == Role::Primary, says_no, "{report:?} out of {read_only}");
            assert!(report.role == Role::Standby || report.link_up.is_none(), "a primary follows nobody");
            assert_eq!(report.position, None, "nobody asked for a position");
        }
        Err(failure) => check(&failure),
    }
    Reached::Taken
}

fn check(failure: &Failure) {
    assert!(failure.text.len() <= WORDS_MAX, "a failure of {} bytes", failure.text.len());
    assert!(!failure.text.is_empty());
}

/// What the answer says of rights and names is not held against the member.
fn check_kind(answer: &Value, failure: &Failure) {
    match answer["status"].as_u64() {
        None => assert_eq!(failure.kind, FailureKind::Parse, "{answer}"),
        Some(401 | 403) => assert_eq!(failure.kind, FailureKind::Auth, "{answer}"),
        Some(404) => assert!(!failure.kind.is_evidence(), "{answer}: {failure}"),
        Some(200) => assert_eq!(failure.kind, FailureKind::Parse, "{answer}"),
        Some(_) => {}
    }
}

/// Names with any characters survive the protocol's own escapes, and make a path that a URL can hold.
fn paths(draw: &mut Draw<'_>) -> Reached {
    let text = String::from_utf8_lossy(draw.rest()).into_owned();
    let steps: Vec<String> = text.split('\u{1}').map(ToOwned::to_owned).collect();
    assert_eq!(unescape(&inner_path(&steps)), steps);
    assert_eq!(unescape(&escape(&text)), std::slice::from_ref(&text));
    let request = Request::Read { mbean: text.clone(), attribute: Some(text), path: steps };
    let path = request.get_path().expect("a question is a path");
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!:=,*()%/".contains(&byte);
    assert!(path.bytes().all(is_fit), "{path} is no path of a URL");
    let _ = (request.body(), request.describe());
    Reached::Taken
}
