//! Nix's database and the disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use peerix_store::{DatabaseStatus, Store};

use super::{Finding, Running};
use crate::{cli::output, config::Config};

/// Free space below which downloads are about to fail, in bytes.
const LITTLE: u64 = 1_000_000_000;

/// Whether Nix's database can be read: by the daemon if one runs, else by this user.
pub(super) async fn database(config: &Config, running: Option<&Running>) -> Vec<Finding> {
    const NAME: &str = "nix database";
    let todo = "run the daemon as a user who may read it, or with --store daemon; without it only what was fetched is served";
    if let Some(running) = running {
        let database = &running.report.node.nix_database;
        let path = database["path"].as_str().unwrap_or("it");
        return vec![match database["absent"].as_str() {
            Some(reason) => Finding::failure(
                NAME,
                format!("the daemon can't read {path}: {reason}"),
                todo,
            ),
            None => Finding::ok(
                NAME,
                format!(
                    "the daemon reads {path}: {}, {} offered",
                    output::count(running.report.store.paths, "path"),
                    running.report.store.offered
                ),
            ),
        }];
    }
    let opened = async {
        let directory = tempfile::tempdir()?;
        let settings = peerix_store::Config::new(directory.path(), config.store.clone());
        let store = Store::open(settings).await.map_err(io::Error::other)?;
        let status = store.database_status();
        store.shutdown().await;
        Ok::<_, io::Error>(status)
    };
    vec![match opened.await {
        Ok(DatabaseStatus::Present { path }) => {
            Finding::ok(NAME, format!("this user can read {}", path.display()))
        }
        Ok(DatabaseStatus::Absent { path, reason }) => {
            let what = format!("this user can't read {}: {reason}", path.display());
            Finding::failure(NAME, what, todo)
        }
        Ok(_) => Finding::ok(NAME, "it can be read"),
        Err(error) => Finding::failure(NAME, error.to_string(), todo),
    }]
}

/// Whether there is room for what is downloaded, in a directory that can be written to.
pub(super) fn disk(config: &Config) -> Vec<Finding> {
    let Some(existing) = nearest_existing(&config.state_dir) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let Err(error) = rustix::fs::access(&existing, rustix::fs::Access::WRITE_OK) {
        findings.push(Finding::warning(
            "state directory",
            format!("this user can't write to {}: {error}", existing.display()),
            "fine for commands where the daemon runs as another user; a daemon of this user's own takes --state-dir DIR",
        ));
    }
    findings.push(match rustix::fs::statvfs(&existing) {
        Ok(stat) => space(
            &config.state_dir,
            stat.f_bavail.saturating_mul(stat.f_frsize),
            config.blob_quota,
        ),
        Err(error) => Finding::warning(
            "disk",
            format!("{}: {error}", existing.display()),
            "look at that directory",
        ),
    });
    findings
}

fn space(state_dir: &Path, free: u64, quota: u64) -> Finding {
    const NAME: &str = "disk";
    let quota_text = match quota {
        u64::MAX => "no quota".to_owned(),
        quota => format!("a quota of {}", output::size(quota)),
    };
    let what = format!(
        "{} free for {}, with {quota_text} for downloads",
        output::size(free),
        state_dir.display()
    );
    if free < LITTLE {
        return Finding::failure(NAME, what, "free some space: downloads fail without");
    }
    if free < quota {
        return Finding::warning(NAME, what, "set --blob-quota to what may be used of it");
    }
    Finding::ok(NAME, what)
}

fn nearest_existing(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_quota_is_held_against_the_free_space() {
        let outcome = |free, quota| space(Path::new("/s"), free, quota).outcome;
        assert_eq!(outcome(50 << 30, 10 << 30), Outcome::Ok);
        assert_eq!(outcome(5 << 30, 10 << 30), Outcome::Warning);
        assert_eq!(outcome(5 << 30, u64::MAX), Outcome::Warning);
        assert_eq!(outcome(500_000_000, 10 << 30), Outcome::Failure);
        assert_eq!(
            nearest_existing(Path::new("/proc/no/such/place")),
            Some("/proc".into())
        );
    }
}
