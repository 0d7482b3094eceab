//! Layers, origins and errors of the configuration as a whole.

use super::*;
use crate::offer::Filter;

const KEY_A: &str = "a-1:cslAx3mBfuxoBrDcGgaRS0aSDPnTMaVIgCRdSk5CDxU=";

struct Lab {
    directory: tempfile::TempDir,
    sources: Sources,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            variables: Variables::new(),
            home: Some(directory.path().join("home")),
            user_id: 1000,
        };
        let mut sources = Sources::new(surroundings, Layer::default());
        sources.system_file = Some(directory.path().join("system.toml"));
        sources.user_file = Some(directory.path().join("user.toml"));
        Lab { directory, sources }
    }

    fn system(self, text: &str) -> Self {
        std::fs::write(self.directory.path().join("system.toml"), text).unwrap();
        self
    }

    fn user(self, text: &str) -> Self {
        std::fs::write(self.directory.path().join("user.toml"), text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources
            .surroundings
            .variables
            .insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, setting: &setting::Setting, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.sources.flags.set(
            setting,
            Given {
                values,
                origin: Origin::Flag,
            },
        );
        self
    }

    fn load(&self) -> Loaded {
        load(&self.sources).unwrap()
    }

    /// The error, with the laboratory's directory taken out.
    fn error(&self) -> String {
        let error = load(&self.sources).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded
        .shown
        .iter()
        .find(|shown| shown.name() == key)
        .unwrap()
        .origin
        .clone()
}

#[test]
fn without_any_source_the_defaults_stand() {
    let loaded = Lab::new().load();
    let config = &loaded.config;
    assert_eq!(
        (config.http_port, config.priority, config.timeout),
        (12304, 5, Duration::from_secs(10))
    );
    assert_eq!(config.upstream_caches, ["https://cache.nixos.org"]);
    assert_eq!(config.relay, Relay::Default);
    assert_eq!(config.scan_interval, Some(Duration::from_secs(3600)));
    assert_eq!(config.public_cache_keys.len(), 1);
    assert_eq!(config.trackers, ["https://sophronesis.dev/peerix"]);
    assert!(config.peers.is_empty());
    assert_eq!(
        (config.upload_limit, config.upload_limit_per_peer),
        (None, None)
    );
    assert!(config.state_dir.ends_with("home/.local/state/peerix"));
    assert_eq!(origin(&loaded, "server.port"), "default");
}

#[test]
fn a_higher_layer_wins_and_is_named() {
    let lab = Lab::new()
        .system("[server]\nport = 1\npriority = 1\ntimeout = 1\n[store]\nno_filter = true\n")
        .user("[server]\n\nport = 2\npriority = 2\ntimeout = 2.5\n")
        .variable("PEERIX_PORT", "3")
        .variable("PEERIX_PRIORITY", "3")
        .flag(&setting::PORT, &["4"]);
    let loaded = lab.load();
    let config = &loaded.config;
    assert_eq!((config.http_port, config.priority), (4, 3));
    assert_eq!(config.timeout, Duration::from_millis(2500));
    assert_eq!(config.filter, Filter::Everything);
    assert_eq!(origin(&loaded, "server.port"), "command line");
    assert_eq!(
        origin(&loaded, "server.priority"),
        "PEERIX_PRIORITY in the environment"
    );
    assert!(origin(&loaded, "server.timeout").ends_with("user.toml:5"));
    assert!(origin(&loaded, "store.no_filter").ends_with("system.toml:6"));
}

#[test]
fn a_named_file_takes_the_place_of_the_users() {
    let mut lab = Lab::new().user("[server]\npriority = 1\n");
    let named = lab.directory.path().join("named.toml");
    std::fs::write(&named, "[server]\nport = 7\n").unwrap();
    lab.sources.named_file = Some(named.clone());
    assert_eq!(
        (lab.load().config.http_port, lab.load().config.priority),
        (7, 5)
    );
    std::fs::remove_file(&named).unwrap();
    assert_eq!(
        lab.error(),
        "named.toml: there is no such configuration file"
    );
}

#[test]
fn older_files_and_their_sections_are_understood() {
    let lab = Lab::new().user(
        "[server]\nport=12304\npriority=5\ntimeout=10.0\nverbose=false\n[tracker]\nurl=\"\"\n\
         [store]\nscan_interval=0\nfilter_mode=\"nixpkgs\"\nfilter_concurrency=10\nfilter_patterns=[]\nno_filter=false\n\
         no_verify=false\nupstream_cache=\"https://cache.nixos.org\"\n[security]\nallow_insecure_http=false\n",
    );
    assert_eq!(lab.load().config.scan_interval, None);
}

#[test]
fn lists_replace_lists_and_take_strings_too() {
    let lab = Lab::new()
        .system(&format!("trusted_public_keys = [\"{KEY_A}\"]\nrelays = [\"off\"]\n[store]\nupstream_cache = [\"https://a\", \"https://b\"]\n"))
        .variable("PEERIX_RELAY", "https://r1.example https://r2.example");
    let config = lab.load().config;
    assert_eq!(config.trusted_public_keys[0].name, "a-1");
    assert_eq!(config.upstream_caches, ["https://a", "https://b"]);
    assert!(matches!(config.relay, Relay::Custom(urls) if urls.len() == 2));
}

#[test]
fn keys_of_nix_conf_come_first_and_are_not_repeated() {
    let mut lab = Lab::new().flag(&setting::TRUSTED_PUBLIC_KEY, &[KEY_A]);
    lab.sources.nix_trusted_public_keys = vec![value::public_key(KEY_A).unwrap()];
    let loaded = lab.load();
    assert_eq!(loaded.config.trusted_public_keys.len(), 1);
    assert_eq!(
        origin(&loaded, "trusted_public_keys"),
        "nix.conf and command line"
    );
}

#[test]
fn the_store_is_a_key_or_in_its_section() {
    let root = NixStore::Local {
        root: Some("/b".into()),
    };
    assert_eq!(
        Lab::new()
            .user("store = \"local?root=/b\"\n")
            .load()
            .config
            .store,
        root
    );
    assert_eq!(
        Lab::new()
            .user("[store]\nuri = \"local?root=/b\"\nno_filter = true\n")
            .load()
            .config
            .store,
        root
    );
}

#[test]
fn the_control_socket_follows_a_state_directory_given_by_hand() {
    let lab = Lab::new().variable("XDG_RUNTIME_DIR", "/run/user/1000");
    assert_eq!(
        lab.load().config.control_socket,
        Path::new("/run/user/1000/peerix/control.sock")
    );
    let lab = lab.flag(&setting::STATE_DIR, &["/srv/peerix"]);
    assert_eq!(
        lab.load().config.control_socket,
        Path::new("/srv/peerix/control.sock")
    );
    let mut lab = Lab::new();
    lab.sources.surroundings.user_id = 0;
    assert_eq!(
        lab.load().config.control_socket,
        Path::new("/run/peerix/control.sock")
    );
    assert_eq!(lab.load().config.state_dir, Path::new("/var/lib/peerix"));
    let lab = lab.variable("STATE_DIRECTORY", "/var/lib/private/peerix:/other");
    let loaded = lab.load();
    assert_eq!(
        loaded.config.state_dir,
        Path::new("/var/lib/private/peerix")
    );
    assert_eq!(
        origin(&loaded, "state_dir"),
        "STATE_DIRECTORY in the environment"
    );
}

#[test]
fn errors_say_where_what_and_what_to_do() {
    let user = |text: &str| Lab::new().user(text).error();
    for (text, expected) in [
        (
            "[server]\nprot = 1\n",
            "user.toml:2: unknown key `prot`: did you mean `port`?",
        ),
        (
            "\nport = 1\n",
            "user.toml:2: unknown key `port`: did you mean `port` in [server]?",
        ),
        (
            "[server]\npeers = []\n",
            "user.toml:2: unknown key `peers`: did you mean `peers` at the top of the file, before any section?",
        ),
        (
            "upload-limit = 1\n",
            "user.toml:1: unknown key `upload-limit`: did you mean `upload_limit`?",
        ),
        (
            "[sever]\nport = 1\n",
            "user.toml:1: unknown section `sever`: did you mean [server]?",
        ),
        (
            "x = \n",
            "user.toml:1: string values must be quoted, expected literal string",
        ),
        (
            "[server]\nport = 70000\n",
            "user.toml:2: port: `70000` is not a whole number from 0 to 65535",
        ),
        (
            "[server]\nport = \"web\"\n",
            "user.toml:2: port: expected a whole number, found string",
        ),
        (
            "upload_limit = \"5MBit\"\n",
            "user.toml:1: upload_limit: `5MBit` is not a rate: write it as 500kB, 5MB or 5MiB (a second), or none",
        ),
        (
            "peers = [1]\n",
            "user.toml:1: peers: expected a list of strings",
        ),
        (
            "store = \"ssh://host\"\n",
            "user.toml:1: store: `ssh://host` is not a store: use auto, daemon, local, local?root=DIR or unix://PATH",
        ),
        (
            "store = \"auto\"\n[store]\nuri = \"auto\"\n",
            "user.toml:2: duplicate key",
        ),
        (
            "[store]\nupstream_cache = \"http://cache\"\n",
            "user.toml:2: upstream_cache: Upstream cache URL must use HTTPS: http://cache (--allow-insecure-http accepts it)",
        ),
        (
            "mode = \"wan\"\n",
            "user.toml:1: mode: `wan` is not one of auto, iroh, lan",
        ),
        (
            "mode = \"lan\"\nrelays = [\"https://relay.example\"]\n",
            "user.toml:2: relays: in LAN mode nothing leaves the local network: leave it out or set it to `off`",
        ),
        (
            "iroh_bind = \"12306\"\n",
            "user.toml:1: iroh_bind: `12306` is not ADDR:PORT, such as 0.0.0.0:12306 or [::]:12306",
        ),
        (
            "public_cache_keys = [\"x\"]\n",
            "user.toml:1: public_cache_keys: `x` is not a public key (NAME:BASE64, as in nix.conf): public key has no name separator",
        ),
    ] {
        assert_eq!(user(text), expected, "{text}");
    }
    let lab = Lab::new().variable("PEERIX_UPLOAD_LIMT", "5MB");
    assert_eq!(
        lab.error(),
        "environment: unknown variable `PEERIX_UPLOAD_LIMT`: did you mean `PEERIX_UPLOAD_LIMIT`?"
    );
    assert_eq!(
        Lab::new().variable("PEERIX_PORT", "x").error(),
        "PEERIX_PORT: `x` is not a whole number from 0 to 65535"
    );
    assert_eq!(
        Lab::new().flag(&setting::TIMEOUT, &["0"]).error(),
        "--timeout: a timeout of 0 would fail every connection"
    );
    let mut homeless = Lab::new();
    homeless.sources.surroundings.home = None;
    assert!(homeless.error().contains("give --state-dir DIR"));
}

#[test]
fn variables_of_others_are_passed_over() {
    let loaded = Lab::new()
        .variable("PEERIX_TEST_SEED", "1")
        .variable("PEERIX_COMMIT", "abc")
        .variable("PEERIX_PORT", "")
        .load();
    assert_eq!(loaded.ignored_variables, ["PEERIX_TEST_SEED"]);
    assert_eq!(loaded.config.http_port, 12304);
}

#[test]
fn what_is_a_default_or_switches_something_off_is_always_taken() {
    for (setting, value) in [
        (&setting::TRACKER, "none"),
        (&setting::MODE, "iroh"),
        (&setting::LAN_DISCOVERY, "false"),
        (&setting::SWARM, "public"),
        (&setting::ANNOUNCE, "none"),
        (&setting::FILTER_MODE, "nixpkgs"),
        (&setting::FILTER_CONCURRENCY, "10"),
        (&setting::PROXY_UPSTREAM, "false"),
        (&setting::QUOTA_PER_DAY, "none"),
        (&setting::UPLOAD_WHEN, "always"),
        (&setting::BLOB_QUOTA, "off"),
        (&setting::WIRE_COMPRESSION, "off"),
        (&setting::WIRE_COMPRESSION, "auto"),
        (&setting::UPSTREAM_CACHE, "none"),
        (&setting::RELAY, "off"),
        (&setting::UPLOAD_LIMIT, "none"),
    ] {
        Lab::new().flag(setting, &[value]).load();
    }
}

#[test]
fn lan_mode_switches_off_what_leaves_the_network_and_keeps_what_was_asked_for() {
    let lan = || Lab::new().flag(&setting::MODE, &["lan"]);
    let config = lan().load().config;
    assert_eq!((config.mode, config.lan_discovery), (Mode::Lan, true));
    assert_eq!(config.relay, Relay::Off);
    assert!(config.upstream_caches.is_empty() && config.trackers.is_empty());
    let config = lan()
        .flag(&setting::UPSTREAM_CACHE, &["https://cache.lan"])
        .flag(&setting::RELAY, &["default"])
        .load()
        .config;
    assert_eq!(config.upstream_caches, ["https://cache.lan"]);
    assert_eq!(config.relay, Relay::Off);
    let beside = Lab::new().user("lan_discovery = true\n").load().config;
    assert_eq!((beside.mode, beside.lan_discovery), (Mode::Auto, true));
    assert_eq!(beside.relay, Relay::Default);
    assert!(!Lab::new().load().config.lan_discovery);
}

#[test]
fn a_tracker_has_to_be_https_unless_that_is_waived_and_is_none_in_lan_mode() {
    let plain = "http://tracker.example/peerix/";
    let with = |values: &[&str]| Lab::new().flag(&setting::TRACKER, values);
    assert_eq!(
        with(&[plain]).error(),
        format!(
            "--tracker: Tracker URL must use HTTPS: {plain} (--allow-insecure-http accepts it)"
        )
    );
    let waived = with(&[plain, "https://other.example"]);
    let config = waived
        .flag(&setting::ALLOW_INSECURE_HTTP, &["true"])
        .load()
        .config;
    assert_eq!(
        config.trackers,
        ["http://tracker.example/peerix", "https://other.example"]
    );
    assert!(with(&["none"]).load().config.trackers.is_empty());
    assert!(with(&["ftp://x"]).error().contains("not an https:// URL"));
    let lan = with(&["https://other.example"]).flag(&setting::MODE, &["lan"]);
    assert!(lan.error().contains("leave it out or set it to `none`"));
    let name = Lab::new().flag(&setting::PEER_ID, &["two\nlines"]);
    assert!(name.error().starts_with("--peer-id: "));
}

#[test]
fn flags_keys_and_variables_are_unique() {
    for (index, setting) in setting::ALL.iter().enumerate() {
        for other in &setting::ALL[index + 1..] {
            assert_ne!(setting.flag, other.flag);
            assert_ne!((setting.section, setting.key), (other.section, other.key));
            assert!(setting.short.is_none() || setting.short != other.short);
        }
    }
}

#[test]
fn the_daemons_socket_is_the_one_that_nix_would_ask() {
    let daemon = |socket: Option<&str>| peerix_store::NixStore::Daemon {
        socket: socket.map(Into::into),
    };
    let moved = || Lab::new().variable("NIX_DAEMON_SOCKET_PATH", "/run/nix");
    let of = |lab: Lab, text: &str| lab.flag(&setting::STORE, &[text]).load().config.store;
    assert_eq!(of(Lab::new(), "daemon"), daemon(None));
    assert_eq!(of(moved(), "daemon"), daemon(Some("/run/nix")));
    assert_eq!(of(moved(), "unix:///run/b"), daemon(Some("/run/b")));
    assert_eq!(of(moved(), "auto"), peerix_store::NixStore::Auto);
}

#[test]
fn filters_and_lists_of_peers_are_read_and_nonsense_is_named() {
    let id = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let loaded = Lab::new()
        .user(&format!(
            "announce = \"shared\"\nallow_peers = [\"{id}\"]\n\
             [store]\nfilter_mode = \"rules\"\nfilter_patterns = [\"*-mine\"]\nfilter_concurrency = 20\n"
        ))
        .load();
    let config = &loaded.config;
    assert_eq!(config.filter, Filter::Vouched);
    assert_eq!(config.filter_concurrency, 20);
    assert_eq!(config.announce, Some(crate::offer::Announce::Shared));
    assert_eq!(config.allow_peers[0].to_string(), id);
    for (setting, value) in [
        (&setting::FILTER_PATTERN, "[x"),
        (&setting::FILTER_CONCURRENCY, "0"),
        (&setting::FILTER_CONCURRENCY, "101"),
        (&setting::DENY_PEER, "somebody"),
    ] {
        let error = Lab::new().flag(setting, &[value]).error();
        assert!(error.contains(value), "{error}");
    }
}
