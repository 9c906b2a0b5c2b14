//! Credentials of a profile: `[name]` in ~/.aws/credentials, read again when the file changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};

use crate::error::{Code, Error, Result};

/// A profile in a file.
#[derive(Debug)]
struct Profile {
    file: PathBuf,
    name: String,
    /// When the file was written, and what it said.
    read: Mutex<Option<(SystemTime, Arc<AwsCredential>)>>,
}

/// The profile's credentials, where the environment names no other and there is such a profile.
pub fn credentials() -> Result<Option<AwsCredentialProvider>> {
    let set = |key| std::env::var_os(key).filter(|value| !value.is_empty());
    let named = set("AWS_PROFILE").map(|name| name.to_string_lossy().into_owned());
    if set("AWS_ACCESS_KEY_ID").is_some() || (named.is_none() && set("AWS_WEB_IDENTITY_TOKEN_FILE").is_some()) {
        return Ok(None);
    }
    let of_home = || set("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
    let Some(file) = set("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(of_home) else { return Ok(None) };
    let profile = Profile { file, name: named.clone().unwrap_or_else(|| "default".to_owned()), read: Mutex::default() };
    match (profile.current(), named) {
        (Ok(_), _) => Ok(Some(Arc::new(profile))),
        // The instance or container may have some.
        (Err(_), None) => Ok(None),
        (Err(error), Some(_)) => Err(error),
    }
}

impl Profile {
    fn current(&self) -> Result<Arc<AwsCredential>> {
        let failed = |error| Error::io(format!("read {}", self.file.display()), error);
        let written = self.file.metadata().and_then(|about| about.modified()).map_err(failed)?;
        let mut read = self.read.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, known)) = read.as_ref().filter(|(when, _)| *when == written) {
            return Ok(known.clone());
        }
        let text = std::fs::read_to_string(&self.file).map_err(failed)?;
        let credential = Arc::new(section(&text, &self.name).ok_or_else(|| {
            let message = format!("{}: no profile {:?} with a key", self.file.display(), self.name);
            Error::new(Code::NotAuthenticated, message)
        })?);
        *read = Some((written, credential.clone()));
        Ok(credential)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Profile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current().map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }
}

/// The credentials in a section of such a file, if it has both keys.
pub fn section(text: &str, name: &str) -> Option<AwsCredential> {
    let header = |line: &str| line.strip_prefix('[')?.strip_suffix(']').map(|found| found.trim().to_owned());
    let lines = text.lines().map(str::trim);
    let mut inside = lines.skip_while(|line| header(line).as_deref() != Some(name)).skip(1);
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in inside.by_ref().take_while(|line| header(line).is_none()) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "aws_access_key_id" => key_id = value,
            "aws_secret_access_key" => secret_key = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_among_others() {
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key=b\n\n# x\n[ two ]\naws_access_key_id=c\n\
                    aws_secret_access_key = d=\naws_session_token=e\n[half]\naws_access_key_id=f\n";
        let default = section(text, "default").unwrap();
        assert_eq!((default.key_id.as_str(), default.secret_key.as_str(), default.token), ("a", "b", None));
        let two = section(text, "two").unwrap();
        assert_eq!((two.key_id.as_str(), two.secret_key.as_str(), two.token.as_deref()), ("c", "d=", Some("e")));
        assert!(section(text, "half").is_none() && section(text, "none").is_none());
    }
}
