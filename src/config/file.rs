//! A configuration file: TOML, every key known or the nearest one named.

use std::{ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::{
    ConfigError, Given, Layer, Origin,
    setting::{self, Kind, Setting},
};

/// Reads the text of the file at `path`.
///
/// # Errors
/// With `file:line`, for text that is not TOML, unknown keys, keys given twice and values of the
/// wrong kind.
pub fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let file = File { path, text };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: file.line(error.span().unwrap_or_default()),
        message: error
            .message()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    })?;
    let mut layer = Layer::default();
    for (name, value) in table.get_ref() {
        let (key, span) = (name.get_ref().as_ref(), name.span());
        match value.get_ref() {
            DeValue::Table(section) if setting::ALL.iter().any(|known| known.section == key) => {
                for (inner, value) in section {
                    file.take(
                        &mut layer,
                        key,
                        inner.get_ref(),
                        inner.span(),
                        value.get_ref(),
                    )?;
                }
            }
            DeValue::Table(_) => {
                return Err(file.unknown("section", key, span, nearest_section(key)));
            }
            value => file.take(&mut layer, "", key, span, value)?,
        }
    }
    Ok(layer)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn take(
        &self,
        layer: &mut Layer,
        section: &str,
        key: &str,
        span: Range<usize>,
        value: &DeValue<'_>,
    ) -> Result<(), ConfigError> {
        let setting = Setting::at(section, key)
            .ok_or_else(|| self.unknown("key", key, span.clone(), nearest_key(section, key)))?;
        let line = self.line(span);
        let place = format!("{}:{line}: {key}", self.path.display());
        let values = texts(setting, value).map_err(|reason| ConfigError::Value {
            place: place.clone(),
            reason,
        })?;
        let origin = Origin::File {
            path: self.path.to_owned(),
            line,
        };
        if !layer.set_once(setting, Given { values, origin }) {
            return Err(ConfigError::Value {
                place,
                reason: "given twice in this file".to_owned(),
            });
        }
        Ok(())
    }

    fn unknown(
        &self,
        what: &'static str,
        name: &str,
        span: Range<usize>,
        nearest: String,
    ) -> ConfigError {
        let place = format!("{}:{}", self.path.display(), self.line(span));
        ConfigError::Unknown {
            place,
            what,
            name: name.to_owned(),
            nearest,
        }
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// The value as a flag would write it, if it is of the kind that the setting takes.
fn texts(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let number = |integer: &toml::de::DeInteger<'_>| {
        i64::from_str_radix(integer.as_str(), integer.radix())
            .map(|number| number.to_string())
            .map_err(|_| "too large a number".to_owned())
    };
    match (setting.kind, value) {
        (Kind::Switch, DeValue::Boolean(switch)) => Ok(vec![switch.to_string()]),
        (Kind::Number | Kind::Duration | Kind::Size, DeValue::Integer(integer)) => {
            Ok(vec![number(integer)?])
        }
        (Kind::Duration, DeValue::Float(float)) => Ok(vec![float.as_str().replace('_', "")]),
        (Kind::Text | Kind::Duration | Kind::Size | Kind::List, DeValue::String(text)) => {
            Ok(vec![text.to_string()])
        }
        // What a flag writes as a word stays one: `wire_compression = 3`.
        (Kind::Text, DeValue::Integer(integer)) => Ok(vec![number(integer)?]),
        (Kind::List, DeValue::Array(array)) => array
            .iter()
            .map(|entry| {
                entry
                    .get_ref()
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| "expected a list of strings".to_owned())
            })
            .collect(),
        (kind, value) => Err(format!(
            "expected {}, found {}",
            expected(kind),
            value.type_str()
        )),
    }
}

pub(super) fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a string",
        Kind::Number => "a whole number",
        Kind::Duration => "a number of seconds, or a string such as \"10min\"",
        Kind::Size => "a string such as \"5MB\", or a number of bytes",
        Kind::Switch => "true or false",
        Kind::List => "a list of strings",
    }
}

/// The known key nearest to `key`, preferring those of the same section.
fn nearest_key(section: &str, key: &str) -> String {
    let distance = |known: &&&Setting| {
        let name = strsim::damerau_levenshtein(key, known.key).min(strsim::damerau_levenshtein(
            key,
            &known.flag.replace('-', "_"),
        ));
        2 * name + usize::from(known.section != section)
    };
    let Some(nearest) = setting::ALL.iter().min_by_key(distance) else {
        return String::new();
    };
    match nearest.section {
        other if other == section => format!("`{}`", nearest.key),
        "" => format!(
            "`{}` at the top of the file, before any section",
            nearest.key
        ),
        other => format!("`{}` in [{other}]", nearest.key),
    }
}

fn nearest_section(name: &str) -> String {
    let sections = setting::ALL
        .iter()
        .map(|known| known.section)
        .filter(|section| !section.is_empty());
    let nearest = sections.min_by_key(|section| strsim::damerau_levenshtein(name, section));
    nearest
        .map(|section| format!("[{section}]"))
        .unwrap_or_default()
}
