//! Reads snapshot files: YAML or JSON, with EC2's JSON by reference.
//!
//! Used by the CLI, the lab and the agent's file source. The result is a whole, valid [`Snapshot`], or an
//! [`InputError`] that names the file and the field.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::ec2::Ec2Facts;
use crate::{InputError, Snapshot};

/// Largest input accepted, for a file and for a request on the control socket.
pub const MAX_BYTES: u64 = 256 << 20;

/// Loads a snapshot and everything it refers to.
pub fn load(path: &Path) -> Result<Snapshot, InputError> {
    let text = read(path)?;
    let in_file = |error: InputError| error.in_file(path.display().to_string());
    let mut snapshot = if path.extension().is_some_and(|extension| extension == "json") {
        Snapshot::parse_json(&text)
    } else {
        let text = std::str::from_utf8(&text).map_err(|_| in_file(InputError::new("", "not UTF-8 text")))?;
        Snapshot::parse_yaml(text)
    }
    .map_err(in_file)?;
    let base = path.parent().unwrap_or(Path::new("."));
    let mut facts = Ec2Facts::default();
    for reference in std::mem::take(&mut snapshot.ec2) {
        let path = base.join(&reference.file);
        facts
            .add_json(&read(&path)?, reference.prefix_list_id.as_ref())
            .map_err(|error| error.in_file(path.display().to_string()))?;
    }
    facts.merge_into(&mut snapshot);
    snapshot.validate().map_err(in_file)?;
    Ok(snapshot)
}

/// The bytes of a file that is not larger than [`MAX_BYTES`].
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    let refuse = |message: String| InputError::new("", message).in_file(path.display().to_string());
    let file = File::open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let too_large = || refuse(format!("larger than {} MiB, the most that is accepted", MAX_BYTES >> 20));
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_BYTES) {
        return Err(too_large());
    }
    let mut text = Vec::new();
    // A pipe or a growing file has no length to trust.
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_BYTES { Err(too_large()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn ec2_files_are_found_beside_the_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("s.yaml");
        fs::write(&snapshot, "{generation: 1, trunk: {interface: t}, ec2: [{file: groups.json}]}").unwrap();
        let groups = folder.path().join("groups.json");
        fs::write(&groups, r#"{"SecurityGroups":[{"GroupId":"sg-1"}]}"#).unwrap();
        assert_eq!(load(&snapshot).unwrap().security_groups.len(), 1);

        fs::write(&groups, r#"{"SecurityGroups":[{"GroupId":"web"}]}"#).unwrap();
        let error = load(&snapshot).unwrap_err();
        assert_eq!(error.field, "SecurityGroups[0].GroupId");
        assert!(error.file.unwrap().ends_with("groups.json"));
    }

    #[test]
    fn a_huge_file_is_refused_before_it_is_parsed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.json");
        let file = fs::File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        assert!(load(&path).unwrap_err().message.contains("larger than 256 MiB"));
    }
}
