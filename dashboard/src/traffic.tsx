// Traffic over the last hour, day and month, by source.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { connection, history } from "./daemon";
import { rate, size } from "./format";
import { Amount, Choice, Dot, Empty, Section, SOURCE_NAMES } from "./parts";
import { SOURCES, type Series, type Source, type Span } from "./types";

const SPANS = [["hour", "Hour"], ["day", "Day"], ["month", "Month"]] as const;
const HEIGHT = 220;
/** How often a span is asked for again. */
const EVERY_MS = 10_000;
/** Seconds between two counts of the daemon. */
const SAMPLE = 10;

const span = signal<Span>("hour");
const series = signal<Series | null>(null);
const failed = signal<string | null>(null);
/** The bin under the pointer. */
const pointed = signal<number | null>(null);

async function load(wanted: Span): Promise<void> {
  try {
    const loaded = await history(wanted);
    if (wanted !== span.value) return;
    series.value = loaded;
    failed.value = null;
  } catch (error) {
    failed.value = error instanceof Error ? error.message : String(error);
  }
}

/** How many seconds each bin has counted so far: the last one has only begun. */
function seconds(told: Series, bin: number): number {
  if (bin < told.sent.length - 1 || told.width <= SAMPLE) return told.width;
  const passed = Date.now() / 1000 - (told.start + bin * told.width);
  return Math.min(told.width, Math.max(SAMPLE, passed));
}

/** The upper edges of the stacked areas, the whole first, in bytes a second, and what was sent. */
function columns(told: Series): uPlot.AlignedData {
  const last = told.sent.length - 1;
  const isEmpty = told.sent[last] === 0 && SOURCES.every((source) => told.received[source][last] === 0);
  const bins = isEmpty ? last : last + 1;
  const xs = Array.from({ length: bins }, (_, bin) => told.start + bin * told.width);
  const edges: number[][] = [];
  let below = new Array<number>(bins).fill(0);
  for (const source of SOURCES) {
    const of = told.received[source];
    below = below.map((under, bin) => under + (of[bin] ?? 0) / seconds(told, bin));
    edges.push(below);
  }
  // No line where nothing went.
  const sent = told.sent.slice(0, bins).map((bytes, bin) => bytes === 0 ? null : bytes / seconds(told, bin));
  return [xs, ...edges.reverse(), sent];
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw(target: HTMLElement, told: Series): uPlot {
  const stepped = uPlot.paths.stepped?.({ align: 1 });
  const area = (source: Source): uPlot.Series => ({
    label: SOURCE_NAMES[source],
    fill: colour(`--${source}`),
    stroke: colour("--surface"),
    width: 0.5,
    points: { show: false },
    ...(stepped && { paths: stepped }),
  });
  const axis: uPlot.Axis = {
    stroke: colour("--quiet"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  return new uPlot({
    width: target.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: { y: { range: (_plot, _min, max) => [0, Math.max(max * 1.1, 1000)] } },
    series: [
      {},
      ...[...SOURCES].reverse().map(area),
      {
        label: "To peers",
        stroke: colour("--ink"),
        width: 1.5,
        dash: [4, 3],
        points: { show: false },
        ...(stepped && { paths: stepped }),
      },
    ],
    axes: [
      {
        ...axis,
        space: 70,
        size: 32,
        values: (_plot, times) => times.map((time) => told.width < 3600
          ? new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
          : new Date(time * 1000).toLocaleDateString([], { day: "numeric", month: "short" })),
      },
      { ...axis, size: 74, values: (_plot, values) => values.map((value) => rate(value).replace(/\.0+(?=\D)/, "")) },
    ],
    hooks: { setCursor: [(plot) => { pointed.value = plot.cursor.idx ?? null; }] },
  }, columns(told), target);
}

function Plot({ told }: { told: Series }) {
  const target = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(told);
  latest.current = told;
  useEffect(() => {
    const element = target.current;
    if (element === null) return;
    const again = () => {
      plot.current?.destroy();
      plot.current = draw(element, latest.current);
    };
    again();
    const theme = matchMedia("(prefers-color-scheme: dark)");
    theme.addEventListener("change", again);
    const resized = new ResizeObserver(() => {
      plot.current?.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    resized.observe(element);
    return () => {
      theme.removeEventListener("change", again);
      resized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [told.width]);
  useEffect(() => plot.current?.setData(columns(told)), [told]);
  const words = SOURCES.map((source) => `${SOURCE_NAMES[source]} ${size(sum(told.received[source]))}`);
  return <div class="plot" ref={target} role="img" aria-label={`Traffic: ${words.join(", ")}, to peers ${size(sum(told.sent))}`} />;
}

function Legend({ told }: { told: Series }) {
  const bin = pointed.value;
  const value = (values: number[]) => bin === null
    ? <Amount bytes={sum(values)} />
    : <Amount bytes={(values[bin] ?? 0) / seconds(told, bin)} perSecond />;
  const time = bin === null ? null : new Date((told.start + bin * told.width) * 1000);
  return (
    <ul class="legend">
      {SOURCES.map((source) => (
        <li key={source}><Dot source={source} />{SOURCE_NAMES[source]}<b>{value(told.received[source])}</b></li>
      ))}
      <li><span class="dash" aria-hidden="true" />To peers<b>{value(told.sent)}</b></li>
      <li class="quiet">{time === null ? `in this ${span.value}` : `at ${time.toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" })}`}</li>
    </ul>
  );
}

export function TrafficPlot() {
  const wanted = span.value;
  const live = connection.value === "live";
  useEffect(() => {
    if (!live) return;
    void load(wanted);
    const timer = setInterval(() => { if (!document.hidden) void load(wanted); }, EVERY_MS);
    return () => clearInterval(timer);
  }, [wanted, live]);
  const choose = (next: Span) => {
    series.value = null;
    pointed.value = null;
    span.value = next;
  };
  const told = series.value;
  const isQuiet = told !== null && SOURCES.every((source) => sum(told.received[source]) === 0) && sum(told.sent) === 0;
  return (
    <Section id="traffic" title="Traffic" wide aside={<Choice label="Time span" options={SPANS} value={wanted} onChange={choose} />}>
      {failed.value !== null && <p class="warning" role="alert">The history can't be read: {failed.value}.</p>}
      {isQuiet && <Empty title={`No traffic in the last ${wanted}.`}><p>What Nix reads through peerix is drawn here by where it came from, and what peers get.</p></Empty>}
      {told !== null && !isQuiet && <><Plot told={told} /><Legend told={told} /></>}
      {told === null && failed.value === null && <div class="plot" aria-busy="true" />}
    </Section>
  );
}
