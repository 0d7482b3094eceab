//! How values stand in columns of text.

use super::{Contact, OlderNode};

/// A list as JSON.
pub(super) fn list_to_text(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

/// The list that JSON holds; an empty one where it holds none.
pub(super) fn list_of_text(text: Option<&str>) -> Vec<String> {
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// A contact as its columns: endpoint, relay's URL, addresses, systems.
pub(super) fn contact_to_text(
    contact: &Contact,
) -> (Option<String>, Option<String>, String, String) {
    let addrs: Vec<String> = contact
        .direct_addrs
        .iter()
        .map(ToString::to_string)
        .collect();
    (
        contact.endpoint.map(|endpoint| endpoint.to_string()),
        contact.relay_url.as_ref().map(ToString::to_string),
        list_to_text(&addrs),
        list_to_text(&contact.systems),
    )
}

/// The contact that columns hold; what is none of its kind is left out.
pub(super) fn contact_of_text(
    endpoint: Option<&str>,
    relay_url: Option<&str>,
    direct_addrs: &str,
    systems: &str,
    addr: String,
) -> Contact {
    let addrs = list_of_text(Some(direct_addrs));
    Contact {
        endpoint: endpoint.and_then(|endpoint| endpoint.parse().ok()),
        relay_url: relay_url.and_then(|url| url.parse().ok()),
        direct_addrs: addrs.iter().filter_map(|addr| addr.parse().ok()).collect(),
        systems: list_of_text(Some(systems)),
        addr,
    }
}

/// How an iroh node of the older program is reached, as far as it makes sense.
pub(super) fn contact_of_node(node: &OlderNode) -> Contact {
    Contact {
        endpoint: node.node_id.parse().ok(),
        relay_url: node.relay_url.as_deref().and_then(|url| url.parse().ok()),
        direct_addrs: node
            .direct_addrs
            .iter()
            .filter_map(|addr| addr.parse().ok())
            .take(crate::tracker::api::MAX_DIRECT_ADDRS)
            .collect(),
        systems: Vec::new(),
        addr: node.addr.clone(),
    }
}
