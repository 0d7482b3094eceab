//! A configuration file that explains every key, made from the table of settings.

use super::{
    reload::is_reloaded,
    setting::{self, Kind, Setting},
};

/// Width of the comments, in characters.
const WIDTH: usize = 92;

const HEAD: &str = "\
# Every key of peerix's configuration, each with its default.
# Files: /etc/peerix/config.toml, then ~/.config/peerix/config.toml or the one that --config names;
# PEERIX_* variables and flags of `peerix daemon` win over both. `peerix check-config` prints the
# result. Keys marked (reloaded) take effect at `systemctl reload peerix` or SIGHUP.
";

/// The text of the file. All of its keys are comments: as it is, it changes nothing.
pub fn example() -> String {
    let mut text = HEAD.to_owned();
    let mut current = "";
    for (section, key, setting) in sorted_keys() {
        if section != current {
            text.push_str(&format!("\n[{section}]\n"));
            current = section;
        }
        text.push('\n');
        let mark = match is_reloaded(setting) {
            true => " (reloaded)",
            false => "",
        };
        for line in wrap(&format!("{}{mark}", setting.help), WIDTH) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{key} = {}\n", default_of(setting)));
    }
    text
}

/// The keys as a file has to have them: those of no section first, then section by section.
pub fn sorted_keys() -> Vec<(&'static str, &'static str, &'static Setting)> {
    let mut sections: Vec<&str> = vec![""];
    for (section, _, _) in keys() {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    let place = |section: &str| sections.iter().position(|known| *known == section);
    let mut sorted: Vec<_> = keys().collect();
    sorted.sort_by_key(|(section, _, _)| place(section));
    sorted
}

/// The settings, with the section and the key that a file writes.
fn keys() -> impl Iterator<Item = (&'static str, &'static str, &'static Setting)> {
    setting::ALL.iter().copied().map(|setting| {
        let (section, key) = setting.place();
        (section, key, setting)
    })
}

/// The default as a file writes it; where there is none, something of the right form.
pub fn default_of(setting: &Setting) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    match (setting.kind, setting.default) {
        (Kind::List, "") => "[]".to_owned(),
        (Kind::List, one) => format!("[{}]", quoted(one)),
        (Kind::Switch | Kind::Number, value) if !value.is_empty() => value.to_owned(),
        (Kind::Duration, value) if value.bytes().all(|byte| byte.is_ascii_digit()) => {
            value.to_owned()
        }
        (_, value) => quoted(value),
    }
}

/// Breaks `text` at white space, into lines of at most `width` characters where words allow it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, file};

    #[test]
    fn the_example_changes_nothing_and_each_of_its_keys_is_known() {
        let parse = |text: &str| file::parse("example.toml".as_ref(), text);
        assert_eq!(parse(&example()).unwrap(), Layer::default());
        let with_keys: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let layer = parse(&with_keys).unwrap();
        for (_, key, setting) in keys() {
            assert!(layer.get(setting).is_some(), "{key}");
        }
    }
}
