//! Flags of the daemon, made from the table of settings.

use clap::{
    Arg, ArgAction, ArgMatches, Command, ValueHint,
    builder::{PossibleValue, PossibleValuesParser, ValueParser},
    parser::ValueSource,
};

use crate::config::{
    Given, Layer, Origin,
    setting::{self, Kind, Setting},
};

/// What was given on the command line, as a layer of the configuration.
#[derive(Debug, Default)]
pub(super) struct SettingFlags(pub(super) Layer);

impl clap::Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        setting::ALL
            .iter()
            .fold(command, |command, setting| command.arg(argument(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut layer = Layer::default();
        for setting in setting::ALL {
            if matches.value_source(setting.flag) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values = matches
                .get_many::<String>(setting.flag)
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            layer.set(
                setting,
                Given {
                    values,
                    origin: Origin::Flag,
                },
            );
        }
        Ok(SettingFlags(layer))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let mut argument = Arg::new(setting.flag)
        .long(setting.flag)
        .help(help(setting))
        .help_heading(setting.heading);
    if let Some(short) = setting.short {
        argument = argument.short(short);
    }
    argument = argument
        .value_parser(values(setting))
        .hide_possible_values(true)
        .value_hint(hint(setting));
    match setting.kind {
        // `--no-filter`, and `--no-filter=false` against a file that switches it on.
        Kind::Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false"),
        Kind::List => argument
            .action(ArgAction::Append)
            .value_name(setting.value_name),
        _ => argument
            .value_name(setting.value_name)
            .allow_negative_numbers(true),
    }
}

/// What a shell offers, and what is refused with the right ones named.
fn values(setting: &'static Setting) -> ValueParser {
    let off = ["none", "off", "false", ""];
    if setting.kind == Kind::Switch {
        let is = |name: &'static str, others: [&'static str; 3]| {
            PossibleValue::new(name).aliases(others)
        };
        return PossibleValuesParser::new([
            is("true", ["1", "yes", "on"]),
            is("false", ["0", "no", "off"]),
        ])
        .into();
    }
    if setting.choices.is_empty() {
        return ValueParser::string();
    }
    let known = |word: &str| setting.choices.contains(&word);
    let choices = setting
        .choices
        .iter()
        .map(|choice| PossibleValue::new(*choice));
    // Words that switch a thing off are understood everywhere.
    let others = off
        .into_iter()
        .filter(|word| !known(word))
        .map(|word| PossibleValue::new(word).hide(true));
    PossibleValuesParser::new(choices.chain(others)).into()
}

fn hint(setting: &Setting) -> ValueHint {
    match setting.value_name {
        "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        name if name.starts_with("URL") => ValueHint::Url,
        _ => ValueHint::Other,
    }
}

fn help(setting: &Setting) -> String {
    match (setting.kind, setting.default) {
        (Kind::Switch, _) | (_, "") => setting.help.to_owned(),
        (_, default) => format!("{} [default: {default}]", setting.help),
    }
}
