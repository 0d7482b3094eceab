// The first thing to see: whether peers helped, how much, how fast.
import { connection, downloads, lostSince, now, report, tops } from "./daemon";
import { count, counted, day, duration, percent, rate, size } from "./format";
import { Amount, Dot, SOURCE_NAMES, Words } from "./parts";
import type { Report, Source, Traffic } from "./types";

const FETCHED: readonly Source[] = ["lan", "direct", "relayed", "upstream"];

function fromPeers(by: Record<Source, number>): number {
  return by.lan + by.direct + by.relayed;
}

/** Bytes a second over the latest downloads from peers that took any time. */
function usualRate(): number | null {
  let bytes = 0;
  let seconds = 0;
  for (const event of downloads.value) {
    if (!event.success || event.source === "upstream" || (event.took_ms ?? 0) <= 0) continue;
    bytes += event.size;
    seconds += (event.took_ms ?? 0) / 1000;
  }
  return bytes > 1_000_000 ? bytes / seconds : null;
}

export function Header() {
  const state = connection.value;
  const told = report.value;
  const words = {
    connecting: "Asking the daemon …",
    live: "Live",
    lost: "No answer from the daemon, trying again",
    refused: "The daemon refused: too many dashboards are open. Close one; this page tries again.",
  };
  return (
    <header class="top">
      <span class="wordmark"><img src="/dashboard/icon.svg" alt="" width="24" height="24" />peerix</span>
      <span class={`state ${state}`} role="status"><span class="lamp" aria-hidden="true" />{words[state]}
        {/* Not read out each second. */}
        {state === "lost" && <span aria-hidden="true" class="num">{duration(now.value - (lostSince.value ?? now.value))}</span>}
      </span>
      {told && (
        <span class="about">
          version {told.node.version}, up for {duration(told.node.uptime_seconds)}
        </span>
      )}
    </header>
  );
}

/** What an operator should know before anything else. */
function warnings({ node, store }: Report): string[] {
  const found: string[] = [];
  if (node.nix_database?.absent !== undefined) {
    found.push(`Nix's database can't be read (${node.nix_database.absent}): nothing of this machine's store is offered.`);
  }
  if (node.no_verify) {
    found.push("Signatures of what peers send are not checked (no_verify). Remove that setting unless this is a test.");
  }
  if (node.uploads?.closed) found.push(`Peers get nothing from here: ${node.uploads.closed}.`);
  if (store.paths > 0 && store.offered === 0 && !store.scan.active && store.scan.waiting_for_upstream === 0) {
    found.push("No path of the store is offered. Paths with a public cache's signature are, and what you share with `peerix share`.");
  }
  return found;
}

function Verdict({ traffic, connected }: { traffic: Traffic; connected: number }) {
  const peers = fromPeers(traffic.received);
  const fetched = peers + traffic.received.upstream;
  const asked = traffic.requests - traffic.hits_local;
  const speed = usualRate();
  if (fetched === 0 && traffic.requests === 0) {
    return (
      <div class="verdict">
        <h1>Ready. Nix has not asked for anything yet.</h1>
        <p>
          Add <code>{location.origin}</code> to <code>substituters</code> in <code>nix.conf</code>, then build or
          install something: what peers have comes from them, and shows here.
          {connected === 0 && <> No peer is connected yet: on another machine, <code>peerix ticket</code> prints what this one takes as <code>--peer</code>.</>}
        </p>
      </div>
    );
  }
  if (peers === 0) {
    const missed = traffic.misses.reduce((sum, [, times]) => sum + times, 0);
    return (
      <div class="verdict">
        <h1>Peers have not helped yet.</h1>
        <p>
          Nix asked for {counted(traffic.requests, "path")}: {count(traffic.hits_local)} were here already
          and {count(missed)} nobody had. <a href="#misses">Why not</a>
        </p>
      </div>
    );
  }
  const share = percent(peers, fetched);
  return (
    <div class="verdict">
      <h1>
        <span class="figure"><Amount bytes={peers} /></span>
        <span class="claim">came from peers{speed !== null && <>, at <b>{rate(speed)}</b></>}.</span>
      </h1>
      <p>
        That is {share} of the {size(fetched)} fetched since {day(traffic.since)}.
        {asked > 0 && <> Peers had {count(traffic.hits_peers)} of
          the {counted(asked, "path")} that Nix asked for and this machine lacked ({percent(traffic.hits_peers, asked)}).</>}
      </p>
    </div>
  );
}

function Shares({ traffic }: { traffic: Traffic }) {
  const total = FETCHED.reduce((sum, source) => sum + traffic.received[source], 0);
  if (total === 0) return null;
  const shown = FETCHED.filter((source) => traffic.received[source] > 0);
  return (
    <div class="shares">
      <div class="stack" aria-hidden="true">
        {shown.map((source) => (
          <span key={source} class={source} style={{ flexGrow: String(traffic.received[source] / total) }} />
        ))}
      </div>
      <ul class="legend">
        {shown.map((source) => (
          <li key={source}>
            <Dot source={source} />{SOURCE_NAMES[source]}
            <b><Amount bytes={traffic.received[source]} /></b>
          </li>
        ))}
      </ul>
    </div>
  );
}

export function Summary() {
  const told = report.value;
  if (told === null) return <section class="card wide summary" aria-busy="true"><h1>Asking the daemon …</h1></section>;
  const { traffic, node } = told;
  const given = tops.value?.total_served ?? 0;
  const arriving = FETCHED.reduce((sum, source) => sum + traffic.receiving[source], 0);
  return (
    <section class="card wide summary" aria-label="In short">
      {warnings(told).map((text) => <p key={text} class="warning" role="alert"><Words text={text} /></p>)}
      <Verdict traffic={traffic} connected={node.connected_peers} />
      <Shares traffic={traffic} />
      <dl class="figures">
        <div><dt>Arriving now</dt><dd><Amount bytes={arriving} perSecond /></dd></div>
        <div><dt>Going to peers now</dt><dd><Amount bytes={traffic.sending} perSecond /></dd></div>
        <div><dt>Given to peers</dt><dd><Amount bytes={traffic.sent} />{given > 0 && <small>{counted(given, "path")}</small>}</dd></div>
        <div><dt>Peers connected</dt><dd>{count(node.connected_peers)}<small>of {count(node.known_peers)} known</small></dd></div>
      </dl>
    </section>
  );
}
