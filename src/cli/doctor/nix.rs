//! Whether this machine's Nix asks peerix, and would believe what it gets.

use super::Finding;
use crate::cli::nix_setup::NixSetup;

pub(super) fn examine(port: u16) -> Vec<Finding> {
    examine_setup(&NixSetup::read(), port)
}

fn examine_setup(setup: &NixSetup, port: u16) -> Vec<Finding> {
    let mut findings = Vec::new();
    for problem in &setup.settings.problems {
        findings.push(Finding::warning("nix.conf", problem, "correct that line"));
    }
    findings.push(substituter(setup, port));
    findings.push(keys(setup));
    findings.push(user(setup));
    findings
}

fn substituter(setup: &NixSetup, port: u16) -> Finding {
    const NAME: &str = "substituter";
    let names = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("http://{host}:{port}"));
    let is_ours = |url: &String| {
        let url = url.split('?').next().unwrap_or_default();
        names.iter().any(|name| name == url.trim_end_matches('/'))
    };
    if setup.settings.substituters.iter().any(is_ours) {
        return Finding::ok(NAME, format!("Nix asks http://127.0.0.1:{port}"));
    }
    Finding::warning(
        NAME,
        "Nix's configuration, as this user reads it, does not name peerix",
        format!(
            "add to nix.conf: extra-substituters = http://127.0.0.1:{port} (NixOS: services.peerix.enable); `peerix get` and `peerix run` do without"
        ),
    )
}

fn keys(setup: &NixSetup) -> Finding {
    const NAME: &str = "trusted keys";
    let names: Vec<&str> = setup
        .settings
        .keys
        .iter()
        .map(|key| key.name.as_str())
        .collect();
    if names.is_empty() {
        return Finding::failure(
            NAME,
            "Nix trusts no key: nothing that peers have can be believed",
            "take the line `trusted-public-keys =` out of nix.conf, or name a key in it",
        );
    }
    Finding::ok(NAME, names.join(", "))
}

fn user(setup: &NixSetup) -> Finding {
    const NAME: &str = "trusted user";
    let Some(socket) = &setup.daemon else {
        return Finding::ok(NAME, "this user's Nix works on the store itself");
    };
    let (socket, name) = (socket.display(), &setup.user.name);
    if setup.user_is_trusted() {
        return Finding::ok(
            NAME,
            format!("the Nix daemon at {socket} heeds {name}'s settings"),
        );
    }
    Finding::warning(
        NAME,
        format!(
            "the Nix daemon at {socket} does not heed the substituters and keys that {name} gives: \
             `peerix get` with another's key and `peerix run` find nothing"
        ),
        format!(
            "root adds to nix.conf: extra-trusted-users = {name}, which lets that user install anything; or sets extra-substituters for all"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use crate::{
        cli::nix_setup::User,
        trust::nix_conf::{DEFAULT_PUBLIC_KEY, NixSettings},
    };

    fn setup(substituters: &[&str], trusted_users: &[&str]) -> NixSetup {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        NixSetup {
            settings: NixSettings {
                keys: vec![DEFAULT_PUBLIC_KEY.parse().unwrap()],
                substituters: words(substituters),
                trusted_users: words(trusted_users),
                ..NixSettings::default()
            },
            daemon: Some("/nix/var/nix/daemon-socket/socket".into()),
            user: User {
                id: 1000,
                name: "anna".to_owned(),
                groups: words(&["wheel"]),
            },
        }
    }

    fn outcomes(setup: &NixSetup) -> Vec<(&'static str, Outcome)> {
        let findings = examine_setup(setup, 12304).into_iter();
        findings
            .map(|finding| (finding.name, finding.outcome))
            .collect()
    }

    #[test]
    fn what_is_missing_is_named_with_the_line_that_mends_it() {
        assert_eq!(
            outcomes(&setup(&["http://localhost:12304/?priority=3"], &["@wheel"])),
            [
                ("substituter", Outcome::Ok),
                ("trusted keys", Outcome::Ok),
                ("trusted user", Outcome::Ok)
            ]
        );
        let other = setup(&["https://cache.nixos.org/"], &["root"]);
        assert_eq!(
            outcomes(&other),
            [
                ("substituter", Outcome::Warning),
                ("trusted keys", Outcome::Ok),
                ("trusted user", Outcome::Warning)
            ]
        );
        let todo = examine_setup(&other, 4711).remove(0).todo.unwrap();
        assert!(
            todo.contains("extra-substituters = http://127.0.0.1:4711"),
            "{todo}"
        );
        let mut none = other;
        none.settings.keys.clear();
        assert!(outcomes(&none).contains(&("trusted keys", Outcome::Failure)));
    }
}
