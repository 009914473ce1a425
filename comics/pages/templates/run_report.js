"use strict";
// Shows the rows of the JSON in #run. Text goes into the page as text nodes only.
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const PAGE = 50; // rows
  const byId = (id) => document.getElementById(id);
  const text = byId("text"), show = byId("show"), slider = byId("threshold");
  let threshold = run.threshold; // the slider's steps are coarser than the run's value may be

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const fixed = (value) => (value === null ? "–" : value.toFixed(3));
  const clock = (seconds) => {
    const tenths = Math.round(seconds * 10);
    const minutes = Math.floor(tenths / 600), rest = ((tenths % 600) / 10).toFixed(1);
    const hours = Math.floor(minutes / 60);
    const padded = rest.padStart(4, "0");
    return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${padded}` : `${minutes}:${padded}`;
  };
  const labels = { ...run.verdicts, failed: "Failed", real: "Real", fake: "Fake" };
  const OF_FILE = { fake: "forged_face_found", unclear: "unclear", real: "no_forgery_found" };

  // What a file or face is called at the threshold; at the run's own, what the run called it.
  // doubted: whether it is unclear at any threshold
  const verdictAt = (p, doubted) => {
    const [below, above] = run.near;
    if (doubted || (p >= threshold - below && p < threshold + above)) return "unclear";
    return p >= threshold ? "fake" : "real";
  };
  const worst = (verdicts) => ["fake", "unclear", "real"].find((name) => verdicts.includes(name));
  const isDoubted = (face) => face.doubts.some((name) => name !== "near_threshold");
  const fileVerdict = (file) => {
    if (threshold === run.threshold || file.p === null) return file.verdict;
    // Of a video the tracks that speak for it are known to the run alone; p is the highest of them
    const told = file.video ? [[file.p, 0]] : file.ps;
    return OF_FILE[worst(told.map(([p, doubted]) => verdictAt(p, doubted)))];
  };
  const faceVerdict = (face) => (
    threshold === run.threshold ? face.verdict : verdictAt(face.p, isDoubted(face)));

  const verdict = (row) => {
    const badge = element("span", { className: `verdict ${row.verdict}` }, row.shown);
    return row.reason ? [badge, element("span", { className: "reason" }, row.reason)] : [badge];
  };
  const picture = (row) => {
    if (!row.thumb) return [];
    const image = element("img", { loading: "lazy", alt: `${row.name}: ${row.shown}` });
    image.src = row.thumb;
    const address = row.page || row.link; // of a face: its page, further down
    return address ? [element("a", { href: address }, image)] : [image];
  };
  const facts = (pairs) => {
    const list = element("dl", { className: "facts" });
    for (const [name, told] of pairs) list.append(element("dt", {}, name), element("dd", {}, told));
    return element("details", {}, element("summary", {}, "Chain of custody"), list);
  };
  const name = (row) => {
    const cell = [row.link ? element("a", { href: row.link }, row.name) : row.name];
    if (row.heat) cell.push(" ", element("a", { href: row.heat }, "(heat map)"));
    if (row.facts && row.facts.length) cell.push(facts(row.facts));
    return cell;
  };
  const size = (row) => (row.size ? `${Math.round(row.size[0])} × ${Math.round(row.size[1])}` : "–");
  const time = (row) => (row.time ? row.time.map(clock).join(" – ") : "–");
  const count = (value) => (value === null ? "–" : String(value));

  const CELLS = {
    name, verdict, size, time,
    p: (row) => fixed(row.p), score: (row) => fixed(row.score),
    faces: (row) => count(row.faces), forged: (row) => count(row.forged), unclear: (row) => count(row.unclear), track: (row) => count(row.track),
  };
  // What a column is sorted by; null goes last in either direction
  const KEYS = {
    name: (row) => row.name.toLowerCase(), verdict: (row) => row.shown,
    size: (row) => row.size && row.size[0] * row.size[1], time: (row) => row.time && row.time[0],
  };

  const table = (id, rows) => {
    const body = byId(id).tBodies[0], pages = byId(`${id}-pages`);
    const heads = [...byId(id).querySelectorAll("th")];
    let key = "p", direction = -1, page = 0, found = [];

    const draw = () => {
      const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
      page = Math.min(Math.max(page, 0), last);
      const shown = found.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
        const cells = heads.map((head) => {
          const column = head.dataset.key;
          const cell = element("td", { className: head.className || `column-${column}` });
          cell.append(...[CELLS[column](row)].flat());
          return cell;
        });
        return element("tr", {}, element("td", { className: "picture" }, ...picture(row)), ...cells);
      });
      if (!shown.length) {
        const none = element("td", { colSpan: heads.length + 1 }, `No ${id} to show.`);
        shown.push(element("tr", {}, none));
      }
      body.replaceChildren(...shown);
      pages.hidden = last === 0;
      pages.querySelector("span").textContent = `Page ${page + 1} of ${last + 1}`;
      for (const button of pages.querySelectorAll("button")) {
        const to = page + Number(button.dataset.step);
        button.setAttribute("aria-disabled", String(to < 0 || to > last));
      }
    };
    const sort = () => {
      const value = KEYS[key] || ((row) => row[key]);
      found = rows().map((row) => [value(row), row]);
      found.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return direction * (a < b ? -1 : a > b ? 1 : 0);
      });
      found = found.map(([, row]) => row);
      for (const head of heads) {
        if (head.dataset.key !== key) head.removeAttribute("aria-sort");
        else head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      }
      draw();
    };
    for (const head of heads) {
      head.querySelector("button").addEventListener("click", () => {
        const chosen = head.dataset.key;
        direction = chosen === key ? -direction : head.className === "number" ? -1 : 1;
        key = chosen;
        page = 0;
        sort();
      });
    }
    for (const button of pages.querySelectorAll("button")) {
      button.addEventListener("click", () => { page += Number(button.dataset.step); draw(); });
    }
    return { refresh: () => { page = 0; sort(); return found.length; } };
  };

  const matches = (row) => row.name.toLowerCase().includes(text.value.trim().toLowerCase());
  const isShown = (row) => show.value === "all" || row.verdict === show.value || row.status === show.value;
  const fileRows = () => run.files.map((file) => {
    const judged = fileVerdict(file);
    const told = file.ps.map(([p, doubted]) => verdictAt(p, doubted));
    const number = (name) => (file.verdict === "failed" ? null : told.filter((one) => one === name).length);
    return { ...file, verdict: judged, shown: labels[judged], forged: number("fake"), unclear: number("unclear") };
  }).filter((row) => matches(row) && isShown(row));
  const faceRows = () => run.faces.map((face) => {
    const file = run.files[face.file], judged = faceVerdict(face);
    const doubts = threshold === run.threshold || isDoubted(face) ? face.doubts : ["near_threshold"];
    return {
      ...face, name: file.name, link: file.link, status: file.status, verdict: OF_FILE[judged], shown: labels[judged],
      reason: judged === "unclear" ? doubts.map((name) => run.reasons[name]).join("; ") : null,
    };
  }).filter((row) => matches(row) && isShown(row));

  const tables = { files: table("files", fileRows), faces: table("faces", faceRows) };
  const refresh = () => {
    byId("shown-threshold").textContent = threshold === run.threshold ? run.threshold : threshold.toFixed(2);
    const files = tables.files.refresh(), faces = tables.faces.refresh();
    byId("status").textContent =
      `${files} of ${run.files.length} files and ${faces} of ${run.faces.length} faces match.`;
  };

  // A face's page opens and closes without a script, as the target of its address. Here the keyboard
  // comes along: into the page, and back to where it was opened. Escape closes it.
  let opener = null;
  const opened = () => document.querySelector(".face:target");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || !link.hash.startsWith("#face-") || link.closest(".face")) return;
    opener = link;
  });
  const close = () => { location.hash = "#faces-heading"; };
  window.addEventListener("hashchange", () => {
    if (opened()) opened().focus();
    else if (opener && opener.isConnected) opener.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && opened()) close();
  });

  // What the keyboard reaches is never below the bar that stays on top
  const bar = document.querySelector(".filters");
  new ResizeObserver(() => {
    const sticks = getComputedStyle(bar).position === "sticky";
    document.documentElement.style.scrollPaddingTop = sticks ? `${bar.offsetHeight + 8}px` : "";
  }).observe(bar);

  text.addEventListener("input", refresh);
  show.addEventListener("change", refresh);
  slider.addEventListener("input", () => { threshold = Number(slider.value); refresh(); });
  document.querySelector("form").addEventListener("reset", () => {
    threshold = run.threshold;
    setTimeout(refresh); // after the fields have their values again
  });
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  refresh();
})();
