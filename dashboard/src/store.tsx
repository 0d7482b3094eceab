// What this machine holds and offers, and how far the look at it is.
import { signal } from "@preact/signals";
import { now, pauseScan, report } from "./daemon";
import { ago, count, counted, duration, percent, size } from "./format";
import { Amount, Progress, Section } from "./parts";
import type { Store as Told } from "./types";

const working = signal(false);
const failed = signal<string | null>(null);

async function press(pause: boolean): Promise<void> {
  working.value = true;
  failed.value = null;
  try {
    await pauseScan(pause);
  } catch (error) {
    failed.value = error instanceof Error ? error.message : String(error);
  } finally {
    working.value = false;
  }
}

function Scan({ scan }: { scan: Told["scan"] }) {
  if (scan.active) {
    return (
      <div class="work">
        <p class="line"><span>Looking through the store</span><span class="num">{count(scan.scanned)} of {count(scan.total)}</span></p>
        <Progress value={scan.scanned} max={scan.total} label="Looked through of the store" />
      </div>
    );
  }
  return (
    <p class="quiet">
      {scan.last_scan === null ? "The store was not looked through yet." : `Looked through ${ago(scan.last_scan, now.value)}.`}
      {scan.waiting_for_upstream > 0 && ` ${counted(scan.waiting_for_upstream, "path waits", "paths wait")} for the upstream's word before being offered.`}
    </p>
  );
}

function Hashing({ hashing }: { hashing: Told["hashing"] }) {
  const { paths_left, bytes_left, paths_done, bytes_done, seconds_left, is_paused_by_hand, paused } = hashing;
  const isOver = paths_left === 0;
  return (
    <div class="work">
      <p class="line">
        <span>{is_paused_by_hand
          ? "Hashing is paused"
          : isOver ? "All that is offered is hashed" : paused !== null ? `Hashing waits ${paused}` : "Hashing what is offered"}</span>
        {!isOver && <span class="num">{percent(bytes_done, bytes_done + bytes_left)}</span>}
      </p>
      {!isOver && <Progress value={bytes_done} max={bytes_done + bytes_left} label="Hashed of what is offered" />}
      <p class="line quiet">
        <span class="num">{isOver
          ? paths_done > 0 ? `${counted(paths_done, "path")} since the start` : "Peers are answered at once"
          : `${counted(paths_left, "path")} left, ${size(bytes_left)}`}</span>
        <span class="num">{!isOver && paused === null && seconds_left !== null && `${duration(seconds_left)} left`}</span>
      </p>
      <p>
        <button type="button" id="pause" disabled={working.value} onClick={() => void press(!is_paused_by_hand)}>
          {is_paused_by_hand ? "Resume hashing" : "Pause hashing"}
        </button>
      </p>
      {failed.value !== null && <p class="warning" role="alert">That did not work: {failed.value}. Reload this page, or use <code>peerix scan</code>.</p>}
    </div>
  );
}

export function Store() {
  const store = report.value?.store;
  if (store === undefined) return null;
  return (
    <Section id="store" title="Store">
      <dl class="rows">
        <div><dt>Offered to peers</dt><dd class="num">{count(store.offered)}<small>of {counted(store.paths, "path")}</small></dd></div>
        <div><dt>Hashed</dt><dd class="num">{count(store.hashed)}{store.offered > 0 && <small>{percent(Math.min(store.hashed, store.offered), store.offered)} of what is offered</small>}</dd></div>
        <div><dt>Read from the Nix store, no copy</dt><dd class="num">{count(store.by_reference)}</dd></div>
        <div><dt>Shared by hand</dt><dd class="num">{count(store.shared)}</dd></div>
        <div><dt>Downloads kept</dt><dd class="num">{count(store.downloaded)}<small>{size(store.download_bytes)}</small></dd></div>
        {store.partial > 0 && <div><dt>Downloads to go on with</dt><dd class="num">{count(store.partial)}</dd></div>}
        <div><dt>Hash trees and index</dt><dd class="num"><Amount bytes={store.outboard_bytes} /></dd></div>
      </dl>
      {store.quota_bytes > 0 && (
        <div class="work">
          <p class="line"><span>Space for downloads</span><span class="num">{size(store.download_bytes)} of {size(store.quota_bytes)}</span></p>
          <Progress value={store.download_bytes} max={store.quota_bytes} label="Space used by downloads" />
        </div>
      )}
      <Hashing hashing={store.hashing} />
      <Scan scan={store.scan} />
    </Section>
  );
}
