// Small pieces that several sections use.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { host, short, sizeParts } from "./format";
import type { Source } from "./types";

export const SOURCE_NAMES: Record<Source, string> = {
  own_store: "Own store",
  lan: "Local network",
  direct: "Peers, direct",
  relayed: "Peers, relayed",
  upstream: "Upstream cache",
};

export function Section(props: {
  id: string;
  title: string;
  aside?: ComponentChildren;
  wide?: boolean;
  children: ComponentChildren;
}) {
  const heading = `${props.id}-heading`;
  return (
    <section id={props.id} class={props.wide ? "card wide" : "card"} aria-labelledby={heading}>
      <header>
        <h2 id={heading}>{props.title}</h2>
        {props.aside}
      </header>
      {props.children}
    </section>
  );
}

/** A size whose unit steps back behind its number. */
export function Amount({ bytes, perSecond }: { bytes: number; perSecond?: boolean }) {
  const [value, unit] = sizeParts(bytes);
  return <span class="amount">{value}<span class="unit">{`\u202f${unit}${perSecond ? "/s" : ""}`}</span></span>;
}

export function Dot({ source }: { source: Source }) {
  return <span class={`dot ${source}`} aria-hidden="true" />;
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="empty"><p class="title">{title}</p>{children}</div>;
}

/** A text that can be copied; `shown` stands for it where it is long. */
export function Copy({ text, shown, what }: { text: string; shown?: string; what: string }) {
  const [said, say] = useState<string | null>(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch {
      // Not every browser lets pages without TLS do that.
      say("Select it and press Ctrl+C");
    }
    setTimeout(() => say(null), 2500);
  };
  return (
    <span class="copy">
      <code title={text}>{shown ?? text}</code>
      <button type="button" class="small" onClick={() => void copy()} aria-label={`Copy ${what}`}>Copy</button>
      <span role="status" class="said">{said}</span>
    </span>
  );
}

/** How much of a whole is done. */
export function Progress(props: { value: number; max: number; label: string }) {
  const share = props.max > 0 ? Math.min(1, props.value / props.max) : 0;
  return (
    <div
      class="bar"
      role="progressbar"
      aria-label={props.label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(100 * share)}
    >
      <span class="fill" style={{ width: `${100 * share}%` }} />
    </div>
  );
}

/** Buttons of which one is pressed. */
export function Choice<T extends string>(props: {
  label: string;
  options: readonly (readonly [T, string])[];
  value: T;
  onChange: (value: T) => void;
}) {
  return (
    <div class="choice" role="group" aria-label={props.label}>
      {props.options.map(([value, text]) => (
        <button
          key={value}
          type="button"
          aria-pressed={value === props.value}
          onClick={() => props.onChange(value)}
        >{text}</button>
      ))}
    </div>
  );
}

/** A text in which backticks stand around what is typed. */
export function Words({ text }: { text: string }) {
  return <>{text.split("`").map((part, index) => index % 2 === 1 ? <code key={index}>{part}</code> : part)}</>;
}

/** A path's name, or its hash where the name is not known. */
export function PathName({ name, hash }: { name: string; hash: string }) {
  return name === ""
    ? <code class="path" title={hash}>{hash}</code>
    : <span class="path" title={`${hash}-${name}`}>{name}</span>;
}

/** Who gave or got something: peers by the start of their ids. */
export function Who({ id }: { id: string }) {
  return /^[0-9a-f]{16,64}$/.test(id)
    ? <code title={id}>{short(id)}</code>
    : <span title={id}>{host(id)}</span>;
}
