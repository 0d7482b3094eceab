//! Roots that keep Nix's garbage collector from what was shared.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use peerix_store::{Store, nix::StorePath};
use tokio::process::Command;

/// Longest time that `nix-store --add-root` may take: it may wait for a running collection.
const NIX_TIMEOUT: Duration = Duration::from_secs(60);

/// Where roots go: into Nix's own directory of roots where this process may write there, else into
/// the state directory, where Nix is told of them.
#[derive(Clone, Debug)]
pub struct GcRoots {
    /// Whose Nix daemon is asked first; `None` has the command line asked.
    store: Option<Store>,
    direct: PathBuf,
    indirect: PathBuf,
    store_uri: String,
    nix_store: PathBuf,
}

/// Why a root can't be made or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcRootError {
    /// A file operation failed.
    #[error("can't change the garbage collector root {}: {source}", path.display())]
    Io {
        /// The root.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Nix could not be asked.
    #[error("can't keep {path} from Nix's garbage collector: {reason}")]
    Nix {
        /// The absolute store path.
        path: String,
        /// What Nix said, on one line.
        reason: String,
    },
}

impl GcRoots {
    /// Roots in `gc_roots_dir/peerix`, or in `state_dir/gcroots` with Nix's help for the store
    /// `store_uri`.
    pub fn new(gc_roots_dir: PathBuf, state_dir: PathBuf, store_uri: String) -> Self {
        GcRoots {
            store: None,
            direct: gc_roots_dir.join("peerix"),
            indirect: state_dir.join("gcroots"),
            store_uri,
            nix_store: PathBuf::from("nix-store"),
        }
    }

    /// Has the daemon of this store's Nix asked, where it has one.
    #[must_use]
    pub fn with_daemon_of(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Makes a root for `path`; false if it was there.
    ///
    /// # Errors
    /// If neither a symlink nor Nix's help could do it; nothing is left then.
    pub async fn add(&self, path: &StorePath) -> Result<bool, GcRootError> {
        let link = self.direct.join(path.to_basename());
        match make_link(&link, path) {
            Ok(is_new) => return Ok(is_new),
            Err(error) if is_refusal(&error) => {}
            Err(source) => return Err(GcRootError::Io { path: link, source }),
        }
        let link = self.indirect.join(path.to_basename());
        if points_to(&link, path) {
            return Ok(false);
        }
        if self.ask_daemon(&link, path).await? {
            return Ok(true);
        }
        let made = self.ask_nix(&link, path).await;
        if made.is_err() {
            remove_link(&link)?;
        }
        made.map(|()| true)
    }

    /// Removes the root for `path`, if there is one.
    ///
    /// # Errors
    /// If it is there and can't be removed.
    pub fn remove(&self, path: &StorePath) -> Result<(), GcRootError> {
        let name = path.to_basename();
        // Nix drops its own reference to an indirect root once the link has gone.
        remove_link(&self.indirect.join(&name))?;
        remove_link(&self.direct.join(&name))
    }

    /// Makes the link and tells Nix's daemon of it; false where there is no daemon, or it refuses.
    async fn ask_daemon(&self, link: &Path, path: &StorePath) -> Result<bool, GcRootError> {
        let Some(store) = &self.store else {
            return Ok(false);
        };
        let failed = |source| GcRootError::Io {
            path: link.to_owned(),
            source,
        };
        // It may not go between the link and the daemon's word.
        let Some(_kept) = store.add_temp_root(path).await else {
            return Ok(false);
        };
        make_link(link, path).map_err(failed)?;
        match store.add_indirect_root(link).await {
            Ok(true) => Ok(true),
            Ok(false) => {
                remove_link(link)?;
                Ok(false)
            }
            Err(error) => {
                tracing::debug!(%error, "Nix's daemon made no root");
                remove_link(link)?;
                Ok(false)
            }
        }
    }

    async fn ask_nix(&self, link: &Path, path: &StorePath) -> Result<(), GcRootError> {
        let failed = |reason: String| GcRootError::Nix {
            path: path.to_absolute_path(),
            reason,
        };
        fs::create_dir_all(&self.indirect).map_err(|source| GcRootError::Io {
            path: self.indirect.clone(),
            source,
        })?;
        let mut command = Command::new(&self.nix_store);
        if self.store_uri != "auto" {
            command.args(["--store", &self.store_uri]);
        }
        command
            .arg("--realise")
            .arg(path.to_absolute_path())
            .arg("--add-root")
            .arg(link)
            .arg("--indirect");
        // It is there; nothing is to be fetched or built.
        command.args(["--option", "substitute", "false", "--max-jobs", "0"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = tokio::time::timeout(NIX_TIMEOUT, command.output())
            .await
            .map_err(|_| failed("nix-store didn't answer within a minute".to_owned()))?
            .map_err(|error| failed(format!("nix-store can't be run ({error})")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            said.lines()
                .last()
                .unwrap_or("nix-store failed")
                .trim()
                .to_owned(),
        ))
    }
}

/// Whether this process may not write there, so that Nix has to.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn points_to(link: &Path, path: &StorePath) -> bool {
    fs::read_link(link).is_ok_and(|target| target == Path::new(&path.to_absolute_path()))
}

/// Links `link` to `path` durably; false if it did already.
fn make_link(link: &Path, path: &StorePath) -> io::Result<bool> {
    if points_to(link, path) {
        return Ok(false);
    }
    let directory = link.parent().ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all(directory)?;
    match symlink(path.to_absolute_path(), link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(link)?;
            symlink(path.to_absolute_path(), link)?;
        }
        other => other?,
    }
    fs::File::open(directory)?.sync_all()?;
    Ok(true)
}

fn remove_link(link: &Path) -> Result<(), GcRootError> {
    match fs::remove_file(link) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(GcRootError::Io {
                path: link.to_owned(),
                source: error,
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn path() -> StorePath {
        StorePath::from_basename(b"17bh691vzkqk8hv1i7xiaqff85b85br3-hello").unwrap()
    }

    #[tokio::test]
    async fn a_root_is_a_link_that_comes_and_goes() {
        let lab = tempfile::tempdir().unwrap();
        let roots = GcRoots::new(
            lab.path().join("gcroots"),
            lab.path().join("state"),
            "auto".to_owned(),
        );
        let link = lab
            .path()
            .join("gcroots/peerix/17bh691vzkqk8hv1i7xiaqff85b85br3-hello");
        assert!(roots.add(&path()).await.unwrap());
        assert_eq!(
            fs::read_link(&link).unwrap(),
            Path::new("/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello")
        );
        assert!(!roots.add(&path()).await.unwrap(), "it was there");
        roots.remove(&path()).unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
        roots.remove(&path()).unwrap();
    }

    #[tokio::test]
    async fn a_link_that_points_elsewhere_is_corrected() {
        let lab = tempfile::tempdir().unwrap();
        let roots = GcRoots::new(
            lab.path().to_owned(),
            lab.path().join("state"),
            "auto".to_owned(),
        );
        let link = lab.path().join("peerix").join(path().to_basename());
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink("/elsewhere", &link).unwrap();
        assert!(roots.add(&path()).await.unwrap());
        assert!(points_to(&link, &path()));
    }

    /// Roots that have to be made by Nix, which is this shell script.
    fn with_nix(lab: &Path, script: &str) -> GcRoots {
        let nix_store = lab.join("nix-store");
        fs::write(&nix_store, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&nix_store, fs::Permissions::from_mode(0o700)).unwrap();
        // Nobody makes directories there, not even root.
        let direct = PathBuf::from("/sys/peerix");
        GcRoots {
            store: None,
            direct,
            indirect: lab.join("gcroots"),
            store_uri: "local?root=/b".to_owned(),
            nix_store,
        }
    }

    #[tokio::test]
    async fn where_we_may_not_write_nix_makes_the_root() {
        let lab = tempfile::tempdir().unwrap();
        let script = format!(
            "echo \"$@\" > {0}/arguments; ln -s \"$4\" \"$6\"",
            lab.path().display()
        );
        let roots = with_nix(lab.path(), &script);
        assert!(roots.add(&path()).await.unwrap());
        assert!(!roots.add(&path()).await.unwrap());
        let arguments = fs::read_to_string(lab.path().join("arguments")).unwrap();
        let (path, link) = (path(), roots.indirect.join(path().to_basename()));
        assert_eq!(
            arguments.trim(),
            format!(
                "--store local?root=/b --realise {path} --add-root {} --indirect --option substitute false --max-jobs 0",
                link.display()
            )
        );
        roots.remove(&path).unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
    }

    #[tokio::test]
    async fn where_nix_fails_nothing_is_left_and_its_last_line_is_told() {
        let lab = tempfile::tempdir().unwrap();
        let roots = with_nix(
            lab.path(),
            "ln -s \"$4\" \"$6\"; echo warning: x >&2; echo error: no >&2; exit 1",
        );
        let error = roots.add(&path()).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "can't keep {} from Nix's garbage collector: error: no",
                path()
            )
        );
        assert!(fs::symlink_metadata(roots.indirect.join(path().to_basename())).is_err());
        let absent = GcRoots {
            nix_store: "/none/nix-store".into(),
            ..roots
        };
        assert!(
            absent
                .add(&path())
                .await
                .unwrap_err()
                .to_string()
                .contains("can't be run")
        );
    }
}
