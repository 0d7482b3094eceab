//! The service manager that started the daemon, where one did: systemd, or what speaks like it.
//!
//! It may hand over the substituter's socket, which it listened on before the daemon was there and
//! goes on listening on while the daemon restarts, so that Nix never meets a refused connection.
//! It is told when the daemon is ready and when it begins to stop, and in between, where it wants
//! that, that the daemon still works.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What a service manager gave this process, and how it wants to hear from it.
#[derive(Debug, Default)]
pub struct Service {
    listener: Option<TcpListener>,
    watchdog: Option<Duration>,
    is_told: bool,
    waiting: Option<oneshot::Sender<SocketAddr>>,
}

/// Why what a service manager handed over can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// More sockets than the one there is a use for.
    #[error(
        "the service manager passed {count} sockets, and there is one to serve: the substituter's TCP socket"
    )]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A socket of another kind.
    #[error("the service manager passed something that is no TCP socket: {source}")]
    NotTcp {
        /// What is wrong with it.
        source: io::Error,
    },
}

impl Service {
    /// Takes what the environment says was handed over; to be called before there are threads, as
    /// the environment changes by it.
    ///
    /// # Errors
    /// Where anything but one TCP socket was passed.
    pub fn from_environment() -> Result<Self, ServiceError> {
        let mut passed = ListenFd::from_env();
        let listener = match passed.len() {
            0 => None,
            1 => passed
                .take_tcp_listener(0)
                .map_err(|source| ServiceError::NotTcp { source })?,
            count => return Err(ServiceError::TooMany { count }),
        };
        Ok(Service {
            listener,
            watchdog: sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()),
            is_told: true,
            waiting: None,
        })
    }

    /// The socket that was passed for the substituter; it is handed out once.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// No service manager, but somebody in this process who waits for the daemon to answer.
    pub fn within(waiting: oneshot::Sender<SocketAddr>) -> Self {
        Service {
            waiting: Some(waiting),
            ..Service::default()
        }
    }

    /// Says that the daemon answers, at the substituter's address.
    pub fn ready(&mut self, http_address: SocketAddr) {
        if let Some(waiting) = self.waiting.take() {
            // Nobody may be left to hear it.
            let _unheard = waiting.send(http_address);
        }
        self.tell(NotifyState::Ready);
    }

    /// Says that the daemon is ending.
    pub fn stopping(&self) {
        self.tell(NotifyState::Stopping);
    }

    /// Says that the daemon works, as often as the service manager wants to hear it, while
    /// `is_well`; until `stop`. A daemon that no longer says so is started anew.
    pub async fn keep_alive(&self, is_well: impl Fn() -> bool, stop: &CancellationToken) {
        let Some(interval) = self.watchdog else {
            return stop.cancelled().await;
        };
        // Half of what it waits, as sd_watchdog_enabled(3) has it.
        let mut ticks = tokio::time::interval(interval / 2);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if is_well() {
                self.tell(NotifyState::Watchdog);
            }
        }
    }

    fn tell(&self, state: NotifyState<'_>) {
        if !self.is_told {
            return;
        }
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::debug!(%error, "the service manager could not be told");
        }
    }
}
