//! A Nix store as Nix makes it, without Nix: files and a database with Nix's schema.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

pub mod fake_daemon;
pub mod foreign;
pub mod machine;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix_archive::nar::{self, CaseHack};
use peerix_store::{Config, NarHash, NixStore, PathInfo, Store, StorePath, StorePathHash};
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// The schema of Nix 2.8 to 2.34, version 10.
const SCHEMA: &str = "
pragma journal_mode = wal;
create table if not exists ValidPaths (
    id integer primary key autoincrement not null, path text unique not null, hash text not null,
    registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text,
    ca text
);
create table if not exists Refs (
    referrer integer not null, reference integer not null, primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
create trigger if not exists DeleteSelfRefs before delete on ValidPaths begin
    delete from Refs where referrer = old.id and reference = old.id;
end;
";

/// A chroot store in a temporary directory.
pub struct NixRoot {
    pub dir: TempDir,
    next: u8,
}

impl NixRoot {
    /// Makes an empty store with a database.
    pub fn new() -> Self {
        let root = Self::without_database();
        root.make_database();
        root
    }

    pub fn without_database() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("nix/store")).unwrap();
        Self { dir, next: 0 }
    }

    pub fn make_database(&self) {
        fs::create_dir_all(self.database_path().parent().unwrap()).unwrap();
        self.connect();
    }

    pub fn database_path(&self) -> PathBuf {
        self.dir.path().join("nix/var/nix/db/db.sqlite")
    }

    pub fn connect(&self) -> Connection {
        let connection = Connection::open(self.database_path()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection
            .execute_batch("pragma foreign_keys = on")
            .unwrap();
        connection
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn config(&self) -> Config {
        let root = Some(self.dir.path().to_owned());
        Config::new(self.state_dir(), NixStore::Local { root })
    }

    pub async fn open(&self) -> Store {
        Store::open(self.config()).await.unwrap()
    }

    pub fn physical(&self, store_path: &StorePath) -> PathBuf {
        self.dir
            .path()
            .join("nix/store")
            .join(store_path.to_basename())
    }

    /// Writes the files of a path without telling the database.
    pub fn build(&mut self, name: &str, write: impl FnOnce(&Path)) -> PathInfo {
        self.next += 1;
        let store_path = StorePath::from_parts([self.next; 20], name).unwrap();
        let physical = self.physical(&store_path);
        write(&physical);
        let nar = nar::hash_path(&physical, CaseHack::Disabled).unwrap();
        PathInfo {
            store_path,
            nar_hash: NarHash::from_bytes(nar.sha256),
            nar_size: nar.size,
            references: Default::default(),
            deriver: None,
            signatures: Vec::new(),
            content_address: None,
            registration_time: 1_700_000_000,
        }
    }

    /// Makes a path valid, as Nix does.
    pub fn register(&self, info: &PathInfo) {
        register(&self.connect(), info);
    }

    /// Builds and registers a path with a file of `size` bytes.
    pub fn add_file(&mut self, name: &str, size: usize) -> PathInfo {
        let info = self.build(name, |path| fs::write(path, content(size)).unwrap());
        self.register(&info);
        info
    }

    /// Builds and registers a path with some files in directories.
    pub fn add_tree(&mut self, name: &str, files: usize) -> PathInfo {
        let info = self.build(name, |path| {
            fs::create_dir(path).unwrap();
            for index in 0..files {
                let dir = path.join(format!("dir-{}", index % 7));
                fs::create_dir_all(&dir).unwrap();
                let file = dir.join(format!("file {index}"));
                fs::write(&file, content(index * 997 % 40_000)).unwrap();
                let mode = if index % 3 == 0 { 0o555 } else { 0o444 };
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            }
            std::os::unix::fs::symlink("dir-0", path.join("link")).unwrap();
        });
        self.register(&info);
        info
    }

    /// The NAR as another implementation encodes it.
    pub fn nar(&self, info: &PathInfo) -> Vec<u8> {
        let mut nar = Vec::new();
        let physical = self.physical(&info.store_path);
        nar::encode_path(&mut nar, &physical, CaseHack::Disabled).unwrap();
        nar
    }
}

pub fn register(connection: &Connection, info: &PathInfo) {
    let hex: String = info
        .nar_hash
        .as_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let signatures = info.signatures.join(" ");
    connection
        .execute(
            "insert or replace into ValidPaths \
             (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca) \
             values (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)",
            params![
                info.store_path.to_absolute_path(),
                format!("sha256:{hex}"),
                info.registration_time,
                info.deriver.as_ref().map(StorePath::to_absolute_path),
                info.nar_size as i64,
                Some(signatures).filter(|signatures| !signatures.is_empty()),
                info.content_address,
            ],
        )
        .unwrap();
    for reference in &info.references {
        connection
            .execute(
                "insert or replace into Refs select a.id, b.id from ValidPaths a, ValidPaths b \
                 where a.path = ?1 and b.path = ?2",
                [
                    info.store_path.to_absolute_path(),
                    reference.to_absolute_path(),
                ],
            )
            .unwrap();
    }
}

pub fn unregister(connection: &Connection, info: &PathInfo) {
    connection
        .execute(
            "delete from ValidPaths where path = ?1",
            [info.store_path.to_absolute_path()],
        )
        .unwrap();
}

/// Bytes that look random and are the same each time.
pub fn content(size: usize) -> Vec<u8> {
    let mut state = size as u32 | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(size)
    .collect()
}

/// A path hash that no fixture uses.
pub fn unknown() -> StorePathHash {
    StorePathHash::from_bytes([255; 20])
}

/// Waits for a condition, ten seconds at most.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn nar_hash(nar: &[u8]) -> NarHash {
    use sha2::Digest as _;
    NarHash::from_bytes(sha2::Sha256::digest(nar).into())
}

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Lets every user read a directory and what is in it.
pub fn make_readable(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Lets every user write to a directory.
pub fn make_writable(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}
