// Peers, a page at a time: the daemon sorts and searches.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { connection, now, peers as ask } from "./daemon";
import { ago, count, counted, flag, host, milliseconds, rate, size } from "./format";
import { Empty, Section } from "./parts";
import type { Peer, Peers as Told } from "./types";

const ROWS = 25;
const EVERY_MS = 5000;
/** Typing ends before anything is searched for. */
const TYPING_MS = 250;

type Sort = "usefulness" | "received" | "sent" | "score" | "rtt" | "seen" | "id";

const sort = signal<Sort>("usefulness");
const reversed = signal(false);
const search = signal("");
const offset = signal(0);
const told = signal<Told | null>(null);
const failed = signal<string | null>(null);

const COLUMNS: readonly (readonly [Sort | null, string, boolean])[] = [
  ["id", "Peer", false],
  [null, "Way", false],
  ["rtt", "Round trip", true],
  ["score", "Reputation", false],
  ["received", "Received", true],
  ["sent", "Sent", true],
  ["seen", "Last answer", true],
];

const WAYS = { lan: "Local network", direct: "Direct", relayed: "Relayed" } as const;

async function load(query: Record<string, string>): Promise<void> {
  try {
    told.value = await ask(query);
    failed.value = null;
  } catch (error) {
    failed.value = error instanceof Error ? error.message : String(error);
  }
}

function by(next: Sort): void {
  reversed.value = sort.value === next ? !reversed.value : false;
  sort.value = next;
  offset.value = 0;
}

function Way({ peer }: { peer: Peer }) {
  if (!peer.connected) {
    return <span class="quiet">{peer.reputation.backed_off ? "Left alone for now" : "Not connected"}</span>;
  }
  const source = peer.path ?? "direct";
  return (
    <>
      <span class={`badge ${source}`}>{WAYS[source]}</span>
      {peer.silent && <span class="badge miss">silent</span>}
      {peer.older && <span class="badge">older program</span>}
      {peer.other_swarm && <span class="badge miss">other swarm</span>}
      {peer.address !== null && <span class="address quiet">{host(peer.address)}</span>}
    </>
  );
}

function Reputation({ peer }: { peer: Peer }) {
  const { score, success_rate, total_requests } = peer.reputation;
  return (
    <span class="reputation">
      <span class="meter" role="img" aria-label={`${Math.round(score * 100)} of 100`}>
        <span style={{ width: `${100 * Math.max(0, Math.min(1, score))}%` }} />
      </span>
      <span class="quiet">
        {total_requests === 0 ? "not asked yet" : `${success_rate}\u202f% of ${counted(total_requests, "request")}`}
        {peer.lies > 0 && <b class="lies">, {counted(peer.lies, "lie")}</b>}
      </span>
    </span>
  );
}

function Row({ peer }: { peer: Peer }) {
  const country = peer.country === "LAN" ? null : peer.country;
  return (
    <tr>
      <th scope="row">
        {country !== null && <span class="country"><span aria-hidden="true">{flag(country)}</span> {country} </span>}
        {peer.name !== null && <span class="name">{peer.name} </span>}
        <code title={peer.node_id}>{peer.node_id.slice(0, 10)}</code>
      </th>
      <td data-label="Way"><Way peer={peer} /></td>
      <td class="num" data-label="Round trip">{peer.rtt_ms === null ? "–" : milliseconds(peer.rtt_ms)}</td>
      <td data-label="Reputation"><Reputation peer={peer} /></td>
      <td class="num" data-label="Received">
        {size(peer.bytes_received)}
        {peer.rate !== null && <span class="quiet under">{rate(peer.rate)}</span>}
      </td>
      <td class="num" data-label="Sent">{size(peer.bytes_sent)}</td>
      <td class="num" data-label="Last answer">{peer.last_seen === null ? "never" : ago(peer.last_seen, now.value)}</td>
    </tr>
  );
}

function Table({ page }: { page: Told }) {
  const first = Math.min(offset.value + 1, page.count);
  const last = Math.min(offset.value + ROWS, page.count);
  return (
    <>
      <table>
        <thead>
          <tr>
            {COLUMNS.map(([key, name, isNumber]) => (
              <th
                key={name}
                scope="col"
                class={isNumber ? "num" : undefined}
                aria-sort={key !== null && key === sort.value ? (reversed.value ? "ascending" : "descending") : undefined}
              >
                {key === null
                  ? name
                  : <button type="button" class="sort" onClick={() => by(key)}>{name}</button>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{page.peers.map((peer) => <Row key={peer.node_id} peer={peer} />)}</tbody>
      </table>
      <nav class="pager" aria-label="Pages of peers">
        <button type="button" disabled={offset.value === 0} onClick={() => { offset.value = Math.max(0, offset.value - ROWS); }}>Previous</button>
        <span class="num">{count(first)} to {count(last)} of {count(page.count)}</span>
        <button type="button" disabled={last >= page.count} onClick={() => { offset.value += ROWS; }}>Next</button>
      </nav>
    </>
  );
}

export function Peers() {
  const query = {
    sort: sort.value,
    order: reversed.value ? "reversed" : "usual",
    search: search.value,
    offset: String(offset.value),
    limit: String(ROWS),
  };
  const wanted = new URLSearchParams(query).toString();
  const live = connection.value === "live";
  useEffect(() => {
    if (!live) return;
    const soon = setTimeout(() => void load(query), search.value === "" ? 0 : TYPING_MS);
    const timer = setInterval(() => { if (!document.hidden) void load(query); }, EVERY_MS);
    return () => {
      clearTimeout(soon);
      clearInterval(timer);
    };
  }, [wanted, live]);
  const page = told.value;
  const type = (event: InputEvent & { currentTarget: HTMLInputElement }) => {
    search.value = event.currentTarget.value.trim();
    offset.value = 0;
  };
  return (
    <Section
      id="peers"
      title="Peers"
      wide
      aside={<input type="search" placeholder="Id or address" aria-label="Search for peers by id or address" value={search.value} onInput={type} />}
    >
      {failed.value !== null && <p class="warning" role="alert">Peers can't be listed: {failed.value}.</p>}
      {page !== null && page.count > 0 && <Table page={page} />}
      {page !== null && page.count === 0 && (search.value !== ""
        ? <Empty title={`No peer's id or address contains “${search.value}”.`} />
        : (
          <Empty title="No peer is known yet.">
            <p>
              Peers on the local network and in the swarm are found by themselves, which takes some seconds. By hand:
              run <code>peerix ticket</code> on another machine and give this daemon what it prints as <code>--peer</code>.
            </p>
          </Empty>
        ))}
    </Section>
  );
}
