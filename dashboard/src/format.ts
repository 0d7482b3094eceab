// Numbers, sizes and times as people read them.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
const whole = new Intl.NumberFormat("en");

/** The number and the unit of a size in bytes, three digits that count. */
export function sizeParts(bytes: number): [string, string] {
  let value = Number.isFinite(bytes) ? Math.max(0, bytes) : 0;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return [value.toFixed(digits), UNITS[unit] ?? "B"];
}

export function size(bytes: number): string {
  return sizeParts(bytes).join("\u202f");
}

export function rate(bytesPerSecond: number): string {
  return `${size(bytesPerSecond)}/s`;
}

export function count(value: number): string {
  return whole.format(Math.round(value));
}

/** `1 path`, `2 paths`. */
export function counted(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** A share in percent; neither 0 nor 100 unless it is. */
export function percent(part: number, of: number): string {
  if (of <= 0) return "0\u202f%";
  const value = (100 * part) / of;
  if (value > 0 && value < 1) return "<\u202f1\u202f%";
  if (value < 100 && value > 99) return ">\u202f99\u202f%";
  return `${Math.round(value)}\u202f%`;
}

export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}\u202fs`;
  if (s < 3600) return `${Math.floor(s / 60)}\u202fmin`;
  if (s < 86_400) return `${Math.floor(s / 3600)}\u202fh ${Math.floor((s % 3600) / 60)}\u202fmin`;
  return `${Math.floor(s / 86_400)}\u202fd ${Math.floor((s % 86_400) / 3600)}\u202fh`;
}

export function milliseconds(ms: number): string {
  if (ms >= 9_999.5) return duration(ms / 1000);
  if (ms >= 999.5) return `${(ms / 1000).toFixed(1)}\u202fs`;
  return ms >= 9.95 ? `${Math.round(ms)}\u202fms` : `${ms.toFixed(1)}\u202fms`;
}

export function ago(time: number, now: number): string {
  const seconds = now - time;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

export function clock(time: number): string {
  return new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export function day(time: number): string {
  return new Date(time * 1000).toLocaleDateString([], { day: "numeric", month: "long", year: "numeric" });
}

/** A URL as short as it can be told. */
export function host(url: string): string {
  return url.replace(/^https?:\/\//, "").replace(/\.?\/$/, "");
}

/** The start of an endpoint id or a hash. */
export function short(id: string): string {
  return id.length > 10 ? id.slice(0, 8) : id;
}

/** Whether this system has pictures of flags: elsewhere they are letters, or boxes. */
const hasFlags = (() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  if (context === null) return false;
  context.font = "16px system-ui";
  context.fillText("\u{1f1eb}\u{1f1f7}", 0, 16);
  const { data } = context.getImageData(0, 0, 32, 24);
  // France has blue and red; letters and boxes are black.
  return data.some((value, index) => index % 4 !== 3 && value > 100);
})();

/** A country's flag, where it has two letters and there is a picture of it. */
export function flag(country: string | null): string {
  if (!hasFlags || country === null || !/^[A-Z]{2}$/.test(country)) return "";
  return String.fromCodePoint(...[...country].map((letter) => 0x1f1e6 + letter.charCodeAt(0) - 65));
}
