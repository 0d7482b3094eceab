// What the daemon tells: the serde structs of src/report.rs, src/stats/ and src/dashboard.rs.

export const SOURCES = ["own_store", "lan", "direct", "relayed", "upstream"] as const;
export type Source = (typeof SOURCES)[number];
export type BySource<T> = Record<Source, T>;

export interface Node {
  mode: string;
  version: string;
  node_id: string;
  uptime_seconds: number;
  known_peers: number;
  connected_peers: number;
  swarm: Swarm | null;
  trackers: Tracker[];
  lan_discovery: boolean;
  relay_url: string | null;
  direct_addrs: string[];
  no_verify: boolean;
  uploads: Uploads | null;
  nix_database: { path: string; absent?: string } | null;
}

export interface Tracker {
  url: string;
  seconds_since_contact: number | null;
  announced_paths: number;
  named_peers: number;
  error: string | null;
}

export interface Swarm {
  peers: number;
  neighbours: number;
  inventories: number;
  announced: number;
}

export interface Uploads {
  closed: string | null;
  paused_until: number | null;
  today_bytes: number;
  month_bytes: number;
  day_quota_bytes: number | null;
  month_quota_bytes: number | null;
}

export interface Store {
  offered: number;
  paths: number;
  hashed: number;
  by_reference: number;
  downloaded: number;
  partial: number;
  shared: number;
  download_bytes: number;
  quota_bytes: number;
  outboard_bytes: number;
  scan: {
    active: boolean;
    scanned: number;
    total: number;
    last_scan: number | null;
    waiting_for_upstream: number;
  };
  hashing: {
    paused: string | null;
    is_paused_by_hand: boolean;
    paths_left: number;
    bytes_left: number;
    paths_done: number;
    bytes_done: number;
    seconds_left: number | null;
  };
}

export interface Traffic {
  since: number;
  received: BySource<number>;
  sent: number;
  receiving: BySource<number>;
  sending: number;
  requests: number;
  hits_local: number;
  hits_peers: number;
  hits_upstream: number;
  misses: [string, number][];
  nars_received: number;
  nars_sent: number;
}

export interface Provider {
  name: string;
  source: Source | null;
  bytes: number;
  rate: number;
}

export interface Transfer {
  hash: string;
  name: string;
  size: number;
  done: number;
  rate: number;
  readers: number;
  seconds: number;
  providers: Provider[];
  provider_count: number;
  given: number;
}

export interface Report {
  node: Node;
  store: Store;
  traffic: Traffic;
  transfers: Transfer[];
}

export interface Event {
  number: number;
  id: number;
  time: number;
  action: "check" | "download" | "served";
  hash: string;
  name: string;
  source: string;
  success: boolean;
  size: number;
  peer_id?: string;
  reason?: string;
  took_ms?: number;
}

export interface Counted {
  hash: string;
  name: string;
  count: number;
  peers?: Record<string, number>;
}

export interface Tops {
  requested: Counted[];
  total_requested: number;
  served: Counted[];
  total_served: number;
}

export interface State {
  report: Report;
  activity: Event[];
  newest: number;
  tops: Tops;
}

export interface News {
  report: Report;
  activity: Event[];
  after: number;
  newest: number;
}

export type Span = "hour" | "day" | "month";

export interface Series {
  width: number;
  start: number;
  received: BySource<number[]>;
  sent: number[];
}

export interface Peer {
  node_id: string;
  node_id_short: string;
  name: string | null;
  country: string | null;
  connected: boolean;
  silent: boolean;
  older: boolean;
  other_swarm?: boolean;
  path: "lan" | "direct" | "relayed" | null;
  address: string | null;
  rtt_ms: number | null;
  bytes_sent: number;
  bytes_received: number;
  rate: number | null;
  lies: number;
  last_seen: number | null;
  reputation: {
    score: number;
    success_rate: number;
    total_requests: number;
    failed: number;
    backed_off: boolean;
  };
}

export interface Peers {
  peers: Peer[];
  count: number;
}
