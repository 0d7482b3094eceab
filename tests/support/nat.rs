//! An internet with a server in it, and machines behind NATs of two kinds.

use std::{fs, net::Ipv4Addr};

use super::network::{Host, Network};

/// How a NAT maps what leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One port outside for one inside, whoever is spoken with: two of these find a direct path.
    Easy,
    /// Another port for everybody who is spoken with.
    Hard,
}

/// Where the server is.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// The internet: a server, and as many machines as there are kinds, each behind a NAT of its own.
pub struct Internet {
    /// The server, then the NATs.
    outside: Network,
    /// Each behind its NAT.
    inside: Vec<Network>,
}

impl Internet {
    /// Makes one; `None`, and said, where no networks can be made.
    pub fn new(kinds: &[Kind]) -> Option<Internet> {
        let outside = Network::new(1 + kinds.len())?;
        let (server, nats) = outside.hosts().split_first().expect("a server");
        server.ip(&format!("addr add {SERVER}/24 dev eth0"));
        let mut inside = Vec::new();
        for (number, (nat, kind)) in nats.iter().zip(kinds).enumerate() {
            let network = Network::new(1)?;
            network.plug(nat, "inside0", 7);
            let machine = &network.hosts()[0];
            let prefix = format!("10.{}.0", number + 1);
            machine.ip(&format!("addr add {prefix}.2/24 dev eth0"));
            machine.ip(&format!("route add default via {prefix}.1"));
            nat.ip(&format!("addr add {prefix}.1/24 dev inside0"));
            nat.ip(&format!("addr add 198.51.100.{}/24 dev eth0", number + 1));
            nat.inside(|| {
                fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root");
            });
            let how = match kind {
                Kind::Easy => "masquerade",
                Kind::Hard => "masquerade fully-random",
            };
            // As routers at home have it: nothing from outside but answers.
            nat.nft(&format!(
                "table ip nat {{\nchain post {{\ntype nat hook postrouting priority 100;\n\
                 oifname \"eth0\" {how}\n}}\n}}\n\
                 table ip filter {{\nchain input {{\ntype filter hook input priority 0; policy drop;\n\
                 iif lo accept\niifname \"inside0\" accept\nct state established,related accept\n}}\n\
                 chain forward {{\ntype filter hook forward priority 0; policy drop;\n\
                 iifname \"inside0\" accept\nct state established,related accept\n}}\n}}\n"
            ));
            inside.push(network);
        }
        Some(Internet { outside, inside })
    }

    /// The server, at [`SERVER`].
    pub fn server(&self) -> &Host {
        &self.outside.hosts()[0]
    }

    /// The machine behind NAT `number`.
    pub fn machine(&self, number: usize) -> &Host {
        &self.inside[number].hosts()[0]
    }
}
