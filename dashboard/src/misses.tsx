// Why paths were not found.
import { activity, now, report } from "./daemon";
import { ago, count, counted, percent } from "./format";
import { Empty, PathName, Section, Words } from "./parts";

/** Latest misses that are listed. */
const LATEST = 5;

/** What can be done about a reason, by what the daemon calls it. */
const ADVICE: readonly (readonly [RegExp, string])[] = [
  [/no peer is connected/, "Add one: what `peerix ticket` prints on another machine, as `--peer` here."],
  [/inventory/, "Nobody in the swarm offers these. Usual for what was built here, or is not public."],
  [/asked has it/, "Peers were asked and lack them."],
  [/in time/, "A peer was silent. Peers that stay so are asked less; `peerix peers` tells which."],
  [/signature/, "Whoever has them signed with a key that is not trusted here: see `trusted-public-keys`."],
  [/reference/, "Without an upstream cache, a path is only told of where all it needs can be had."],
];

export function Misses() {
  const traffic = report.value?.traffic;
  if (traffic === undefined) return null;
  const misses = [...traffic.misses].sort((a, b) => b[1] - a[1]);
  const total = misses.reduce((sum, [, times]) => sum + times, 0);
  const latest = activity.value.filter((event) => event.action === "check" && !event.success).slice(0, LATEST);
  return (
    <Section id="misses" title="Not found" aside={<span class="quiet">{count(total)} of {counted(traffic.requests, "request")}</span>}>
      {total === 0
        ? (
          <Empty title={traffic.requests === 0 ? "No requests yet." : "Everything that Nix asked for was found."}>
            <p>When nobody has a path, the reason is counted here.</p>
          </Empty>
        )
        : (
          <ul class="reasons">
            {misses.map(([reason, times]) => (
              <li key={reason}>
                <div class="line"><span class="reason">{reason}</span><span class="num">{count(times)}<span class="quiet"> {percent(times, total)}</span></span></div>
                <div class="bar" aria-hidden="true"><span class="fill miss" style={{ width: `${(100 * times) / total}%` }} /></div>
                <p class="quiet"><Words text={ADVICE.find(([words]) => words.test(reason))?.[1] ?? ""} /></p>
              </li>
            ))}
          </ul>
        )}
      {latest.length > 0 && (
        <>
          <h3>Latest</h3>
          <ul class="plain">
            {latest.map((event) => (
              <li key={event.id}>
                <PathName name={event.name} hash={event.hash} />
                <p class="quiet">{event.reason}, {ago(event.time, now.value)}</p>
              </li>
            ))}
          </ul>
          <p class="quiet">All of it about one path: <code>peerix why /nix/store/…</code></p>
        </>
      )}
    </Section>
  );
}
