//! From what was given to the typed configuration.

use std::{borrow::Cow, path::PathBuf};

use peerix_store::{NixStore, nix::TrustedPublicKey};

use super::{
    Config, ConfigError, Given, Layer, Mode, Origin, Relay, Shown, Sources, Surroundings,
    places::CONTROL_SOCKET_NAME,
    setting::{self, Setting},
    value,
};
use crate::{
    offer::{Filter, rules::Patterns},
    peer::gate::UploadRules,
    swarm,
};

/// Resolves the winning values of all layers.
pub(super) fn resolve(
    winners: &Layer,
    sources: &Sources,
) -> Result<(Config, Vec<Shown>), ConfigError> {
    for setting in setting::ALL {
        refuse_other_words(setting, winners.get(setting))?;
    }
    let values = Values(winners);
    let allow_insecure_http = values.one(&setting::ALLOW_INSECURE_HTTP, value::switch)?;
    let (state_dir, state_dir_origin) = match winners.get(&setting::STATE_DIR) {
        Some(_) => (values.one(&setting::STATE_DIR, absolute)?, None),
        None => sources.surroundings.default_state_dir()?,
    };
    let swarm = values.all(&setting::SWARM, value::swarm)?;
    let config = Config {
        http_port: values.one(&setting::PORT, value::number)?,
        priority: values.one(&setting::PRIORITY, value::number)?,
        timeout: values.one(&setting::TIMEOUT, positive_duration)?,
        verbose: values.one(&setting::VERBOSE, value::switch)?,
        log_format: values.one(&setting::LOG_FORMAT, value::log_format)?,
        control_socket: control_socket(winners, sources, &state_dir),
        store: nix_store(
            values.one(&setting::STORE, value::nix_store)?,
            &sources.surroundings,
        ),
        store_uri: values.one(&setting::STORE, |text| Ok(text.to_owned()))?,
        peers: values.each(&setting::PEER, |text| value::peer(text, swarm.as_deref()))?,
        trusted_public_keys: without_repetition(
            sources.nix_trusted_public_keys.iter().cloned(),
            values.each(&setting::TRUSTED_PUBLIC_KEY, value::public_key)?,
        ),
        public_cache_keys: values.each(&setting::PUBLIC_CACHE_KEY, value::public_key)?,
        upstream_caches: values.each(&setting::UPSTREAM_CACHE, |text| {
            value::http_url(text, "Upstream cache", allow_insecure_http)
        })?,
        proxy_upstream: values.one(&setting::PROXY_UPSTREAM, value::switch)?,
        trackers: values.each(&setting::TRACKER, |text| {
            value::http_url(text, "Tracker", allow_insecure_http)
        })?,
        tracker_peer_id: values.optional(&setting::PEER_ID, value::peer_id)?,
        ca_file: values.optional(&setting::CA_FILE, absolute)?,
        mode: values.one(&setting::MODE, mode)?,
        lan_discovery: values.one(&setting::LAN_DISCOVERY, value::switch)?,
        relay: values.all(&setting::RELAY, value::relay)?,
        iroh_bind: values.optional(&setting::IROH_BIND, |text| {
            text.parse().map_err(|_| {
                format!("`{text}` is not ADDR:PORT, such as 0.0.0.0:12306 or [::]:12306")
            })
        })?,
        private_key: private_key(winners, sources)?,
        filter: filter(&values)?,
        excluded: excluded(&values)?,
        filter_concurrency: values.one(&setting::FILTER_CONCURRENCY, value::concurrency)?,
        swarm_secret_file: swarm_secret_file(winners, swarm.as_deref())?,
        swarm,
        announce: values.optional(&setting::ANNOUNCE, value::announce)?,
        allow_peers: values.each(&setting::ALLOW_PEER, value::endpoint_id)?,
        deny_peers: values.each(&setting::DENY_PEER, value::endpoint_id)?,
        ephemeral_identity: values.one(&setting::EPHEMERAL_IDENTITY, value::switch)?,
        no_verify: values.one(&setting::NO_VERIFY, value::switch)?,
        allow_insecure_http,
        upload_limit: values.optional(&setting::UPLOAD_LIMIT, value::rate)?,
        upload_limit_per_peer: values.optional(&setting::UPLOAD_LIMIT_PER_PEER, value::rate)?,
        uploads: UploadRules {
            when: values.optional(&setting::UPLOAD_WHEN, value::upload_when)?,
            per_day: values
                .optional(&setting::QUOTA_PER_DAY, value::upload_quota)?
                .flatten(),
            per_month: values
                .optional(&setting::QUOTA_PER_MONTH, value::upload_quota)?
                .flatten(),
        },
        geoip_database: values
            .optional(&setting::GEOIP_DATABASE, |text| Ok(PathBuf::from(text)))?,
        hash_per_day: values.one(&setting::HASH_PER_DAY, value::quota)?,
        blob_quota: values.one(&setting::BLOB_QUOTA, value::quota)?,
        wire_compression: values.one(&setting::WIRE_COMPRESSION, value::wire_compression)?,
        scan_interval: values.one(&setting::SCAN_INTERVAL, value::duration)?.into(),
        state_dir,
    };
    let config = within_the_network(
        Config {
            scan_interval: config.scan_interval.filter(|interval| !interval.is_zero()),
            ..config
        },
        winners,
    )?;
    let shown = setting::ALL
        .iter()
        .map(|setting| show(setting, winners, &config, state_dir_origin))
        .collect();
    Ok((config, shown))
}

/// In LAN mode defaults that leave the local network are off, and asking for such is an error.
fn within_the_network(config: Config, winners: &Layer) -> Result<Config, ConfigError> {
    if config.mode != Mode::Lan {
        return Ok(config);
    }
    let given = |setting: &Setting| {
        winners
            .get(setting)
            .filter(|given| !given.values.iter().all(|text| value::is_off(text)))
    };
    let relay = given(&setting::RELAY).filter(|given| given.values != ["default"]);
    let tracker = given(&setting::TRACKER);
    for (setting, given, off) in [
        (&setting::RELAY, relay, "off"),
        (&setting::TRACKER, tracker, "none"),
    ] {
        if let Some(given) = given {
            return Err(ConfigError::Value {
                place: given.place(setting),
                reason: format!(
                    "in LAN mode nothing leaves the local network: leave it out or set it to `{off}`"
                ),
            });
        }
    }
    let upstream_caches = match given(&setting::UPSTREAM_CACHE) {
        Some(_) => config.upstream_caches,
        None => Vec::new(),
    };
    Ok(Config {
        lan_discovery: true,
        relay: Relay::Off,
        trackers: Vec::new(),
        upstream_caches,
        ..config
    })
}

/// Refuses what is none of a setting's words, where only certain ones make sense.
fn refuse_other_words(setting: &Setting, given: Option<&Given>) -> Result<(), ConfigError> {
    let Some(given) = given else { return Ok(()) };
    let is_choice = |text: &String| {
        setting.choices.is_empty()
            || value::is_off(text)
            || setting.choices.contains(&text.as_str())
    };
    if let Some(wrong) = given.values.iter().find(|text| !is_choice(text)) {
        let reason = format!("`{wrong}` is not one of {}", setting.choices.join(", "));
        return Err(ConfigError::Value {
            place: given.place(setting),
            reason,
        });
    }
    Ok(())
}

/// Typed access to the winning values.
struct Values<'a>(&'a Layer);

impl Values<'_> {
    fn given(&self, setting: &Setting) -> Cow<'_, Given> {
        let default = || Given {
            values: Some(setting.default)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            origin: Origin::Default,
        };
        self.0
            .get(setting)
            .map_or_else(|| Cow::Owned(default()), Cow::Borrowed)
    }

    fn all<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&[String]) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let given = self.given(setting);
        parse(&given.values).map_err(|reason| ConfigError::Value {
            place: given.place(setting),
            reason,
        })
    }

    fn one<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.all(setting, |values| match values {
            [one] => parse(one),
            _ => Err("expected one value".to_owned()),
        })
    }

    fn optional<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.all(setting, |values| {
            values.first().map(|text| parse(text)).transpose()
        })
    }

    /// A list, empty where one of the words that mean nothing stands alone.
    fn each<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        self.all(setting, |values| match values {
            [one] if value::is_off(one) => Ok(Vec::new()),
            _ => values.iter().map(|text| parse(text)).collect(),
        })
    }
}

/// Where the daemon's socket is not named, Nix's own variable may.
fn nix_store(store: NixStore, surroundings: &Surroundings) -> NixStore {
    match store {
        NixStore::Daemon { socket: None } => NixStore::Daemon {
            socket: surroundings
                .variable("NIX_DAEMON_SOCKET_PATH")
                .map(PathBuf::from),
        },
        other => other,
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "iroh" => Ok(Mode::Iroh),
        "lan" => Ok(Mode::Lan),
        _ => Err(format!("`{text}` is not a mode: use auto, iroh or lan")),
    }
}

/// The variable that names a signing key to Nix's own tools names it here too.
const NIX_SECRET_KEY_FILE: &str = "NIX_SECRET_KEY_FILE";

fn private_key(winners: &Layer, sources: &Sources) -> Result<Option<PathBuf>, ConfigError> {
    match winners.get(&setting::PRIVATE_KEY) {
        Some(_) => Values(winners).optional(&setting::PRIVATE_KEY, |text| match text {
            text if value::is_off(text) => Ok(None),
            text => absolute(text).map(Some),
        }),
        None => Ok(Some(
            sources
                .surroundings
                .variable(NIX_SECRET_KEY_FILE)
                .map(PathBuf::from),
        )),
    }
    .map(Option::flatten)
}

/// The secret of the swarm `name`; that of everybody can have none.
fn swarm_secret_file(winners: &Layer, name: Option<&str>) -> Result<Option<PathBuf>, ConfigError> {
    let setting = &setting::SWARM_SECRET_FILE;
    let Some(given) = winners.get(setting) else {
        return Ok(None);
    };
    let file = Values(winners).optional(setting, |text| match text {
        text if value::is_off(text) => Ok(None),
        text => absolute(text).map(Some),
    })?;
    let file = file.flatten();
    if file.is_some() && name.is_none_or(|name| name == swarm::id::PUBLIC) {
        return Err(ConfigError::Value {
            place: given.place(setting),
            reason: "a secret makes a swarm private, and the public one is everybody's: name a swarm of your own with --swarm NAME".to_owned(),
        });
    }
    Ok(file)
}

fn filter(values: &Values<'_>) -> Result<Filter, ConfigError> {
    if values.one(&setting::NO_FILTER, value::switch)? {
        return Ok(Filter::Everything);
    }
    values.one(&setting::FILTER_MODE, value::filter)
}

/// The names that are not offered, which `rules` has many of.
fn excluded(values: &Values<'_>) -> Result<Patterns, ConfigError> {
    let with_built_in = filter(values)? == Filter::Vouched;
    values.all(&setting::FILTER_PATTERN, |given| {
        let further = match given {
            [one] if value::is_off(one) => &[],
            further => further,
        };
        let patterns = match with_built_in {
            true => Patterns::with_built_in(further),
            false => Patterns::new(further),
        };
        patterns.map_err(|error| error.to_string())
    })
}

fn positive_duration(text: &str) -> Result<std::time::Duration, String> {
    let duration = value::duration(text)?;
    if duration.is_zero() {
        Err("a timeout of 0 would fail every connection".to_owned())
    } else {
        Ok(duration)
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    std::path::absolute(text).map_err(|error| format!("`{text}`: {error}"))
}

/// In the state directory if a flag or variable gave that, since commands can be given it too.
fn control_socket(winners: &Layer, sources: &Sources, state_dir: &std::path::Path) -> PathBuf {
    match winners.get(&setting::STATE_DIR).map(|given| &given.origin) {
        Some(Origin::Flag | Origin::Variable(_)) => state_dir.join(CONTROL_SOCKET_NAME),
        _ => sources.surroundings.control_socket(state_dir),
    }
}

fn without_repetition(
    first: impl Iterator<Item = TrustedPublicKey>,
    second: Vec<TrustedPublicKey>,
) -> Vec<TrustedPublicKey> {
    let mut keys: Vec<TrustedPublicKey> = Vec::new();
    for key in first.chain(second) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn show(
    setting: &Setting,
    winners: &Layer,
    config: &Config,
    state_dir_origin: Option<&str>,
) -> Shown {
    let given = Values(winners).given(setting).into_owned();
    let (section, key) = setting.place();
    let mut shown = Shown {
        section: section.to_owned(),
        key: key.to_owned(),
        values: given.values,
        kind: setting.kind,
        origin: given.origin.to_string(),
    };
    if std::ptr::eq(setting, &setting::STATE_DIR) {
        shown.values = vec![config.state_dir.display().to_string()];
        if let Some(variable) = state_dir_origin {
            shown.origin = Origin::Variable(variable.to_owned()).to_string();
        }
    }
    if std::ptr::eq(setting, &setting::PRIVATE_KEY)
        && winners.get(setting).is_none()
        && let Some(path) = &config.private_key
    {
        shown.values = vec![path.display().to_string()];
        shown.origin = Origin::Variable(NIX_SECRET_KEY_FILE.to_owned()).to_string();
    }
    if std::ptr::eq(setting, &setting::TRUSTED_PUBLIC_KEY) {
        shown.origin = match given.origin {
            Origin::Default => "nix.conf".to_owned(),
            other => format!("nix.conf and {other}"),
        };
        shown.values = config
            .trusted_public_keys
            .iter()
            .map(value::show_public_key)
            .collect();
    }
    shown
}
