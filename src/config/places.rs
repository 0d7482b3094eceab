//! Where things live, from what surrounds the process.

use std::path::{Path, PathBuf};

use super::{ConfigError, Variables};

/// The system's configuration file.
pub const SYSTEM_CONFIG_FILE: &str = "/etc/peerix/config.toml";
/// The state directory of a daemon that runs as root.
pub const SYSTEM_STATE_DIR: &str = "/var/lib/peerix";
/// The control socket of the system's daemon.
pub const SYSTEM_CONTROL_SOCKET: &str = "/run/peerix/control.sock";
/// The control socket's name in a runtime or state directory.
pub const CONTROL_SOCKET_NAME: &str = "control.sock";

/// What surrounds this process: variables, home and user id, as the binary read them.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The environment.
    pub variables: Variables,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The effective user id.
    pub user_id: u32,
}

impl Surroundings {
    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A directory named by an XDG variable (absolute, or it doesn't count), or `fallback` at home.
    fn xdg(&self, name: &str, fallback: &str) -> Option<PathBuf> {
        let given = self
            .variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        given.or_else(|| self.home.as_ref().map(|home| home.join(fallback)))
    }

    /// The user's configuration file, which need not exist.
    pub fn user_config_file(&self) -> Option<PathBuf> {
        Some(
            self.xdg("XDG_CONFIG_HOME", ".config")?
                .join("peerix/config.toml"),
        )
    }

    /// The state directory where none was given, and the variable that named it, if one did.
    ///
    /// # Errors
    /// [`ConfigError::NoStateDirectory`] where there is neither a home nor a variable.
    pub fn default_state_dir(&self) -> Result<(PathBuf, Option<&'static str>), ConfigError> {
        // systemd separates several directories by colons; ours is the first.
        if let Some(first) = self
            .variable("STATE_DIRECTORY")
            .and_then(|list| list.split(':').next())
        {
            return Ok((PathBuf::from(first), Some("STATE_DIRECTORY")));
        }
        if self.user_id == 0 {
            return Ok((PathBuf::from(SYSTEM_STATE_DIR), None));
        }
        let base = self
            .xdg("XDG_STATE_HOME", ".local/state")
            .ok_or(ConfigError::NoStateDirectory)?;
        Ok((base.join("peerix"), None))
    }

    /// Where a daemon of this user listens for commands, if `state_dir` was not given by hand.
    pub fn control_socket(&self, state_dir: &Path) -> PathBuf {
        if let Some(first) = self
            .variable("RUNTIME_DIRECTORY")
            .and_then(|list| list.split(':').next())
        {
            return Path::new(first).join(CONTROL_SOCKET_NAME);
        }
        if self.user_id == 0 {
            return PathBuf::from(SYSTEM_CONTROL_SOCKET);
        }
        match self.variable("XDG_RUNTIME_DIR") {
            Some(directory) => Path::new(directory)
                .join("peerix")
                .join(CONTROL_SOCKET_NAME),
            None => state_dir.join(CONTROL_SOCKET_NAME),
        }
    }

    /// The sockets at which a command looks for its daemon, in this order: that of the state
    /// directory if one was given, else the user's own, then the system's.
    pub fn control_sockets(&self, given_state_dir: Option<&Path>) -> Vec<PathBuf> {
        if let Some(state_dir) = given_state_dir {
            return vec![state_dir.join(CONTROL_SOCKET_NAME)];
        }
        let mut sockets = Vec::new();
        if let Ok((state_dir, _)) = self.default_state_dir() {
            sockets.push(self.control_socket(&state_dir));
            sockets.push(state_dir.join(CONTROL_SOCKET_NAME));
        }
        sockets.push(PathBuf::from(SYSTEM_CONTROL_SOCKET));
        let mut seen = Vec::new();
        sockets.retain(|socket| {
            !seen.contains(socket) && {
                seen.push(socket.clone());
                true
            }
        });
        sockets
    }
}
