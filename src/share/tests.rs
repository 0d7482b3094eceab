//! Sharing out of a real Nix store.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use peerix_store::{Config, NixStore};

use super::*;
use crate::{
    config::value::public_key,
    offer::{Filter, OfferRules},
};

/// A Nix store below a directory, made by the real Nix, and ours over it.
struct Lab {
    directory: tempfile::TempDir,
    store: Store,
    roots: GcRoots,
}

impl Lab {
    /// `None`, with the reason on standard error, where there is no Nix.
    async fn new() -> Option<Self> {
        if Command::new("nix-store").arg("--version").output().is_err() {
            eprintln!("skipped: there is no nix-store in PATH");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(
            directory.path().join("nix.conf"),
            "build-users-group =\nsubstituters =\nsandbox = false\n",
        )
        .unwrap();
        let store_uri = format!("local?root={}", directory.path().display());
        assert!(
            nix(directory.path(), "nix-store", &["--init"])
                .status
                .success()
        );
        let state_dir = directory.path().join("state");
        let nix_store = NixStore::Local {
            root: Some(directory.path().to_owned()),
        };
        let store = Store::open(Config::new(&state_dir, nix_store))
            .await
            .unwrap();
        let roots = gc_roots(&store, state_dir, store_uri);
        Some(Lab {
            directory,
            store,
            roots,
        })
    }

    /// A text file that refers to another one; both are store paths.
    fn two_paths(&self, name: &str) -> (StorePath, StorePath) {
        let expression = format!(
            "let a = builtins.toFile \"{name}-a\" \"a of {name}\"; in builtins.toFile \"{name}-b\" \"b needs ${{a}} ${{a}}\""
        );
        let arguments = ["--read-write-mode", "--eval", "--strict", "-E", &expression];
        let said =
            String::from_utf8(nix(self.path(), "nix-instantiate", &arguments).stdout).unwrap();
        let top: StorePath = said.trim().trim_matches('"').parse().unwrap();
        let said = String::from_utf8(
            nix(
                self.path(),
                "nix-store",
                &["--query", "--references", &top.to_string()],
            )
            .stdout,
        )
        .unwrap();
        (top, said.trim().parse().unwrap())
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn share(&self, paths: &[&StorePath], yes: bool) -> Result<Outcome, ShareError> {
        self.share_under(
            &OfferPolicy::new(OfferRules::public(Vec::new())),
            paths,
            yes,
        )
        .await
    }

    async fn share_under(
        &self,
        offer: &OfferPolicy,
        paths: &[&StorePath],
        yes: bool,
    ) -> Result<Outcome, ShareError> {
        let (progress, _unread) = mpsc::channel(1);
        let paths = paths.iter().map(|path| (*path).clone()).collect();
        share(&self.store, offer, &self.roots, paths, yes, None, &progress).await
    }

    /// Names of the garbage collector roots, sorted.
    fn root_names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path().join("nix/var/nix/gcroots/peerix")) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn assert_nothing_is_shared(&self) {
        assert_eq!(self.root_names(), Vec::<String>::new());
        assert_eq!(self.store.shares().await.unwrap(), []);
    }

    /// Collects garbage, and tells whether `path` is still valid.
    fn survives_collection(&self, path: &StorePath) -> bool {
        assert!(nix(self.path(), "nix-store", &["--gc"]).status.success());
        nix(
            self.path(),
            "nix-store",
            &["--check-validity", &path.to_string()],
        )
        .status
        .success()
    }

    fn corrupt(&self, path: &StorePath) {
        let file = self.store.physical_path(path);
        let mut permissions = fs::metadata(&file).unwrap().permissions();
        #[allow(clippy::permissions_set_readonly_false)]
        permissions.set_readonly(false);
        fs::set_permissions(&file, permissions).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
}

fn nix(lab: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(["--store", &format!("local?root={}", lab.display())])
        .args(arguments)
        .env("NIX_CONF_DIR", lab)
        .env("XDG_CACHE_HOME", lab.join("cache"))
        .env_remove("NIX_REMOTE")
        .output()
        .unwrap()
}

#[tokio::test]
async fn what_was_shared_is_kept_and_offered_with_its_closure_until_it_is_taken_back() {
    let Some(lab) = Lab::new().await else { return };
    let (top, below) = lab.two_paths("x");
    let outcome = lab.share(&[&top], true).await.unwrap();
    assert_eq!(
        (outcome.paths, outcome.closure_paths),
        (vec![top.clone()], 2)
    );
    let [share] = lab.store.shares().await.unwrap().try_into().unwrap();
    assert_eq!((share.store_path, share.closure.len()), (top.clone(), 2));
    assert!(lab.store.is_shared((&below).into()));
    assert_eq!(lab.root_names(), [top.to_basename()]);
    assert!(lab.survives_collection(&top) && lab.survives_collection(&below));
    // Sharing it again changes nothing and needs no word: it is shared.
    lab.share(&[&top], false).await.unwrap();
    assert_eq!(lab.store.shares().await.unwrap().len(), 1);

    unshare(&lab.store, &lab.roots, std::slice::from_ref(&top))
        .await
        .unwrap();
    lab.assert_nothing_is_shared().await;
    assert!(!lab.store.is_shared((&below).into()));
    assert!(!lab.survives_collection(&top));
    let error = unshare(&lab.store, &lab.roots, std::slice::from_ref(&top))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{top} is not shared: `peerix shared` lists what is")
    );
}

#[tokio::test]
async fn what_no_public_cache_signed_needs_somebodys_word() {
    let Some(lab) = Lab::new().await else { return };
    let (top, below) = lab.two_paths("x");
    let error = lab.share(&[&top], false).await.unwrap_err();
    let mut all = vec![top.to_string(), below.to_string()];
    all.sort();
    assert!(
        matches!(&error, ShareError::Unconfirmed { paths, .. } if *paths == all),
        "{error}"
    );
    lab.assert_nothing_is_shared().await;
}

#[tokio::test]
async fn what_a_public_cache_signed_needs_none() {
    let Some(lab) = Lab::new().await else { return };
    let (top, _) = lab.two_paths("x");
    let file = |name: &str| lab.path().join(name).display().to_string();
    let (secret, public) = (file("secret"), file("public"));
    let made = nix(
        lab.path(),
        "nix-store",
        &["--generate-binary-cache-key", "cache-1", &secret, &public],
    );
    assert!(made.status.success(), "{made:?}");
    let sign = [
        "--extra-experimental-features",
        "nix-command",
        "store",
        "sign",
        "--recursive",
        "--key-file",
        &secret,
        &top.to_string(),
    ];
    let signed = Command::new("nix")
        .args(sign)
        .args(["--store", &format!("local?root={}", lab.path().display())])
        .env("NIX_CONF_DIR", lab.path())
        .output()
        .unwrap();
    assert!(signed.status.success(), "{signed:?}");
    let key = public_key(fs::read_to_string(public).unwrap().trim()).unwrap();
    lab.share_under(
        &OfferPolicy::new(OfferRules::public(vec![key])),
        &[&top],
        false,
    )
    .await
    .unwrap();
    assert_eq!(lab.root_names(), [top.to_basename()]);
}

#[tokio::test]
async fn a_path_that_is_not_here_is_not_shared() {
    let Some(lab) = Lab::new().await else { return };
    let (top, _) = lab.two_paths("x");
    let absent: StorePath = "/nix/store/17bh691vzkqk8hv1i7xiaqff85b85br3-hello"
        .parse()
        .unwrap();
    let renamed = StorePath::from_parts(*top.digest(), "other-name").unwrap();
    for wrong in [&absent, &renamed] {
        let error = lab.share(&[&top, wrong], true).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{wrong} is not valid here: build or fetch it first (`nix-store -r {wrong}`)")
        );
        lab.assert_nothing_is_shared().await;
    }
}

#[tokio::test]
async fn a_path_whose_files_were_changed_is_not_shared_nor_anything_with_it() {
    let Some(lab) = Lab::new().await else { return };
    let (good, _) = lab.two_paths("good");
    let (bad, below) = lab.two_paths("bad");
    lab.corrupt(&below);
    let error = lab.share(&[&good, &bad], true).await.unwrap_err();
    assert!(
        matches!(&error, ShareError::WrongNar { path } if *path == below.to_string()),
        "{error}"
    );
    assert!(error.to_string().contains("--repair-path"), "{error}");
    lab.assert_nothing_is_shared().await;
}

#[tokio::test]
async fn where_no_root_can_be_made_nothing_is_shared_and_what_was_stays() {
    let Some(lab) = Lab::new().await else { return };
    let (first, _) = lab.two_paths("first");
    let (second, _) = lab.two_paths("second");
    lab.share(&[&first], true).await.unwrap();
    // A directory in the place of the second root.
    let obstacle = lab
        .path()
        .join("nix/var/nix/gcroots/peerix")
        .join(second.to_basename());
    fs::create_dir(&obstacle).unwrap();
    let error = lab.share(&[&first, &second], true).await.unwrap_err();
    assert!(matches!(error, ShareError::GcRoot(_)), "{error}");
    fs::remove_dir(&obstacle).unwrap();
    assert_eq!(lab.root_names(), [first.to_basename()]);
    assert_eq!(lab.store.shares().await.unwrap().len(), 1);
}

#[tokio::test]
async fn progress_ends_with_everything() {
    let Some(lab) = Lab::new().await else { return };
    let (top, _) = lab.two_paths("x");
    let (progress, mut steps) = mpsc::channel(64);
    let offer = OfferPolicy::new(OfferRules {
        filter: Filter::Everything,
        ..OfferRules::public(Vec::new())
    });
    share(
        &lab.store,
        &offer,
        &lab.roots,
        vec![top],
        false,
        None,
        &progress,
    )
    .await
    .unwrap();
    drop(progress);
    let mut last = None;
    while let Ok(Some(step)) = tokio::time::timeout(Duration::from_secs(10), steps.recv()).await {
        last = Some(step);
    }
    let Some(Progress::Hashing {
        paths_done: 2,
        paths_total: 2,
        bytes_done,
        bytes_total,
    }) = last
    else {
        panic!("{last:?}");
    };
    assert_eq!(bytes_done, bytes_total);
}
