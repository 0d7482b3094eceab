// Drives the dashboard of a running daemon in Chromium, as a person would. Ends with 1 and says what
// is wrong, or prints its figures as its last line. It asks whoever started it to `stop` and `start`
// the daemon, by a line of standard output each, and waits for a line of standard input.
//
// Its argument is JSON:
//   url       where the daemon listens
//   chromium  the browser's program
//   id        the daemon's endpoint id
//   small     narinfos of small paths that peers have
//   slow      the narinfo of a path that only peers have, slowly
//   missing   a narinfo that nobody has
//   hostile   the name of a path, which wants to be markup
//   pictures  the folder that pictures go to
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const given = JSON.parse(process.argv[2]);
const PATIENCE = 60_000;
const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
  console.log(what);
  await answers.next();
}

const browser = await chromium.launch({
  executablePath: given.chromium,
  // Root in a container has no sandbox to use; the only page is the daemon's own.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
});
const context = await browser.newContext({
  viewport: DESKTOP,
  colorScheme: "light",
  locale: "en-GB",
  reducedMotion: "reduce",
  permissions: ["clipboard-read", "clipboard-write"],
});
const page = await context.newPage();
page.setDefaultTimeout(PATIENCE);

const wrong = [];
let isDown = false;
const own = new URL(given.url).origin;
page.on("request", (request) => {
  const url = new URL(request.url());
  if (url.protocol !== "data:" && url.origin !== own) wrong.push(`a foreign request: ${url}`);
});
page.on("pageerror", (error) => wrong.push(`an error in the page: ${error}`));
page.on("console", (message) => {
  // A daemon that is away makes requests fail, which browsers tell of.
  if (message.type() === "error" && !isDown) wrong.push(`the console says: ${message.text()}`);
});
page.on("dialog", (dialog) => {
  wrong.push(`a name was taken for a script: ${dialog.message()}`);
  void dialog.dismiss();
});
await page.addInitScript(() => {
  window.violations = [];
  addEventListener("securitypolicyviolation", (event) => {
    window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
  });
});

async function until(what, condition, argument) {
  await page.waitForFunction(condition, argument, { timeout: PATIENCE }).catch(() => {
    throw new Error(`did not come: ${what}`);
  });
}
const fetched = async (target) => {
  const answer = await fetch(given.url + target);
  await answer.arrayBuffer();
  return answer.status;
};
/** Asks for a path as Nix does: its narinfo, then the NAR that this names. */
const substituted = async (target) => {
  const narinfo = await (await fetch(given.url + target)).text();
  return fetched(`/${/^URL: (.*)$/m.exec(narinfo)?.[1]}`);
};
const live = () => page.getByRole("status").filter({ hasText: "Live" }).waitFor();
const button = (name) => page.getByRole("button", { name, exact: true });

async function loads() {
  await page.goto(`${given.url}/dashboard`);
  await live();
  await page.evaluate(() => { window.mark = "same page"; });
  assert.equal(await page.title(), "peerix");
  assert.equal(await page.locator("#node code").first().getAttribute("title"), given.id);
  return page.evaluate(() => {
    const [navigation] = performance.getEntriesByType("navigation");
    const files = performance.getEntriesByType("resource").filter((entry) => /app\.|icon/.test(entry.name));
    return {
      first_contentful_paint_ms: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
      transferred_bytes: [navigation, ...files].reduce((sum, entry) => sum + entry.transferSize, 0),
    };
  });
}

async function keepsHostileNamesText() {
  await until("a hostile name as text", (name) => document.querySelector("#activity").innerText.includes(name), given.hostile);
  await page.route("**/dashboard/peers?*", async (route) => {
    const answer = await route.fetch();
    const told = await answer.json();
    for (const peer of told.peers) {
      peer.name = "<script>alert(2)</script>";
      peer.address = '"><svg onload=alert(3)>';
      peer.country = "<b>";
    }
    await route.fulfill({ response: answer, json: told });
  });
  await until("a hostile peer as text", () => document.querySelector("#peers").innerText.includes("<script>alert(2)</script>"));
  assert.equal(await page.locator("main img, main svg, main script").count(), 0);
  await page.unroute("**/dashboard/peers?*");
}

async function tellsOfMisses() {
  assert.equal(await fetched(given.missing), 404);
  await page.locator("#misses .reasons li").first().waitFor();
  await button("Not found").click();
  await until("a filtered log", () => {
    const badges = [...document.querySelectorAll("#activity .badge")];
    return badges.length > 0 && badges.every((badge) => badge.textContent === "Not found");
  });
  await button("All").click();
}

async function followsTransfers() {
  for (const target of given.small) assert.equal(await substituted(target), 200);
  const summary = () => page.locator(".summary").innerText();
  const before = await summary();
  const reading = substituted(given.slow);
  await page.locator("#transfers .transfer").first().waitFor();
  await until("two providers with their speeds", () => {
    const rates = [...document.querySelectorAll("#transfers .providers li")].map((row) => row.innerText);
    return rates.filter((text) => /[1-9].*B\/s/.test(text)).length >= 2;
  });
  await until("progress", () => Number(document.querySelector("#transfers .bar").ariaValueNow) > 60);
  await page.evaluate(() => scrollTo(0, 0));
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.screenshot({ path: `${given.pictures}/dashboard-${scheme}.png` });
  }
  await page.emulateMedia({ colorScheme: "light" });
  assert.equal(await reading, 200);
  await until("the end of the transfer", () => document.querySelector("#transfers .transfer") === null);
  await until("savings", (text) => document.querySelector(".summary").innerText !== text, before);
  await until("a big figure", () => /came from peers/.test(document.querySelector(".verdict").innerText));
  await button("Fetched").click();
  await page.locator("#activity .badge.download").first().waitFor();
  await button("All").click();
}

async function actsOnButtons() {
  const isPaused = async () => (await (await fetch(`${given.url}/scan-status`)).json()).paused;
  const pause = page.locator("#pause");
  assert.equal(await isPaused(), false);
  await pause.click();
  await until("the pause", () => document.querySelector("#pause").textContent === "Resume hashing");
  assert.equal(await isPaused(), true);
  await pause.focus();
  await page.keyboard.press("Enter");
  await until("the end of the pause", () => document.querySelector("#pause").textContent === "Pause hashing");
  assert.equal(await isPaused(), false);
  await page.getByRole("button", { name: "Copy the endpoint id" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), given.id);
  for (const span of ["Day", "Month", "Hour"]) {
    await button(span).click();
    await page.locator("#traffic .legend").waitFor();
    await page.locator("#traffic .choice button[aria-pressed=true]", { hasText: span }).waitFor();
  }
}

async function sortsAndSearchesPeers() {
  await page.locator("#peers tbody tr").nth(1).waitFor();
  await button("Received").click();
  await page.locator("th[aria-sort=descending]", { hasText: "Received" }).waitFor();
  await button("Received").click();
  await page.locator("th[aria-sort=ascending]", { hasText: "Received" }).waitFor();
  const search = page.getByRole("searchbox", { name: "Search for peers by id or address" });
  await search.fill("no such peer");
  await page.getByText("No peer's id or address contains").waitFor();
  await search.fill("");
  await page.locator("#peers tbody tr").first().waitFor();
}

/** The tabulator key goes through every control, and each shows that it has the focus. */
async function worksByKeyboard() {
  await page.evaluate(() => {
    document.activeElement?.blur();
    scrollTo(0, 0);
  });
  const reached = new Set();
  for (let press = 0; press < 60; press += 1) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === null || element === document.body) return null;
      return [element.ariaLabel ?? element.textContent.trim(), getComputedStyle(element).outlineStyle];
    });
    if (focused === null) continue;
    assert.notEqual(focused[1], "none", `nothing shows the focus on ${focused[0]}`);
    reached.add(focused[0]);
  }
  for (const control of ["Skip to the content", "Hour", "Pause hashing", "Search for peers by id or address", "Not found"]) {
    assert.ok(reached.has(control), `the keyboard does not get to ${control}, but to ${[...reached].join(", ")}`);
  }
  for (const control of await page.locator("button, input").all()) {
    assert.notEqual(await control.evaluate((it) => it.ariaLabel ?? it.textContent.trim()), "");
  }
}

/** Text against what is behind it, where both are plain colours: 4.5 to 1 at least. */
async function canBeRead() {
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    const faint = await page.evaluate(() => {
      const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
      const luminance = (colour) => {
        const [red, green, blue] = channels(colour).map((value) => {
          const share = value / 255;
          return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
      };
      const behind = (element) => {
        for (let at = element; at !== null; at = at.parentElement) {
          const colour = getComputedStyle(at).backgroundColor;
          if ((channels(colour)[3] ?? 1) > 0) return colour;
        }
        return "rgb(255, 255, 255)";
      };
      const found = [];
      for (const element of document.querySelectorAll("body *")) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "");
        if (!hasText || element.closest("button:disabled") !== null) continue;
        const [one, other] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (contrast < 4.5) found.push(`${element.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
      }
      return found;
    });
    assert.deepEqual(faint, [], `too faint in the ${scheme} theme`);
  }
  await page.emulateMedia({ colorScheme: "light" });
}

async function fitsAPhone() {
  await page.setViewportSize(PHONE);
  await until("a page that is no wider than a phone", () => document.documentElement.scrollWidth <= innerWidth);
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${given.pictures}/dashboard-phone.png`, fullPage: true });
  await page.setViewportSize(DESKTOP);
}

async function outlivesTheDaemon() {
  isDown = true;
  await ask("stop");
  await page.getByRole("status").filter({ hasText: "No answer from the daemon" }).waitFor();
  await ask("start");
  await live();
  isDown = false;
  // The token is another one now.
  await page.locator("#pause").click();
  await until("the pause", () => document.querySelector("#pause").textContent === "Resume hashing");
}

try {
  const figures = await loads();
  await keepsHostileNamesText();
  await tellsOfMisses();
  await followsTransfers();
  await actsOnButtons();
  await sortsAndSearchesPeers();
  await worksByKeyboard();
  await canBeRead();
  await fitsAPhone();
  isDown = true;
  await outlivesTheDaemon();
  assert.equal(await page.evaluate(() => window.mark), "same page", "it was loaded again");
  const violations = await page.evaluate(() => window.violations);
  assert.deepEqual([...violations, ...wrong], []);
  console.log(JSON.stringify(figures));
} catch (error) {
  await page.screenshot({ path: `${given.pictures}/dashboard-failed.png`, fullPage: true }).catch(() => undefined);
  console.error(`${error.stack}\n${wrong.join("\n")}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
