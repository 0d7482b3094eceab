//! The command line as a whole: what is accepted, what is said.

use super::*;
use crate::config::{Surroundings, setting};

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(with_older_names(words.iter().map(OsString::from).collect()))
}

#[test]
fn the_command_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn flags_of_the_older_program_are_understood_under_its_name() {
    let words = [
        "/usr/bin/peerix-iroh",
        "-c",
        "/x.toml",
        "-p",
        "1",
        "-t",
        "none",
        "--priority",
        "5",
        "--timeout",
        "10",
        "--state-dir",
        "/s",
        "--scan-interval",
        "0",
        "--no-filter",
        "--filter-mode",
        "nixpkgs",
        "--no-verify",
        "--upstream-cache",
        "https://x",
        "--filter-concurrency",
        "10",
        "-v",
        "--allow-insecure-http",
        "--lan-discovery=false",
        "--peer-id",
        "me",
        "--private-key",
        "/k",
        "--filter-pattern",
        "a",
        "--filter-pattern",
        "b",
    ];
    assert!(matches!(parse(&words).unwrap().command, Command::Daemon(_)));
}

#[test]
fn every_setting_is_a_flag_and_only_given_ones_are_layered() {
    use clap::{Args, FromArgMatches};
    let command = flags::SettingFlags::augment_args(clap::Command::new("x"));
    let matches = command.get_matches_from([
        "x",
        "--no-filter",
        "--peer",
        "a",
        "--peer",
        "b",
        "--no-verify=false",
    ]);
    let layer = flags::SettingFlags::from_arg_matches(&matches).unwrap().0;
    assert_eq!(layer.get(&setting::PEER).unwrap().values, ["a", "b"]);
    assert_eq!(layer.get(&setting::NO_FILTER).unwrap().values, ["true"]);
    assert_eq!(layer.get(&setting::NO_VERIFY).unwrap().values, ["false"]);
    assert_eq!(
        setting::ALL
            .iter()
            .filter(|setting| layer.get(setting).is_some())
            .count(),
        3
    );
}

#[test]
fn the_tracker_answers_to_the_older_program_s_name() {
    assert!(matches!(
        parse(&["peerix-tracker", "--port", "1"]).unwrap().command,
        Command::Tracker(_)
    ));
}

#[test]
fn every_command_teaches_by_example() {
    fn check(command: &clap::Command, name: &str) {
        for inner in command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set())
        {
            check(inner, &format!("{name} {}", inner.get_name()));
        }
        if command.has_subcommands() {
            return;
        }
        let help = command.clone().render_long_help().to_string();
        assert!(help.contains("Examples:"), "{name}: {help}");
        assert!(help.contains(&format!("  {name}")), "{name}: {help}");
    }
    let mut command = Cli::command();
    command.build();
    check(&command, "peerix");
}

#[test]
fn words_that_a_setting_takes_are_offered_and_others_refused() {
    let error = parse(&["peerix", "daemon", "--mode", "ian"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("lan") && error.contains("iroh"), "{error}");
    for word in ["all", "none", "off"] {
        parse(&["peerix", "daemon", "--announce", word]).unwrap();
    }
    parse(&["peerix", "daemon", "--no-filter=yes"]).unwrap();
}

#[test]
fn every_command_says_which_daemon_and_may_answer_in_json() {
    for command in [
        "share /x",
        "unshare /x",
        "shared",
        "ticket",
        "get x",
        "status",
        "peers",
        "scan",
        "top",
        "why x",
        "doctor",
    ] {
        let words = format!("peerix {command} --state-dir /s --json");
        parse(&words.split(' ').collect::<Vec<_>>()).unwrap();
    }
}

#[test]
fn help_teaches_by_example_and_tells_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for text in ["peerix share ./result", "extra-substituters", "Exit codes:"] {
        assert!(help.contains(text), "{help}");
    }
}

#[test]
fn a_failure_is_one_line() {
    let failure = Failure::failed("TOML parse error\n  |\n 1 | x\n");
    assert_eq!(failure.message().lines().count(), 1);
}

#[test]
fn sockets_are_tried_in_order() {
    let mut surroundings = Surroundings {
        user_id: 1000,
        home: Some("/home/a".into()),
        ..Surroundings::default()
    };
    let sockets = |surroundings: &Surroundings, given: Option<&str>| -> Vec<String> {
        surroundings
            .control_sockets(given.map(Path::new))
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    };
    assert_eq!(sockets(&surroundings, Some("/s")), ["/s/control.sock"]);
    assert_eq!(
        sockets(&surroundings, None),
        [
            "/home/a/.local/state/peerix/control.sock",
            "/run/peerix/control.sock"
        ]
    );
    surroundings
        .variables
        .insert("XDG_RUNTIME_DIR".to_owned(), "/run/user/1000".to_owned());
    assert_eq!(
        sockets(&surroundings, None),
        [
            "/run/user/1000/peerix/control.sock",
            "/home/a/.local/state/peerix/control.sock",
            "/run/peerix/control.sock"
        ]
    );
    surroundings.user_id = 0;
    assert_eq!(
        sockets(&surroundings, None),
        ["/run/peerix/control.sock", "/var/lib/peerix/control.sock"]
    );
}
