//! Throw-away Nix stores under a directory of their own, worked by the machine's real Nix.
//!
//! They are chroot stores (`local?root=DIR`): their paths are called `/nix/store/...` and lie in
//! `DIR/nix/store`. The machine's own store and its `nix.conf` are neither read nor written.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{
    run, run_ok,
    tree::{Node, nar_hash_of, nix_base32},
};

/// A path to be put into a store.
#[derive(Clone, Debug)]
pub struct PathSpec {
    /// What follows the hash and the dash.
    pub name: String,
    /// What it holds.
    pub node: Node,
    /// Store paths it refers to.
    pub references: Vec<String>,
    /// Whether it refers to itself as well.
    pub refers_to_itself: bool,
}

impl PathSpec {
    /// A path without references.
    pub fn new(name: &str, node: Node) -> PathSpec {
        PathSpec {
            name: name.to_owned(),
            node,
            references: Vec::new(),
            refers_to_itself: false,
        }
    }

    /// The same with these references.
    pub fn with_references(mut self, references: &[String]) -> PathSpec {
        self.references = references.to_vec();
        self
    }

    /// The same, referring to itself.
    pub fn referring_to_itself(mut self) -> PathSpec {
        self.refers_to_itself = true;
        self
    }

    /// The store path it gets: the same for the same name.
    pub fn store_path(&self) -> String {
        store_path_named(&self.name)
    }
}

/// The store path that [`NixStore::add`] gives to `name`.
pub fn store_path_named(name: &str) -> String {
    let digest = blake3::hash(name.as_bytes());
    format!("/nix/store/{}-{name}", nix_base32(&digest.as_bytes()[..20]))
}

/// The 32 characters that name `store_path` in an address.
pub fn hash_part(store_path: &str) -> &str {
    &store_path["/nix/store/".len()..][..32]
}

/// A signing key made by Nix.
pub struct Key {
    secret: tempfile::NamedTempFile,
    /// `name:base64`, as `trusted-public-keys` takes it.
    pub public: String,
}

impl Key {
    /// Makes a key called `name`.
    pub fn generate(name: &str) -> Key {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (secret, public) = (
            directory.path().join("secret"),
            directory.path().join("public"),
        );
        let store = Environment::new();
        run_ok(
            store
                .command("nix-store")
                .arg("--generate-binary-cache-key")
                .arg(name)
                .args([&secret, &public]),
        );
        let mut kept = tempfile::NamedTempFile::new().expect("a temporary file");
        kept.write_all(&fs::read(secret).expect("the key just made"))
            .expect("space for a key");
        Key {
            secret: kept,
            public: fs::read_to_string(public).expect("the key just made"),
        }
    }

    /// The file that holds the secret half.
    pub fn secret_file(&self) -> &Path {
        self.secret.path()
    }
}

/// A HOME, a cache and a configuration of Nix that belong to one test.
struct Environment(tempfile::TempDir);

impl Environment {
    fn new() -> Environment {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["home", "conf"] {
            fs::create_dir(directory.path().join(name)).expect("a new directory");
        }
        Environment(directory)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.0.path().join(name);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", at("home"))
            .env("XDG_CACHE_HOME", at("cache"))
            .env("NIX_CONF_DIR", at("conf"))
            .env("NIX_STATE_DIR", at("state"))
            .env("NIX_LOG_DIR", at("log"))
            .env("NIX_CONFIG", CONFIGURATION);
        command
    }
}

/// Fresh answers only, no build users, no other cache, and nothing of the machine's own settings.
const CONFIGURATION: &str = "\
build-users-group =
sandbox = false
sandbox-paths = /bin /lib /lib64? /usr? /nix/store?
substituters =
require-sigs = true
trusted-public-keys =
experimental-features = nix-command
narinfo-cache-negative-ttl = 0
narinfo-cache-positive-ttl = 0
connect-timeout = 10
";

/// A Nix store of a test.
pub struct NixStore {
    root: PathBuf,
    environment: Environment,
    _kept: Option<tempfile::TempDir>,
}

impl NixStore {
    /// Makes an empty store with a database.
    pub fn new() -> NixStore {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = NixStore {
            root: directory.path().join("root"),
            environment: Environment::new(),
            _kept: Some(directory),
        };
        fs::create_dir(&store.root).expect("a new directory");
        store.initialise();
        store
    }

    /// A store at `root`, which outlives this value; it may have no database yet.
    pub fn at(root: &Path) -> NixStore {
        NixStore {
            root: root.to_owned(),
            environment: Environment::new(),
            _kept: None,
        }
    }

    /// Makes directories and database.
    pub fn initialise(&self) {
        run_ok(self.nix_store().arg("--init"));
    }

    /// The directory that `local?root=` names.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's address, for Nix and for peerix.
    pub fn uri(&self) -> String {
        format!("local?root={}", self.root.display())
    }

    /// Where `store_path` lies.
    pub fn physical(&self, store_path: &str) -> PathBuf {
        self.root.join(&store_path[1..])
    }

    /// `nix-store` on this store.
    pub fn nix_store(&self) -> Command {
        let mut command = self.environment.command("nix-store");
        command.arg("--store").arg(self.uri());
        command
    }

    /// `nix SUBCOMMAND...` on this store.
    pub fn nix(&self, subcommand: &[&str]) -> Command {
        let mut command = self.nix_elsewhere(subcommand);
        command.arg("--store").arg(self.uri());
        command
    }

    /// `nix SUBCOMMAND...` in this store's surroundings, without naming a store.
    pub fn nix_elsewhere(&self, subcommand: &[&str]) -> Command {
        let mut command = self.environment.command("nix");
        command.args(subcommand);
        command
    }

    /// Another program in this store's surroundings.
    pub fn program(&self, program: &str) -> Command {
        self.environment.command(program)
    }

    /// Puts a path into the store and returns its store path.
    pub fn add(&self, spec: PathSpec) -> String {
        self.add_all(vec![spec]).remove(0)
    }

    /// Puts paths into the store, in one transaction, and returns their store paths.
    pub fn add_all(&self, specs: Vec<PathSpec>) -> Vec<String> {
        let mut registration = String::new();
        let mut store_paths = Vec::new();
        for spec in specs {
            let store_path = spec.store_path();
            let physical = self.physical(&store_path);
            spec.node.write_at(&physical);
            let (hash, size) = nar_hash_of(&physical);
            let mut references = spec.references;
            if spec.refers_to_itself {
                references.push(store_path.clone());
            }
            registration += &format!(
                "{store_path}\n{}\n{size}\n\n{}\n",
                hex::encode(hash),
                references.len()
            );
            for reference in references {
                registration += &format!("{reference}\n");
            }
            store_paths.push(store_path);
        }
        self.register(&registration);
        store_paths
    }

    /// Hands `registration` (path, hash, size, deriver, references) to `nix-store --load-db`.
    pub fn register(&self, registration: &str) {
        let mut command = self.nix_store();
        let mut child = command
            .arg("--load-db")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nix-store");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(registration.as_bytes())
            .expect("nix-store reads");
        let output = child.wait_with_output().expect("nix-store ends");
        assert!(output.status.success(), "{}", super::text_of(&output));
    }

    /// Adds a content-addressed path (`fixed:r:sha256`) with Nix itself.
    pub fn add_content_addressed(&self, name: &str, node: &Node) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(name);
        node.write_at(&path);
        let printed = run_ok(self.nix_store().arg("--add").arg(&path));
        printed.trim().to_owned()
    }

    /// Signs `store_paths` and all they refer to.
    pub fn sign(&self, key: &Key, store_paths: &[&str]) {
        run_ok(
            self.nix(&["store", "sign", "-r"])
                .arg("-k")
                .arg(key.secret_file())
                .args(store_paths),
        );
    }

    /// The one signature of `store_path`, as a narinfo has it.
    pub fn signature(&self, store_path: &str) -> String {
        let printed = run_ok(self.nix(&["path-info", "--sigs"]).arg(store_path));
        let signature = printed.split_whitespace().find(|word| word.contains("=="));
        signature.expect("a signature").to_owned()
    }

    /// Asks the real Nix to substitute `store_path` from `substituters`, trusting `keys`.
    pub fn try_substitute(
        &self,
        store_path: &str,
        substituters: &[String],
        keys: &[&str],
    ) -> Output {
        run(&mut self.substitution(&[store_path], substituters, keys))
    }

    /// The command that [`NixStore::try_substitute`] runs.
    pub fn substitution(
        &self,
        store_paths: &[&str],
        substituters: &[String],
        keys: &[&str],
    ) -> Command {
        let mut command = self.nix_store();
        command
            .args(["--option", "substituters", &substituters.join(" ")])
            .args(["--option", "trusted-public-keys", &keys.join(" ")])
            .args(["--max-jobs", "0", "-r"])
            .args(store_paths);
        command
    }

    /// Substitutes `store_path` or panics with what Nix said.
    pub fn substitute(&self, store_path: &str, substituters: &[String], keys: &[&str]) {
        run_ok(&mut self.substitution(&[store_path], substituters, keys));
    }

    /// Lets Nix read every file of the store and compare it with its NAR hash.
    pub fn verify_contents(&self) {
        run_ok(self.nix_store().args(["--verify", "--check-contents"]));
    }

    /// Whether the store's database lists `store_path`.
    pub fn has(&self, store_path: &str) -> bool {
        run(self.nix_store().args(["-q", "--hash"]).arg(store_path))
            .status
            .success()
    }

    /// The paths that `store_path` refers to.
    pub fn references(&self, store_path: &str) -> Vec<String> {
        self.query("--references", store_path)
    }

    /// `store_path` and all it refers to.
    pub fn closure(&self, store_path: &str) -> Vec<String> {
        self.query("--requisites", store_path)
    }

    /// The NAR as Nix itself writes it.
    pub fn dump(&self, store_path: &str) -> Vec<u8> {
        let output = run(self
            .nix_store()
            .arg("--dump")
            .arg(self.physical(store_path)));
        assert!(output.status.success(), "{}", super::text_of(&output));
        output.stdout
    }

    /// The NAR hash in the store's database: `sha256:` and 52 characters.
    pub fn nar_hash(&self, store_path: &str) -> String {
        self.query("--hash", store_path).remove(0)
    }

    /// Changes the first byte of a file behind Nix's back, size and times kept.
    pub fn corrupt(&self, file: &Path) {
        use std::os::unix::fs::{FileExt, PermissionsExt};
        let metadata = fs::metadata(file).expect("a file");
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("our own file");
        let opened = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(file)
            .expect("our own file");
        let mut byte = [0];
        opened.read_exact_at(&mut byte, 0).expect("a byte");
        opened.write_all_at(&[byte[0] ^ 1], 0).expect("a byte");
        opened
            .set_modified(metadata.modified().expect("a time"))
            .expect("our own file");
        fs::set_permissions(file, metadata.permissions()).expect("our own file");
    }

    fn query(&self, what: &str, store_path: &str) -> Vec<String> {
        run_ok(self.nix_store().args(["-q", what]).arg(store_path))
            .lines()
            .map(str::to_owned)
            .collect()
    }
}
