//! Credentials that the service manager hands over: files in `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential).
//!
//! A credential of no content, or of the word `none` that stands in a unit where a file may be missing, is none.
//! Nothing is logged of what they hold.

use crate::exit::{Exit, Outcome};
use std::path::Path;

/// Variable of the service manager; the directory is ours and not for the programs that we start.
pub(crate) const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// Name of the join token of `naka run`.
pub(crate) const JOIN_TOKEN: &str = "join-token";
/// What stands in a unit for "no file".
const NONE: &str = "none";

/// The credential of this name, if there is one.
pub(crate) fn read(name: &str) -> Outcome<Option<String>> {
    match std::env::var_os(DIRECTORY).filter(|dir| !dir.is_empty()) {
        None => Ok(None),
        Some(dir) => read_in(Path::new(&dir), name),
    }
}

fn read_in(dir: &Path, name: &str) -> Outcome<Option<String>> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let text = text.trim();
            Ok((!text.is_empty() && text != NONE).then(|| text.to_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Exit::failed(format!(
            "the credential {} cannot be read: {error}",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::read_in;

    #[test]
    fn a_missing_empty_or_absent_credential_is_none_and_a_real_one_is_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let given = |text: &str| {
            std::fs::write(dir.path().join("join-token"), text).unwrap();
            read_in(dir.path(), "join-token").unwrap()
        };
        assert_eq!(given("naka1.join.x\n").as_deref(), Some("naka1.join.x"));
        assert_eq!(given("none\n"), None);
        assert_eq!(given(" \n"), None);
        assert_eq!(read_in(dir.path(), "other").unwrap(), None);
        std::fs::write(dir.path().join("bytes"), [0xff, 0xfe]).unwrap();
        assert!(read_in(dir.path(), "bytes").is_err());
    }
}
