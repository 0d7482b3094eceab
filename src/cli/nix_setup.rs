//! How Nix is set up for this user: whether it works through a daemon, and what that heeds.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::{
    control::credentials::Accounts,
    trust::nix_conf::{NixConf, NixSettings},
};

const STATE_DIR: &str = "/nix/var/nix";
const DAEMON_SOCKET: &str = "daemon-socket/socket";

/// Nix as this user meets it.
#[derive(Debug)]
pub(super) struct NixSetup {
    pub(super) settings: NixSettings,
    /// The Nix daemon's socket, where Nix works through that.
    pub(super) daemon: Option<PathBuf>,
    /// The names by which `trusted-users` may know this user.
    pub(super) user: User,
}

/// A user, as `trusted-users` names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

impl NixSetup {
    /// Reads Nix's configuration and looks at its state directory.
    pub(super) fn read() -> Self {
        let settings = NixConf::from_variables(|name| std::env::var_os(name)).settings();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        NixSetup {
            settings,
            daemon: daemon(variable),
            user: User::current(),
        }
    }

    /// Whether Nix asks `substituter` if this user tells it to in `NIX_CONFIG`.
    pub(super) fn heeds(&self, substituter: &str) -> bool {
        self.daemon.is_none() || self.user_is_trusted() || {
            let same = |known: &String| known.trim_end_matches('/') == substituter;
            self.settings.trusted_substituters.iter().any(same)
                || self.settings.substituters.iter().any(same)
        }
    }

    /// Whether the Nix daemon heeds this user's settings.
    pub(super) fn user_is_trusted(&self) -> bool {
        self.user.is_among(&self.settings.trusted_users)
    }
}

/// The socket of the daemon that Nix's own tools would use, by the rules of its `auto` store.
fn daemon(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let state_dir = variable("NIX_STATE_DIR").unwrap_or_else(|| STATE_DIR.to_owned());
    let socket = variable("NIX_DAEMON_SOCKET_PATH")
        .map_or_else(|| Path::new(&state_dir).join(DAEMON_SOCKET), PathBuf::from);
    match variable("NIX_REMOTE").as_deref() {
        Some("daemon") => Some(socket),
        Some(remote) if remote.starts_with("unix://") => {
            remote.strip_prefix("unix://").map(PathBuf::from)
        }
        None | Some("auto") => {
            let is_ours =
                rustix::fs::access(state_dir.as_str(), Access::READ_OK | Access::WRITE_OK).is_ok();
            (!is_ours && socket.exists()).then_some(socket)
        }
        Some(_) => None,
    }
}

impl User {
    fn current() -> Self {
        let id = rustix::process::geteuid().as_raw();
        let mut group_ids: Vec<u32> = rustix::process::getgroups()
            .unwrap_or_default()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        group_ids.push(rustix::process::getegid().as_raw());
        let mut user = User::from_accounts(&Accounts::read(), id, &group_ids);
        if user.name.is_empty() {
            // Known to a directory service alone.
            user.name = std::env::var("USER").unwrap_or_default();
        }
        user
    }

    fn from_accounts(accounts: &Accounts, id: u32, group_ids: &[u32]) -> Self {
        let named = |text: &str, id: u32| -> Option<String> {
            text.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
            })
        };
        let groups = group_ids
            .iter()
            .filter_map(|id| named(&accounts.group, *id));
        User {
            id,
            name: named(&accounts.passwd, id).unwrap_or_default(),
            groups: groups.collect(),
        }
    }

    fn is_among(&self, trusted: &[String]) -> bool {
        trusted.iter().any(|word| match word.strip_prefix('@') {
            Some(group) => self.groups.iter().any(|own| own == group),
            None => word == "*" || (!self.name.is_empty() && *word == self.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_trusted_by_name_group_or_star() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/:/sh\nanna:x:1001:100::/:/sh\n".to_owned(),
            group: "users:x:100:\nwheel:x:10:anna\n".to_owned(),
        };
        let anna = User::from_accounts(&accounts, 1001, &[100, 10]);
        assert_eq!(
            (anna.name.as_str(), anna.groups.join(" ").as_str()),
            ("anna", "users wheel")
        );
        let among = |words: &[&str]| {
            anna.is_among(
                &words
                    .iter()
                    .map(|word| (*word).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert!(among(&["root", "anna"]) && among(&["@wheel"]) && among(&["*"]));
        assert!(!among(&["root", "@adm", "wheel"]));
        let nobody = User::from_accounts(&accounts, 7, &[]);
        assert!(!nobody.is_among(&[String::new()]));
    }

    #[test]
    fn nix_works_through_its_daemon_where_it_says_so() {
        let with = |remote: &'static str| {
            daemon(move |name| (name == "NIX_REMOTE").then(|| remote.to_owned()))
        };
        assert_eq!(
            with("daemon"),
            Some("/nix/var/nix/daemon-socket/socket".into())
        );
        assert_eq!(with("unix:///run/d"), Some("/run/d".into()));
        assert_eq!(with("local"), None);
    }
}
