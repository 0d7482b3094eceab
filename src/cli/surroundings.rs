//! Reads what surrounds this process, once, for the parts that don't.

use crate::config::Surroundings;

pub(super) fn read() -> Surroundings {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Surroundings {
        variables: variables.collect(),
        home: std::env::home_dir().filter(|home| home.is_absolute()),
        user_id: rustix::process::geteuid().as_raw(),
    }
}
