// What happened, newest first.
import { computed, signal } from "@preact/signals";
import { activity, now } from "./daemon";
import { ago, clock, count, milliseconds, rate, size } from "./format";
import { Choice, Empty, PathName, Section, Who } from "./parts";
import type { Event } from "./types";

const STEP = 25;

const KINDS = [
  ["all", "All"],
  ["download", "Fetched"],
  ["served", "Given"],
  ["found", "Found"],
  ["miss", "Not found"],
  ["failed", "Failed"],
] as const;
type Kind = (typeof KINDS)[number][0];

const kind = signal<Kind>("all");
const words = signal("");
const shown = signal(STEP);

function isOfKind(event: Event): boolean {
  switch (kind.value) {
    case "all": return true;
    case "found": return event.action === "check" && event.success;
    case "miss": return event.action === "check" && !event.success;
    case "failed": return event.action !== "check" && !event.success;
    default: return event.action === kind.value && event.success;
  }
}

const matching = computed(() => {
  const wanted = words.value.toLowerCase();
  return activity.value.filter((event) => isOfKind(event) && (wanted === ""
    || [event.name, event.hash, event.source, event.peer_id ?? "", event.reason ?? ""]
      .some((text) => text.toLowerCase().includes(wanted))));
});

function verb({ action, success }: Event): string {
  switch (action) {
    case "check": return success ? "Found" : "Not found";
    case "download": return success ? "Fetched" : "Failed";
    case "served": return "Given";
  }
}

function Origin({ event }: { event: Event }) {
  if (event.action === "served") return <> to {event.peer_id === undefined ? "a peer" : <Who id={event.peer_id} />}</>;
  if (event.source === "miss") return null;
  if (event.source === "local") return <> in the own store</>;
  if (event.source === "upstream") return <> {event.action === "check" ? "at" : "from"} the upstream</>;
  const where = event.peer_id === undefined ? event.source.replace(/^peer:/, "") : event.peer_id;
  return <> {event.action === "check" ? "at" : "from"} <Who id={where} /></>;
}

function Row({ event }: { event: Event }) {
  const took = event.took_ms ?? 0;
  return (
    <li class="event">
      <time dateTime={new Date(event.time * 1000).toISOString()} title={clock(event.time)}>{ago(event.time, now.value)}</time>
      <span class={`badge ${event.success ? event.action : "miss"}`}>{verb(event)}</span>
      <span class="what">
        <PathName name={event.name} hash={event.hash} />
        <span class="quiet"><Origin event={event} />{event.reason !== undefined && <>: {event.reason}</>}</span>
      </span>
      <span class="num quiet">
        {event.size > 0 && event.action !== "check" && size(event.size)}
        {took > 0 && ` ${event.action === "download" && event.size > 0 && event.success
          ? `at ${rate((1000 * event.size) / took)}`
          : `in ${milliseconds(took)}`}`}
      </span>
    </li>
  );
}

export function Activity() {
  const events = matching.value;
  const type = (event: InputEvent & { currentTarget: HTMLInputElement }) => {
    words.value = event.currentTarget.value.trim();
    shown.value = STEP;
  };
  const choose = (next: Kind) => {
    kind.value = next;
    shown.value = STEP;
  };
  return (
    <Section
      id="activity"
      title="Activity"
      wide
      aside={(
        <div class="filters">
          <Choice label="What is shown" options={KINDS} value={kind.value} onChange={choose} />
          <input type="search" placeholder="Path, peer or reason" aria-label="Search the activity" value={words.value} onInput={type} />
        </div>
      )}
    >
      {events.length === 0
        ? (
          <Empty title={activity.value.length === 0 ? "Nothing has happened yet." : "Nothing matches these filters."}>
            {activity.value.length > 0 && (
              <p><button type="button" onClick={() => { choose("all"); words.value = ""; }}>Show all</button></p>
            )}
          </Empty>
        )
        : <ul class="events">{events.slice(0, shown.value).map((event) => <Row key={event.id} event={event} />)}</ul>}
      {events.length > shown.value && (
        <p class="pager"><button type="button" onClick={() => { shown.value += 4 * STEP; }}>Show more</button>
          <span class="num quiet">{count(shown.value)} of {count(events.length)}</span></p>
      )}
    </Section>
  );
}
