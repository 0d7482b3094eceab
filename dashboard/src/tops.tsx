// The paths that were asked for most, and those that peers got most.
import { tops } from "./daemon";
import { count, counted } from "./format";
import { Empty, PathName, Section, Who } from "./parts";
import type { Counted } from "./types";

const PEERS = 3;

function List({ paths }: { paths: Counted[] }) {
  const most = paths[0]?.count ?? 1;
  return (
    <ol class="ranking">
      {paths.map((path) => {
        const peers = Object.entries(path.peers ?? {}).sort((a, b) => b[1] - a[1]);
        return (
          <li key={path.hash}>
            <div class="line"><PathName name={path.name} hash={path.hash} /><span class="num">{count(path.count)}</span></div>
            <div class="bar thin" aria-hidden="true"><span class="fill" style={{ width: `${(100 * path.count) / most}%` }} /></div>
            {peers.length > 0 && (
              <p class="quiet">
                to {peers.slice(0, PEERS).map(([id], index) => <>{index > 0 && ", "}<Who id={id} /></>)}
                {peers.length > PEERS && ` and ${counted(peers.length - PEERS, "other")}`}
              </p>
            )}
          </li>
        );
      })}
    </ol>
  );
}

export function Requested() {
  const told = tops.value;
  return (
    <Section id="requested" title="Most requested" aside={told !== null && <span class="quiet">{counted(told.total_requested, "request")}</span>}>
      {told !== null && told.requested.length > 0
        ? <List paths={told.requested} />
        : <Empty title="Nix has not asked for a path yet." />}
    </Section>
  );
}

export function Served() {
  const told = tops.value;
  return (
    <Section id="served" title="Most given to peers" aside={told !== null && <span class="quiet">{counted(told.total_served, "path")}</span>}>
      {told !== null && told.served.length > 0
        ? <List paths={told.served} />
        : <Empty title="No peer has fetched anything from here yet."><p>Peers ask by themselves once they need a path that is offered here.</p></Empty>}
    </Section>
  );
}
