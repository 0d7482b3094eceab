//! Why a connection could not be made, told from the error of making it.

use iroh::endpoint::{ConnectError, ConnectingError, ConnectionError, VarInt};

use crate::peer::{admission::NO_MEMBER, score::Fault};

/// Why a connection for a protocol could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::peer) enum ConnectFailure {
    /// The peer is there and does not speak that protocol.
    OtherProtocols,
    /// The peer is there, and of another swarm or without this one's secret.
    OtherSwarm,
    /// It is not there, or not well.
    Fault(Fault),
}

impl ConnectFailure {
    pub(in crate::peer) fn fault(self) -> Fault {
        match self {
            Self::OtherProtocols | Self::OtherSwarm => Fault::Disconnected,
            Self::Fault(fault) => fault,
        }
    }
}

/// TLS's alert of that name, as QUIC carries it.
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

pub(super) fn failure(error: &ConnectError) -> ConnectFailure {
    let source = match error {
        ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        }
        | ConnectError::Connection { source, .. } => source,
        // Nothing but the secret is asked for once the handshake is done that was not before.
        ConnectError::Connecting {
            source: ConnectingError::LocallyRejected { .. },
            ..
        } => return ConnectFailure::OtherSwarm,
        _ => return ConnectFailure::Fault(Fault::Disconnected),
    };
    match source {
        refused if is_refused(refused) => ConnectFailure::OtherSwarm,
        ConnectionError::ConnectionClosed(close)
            if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL =>
        {
            ConnectFailure::OtherProtocols
        }
        _ => ConnectFailure::Fault(Fault::Disconnected),
    }
}

/// Whether the peer closed a connection because this machine is no member of its swarm.
pub(super) fn is_refused(error: &ConnectionError) -> bool {
    let code = VarInt::from_u32(NO_MEMBER);
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == code)
}
