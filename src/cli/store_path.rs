//! Which store path a person means by a path.

use std::path::{Component, Path, PathBuf};

use peerix_store::nix::StorePath;

use super::Failure;

const STORE_DIR: &str = "/nix/store";
/// Most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// The store path that `text` lies in: a store path itself, anything below one, or a symbolic link
/// on whose way there is one, such as `./result`.
///
/// Links are followed one at a time and no further than into the store: an output may be a link
/// itself.
pub(super) fn resolve(text: &str) -> Result<StorePath, Failure> {
    let not_in_store = || {
        Failure::failed(format!(
            "{text} is not in the Nix store: give a path below {STORE_DIR}, or a link to one"
        ))
    };
    if let Ok(path) = StorePath::from_basename(text.as_bytes()) {
        return Ok(path);
    }
    let mut path =
        std::path::absolute(text).map_err(|error| Failure::failed(format!("{text}: {error}")))?;
    for _ in 0..=MAX_LINKS {
        let normal = normalize(&path);
        if let Some(store_path) = in_store(&normal) {
            return store_path.map_err(|reason| {
                Failure::failed(format!("{text} is not a store path: {reason}"))
            });
        }
        match follow_first_link(&path) {
            Ok(Some(target)) => path = target,
            Ok(None) => return Err(not_in_store()),
            Err(error) => return Err(Failure::failed(format!("{text}: {error}"))),
        }
    }
    Err(Failure::failed(format!("{text}: too many symbolic links")))
}

/// The store path that `path` lies in by its name alone, without a look at the disk.
fn in_store(path: &Path) -> Option<Result<StorePath, String>> {
    use std::os::unix::ffi::OsStrExt;
    let rest = path.strip_prefix(STORE_DIR).ok()?;
    let Some(Component::Normal(name)) = rest.components().next() else {
        return None;
    };
    Some(StorePath::from_basename(name.as_bytes()).map_err(|error| error.to_string()))
}

/// Without `.` and, where nothing before it is a link, `..`.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if !normal.is_symlink() => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Replaces the first link on the way along `path` by where it points; `None` if there is none.
fn follow_first_link(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        if component == Component::ParentDir {
            walked.pop();
            continue;
        }
        walked.push(component);
        if std::fs::symlink_metadata(&walked)?.is_symlink() {
            let target = std::fs::read_link(&walked)?;
            walked.pop();
            walked.push(target);
            walked.push(components.as_path());
            return Ok(Some(walked));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const BASENAME: &str = "17bh691vzkqk8hv1i7xiaqff85b85br3-hello";

    fn resolved(path: &Path) -> String {
        resolve(path.to_str().unwrap()).unwrap().to_basename()
    }

    #[test]
    fn a_path_in_the_store_is_its_store_path_whether_it_is_there_or_not() {
        for text in [
            format!("/nix/store/{BASENAME}"),
            format!("/nix/store/{BASENAME}/"),
            format!("/nix/store/{BASENAME}/bin/hello"),
            format!("//nix/./store/{BASENAME}"),
            format!("/nix/store/../store/{BASENAME}"),
            BASENAME.to_owned(),
        ] {
            assert_eq!(resolve(&text).unwrap().to_basename(), BASENAME, "{text}");
        }
    }

    #[test]
    fn links_lead_into_the_store_and_no_further() {
        let lab = tempfile::tempdir().unwrap();
        let at = |name: &str| lab.path().join(name);
        symlink(format!("/nix/store/{BASENAME}"), at("result")).unwrap();
        symlink("result", at("again")).unwrap();
        symlink(lab.path(), at("here")).unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        assert_eq!(resolved(&at("result")), BASENAME);
        assert_eq!(resolved(&at("again")), BASENAME);
        assert_eq!(resolved(&at("here/again/bin/hello")), BASENAME);
        assert_eq!(resolved(&at("here/./sub/../result")), BASENAME);
    }

    #[test]
    fn what_is_not_in_the_store_is_said_to_be_elsewhere() {
        let lab = tempfile::tempdir().unwrap();
        let at = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
        let error = |text: &str| resolve(text).unwrap_err().message().to_owned();
        std::fs::write(at("file"), "x").unwrap();
        symlink("loop", at("loop")).unwrap();
        assert!(
            error(&at("file")).contains("is not in the Nix store: give a path below /nix/store")
        );
        assert!(error(&at("loop")).contains("too many symbolic links"));
        assert!(error(&at("absent")).contains("No such file"));
        assert!(
            error("/nix/store").contains("No such file")
                || error("/nix/store").contains("is not in the Nix store")
        );
        assert!(error("/nix/store/.links/x").contains("is not a store path"));
        assert!(error("/nix/store/short-name").contains("is not a store path"));
        assert!(error("").contains("empty"), "{}", error(""));
    }
}
