//! Where the file lies: in a directory of ours, so that other programs may put files beside it, or at a
//! path that the user names.

use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// A regular file to mount over. Dropping it removes what was created.
pub struct Place {
    path: PathBuf,
    /// The directory, where it is ours.
    directory: Option<PathBuf>,
    file_is_ours: bool,
}

impl Place {
    /// An empty file in a new directory that only this user may enter.
    pub fn fresh() -> Result<Place> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let bases = runtime.into_iter().chain([PathBuf::from("/run"), std::env::temp_dir()]);
        let mut refused = Vec::new();
        for base in bases {
            match fresh_directory(&base) {
                Ok(directory) => {
                    let path = directory.join("region");
                    let mut place = Place { path, directory: Some(directory), file_is_ours: false };
                    create(&place.path)?;
                    place.file_is_ours = true;
                    return Ok(place);
                }
                Err(error) => refused.push(format!("{}: {error}", base.display())),
            }
        }
        let message = format!("fuse: no directory for the file can be made: {}", refused.join("; "));
        Err(Error::new(Code::PermissionDenied, message))
    }

    /// The file at `path`, created if missing. One that is there is covered, not changed.
    pub fn at(path: &Path) -> Result<Place> {
        let what = |error| Error::io(format!("fuse: show the region at {}", path.display()), error);
        let file_is_ours = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => false,
            Ok(_) => {
                let message = format!("fuse: {} is no regular file: name one, or a free name", path.display());
                return Err(Error::new(Code::InvalidArgument, message));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                true
            }
            Err(error) => return Err(what(error)),
        };
        let mut place = Place { path: path.to_owned(), directory: None, file_is_ours };
        place.path = fs::canonicalize(path).map_err(what)?;
        Ok(place)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, if it is to be removed at the end.
    pub fn own_file(&self) -> Option<&Path> {
        self.file_is_ours.then_some(self.path.as_path())
    }

    /// The directory, if it is to be removed at the end.
    pub fn own_directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// What the file was before it was covered.
    pub fn metadata(&self) -> Result<Metadata> {
        fs::metadata(&self.path).map_err(|error| Error::io(format!("look at {}", self.path.display()), error))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.own_file().map(fs::remove_file) {
            tracing::warn!(%error, path = %self.path.display(), "fuse: cannot remove the file");
        }
        // What another program left beside the file, such as a journal, is not ours to remove.
        if let Some(Err(error)) = self.own_directory().map(fs::remove_dir) {
            tracing::warn!(%error, path = %self.path.display(), "fuse: the directory of the file stays");
        }
    }
}

fn create(path: &Path) -> Result<File> {
    let created = File::options().write(true).create_new(true).mode(0o600).open(path);
    created.map_err(|error| Error::io(format!("fuse: create {}", path.display()), error))
}

fn fresh_directory(base: &Path) -> io::Result<PathBuf> {
    loop {
        let directory = base.join(format!("r3map-{:016x}", RandomState::new().hash_one(std::process::id())));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            outcome => return outcome.map(|()| directory),
        }
    }
}
