// The connection to the daemon, and what it has told so far.
import { batch, computed, signal } from "@preact/signals";
import type { Event, News, Peers, Report, Series, Span, State, Tops } from "./types";

/** How long no news count as a lost connection: they come each second. */
const SILENCE_MS = 6000;
/** Pause before a refused connection is tried again. */
const AGAIN_MS = 3000;
/** A page that nobody sees is told nothing after this. */
const HIDDEN_MS = 30_000;
/** How often the lists that change slowly are asked for. */
const TOPS_MS = 10_000;
/** Events in one piece of news at most. */
const EVENTS_TOLD = 50;
/** Events that are kept: what the daemon keeps too. */
const MAX_EVENTS = 500;

export type Connection = "connecting" | "live" | "lost" | "refused";

export const connection = signal<Connection>("connecting");
export const lostSince = signal<number | null>(null);
export const report = signal<Report | null>(null);
export const activity = signal<Event[]>([]);
export const tops = signal<Tops | null>(null);
/** Seconds since 1970, once a second. */
export const now = signal(Date.now() / 1000);

export const downloads = computed(() => activity.value.filter((event) => event.action === "download"));

let source: EventSource | null = null;
let newest = 0;
let heardAt = 0;
let version: string | null = null;
let token = document.querySelector<HTMLMetaElement>('meta[name="token"]')?.content ?? "";
/** Whether the daemon may have been started again since. */
let isTokenOld = false;

async function get<T>(path: string): Promise<T> {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the daemon answered ${answer.status} to ${path}`);
  return answer.json() as Promise<T>;
}

export const history = (span: Span) => get<Series>(`/dashboard/history?span=${span}`);

export function peers(query: Record<string, string>): Promise<Peers> {
  return get<Peers>(`/dashboard/peers?${new URLSearchParams(query)}`);
}

/** Reads the token anew: a daemon that was started again has another one. */
async function renewToken(): Promise<void> {
  const page = await (await fetch("/dashboard", { cache: "no-store" })).text();
  token = /name="token" content="([0-9a-f]+)"/.exec(page)?.[1] ?? token;
  isTokenOld = false;
}

/** Pauses hashing, or lets it go on. */
export async function pauseScan(pause: boolean): Promise<void> {
  const post = () => fetch(`/scan/${pause ? "pause" : "resume"}`, {
    method: "POST",
    headers: { "X-Peerix-Token": token },
  });
  if (isTokenOld) await renewToken();
  let answer = await post();
  if (answer.status === 403) {
    await renewToken();
    answer = await post();
  }
  if (!answer.ok) throw new Error(`the daemon answered ${answer.status}`);
}

function merge(events: Event[]): void {
  if (events.length === 0) return;
  const fresh = new Set(events.map((event) => event.id));
  const rest = activity.value.filter((event) => !fresh.has(event.id));
  activity.value = [...events, ...rest].sort((a, b) => b.number - a.number).slice(0, MAX_EVENTS);
}

function take(next: Report): void {
  if (version !== null && version !== next.node.version) {
    // Another version's daemon has another page.
    location.reload();
  }
  version = next.node.version;
  report.value = next;
}

async function takeAll(): Promise<void> {
  const state = await get<State>("/dashboard/state");
  batch(() => {
    take(state.report);
    activity.value = state.activity;
    tops.value = state.tops;
    newest = state.newest;
    connection.value = "live";
    lostSince.value = null;
  });
}

async function takeNews(news: News): Promise<void> {
  batch(() => {
    take(news.report);
    merge(news.activity);
    connection.value = "live";
    lostSince.value = null;
  });
  const missed = news.after > newest || news.activity.length >= EVENTS_TOLD;
  const after = newest;
  newest = Math.max(newest, news.newest);
  if (missed) {
    const { activity } = await get<{ activity: Event[] }>(`/dashboard/activity?after=${after}`);
    merge(activity);
  }
}

function lost(how: Connection): void {
  if (lostSince.value === null) lostSince.value = Date.now() / 1000;
  connection.value = how;
  isTokenOld = true;
}

function open(): void {
  source?.close();
  heardAt = Date.now();
  const opened = new EventSource("/dashboard/events");
  source = opened;
  opened.onopen = () => {
    heardAt = Date.now();
    takeAll().catch(() => lost("lost"));
  };
  opened.onmessage = (message: MessageEvent<string>) => {
    heardAt = Date.now();
    takeNews(JSON.parse(message.data) as News).catch(() => undefined);
  };
  opened.onerror = () => {
    // A browser comes back by itself unless it was refused.
    const refused = opened.readyState === EventSource.CLOSED;
    lost(refused && report.value === null ? "refused" : "lost");
    if (refused) setTimeout(() => source === opened && open(), AGAIN_MS);
  };
}

function close(): void {
  source?.close();
  source = null;
}

function watchVisibility(): void {
  let hiding: ReturnType<typeof setTimeout> | undefined;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(close, HIDDEN_MS);
    else if (source === null) open();
  });
}

/** Follows the daemon for as long as the page is open. */
export function follow(): void {
  open();
  watchVisibility();
  setInterval(() => {
    now.value = Date.now() / 1000;
    if (source !== null && Date.now() - heardAt > SILENCE_MS) {
      lost("lost");
      open();
    }
  }, 1000);
  setInterval(() => {
    if (source === null || connection.value !== "live" || document.hidden) return;
    get<Tops>("/dashboard/tops").then((next) => { tops.value = next; }, () => undefined);
  }, TOPS_MS);
}
