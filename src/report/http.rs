//! What the methods over HTTP share: checked URLs and headers, and what an answer means.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{
    RequestBuilder, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::SendError;
use crate::{model::Secret, sys};

/// How much of an answer is read; what an error quotes of it is shorter.
const CAP: usize = 64 * 1024;

/// An http or https URL. The error never holds it: it may be a secret.
pub(super) fn url(text: &str) -> Result<Url, String> {
    if text.is_empty() {
        return Err("`url` is missing".into());
    }
    let url = Url::parse(text).map_err(|e| format!("`url` is not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`url` begins with `{}:`; write http:// or https://", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("`url` names no host".into());
    }
    Ok(url)
}

/// Host and port of a URL: what may be shown of it.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Headers whose values are never printed.
pub(super) fn headers(from: &BTreeMap<String, Secret>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in from {
        let name = HeaderName::try_from(name).map_err(|_| format!("`{name}` is not the name of a header"))?;
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_| format!("the value of the header `{name}` holds a line break or another control character"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Sends, and reads from the answer whether the report was taken.
pub(super) async fn send(request: RequestBuilder, deadline: Duration) -> Result<(), SendError> {
    let (status, body) = match sys::http::ask(request, deadline, CAP).await {
        Ok(answer) => answer,
        // An answer that was too long or broke off still means that somebody has to look; trying again is harmless.
        Err((failure, _)) => return Err(SendError::later(failure.to_string())),
    };
    if (200..300).contains(&status) {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect();
    let detail = if said.is_empty() { format!("status {status}") } else { format!("status {status}: {said}") };
    let retryable = matches!(status, 408 | 425 | 429) || !(400..500).contains(&status);
    Err(SendError { retryable, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_never_repeated() {
        assert_eq!(place(&url("https://user:pw@hooks.example:8443/services/T0/secret").unwrap()), "hooks.example:8443");
        for bad in ["", "hooks.example/secret", "ftp://hooks.example/secret", "http://", "unix:/secret"] {
            let error = url(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn headers_are_checked_and_their_values_never_shown() {
        let one = |name: &str, value: &str| [(name.to_owned(), Secret::new(value.into()))].into();
        let good = headers(&one("Authorization", "Bearer hunter2")).unwrap();
        assert!(!format!("{good:?}").contains("hunter2"));
        assert!(headers(&one("not a name", "x")).is_err());
        let error = headers(&one("X-Token", "hunter2\n")).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
