// The daemon itself: how others reach it.
import { now, report } from "./daemon";
import { count, counted, duration, size } from "./format";
import { Copy, Section } from "./parts";
import type { Node as Told, Uploads as Limits } from "./types";

/** Whether an address leads nowhere beyond the local network. */
function isPrivate(address: string): boolean {
  const host = address.replace(/:\d+$/, "").replace(/^\[|\]$/g, "").toLowerCase();
  return /^(10|127)\.|^192\.168\.|^169\.254\.|^172\.(1[6-9]|2\d|3[01])\.|^100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\./.test(host)
    || /^(::1$|f[cd]|fe[89ab])/.test(host);
}

function reach(node: Told): string {
  const isPublic = node.direct_addrs.some((address) => !isPrivate(address));
  if (isPublic && node.relay_url !== null) return "From anywhere: a public address is known, and the relay helps where it is blocked";
  if (isPublic) return "From anywhere that can reach its public address; no relay helps where it is blocked";
  if (node.relay_url !== null) return "Through the relay; no public address is known, so a NAT or firewall is in between";
  if (node.direct_addrs.length > 0) return "On the local network alone: no relay, no public address";
  return "By nobody: no address is known yet";
}

function Uploads({ uploads }: { uploads: Limits }) {
  const quota = (used: number, of: number | null) => of === null ? size(used) : `${size(used)} of ${size(of)}`;
  const until = uploads.paused_until === null ? "" : ` for ${duration(uploads.paused_until - now.value)} more`;
  return (
    <>
      {uploads.closed === null ? "Open" : `Closed: ${uploads.closed}${until}`}
      <small>{quota(uploads.today_bytes, uploads.day_quota_bytes)} today, {quota(uploads.month_bytes, uploads.month_quota_bytes)} this month</small>
    </>
  );
}

function Trackers({ trackers }: { trackers: Told["trackers"] }) {
  if (trackers.length === 0) return "none";
  return (
    <ul class="plain">
      {trackers.map((tracker) => (
        <li key={tracker.url}>
          <code>{tracker.url}</code>
          <small>
            {tracker.error !== null
              ? <span class="lies">{tracker.error}</span>
              : <>{count(tracker.announced_paths)} paths announced, {counted(tracker.named_peers, "peer")} named
                {tracker.seconds_since_contact !== null && `, ${duration(tracker.seconds_since_contact)} ago`}</>}
          </small>
        </li>
      ))}
    </ul>
  );
}

export function Node() {
  const node = report.value?.node;
  if (node === undefined) return null;
  return (
    <Section id="node" title="This node">
      <dl class="rows stacked">
        <div><dt>Endpoint id</dt><dd><Copy text={node.node_id} shown={`${node.node_id.slice(0, 16)}…`} what="the endpoint id" /></dd></div>
        <div><dt>Can be reached</dt><dd>{reach(node)}</dd></div>
        <div><dt>Relay</dt><dd>{node.relay_url === null ? "none" : <code>{node.relay_url}</code>}</dd></div>
        <div>
          <dt>Direct addresses</dt>
          <dd>{node.direct_addrs.length === 0
            ? "none yet"
            : <ul class="plain">{node.direct_addrs.map((address) => <li key={address}><code>{address}</code></li>)}</ul>}</dd>
        </div>
        <div><dt>Looks on the local network</dt><dd>{node.lan_discovery ? "yes" : "no (--lan-discovery)"}</dd></div>
        <div>
          <dt>Swarm</dt>
          <dd>{node.swarm === null || typeof node.swarm !== "object"
            ? "none"
            : <>{counted(node.swarm.peers, "peer")} heard<small>{counted(node.swarm.inventories, "inventory", "inventories")} held, {count(node.swarm.announced)} paths announced</small></>}</dd>
        </div>
        <div><dt>Trackers</dt><dd><Trackers trackers={node.trackers} /></dd></div>
        {node.uploads !== null && <div><dt>Uploads</dt><dd><Uploads uploads={node.uploads} /></dd></div>}
        {node.nix_database !== null && (
          <div><dt>Nix's database</dt><dd><code>{node.nix_database.path}</code>{node.nix_database.absent !== undefined && <small>{node.nix_database.absent}</small>}</dd></div>
        )}
      </dl>
    </Section>
  );
}
