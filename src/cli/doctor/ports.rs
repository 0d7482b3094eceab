//! Whether the daemon's ports are free, and who has them where they are not.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use super::Finding;
use crate::{config::Config, peer::endpoint::DEFAULT_PORT};

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, config.http_port));
    let iroh = config
        .iroh_bind
        .unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)));
    vec![
        substituter(local, TcpListener::bind(local).map(drop)),
        transport(
            iroh,
            config.iroh_bind.is_some(),
            UdpSocket::bind(iroh).map(drop),
        ),
    ]
}

fn substituter(address: SocketAddr, bound: io::Result<()>) -> Finding {
    const NAME: &str = "port";
    match bound {
        Ok(()) => Finding::ok(NAME, format!("TCP {address} is free for the substituter")),
        Err(error) => Finding::failure(
            NAME,
            format!(
                "TCP {address} can't be listened at: {error}{}",
                holder("tcp", address.port())
            ),
            "end that program, or choose another with --port (and in extra-substituters)",
        ),
    }
}

fn transport(address: SocketAddr, is_given: bool, bound: io::Result<()>) -> Finding {
    const NAME: &str = "iroh's port";
    match bound {
        Ok(()) => Finding::ok(NAME, format!("UDP {address} is free for peers")),
        Err(error) => {
            let what = format!(
                "UDP {address} can't be bound: {error}{}",
                holder("udp", address.port())
            );
            let todo = "end that program, or choose another with --iroh-bind";
            match is_given {
                true => Finding::failure(NAME, what, todo),
                false => Finding::warning(
                    NAME,
                    what,
                    format!(
                        "any free one is used instead, which a firewall may not let in; {todo}"
                    ),
                ),
            }
        }
    }
}

/// ` (by NAME, pid N)`, as far as this user may know.
fn holder(protocol: &str, port: u16) -> String {
    let tables = [protocol.to_owned(), format!("{protocol}6")];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|table| inodes(&table, port))
        .collect();
    match process_with(&inodes) {
        Some((name, pid)) => format!(" (by {name}, pid {pid})"),
        None => String::new(),
    }
}

/// The inodes of sockets that are bound to `port`, in the form of proc_net(5).
fn inodes(table: &str, port: u16) -> Vec<String> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_ours = u16::from_str_radix(local_port, 16) == Ok(port);
        is_ours.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

fn process_with(inodes: &[String]) -> Option<(String, u32)> {
    let links: Vec<String> = inodes
        .iter()
        .filter(|inode| inode.as_str() != "0")
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let has_it = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
        });
        if has_it {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((name.trim().to_owned(), pid));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_port_is_told() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let holder = holder("tcp", port);
        assert!(
            holder.ends_with(&format!("pid {})", std::process::id())),
            "{holder}"
        );
        let again = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop);
        let finding = substituter(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), again);
        assert_eq!(finding.outcome, super::super::Outcome::Failure);
    }

    #[test]
    fn a_table_of_sockets_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               0: 0100007F:3010 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n\
               1: 0100007F:3011 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4243 1\n";
        assert_eq!(inodes(table, 12304), ["4242"]);
    }
}
