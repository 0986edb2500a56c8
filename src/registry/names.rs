//! What a group, an instance and a key may be called, the same for every back-end: what one of them would fold, pad or
//! cut in silence is refused here.

use super::{Put, RegistryError};

const NAME: usize = 200;
const KEY: usize = 400;

/// A group's or an instance's name: 1 to 200 characters, no control characters, no space at either end.
pub(super) fn name(what: &str, text: &str) -> Result<(), RegistryError> {
    let count = text.chars().count();
    if count == 0 || count > NAME || text.trim() != text || text.chars().any(char::is_control) {
        return Err(RegistryError::Failed(format!(
            "the {what} {text:?} cannot be used: it must have 1 to {NAME} characters, none of them a control \
             character, and no space at its ends"
        )));
    }
    Ok(())
}

/// A document's key: 1 to 400 characters of printable ASCII without spaces.
pub(super) fn key(text: &str) -> Result<(), RegistryError> {
    if text.is_empty() {
        return Err(RegistryError::Failed("a document's key cannot be empty".into()));
    }
    prefix(text)
}

/// The beginning of a key; it may be empty.
pub(super) fn prefix(text: &str) -> Result<(), RegistryError> {
    if text.len() > KEY || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(RegistryError::Failed(format!(
            "the key {text:?} cannot be used: it must have at most {KEY} characters of printable ASCII, without spaces"
        )));
    }
    Ok(())
}

/// The keys of a batch, each named once; and no text holds a NUL, which some databases cannot store.
pub(super) fn batch(batch: &[Put]) -> Result<(), RegistryError> {
    for (index, put) in batch.iter().enumerate() {
        key(&put.key)?;
        if batch[..index].iter().any(|before| before.key == put.key) {
            return Err(RegistryError::Failed(format!("{} stands twice in one batch; nothing was written", put.key)));
        }
        if put.text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(RegistryError::Failed(format!("the text of {} holds a NUL, which is no JSON", put.key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_database_would_fold_are_refused() {
        assert_eq!(name("group", "Aufträge 1"), Ok(()));
        for bad in ["", " a", "a ", "a\nb", "a\0", &"ä".repeat(201)] {
            assert!(name("group", bad).is_err(), "{bad:?}");
        }
        assert_eq!(key("cluster/orders-1"), Ok(()));
        for bad in ["", "a b", "ä", "a\u{7f}", &"k".repeat(401)] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(prefix(""), Ok(()));
    }

    #[test]
    fn a_batch_names_a_key_once() {
        let put = |key: &str| Put { key: key.into(), expected: 0, text: Some("1".into()) };
        assert_eq!(batch(&[put("a"), put("b")]), Ok(()));
        assert!(batch(&[put("a"), put("b"), put("a")]).is_err());
        assert!(batch(&[Put { text: Some("\0".into()), ..put("a") }]).is_err());
    }
}
