//! `peerix tracker`, which is `peerix-tracker` too: flags, variables, signals; the rest is the
//! tracker's.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, str::FromStr};

use clap::Args;
use ipnet::IpNet;
use iroh::RelayUrl;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, daemon::until_stopped, logging, output, surroundings};
use crate::{
    config::{LogFormat, Surroundings, value},
    service::Service,
    tracker::{
        self, Database, TrackerConfig,
        http::FaceOptions,
        relay::{self, CertificateFiles, RelayOptions},
    },
};

/// Where a tracker listens unless it is told otherwise.
const PORT: u16 = 12305;

const EXAMPLES: &str = "\
Examples:
  peerix tracker --db-path /var/lib/peerix-tracker/tracker.db
      for a swarm; peers use it with --tracker http://HOST:12305 --allow-insecure-http,
      or with https:// through a proxy on this machine
  peerix tracker --database postgres://tracker@db.example.org/tracker
      one of several behind one name
  peerix tracker --require-signed --relay --relay-url https://relay.example.org
      for peers that sign, with a relay of its own on port 12307 behind a proxy

Every flag has a variable, PEERIX_TRACKER_ and its name: PEERIX_TRACKER_DB_PATH. SIGTERM ends it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TrackerArgs {
    /// Log more to standard error; RUST_LOG says precisely what
    #[arg(long, short)]
    verbose: bool,
    /// TCP port [default: 12305]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// SQLite database, made where there is none; the older program's is taken over
    /// [default: tracker.db in $STATE_DIRECTORY, else ./peerix-tracker.db]
    #[arg(long, value_name = "FILE")]
    db_path: Option<String>,
    /// Most that the SQLite database may take of the disk, or `none` [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    db_quota: Option<String>,
    /// PostgreSQL database in place of SQLite, for several trackers behind one name
    #[arg(long, value_name = "URL", conflicts_with_all = ["db_path", "db_quota"])]
    database: Option<String>,
    /// Certificates of authorities, in PEM, that may vouch for the PostgreSQL server
    #[arg(long, value_name = "FILE")]
    database_ca_file: Option<String>,
    /// Take signed announcements only, not those of older peers
    #[arg(long)]
    require_signed: bool,
    /// Proxy whose X-Real-IP and X-Forwarded-For are believed; one on this machine always is
    #[arg(long, value_name = "NETWORK")]
    trusted_proxy: Vec<String>,
    /// Run a relay for peers that can't reach each other directly [default: 0.0.0.0:12307]
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true,
        default_missing_value = relay::DEFAULT_ADDRESS)]
    relay: Option<String>,
    /// How peers reach the relay, such as https://relay.example.org
    #[arg(long, value_name = "URL")]
    relay_url: Option<String>,
    /// Certificate of the relay in PEM; without one it speaks plain HTTP, for a proxy
    #[arg(long, value_name = "FILE")]
    relay_certificate: Option<String>,
    /// Private key of that certificate in PEM
    #[arg(long, value_name = "FILE")]
    relay_key: Option<String>,
    /// UDP port on which the relay tells peers their address; needs a certificate [default: 7842]
    #[arg(long, value_name = "PORT")]
    relay_quic_port: Option<String>,
    /// What one peer may send through the relay in a second [default: 12.5MB]
    #[arg(long, value_name = "SIZE")]
    relay_rate: Option<String>,
    /// Relay for peers only that announced themselves here
    #[arg(long)]
    relay_announced_only: bool,
}

/// Flags before variables.
struct Given {
    surroundings: Surroundings,
}

impl Given {
    /// The text that was given for a setting, and what to call it in a message.
    fn text(&self, flag: Option<String>, name: &str) -> Option<(String, String)> {
        if let Some(text) = flag {
            return Some((text, format!("--{name}")));
        }
        let variable = format!("PEERIX_TRACKER_{}", name.replace('-', "_").to_uppercase());
        let text = self.surroundings.variable(&variable)?;
        Some((text.to_owned(), variable))
    }

    fn value<T>(
        &self,
        flag: Option<String>,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let Some((text, origin)) = self.text(flag, name) else {
            return Ok(None);
        };
        let value = read(&text).map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
        Ok(Some(value))
    }

    fn flag(&self, flag: bool, name: &str) -> Result<bool, Failure> {
        let on = self.value(None, name, |text| match text {
            "" => Ok(false),
            text => value::switch(text),
        })?;
        Ok(flag || on == Some(true))
    }
}

fn parsed<T: FromStr>(what: &'static str) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        text.trim()
            .parse()
            .map_err(|_| format!("`{text}` is not {what}"))
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from).ok();
    address
        .or_else(|| text.parse().ok())
        .ok_or_else(|| format!("`{text}` is neither an address nor a network such as 10.0.0.0/8"))
}

/// Where a tracker listens and how it runs.
struct Plan {
    verbose: bool,
    host: String,
    port: u16,
    config: TrackerConfig,
}

impl TrackerArgs {
    fn plan(self, surroundings: Surroundings) -> Result<Plan, Failure> {
        let given = Given { surroundings };
        let proxies = match self.trusted_proxy.as_slice() {
            [] => given
                .text(None, "trusted-proxy")
                .map(|(list, _)| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            list => list.to_vec(),
        };
        let proxies = proxies.iter().map(|text| network(text));
        let trusted_proxies: Vec<IpNet> = proxies
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::usage(format!("--trusted-proxy: {error}")))?;
        let relay_announced_only = given.flag(self.relay_announced_only, "relay-announced-only")?;
        let port = parsed("a port");
        let plan = Plan {
            verbose: given.flag(self.verbose, "verbose")?,
            host: given
                .text(self.host, "host")
                .map_or_else(|| "0.0.0.0".to_owned(), |(host, _)| host),
            port: given.value(self.port, "port", &port)?.unwrap_or(PORT),
            config: TrackerConfig {
                database: DatabaseFlags {
                    url: self.database,
                    authorities: self.database_ca_file,
                    path: self.db_path,
                    quota: self.db_quota,
                }
                .database(&given)?,
                face: FaceOptions {
                    require_signed: given.flag(self.require_signed, "require-signed")?,
                    trusted_proxies,
                    relay: None,
                },
                relay: RelayFlags {
                    address: self.relay,
                    url: self.relay_url,
                    certificate: self.relay_certificate,
                    key: self.relay_key,
                    quic_port: self.relay_quic_port,
                    rate: self.relay_rate,
                }
                .options(&given)?,
                relay_announced_only,
            },
        };
        if plan.config.relay.is_none() && relay_announced_only {
            return Err(without_relay("relay-announced-only"));
        }
        Ok(plan)
    }
}

struct DatabaseFlags {
    url: Option<String>,
    authorities: Option<String>,
    path: Option<String>,
    quota: Option<String>,
}

impl DatabaseFlags {
    fn database(self, given: &Given) -> Result<Database, Failure> {
        // A flag for a file counts more than a variable for PostgreSQL.
        let is_file = self.path.is_some();
        let authorities = given.text(self.authorities, "database-ca-file");
        if let Some((url, _)) = given.text(self.url, "database").filter(|_| !is_file) {
            return Ok(Database::Postgres {
                url,
                authorities: authorities.map(|(path, _)| path.into()),
            });
        }
        if authorities.is_some() {
            return Err(Failure::usage(
                "--database-ca-file is for PostgreSQL: give --database",
            ));
        }
        let path = given.text(self.path, "db-path").map_or_else(
            || match given.surroundings.variable("STATE_DIRECTORY") {
                Some(directory) => PathBuf::from(directory).join("tracker.db"),
                None => PathBuf::from("peerix-tracker.db"),
            },
            |(path, _)| PathBuf::from(path),
        );
        let quota = given.value(self.quota, "db-quota", value::upload_quota)?;
        Ok(Database::Sqlite {
            path,
            quota: quota.unwrap_or(Some(tracker::DEFAULT_QUOTA)),
        })
    }
}

struct RelayFlags {
    address: Option<String>,
    url: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    quic_port: Option<String>,
    rate: Option<String>,
}

impl RelayFlags {
    fn options(self, given: &Given) -> Result<Option<RelayOptions>, Failure> {
        let relay = given.text(self.address, "relay");
        let url = given.value(self.url, "relay-url", parsed::<RelayUrl>("a URL"))?;
        let certificate = given.text(self.certificate, "relay-certificate");
        let key = given.text(self.key, "relay-key");
        let quic_port = given.value(self.quic_port, "relay-quic-port", parsed("a port"))?;
        let rate = given.value(self.rate, "relay-rate", |text| {
            let rate = u32::try_from(value::size(text)?).ok();
            rate.and_then(NonZeroU32::new)
                .ok_or_else(|| format!("`{text}` is not between 1 B and 4 GiB"))
        })?;
        let Some((address, origin)) = relay.filter(|(text, _)| text != "off" && text != "none")
        else {
            let others = [
                ("relay-url", url.is_some()),
                ("relay-certificate", certificate.is_some()),
                ("relay-key", key.is_some()),
                ("relay-quic-port", quic_port.is_some()),
                ("relay-rate", rate.is_some()),
            ];
            return match others.iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => Err(without_relay(name)),
                None => Ok(None),
            };
        };
        let address: SocketAddr = parsed("an address and a port, such as 0.0.0.0:12307")(&address)
            .map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
        let certificate = match (certificate, key) {
            (Some((certificate, _)), Some((key, _))) => Some(CertificateFiles {
                certificate: certificate.into(),
                key: key.into(),
            }),
            (None, None) => None,
            _ => {
                return Err(Failure::usage(
                    "--relay-certificate and --relay-key go together",
                ));
            }
        };
        Ok(Some(RelayOptions {
            address,
            quic_port: quic_port.unwrap_or(relay::DEFAULT_QUIC_PORT),
            url,
            certificate,
            client_rate: rate.unwrap_or(relay::CLIENT_RATE),
        }))
    }
}

fn without_relay(name: &str) -> Failure {
    Failure::usage(format!("--{name} says something of a relay: give --relay"))
}

pub(super) fn run(args: TrackerArgs) -> Result<Exit, Failure> {
    let surroundings = surroundings::read();
    let plan = args.plan(surroundings)?;
    let log = logging::start_daemon(plan.verbose, LogFormat::Auto);
    let service =
        Service::from_environment().map_err(|error| Failure::failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.spawn(log.report_left_out());
    let outcome = runtime.block_on(serve(plan, service));
    // Whatever still blocks has had its time.
    runtime.shutdown_background();
    outcome
}

async fn serve(plan: Plan, mut service: Service) -> Result<Exit, Failure> {
    let listener = match service.take_listener() {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        }
        None => {
            let address = (plan.host.as_str(), plan.port);
            TcpListener::bind(address).await.map_err(|error| {
                Failure::failed(format!(
                    "cannot listen on {}:{}: {error}; --host and --port choose another address",
                    plan.host, plan.port
                ))
            })?
        }
    };
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let tracker = tracker::run(plan.config, listener, service, stop.clone(), move || {
        output::hint(&format!("peerix: the tracker listens on http://{address}"));
    });
    until_stopped(tracker, stop).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        args: TrackerArgs,
    }

    fn plan(flags: &[&str], variables: &[(&str, &str)]) -> Result<Plan, Failure> {
        let whole = Whole::try_parse_from([&["tracker"], flags].concat())
            .map_err(|error| Failure::usage(error.to_string()))?;
        let surroundings = Surroundings {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Surroundings::default()
        };
        whole.args.plan(surroundings)
    }

    #[test]
    fn the_older_programs_flags_and_defaults_stand() {
        let plain = plan(&[], &[]).unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("0.0.0.0", 12305));
        let Database::Sqlite { path, .. } = plain.config.database else {
            panic!("SQLite is the default");
        };
        assert_eq!(path, PathBuf::from("peerix-tracker.db"));
        let flags = [
            "--verbose",
            "--port",
            "1",
            "--host",
            "::1",
            "--db-path",
            "/x.db",
        ];
        let given = plan(&flags, &[("PEERIX_TRACKER_PORT", "2")]).unwrap();
        assert_eq!((given.host.as_str(), given.port), ("::1", 1));
        let variables = [
            ("PEERIX_TRACKER_PORT", "2"),
            ("PEERIX_TRACKER_REQUIRE_SIGNED", "true"),
            ("PEERIX_TRACKER_VERBOSE", "1"),
        ];
        let given = plan(&[], &variables).unwrap();
        assert_eq!(given.port, 2);
        assert!(given.config.face.require_signed && given.verbose);
        assert!(!plain.verbose);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (flags, named) in [
            (&["--port", "x"][..], "--port: `x`"),
            (&["--trusted-proxy", "x"], "--trusted-proxy: `x`"),
            (&["--relay-url", "https://x"], "give --relay"),
            (&["--relay", "--relay-key", "k"], "go together"),
            (&["--db-quota", "x"], "--db-quota: `x`"),
            (&["--tracker", "x"], "unexpected argument"),
        ] {
            let failure = plan(flags, &[]).err().unwrap();
            assert!(failure.message().contains(named), "{failure:?}");
        }
    }
}
