//! Values as they were given, with where each came from.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    path::PathBuf,
};

use super::setting::Setting;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in default.
    Default,
    /// In a configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// In an environment variable, by its name.
    Variable(String),
    /// On the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => formatter.write_str("default"),
            Origin::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(formatter, "{name} in the environment"),
            Origin::Flag => formatter.write_str("command line"),
        }
    }
}

/// What one layer says about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// One entry for a single value, any number for a list.
    pub values: Vec<String>,
    /// Where it was given.
    pub origin: Origin,
}

impl Given {
    /// The place as an error message begins with it.
    pub fn place(&self, setting: &Setting) -> String {
        match &self.origin {
            Origin::Default => format!("default of --{}", setting.flag),
            Origin::File { .. } => format!("{}: {}", self.origin, setting.key),
            Origin::Variable(name) => name.clone(),
            Origin::Flag => format!("--{}", setting.flag),
        }
    }
}

/// All that one source says: an optional value for each setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(BTreeMap<&'static str, Given>);

impl Layer {
    /// What this layer says about `setting`, if anything.
    pub fn get(&self, setting: &Setting) -> Option<&Given> {
        self.0.get(setting.flag)
    }

    /// Sets `setting`; a value that was there is replaced.
    pub fn set(&mut self, setting: &Setting, given: Given) {
        self.0.insert(setting.flag, given);
    }

    /// Sets `setting` unless this layer has a value for it; false if it has.
    pub fn set_once(&mut self, setting: &Setting, given: Given) -> bool {
        match self.0.entry(setting.flag) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(given);
                true
            }
            btree_map::Entry::Occupied(_) => false,
        }
    }

    /// Lays `higher` over this layer.
    pub fn override_with(&mut self, higher: Layer) {
        self.0.extend(higher.0);
    }
}
