//! What the machine tells of itself: batteries, metered connections, networks of strangers.

use std::{path::Path, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Proxy};

use crate::peer::gate::{Machine, UploadGate};

/// How often the machine is looked at.
const EVERY: Duration = Duration::from_secs(10);

/// How long NetworkManager may take to answer: it is on this machine.
const PATIENCE: Duration = Duration::from_secs(5);

const POWER_SUPPLIES: &str = "/sys/class/power_supply";

const NETWORK_MANAGER: &str = "org.freedesktop.NetworkManager";
const NETWORK_MANAGER_PATH: &str = "/org/freedesktop/NetworkManager";
const ACTIVE_CONNECTION: &str = "org.freedesktop.NetworkManager.Connection.Active";
const CONNECTION_SETTINGS: &str = "org.freedesktop.NetworkManager.Settings.Connection";

/// `NM_METERED_YES` and `NM_METERED_GUESS_YES`.
const METERED: [u32; 2] = [1, 3];

/// The zone that marks a network as one of strangers.
const PUBLIC_ZONE: &str = "public";

/// Tells `gate` of the machine and the date until stopped. The first look is taken before this is
/// first awaited for long.
pub async fn watch(gate: UploadGate, stop: CancellationToken) {
    let mut bus = None;
    loop {
        let look = look(&mut bus);
        let Some(machine) = stop.run_until_cancelled(look).await else {
            return;
        };
        if machine != gate.machine() {
            debug!(?machine, "the machine is another way now");
        }
        gate.observe(machine, jiff::ZonedDateTime::now().date());
        if stop
            .run_until_cancelled(tokio::time::sleep(EVERY))
            .await
            .is_none()
        {
            return;
        }
    }
}

async fn look(bus: &mut Option<Connection>) -> Machine {
    let is_on_battery =
        tokio::task::spawn_blocking(|| peerix_store::is_on_battery(Path::new(POWER_SUPPLIES)));
    let network = timeout(PATIENCE, network(bus)).await;
    let network = network.ok().flatten();
    if network.is_none() {
        // There is none, or it was restarted.
        *bus = None;
    }
    let network = network.unwrap_or_default();
    Machine {
        is_on_battery: is_on_battery.await.unwrap_or_default(),
        ..network
    }
}

/// What NetworkManager says, where there is one.
async fn network(bus: &mut Option<Connection>) -> Option<Machine> {
    let connection = match bus {
        Some(connection) => connection,
        None => bus.insert(Connection::system().await.ok()?),
    };
    let manager = proxy(connection, NETWORK_MANAGER_PATH, NETWORK_MANAGER).await?;
    let metered: u32 = manager.get_property("Metered").await.ok()?;
    let is_public_network = zone(connection, &manager)
        .await
        .is_some_and(|zone| zone == PUBLIC_ZONE);
    Some(Machine {
        is_metered: METERED.contains(&metered),
        is_public_network,
        ..Machine::default()
    })
}

/// The zone of the connection that the machine reaches the internet by, if it has one.
async fn zone(connection: &Connection, manager: &Proxy<'_>) -> Option<String> {
    let primary: OwnedObjectPath = manager.get_property("PrimaryConnection").await.ok()?;
    let active = proxy(connection, primary.as_str(), ACTIVE_CONNECTION).await?;
    let settings: OwnedObjectPath = active.get_property("Connection").await.ok()?;
    let settings = proxy(connection, settings.as_str(), CONNECTION_SETTINGS).await?;
    let all: std::collections::HashMap<String, std::collections::HashMap<String, OwnedVariant>> =
        settings.call("GetSettings", &()).await.ok()?;
    let zone = all.get("connection")?.get("zone")?;
    zone.downcast_ref::<&str>().ok().map(str::to_owned)
}

async fn proxy<'a>(
    connection: &'a Connection,
    path: &'a str,
    interface: &'a str,
) -> Option<Proxy<'a>> {
    Proxy::new(connection, NETWORK_MANAGER, path, interface)
        .await
        .ok()
}
