// NARs that are arriving, with each provider's share.
import { downloads, now, report } from "./daemon";
import { ago, counted, duration, milliseconds, percent, rate, size } from "./format";
import { Dot, Empty, PathName, Section, Who } from "./parts";
import type { Provider, Transfer } from "./types";

/** Transfers and providers that are shown; the rest is counted. */
const SHOWN = 12;
const PROVIDERS = 8;

function left({ size, done, rate }: Transfer): string {
  if (done >= size) return "checking the whole";
  return rate > 0 ? `${duration((size - done) / rate)} left` : "waiting";
}

function Share({ provider, of }: { provider: Provider; of: number }) {
  return (
    <li>
      <Dot source={provider.source ?? "direct"} />
      <Who id={provider.name} />
      <span class="num">{rate(provider.rate)}</span>
      <span class="num quiet">{size(provider.bytes)}</span>
      <span class="num quiet">{percent(provider.bytes, of)}</span>
    </li>
  );
}

function Row({ transfer }: { transfer: Transfer }) {
  const { given } = transfer;
  // What was here before, and what came twice, make up the difference to what is done.
  const scale = given > 0 ? Math.min(1, transfer.done / given) : 0;
  const before = Math.max(0, transfer.done - given);
  const width = (bytes: number) => ({ width: `${(100 * bytes) / Math.max(1, transfer.size)}%` });
  const others = given - transfer.providers.reduce((sum, provider) => sum + provider.bytes, 0);
  const more = transfer.provider_count - Math.min(PROVIDERS, transfer.providers.length);
  return (
    <li class="transfer">
      <div class="line">
        <PathName name={transfer.name} hash={transfer.hash} />
        <span class="num rate">{rate(transfer.rate)}</span>
      </div>
      <div
        class="bar thick"
        role="progressbar"
        aria-label={`Arrived of ${transfer.name}`}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.floor((100 * transfer.done) / Math.max(1, transfer.size))}
      >
        {before > 0 && <span class="fill own_store" style={width(before)} title="Here before" />}
        {transfer.providers.map((provider) => (
          <span
            key={provider.name}
            class={`fill ${provider.source ?? "direct"}`}
            style={width(provider.bytes * scale)}
            title={provider.name}
          />
        ))}
        {others > 0 && <span class="fill direct" style={width(others * scale)} title="Others" />}
      </div>
      <p class="line quiet">
        <span class="num">{size(transfer.done)} of {size(transfer.size)}, {percent(transfer.done, transfer.size)}</span>
        <span class="num">{left(transfer)}</span>
      </p>
      <ul class="providers">
        {transfer.providers.slice(0, PROVIDERS).map((provider) => (
          <Share key={provider.name} provider={provider} of={given} />
        ))}
        {more > 0 && <li class="quiet">and {counted(more, "more provider")}</li>}
      </ul>
    </li>
  );
}

function Latest() {
  const event = downloads.value.find((event) => event.success);
  if (event === undefined) {
    return <p>While Nix downloads, each path shows here with who sends it and how fast.</p>;
  }
  const took = event.took_ms ?? 0;
  return (
    <p>
      The last one was <PathName name={event.name} hash={event.hash} />, {ago(event.time, now.value)}: {size(event.size)}
      {took > 0 && <> in {milliseconds(took)} ({rate((1000 * event.size) / took)})</>} from {event.source}.
    </p>
  );
}

export function Transfers() {
  const transfers = report.value?.transfers ?? [];
  const more = transfers.length - SHOWN;
  return (
    <Section id="transfers" title="Arriving" wide aside={transfers.length > 0 && <span class="quiet">{counted(transfers.length, "path")}</span>}>
      {transfers.length === 0
        ? <Empty title="Nothing is arriving now."><Latest /></Empty>
        : <ul class="transfers">{transfers.slice(0, SHOWN).map((transfer) => <Row key={transfer.hash} transfer={transfer} />)}</ul>}
      {more > 0 && <p class="quiet">and {counted(more, "more path")}</p>}
    </Section>
  );
}
