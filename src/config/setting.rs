//! The table of settings: one entry each, from which flags, variables, keys and help follow.

/// What kind of value a setting takes, as a file writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// A number of seconds, or a string such as `10min`.
    Duration,
    /// A string such as `5MB`, or a number of bytes.
    Size,
    /// True or false.
    Switch,
    /// Strings.
    List,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The flag without its dashes; `PEERIX_` and its upper case is the variable.
    pub flag: &'static str,
    /// Short flag.
    pub short: Option<char>,
    /// Section of a file; empty for the top level.
    pub section: &'static str,
    /// Key in a file.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The words it takes, where only certain ones make sense; empty for any value.
    pub choices: &'static [&'static str],
    /// Default, as a flag would write it; empty for none.
    pub default: &'static str,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// Heading in help.
    pub heading: &'static str,
    /// One or two sentences for help.
    pub help: &'static str,
}

impl Setting {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!(
            "PEERIX_{}",
            self.flag.to_ascii_uppercase().replace('-', "_")
        )
    }

    /// The section and the key under which any file can have it, the section empty for the top
    /// level.
    ///
    /// TOML lets a name be a key or a section: `store`, which is a key by itself, is in the section of
    /// that name where there is one, as older files have it.
    pub fn place(&self) -> (&'static str, &'static str) {
        match self.flag == STORE.flag {
            true => ("store", "uri"),
            false => (self.section, self.key),
        }
    }

    /// The setting that a file means by a key of a section.
    pub fn at(section: &str, key: &str) -> Option<&'static Setting> {
        let place = (section, key);
        let is_meant =
            |known: &&&Setting| known.place() == place || (known.section, known.key) == place;
        ALL.iter().find(is_meant).copied()
    }
}

const SERVING: &str = "Serving Nix";
const PEERS: &str = "Peers";
const TRUST: &str = "Trust and offering";
const LIMITS: &str = "Limits";
const PLACES: &str = "Store and state";

const BASE: Setting = Setting {
    flag: "",
    short: None,
    section: "",
    key: "",
    kind: Kind::Text,
    choices: &[],
    default: "",
    value_name: "",
    heading: "",
    help: "",
};

macro_rules! settings {
    ($($name:ident { $($field:ident: $value:expr),+ $(,)? })+) => {
        $(
            #[doc = concat!("The setting `", stringify!($name), "`.")]
            pub static $name: Setting = Setting { $($field: $value,)+ ..BASE };
        )+
        /// Every setting, in the order in which help and `check-config` show them.
        pub static ALL: &[&Setting] = &[$(&$name),+];
    };
}

settings! {
    PORT { flag: "port", short: Some('p'), section: "server", key: "port", kind: Kind::Number, default: "12304",
        value_name: "PORT", heading: SERVING,
        help: "Port of the substituter on 127.0.0.1 (and on the local network with --lan-discovery or --mode lan); 0 takes any free one" }
    PRIORITY { flag: "priority", section: "server", key: "priority", kind: Kind::Number, default: "5",
        value_name: "N", heading: SERVING,
        help: "Priority that Nix is told: lower is asked earlier (cache.nixos.org has 40)" }
    TIMEOUT { flag: "timeout", section: "server", key: "timeout", kind: Kind::Duration, default: "10",
        value_name: "SECONDS", heading: SERVING,
        help: "Longest time that connecting to a peer may take" }
    VERBOSE { flag: "verbose", short: Some('v'), section: "server", key: "verbose", kind: Kind::Switch, default: "false",
        heading: SERVING, help: "Log more; RUST_LOG says precisely what" }
    GEOIP_DATABASE { flag: "geoip-database", key: "geoip_database", kind: Kind::Text, value_name: "FILE", heading: SERVING,
        help: "Database in MaxMind's format (.mmdb) that tells the countries of peers on the dashboard; no service is ever asked" }
    LOG_FORMAT { flag: "log-format", section: "server", key: "log_format", default: "auto",
        value_name: "auto|text|json|journald", choices: &["auto", "text", "json", "journald"], heading: SERVING,
        help: "How log lines are written; `auto`: to the journal under systemd, else as text on standard error" }
    PEER { flag: "peer", key: "peers", kind: Kind::List, value_name: "TICKET", heading: PEERS,
        help: "A peer: what `peerix ticket` or `peerix share` printed there, or ID@ADDR:PORT (repeatable)" }
    MODE { flag: "mode", key: "mode", default: "auto", value_name: "auto|iroh|lan", choices: &["auto", "iroh", "lan"], heading: PEERS,
        help: "How peers are reached; `auto` is iroh; `lan`: on the local network alone, without relay, DNS and tracker, and with upstream caches only where given (SECURITY.md: known limits)" }
    RELAY { flag: "relay", key: "relays", kind: Kind::List, default: "default", value_name: "default|tracker|off|URL",
        heading: PEERS,
        help: "Relays for peers that can't reach each other directly; `default`: iroh's, and those that trackers run; `tracker`: these alone, and no DNS and pkarr; `off`: none, and no DNS and pkarr either (repeatable)" }
    CA_FILE { flag: "ca-file", key: "ca_file", value_name: "FILE", heading: PEERS,
        help: "Certificates (PEM) of authorities to trust for trackers and relays, beside the usual ones" }
    IROH_BIND { flag: "iroh-bind", key: "iroh_bind", value_name: "ADDR:PORT", heading: PEERS,
        help: "Where iroh's UDP socket binds [default: port 12306, any free one where that is taken]" }
    LAN_DISCOVERY { flag: "lan-discovery", key: "lan_discovery", kind: Kind::Switch, default: "false", heading: PEERS,
        help: "Find peers on the local network too, and serve it what is offered over HTTP" }
    TRACKER { flag: "tracker", short: Some('t'), section: "tracker", key: "url", kind: Kind::List,
        default: "https://sophronesis.dev/peerix", value_name: "URL|none", heading: PEERS,
        help: "A tracker, where peers find each other; `none`: without one (repeatable)" }
    PEER_ID { flag: "peer-id", section: "tracker", key: "peer_id", value_name: "NAME", heading: PEERS,
        help: "The name under which a tracker of the older peerix lists this machine [default: its endpoint id]" }
    SWARM { flag: "swarm", key: "swarm", default: "public", value_name: "NAME", heading: PEERS,
        help: "The swarm whose peers speak with each other and tell each other what they have: everybody's, or that of a name; `none`: nobody is told anything" }
    SWARM_SECRET_FILE { flag: "swarm-secret-file", key: "swarm_secret_file", value_name: "FILE", heading: PEERS,
        help: "The secret of a private swarm, at least 32 bytes: nobody without it is spoken with; needs --swarm NAME" }
    ANNOUNCE { flag: "announce", key: "announce", value_name: "all|shared|none", choices: &["all", "shared", "none"], heading: PEERS,
        help: "What is announced: `all` that is offered, what was `shared` by hand, or nothing [default: all]" }
    ALLOW_PEER { flag: "allow-peer", key: "allow_peers", kind: Kind::List, value_name: "ID", heading: PEERS,
        help: "Speak with this endpoint and others so named only (repeatable)" }
    DENY_PEER { flag: "deny-peer", key: "deny_peers", kind: Kind::List, value_name: "ID", heading: PEERS,
        help: "Never speak with this endpoint (repeatable)" }
    EPHEMERAL_IDENTITY { flag: "ephemeral-identity", key: "ephemeral_identity", kind: Kind::Switch, default: "false", heading: PEERS,
        help: "Be another endpoint at each start; tickets of before lead nowhere then" }
    TRUSTED_PUBLIC_KEY { flag: "trusted-public-key", key: "trusted_public_keys", kind: Kind::List,
        value_name: "NAME:KEY", heading: TRUST,
        help: "A key whose signature is trusted, beside those of nix.conf (repeatable)" }
    PUBLIC_CACHE_KEY { flag: "public-cache-key", key: "public_cache_keys", kind: Kind::List,
        default: "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
        value_name: "NAME:KEY", heading: TRUST,
        help: "Paths signed by this key are public and offered to peers (repeatable)" }
    PRIVATE_KEY { flag: "private-key", section: "signing", key: "private_key", value_name: "FILE", heading: TRUST,
        help: "Sign what is offered with this key, beside the signatures that it has; none but its owner may read it [env: NIX_SECRET_KEY_FILE]" }
    FILTER_MODE { flag: "filter-mode", section: "store", key: "filter_mode", default: "nixpkgs",
        value_name: "nixpkgs|rules", choices: &["nixpkgs", "rules"], heading: TRUST,
        help: "What is offered: `nixpkgs`: what a public cache has; `rules`: all that is signed or verified, without what sounds private" }
    FILTER_PATTERN { flag: "filter-pattern", section: "store", key: "filter_patterns", kind: Kind::List,
        value_name: "GLOB", heading: TRUST,
        help: "Names not to offer, as `*-secret-*`, beside those of `rules` (repeatable)" }
    FILTER_CONCURRENCY { flag: "filter-concurrency", section: "store", key: "filter_concurrency", kind: Kind::Number,
        default: "10", value_name: "N", heading: TRUST,
        help: "How many paths are looked up upstream at once" }
    NO_FILTER { flag: "no-filter", section: "store", key: "no_filter", kind: Kind::Switch, default: "false",
        heading: TRUST, help: "Offer every path of the store, private ones too" }
    NO_VERIFY { flag: "no-verify", section: "store", key: "no_verify", kind: Kind::Switch, default: "false",
        heading: TRUST, help: "Don't check signatures of what peers send (Nix still does)" }
    UPSTREAM_CACHE { flag: "upstream-cache", section: "store", key: "upstream_cache", kind: Kind::List,
        default: "https://cache.nixos.org", value_name: "URL|none", heading: TRUST,
        help: "An HTTP cache that finishes what peers begin; `none`: without one (repeatable)" }
    PROXY_UPSTREAM { flag: "proxy-upstream", key: "proxy_upstream", kind: Kind::Switch, default: "false", heading: TRUST,
        help: "Tell Nix of the upstream's paths where no peer has them, and fetch them once for all peers" }
    ALLOW_INSECURE_HTTP { flag: "allow-insecure-http", section: "security", key: "allow_insecure_http",
        kind: Kind::Switch, default: "false", heading: TRUST,
        help: "Accept http:// for trackers and upstream caches" }
    UPLOAD_LIMIT { flag: "upload-limit", key: "upload_limit", kind: Kind::Size, value_name: "RATE|none", heading: LIMITS,
        help: "Upload to all peers together; `5MB` is 5,000,000 bytes a second [default: 10MB to public addresses, none to private ones]" }
    UPLOAD_LIMIT_PER_PEER { flag: "upload-limit-per-peer", key: "upload_limit_per_peer", kind: Kind::Size,
        value_name: "RATE|none", heading: LIMITS, help: "Upload to each peer" }
    QUOTA_PER_DAY { flag: "quota-per-day", key: "quota_per_day", kind: Kind::Size, value_name: "SIZE|none",
        heading: LIMITS, help: "Upload in a day; kept over restarts" }
    QUOTA_PER_MONTH { flag: "quota-per-month", key: "quota_per_month", kind: Kind::Size, value_name: "SIZE|none",
        heading: LIMITS, help: "Upload in a calendar month; kept over restarts" }
    UPLOAD_WHEN { flag: "upload-when", key: "upload_when", value_name: "always|unmetered|never", choices: &["always", "unmetered", "never"],
        heading: LIMITS, help: "When to upload; `unmetered`: neither on metered connections nor on battery, as NetworkManager and the kernel say [default: always, but not on networks marked public]" }
    HASH_PER_DAY { flag: "hash-per-day", key: "hash_per_day", kind: Kind::Size, default: "200GB", value_name: "SIZE|none",
        heading: LIMITS, help: "NARs that are hashed in a day because peers ask; one peer has a quarter of it" }
    BLOB_QUOTA { flag: "blob-quota", key: "blob_quota", kind: Kind::Size, default: "10GiB",
        value_name: "SIZE|none", heading: LIMITS,
        help: "Disk space for downloads that are not in Nix's store (yet); what was shared does not count" }
    WIRE_COMPRESSION { flag: "wire-compression", key: "wire_compression", default: "auto", value_name: "auto|off|1..19",
        heading: LIMITS,
        help: "Compression between peers: `auto`: where the link is slow; a level of zstd: always, at that level" }
    STORE { flag: "store", key: "store", default: "auto", value_name: "auto|daemon|local|local?root=DIR|unix://PATH", heading: PLACES,
        help: "Which Nix store, and how it is read; `auto`: its database, or Nix's daemon where that can't be read; a store under DIR keeps its logical /nix/store" }
    STATE_DIR { flag: "state-dir", key: "state_dir", value_name: "DIR", heading: PLACES,
        help: "Where identity, index and downloads live [default: $STATE_DIRECTORY, /var/lib/peerix for root, else ~/.local/state/peerix]" }
    SCAN_INTERVAL { flag: "scan-interval", section: "store", key: "scan_interval", kind: Kind::Duration,
        default: "3600", value_name: "SECONDS", heading: PLACES,
        help: "Time between two looks through the whole store; 0 never" }
}
