"use strict";
// Sends files to /api/detect, one after the other, and shows what comes back. Text goes into the page
// as text only.
(() => {
  const byId = (id) => document.getElementById(id);
  const form = byId("form"), input = byId("file"), drop = byId("drop"), stage = byId("stage");
  const SVG = "http://www.w3.org/2000/svg";
  const VERDICTS = {
    no_face_found: "No face found", no_forgery_found: "No forgery found", unclear: "Unclear",
    forged_face_found: "Forged face found",
  };
  const { reasons: REASONS, treatments: TREATMENTS, sentences: SENTENCES } = JSON.parse(form.dataset.texts);
  const LINES = 5; // styles of lines
  const COLOURS = { real: "--real", fake: "--fake", unclear: "--unclear" };
  const ASK_MS = 1000; // how often the place in the queue is asked for
  const FRAME_MS = 10000; // that a browser gets to show a frame of a video
  let running = null; // of the upload at hand: what ends it
  let waiting = []; // files that are sent after it
  let counts = { done: 0, failed: 0 }; // of the files since none was left
  let addresses = []; // of blobs, to be given back
  let redraw = () => {}; // shows the faces of what is on the stage again

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const drawn = (name, attributes, ...children) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const address = (blob) => {
    const url = URL.createObjectURL(blob);
    addresses.push(url);
    return url;
  };
  const percent = (p) => {
    const rounded = Math.round(100 * p);
    if (rounded === 100 && p < 1) return ">99%";
    if (rounded === 0 && p > 0) return "<1%";
    return `${rounded}%`;
  };
  const say = (text, isError = false) => {
    byId("status").textContent = text;
    byId("status").classList.toggle("error", isError);
  };
  const bytes = (count) => `${Number((count / (count >= 1e6 ? 1e6 : 1e3)).toPrecision(3))} ${count >= 1e6 ? "MB" : "kB"}`;
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
  const label = (face) => face.verdict;
  const capital = (word) => word[0].toUpperCase() + word.slice(1);
  const labelText = (face) => {
    const p = face.fake_probability;
    if (label(face) !== "real") return `${label(face).toUpperCase()} ${percent(p)}`;
    return p > 0.5 ? `REAL? FAKE ${percent(p)}` : `REAL ${percent(1 - p)}`;
  };

  // COCO's compressed RLE: runs of 0 and 1 down the columns, each number in groups of 5 bits, from the
  // third on as a difference to the one before the last
  const runsOf = (text) => {
    const runs = [];
    for (let at = 0; at < text.length;) {
      let value = 0, shift = 0, group;
      do {
        group = text.charCodeAt(at++) - 48;
        value |= (group & 31) << shift;
        shift += 5;
      } while (group & 32);
      if (group & 16) value |= -1 << shift;
      runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    }
    return runs;
  };
  const masks = new WeakMap(); // face -> address of its mask as a picture of its box
  const maskOf = (face) => {
    if (!face.segmentation) return null;
    if (masks.has(face)) return masks.get(face);
    const [left, top] = face.bbox.slice(0, 2).map(Math.floor);
    const across = Math.ceil(face.bbox[0] + face.bbox[2]) - left, down = Math.ceil(face.bbox[1] + face.bbox[3]) - top;
    const canvas = element("canvas", { width: Math.max(1, across), height: Math.max(1, down) });
    const pen = canvas.getContext("2d");
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(COLOURS[label(face)]);
    const height = face.segmentation.size[0];
    let at = 0;
    runsOf(face.segmentation.counts).forEach((length, place) => {
      if (place % 2) {
        for (let start = at, end = at + length; start < end;) {
          const x = Math.floor(start / height), y = start % height, run = Math.min(end - start, height - y);
          pen.fillRect(x - left, y - top, 1, run);
          start += run;
        }
      }
      at += length;
    });
    const drawing = { x: left, y: top, width: canvas.width, height: canvas.height, href: canvas.toDataURL() };
    masks.set(face, drawing);
    return drawing;
  };
  const drawMask = (face) => {
    const mask = maskOf(face);
    return mask ? [drawn("image", { ...mask, class: "mask", opacity: 0.35, preserveAspectRatio: "none" })] : [];
  };
  let heats = 0; // so that every mask of heat has a name of its own
  const drawHeat = (face) => {
    if (!face.heat_map) return [];
    const [x, y, width, height] = face.heat_map.bbox, id = `heat-${heats += 1}`;
    const href = `data:image/png;base64,${face.heat_map.png}`;
    const grid = drawn("image", { x, y, width, height, href, preserveAspectRatio: "none" });
    const rect = { x, y, width, height, fill: "#ffd400", "fill-opacity": 0.8, mask: `url(#${id})` };
    return [drawn("mask", { id }, grid), drawn("rect", rect)];
  };

  const boxes = (faces, width, height) => {
    const overlay = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    const size = Math.max(11, Math.sqrt(width * height) * 0.03);
    for (const face of faces) {
      if (byId("show-masks").checked) overlay.append(...drawMask(face));
      if (byId("show-heat").checked) overlay.append(...drawHeat(face));
    }
    for (const face of faces) {
      const [x, y, w, h] = face.bbox;
      const place = { x, y, width: w, height: h };
      overlay.append(drawn("rect", { ...place, class: "box rim" }));
      overlay.append(drawn("rect", { ...place, class: `box ${label(face)}` }));
      const above = y > size * 1.3 ? y - size * 0.3 : Math.min(height, y + h + size);
      const plate = { x, y: above, "font-size": size, class: `plate on-${label(face)}` };
      overlay.append(drawn("text", plate, labelText(face)));
    }
    return overlay;
  };

  const byFrame = (results) => {
    const faces = new Map(results.images.map((image) => [image.id, []]));
    for (const face of results.results) faces.get(face.image_id).push(face);
    return results.images.map((image) => ({ ...image, faces: faces.get(image.id) }));
  };

  const showPicture = (file, image) => {
    const picture = element("img", { alt: `The picture, ${plural(image.faces.length, "face")} marked` });
    picture.onerror = () => stage.replaceChildren(
      element("p", { className: "quiet" }, "This browser cannot show this kind of picture."));
    picture.src = address(file);
    stage.replaceChildren(picture, boxes(image.faces, image.width, image.height));
    redraw = () => {
      if (stage.firstChild === picture) stage.replaceChildren(picture, boxes(image.faces, image.width, image.height));
    };
    return picture.src;
  };

  const showVideo = (file, frames) => {
    const video = element("video", { controls: true, muted: true, playsInline: true });
    video.setAttribute("aria-label", "The video, faces marked");
    video.onerror = () => stage.replaceChildren(
      element("p", { className: "quiet" }, "This browser cannot show this kind of video."));
    const draw = () => {
      let at = 0;
      while (at + 1 < frames.length && frames[at + 1].time_s <= video.currentTime + 0.02) at += 1;
      const { faces, width, height } = frames[at];
      if (stage.lastChild !== video) stage.lastChild.remove(); // the video itself must stay put
      stage.append(boxes(faces, width, height));
    };
    stage.replaceChildren(video);
    redraw = () => { if (frames.length && stage.lastChild !== video) draw(); };
    if (!frames.length) return;
    for (const name of ["loadeddata", "seeked", "timeupdate"]) video.addEventListener(name, draw);
    if ("requestVideoFrameCallback" in video) {
      const next = () => { draw(); video.requestVideoFrameCallback(next); };
      video.requestVideoFrameCallback(next);
    }
    video.src = address(file);
  };

  // A face of a video has one verdict, that of its track, in every frame
  const withTrackVerdicts = (frames, tracks) => {
    const known = new Map(tracks.map((track) => [track.track_id, track]));
    return frames.map((frame) => ({ ...frame, faces: frame.faces.map((face) => {
      const { verdict, fake_probability } = known.get(face.track_id) || face;
      return { ...face, verdict, fake_probability };
    }) }));
  };
  const clock = (seconds) => {
    const tenths = Math.round(10 * seconds), whole = Math.floor(tenths / 10), rest = tenths % 10;
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}${rest ? `.${rest}` : ""}`;
  };
  const span = ([start, end]) => clock(start) === clock(end) ? clock(start) : `${clock(start)}–${clock(end)}`;
  const pointsOf = (frames, track) => frames.flatMap((frame) => frame.faces
    .filter((face) => face.track_id === track.track_id)
    .map((face) => [frame.time_s, face.fake_probability]));

  const showTimeline = (tracks, end, threshold) => {
    byId("timeline").hidden = !tracks.length;
    if (!tracks.length) return;
    const plot = drawn("svg", { viewBox: "0 -0.03 1 1.06", preserveAspectRatio: "none", "aria-hidden": "true" });
    if (Number.isFinite(threshold)) {
      plot.append(drawn("line", { x1: 0, x2: 1, y1: 1 - threshold, y2: 1 - threshold }));
    }
    tracks.forEach((points, position) => {
      const places = points.map(([t, p]) => `${end ? t / end : 0},${1 - p}`);
      if (places.length === 1) places.push(places[0]);
      plot.append(drawn("polyline", { points: places.join(" "), class: `line-${position % LINES}` }));
    });
    byId("plot").replaceChildren(plot, element("span", { className: "quiet" },
      `From 0 to ${end.toFixed(1)} seconds; bottom 0, top 1; dotted: the threshold, ${threshold}`));
    byId("plot").setAttribute("aria-label", `P(fake) over time of ${plural(tracks.length, "face")}`);
  };

  const fillTable = (heads, rows) => {
    const table = byId("faces");
    table.tHead.rows[0].replaceChildren(...heads.map((text) => element("th", { scope: "col" }, text)));
    table.tBodies[0].replaceChildren(...rows.map((cells) =>
      element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))));
    table.hidden = !rows.length;
  };

  // The page of a face: what it shows, how firm it is, and what that means
  const near = (provenance) => {
    const rule = provenance.unclear || {};
    return [rule.below || 0, rule.above || 0];
  };
  const verdictAt = (p, provenance) => {
    const threshold = provenance.fake_threshold, [below, above] = near(provenance);
    if (p >= threshold - below && p < threshold + above) return "unclear";
    return p >= threshold ? "fake" : "real";
  };
  const listed = (texts) => texts.length > 1 ? `${texts.slice(0, -1).join(", ")} or ${texts[texts.length - 1]}` : texts[0];
  // Of a person in a video one frame of many was treated: how firm that one is
  const firmFrame = ({ fake_probability: alone, stability }, provenance) => {
    const told = Object.entries(stability || {}), own = verdictAt(alone, provenance);
    const named = (chosen) => listed(chosen.map(([name]) => TREATMENTS[name]));
    const changed = told.filter(([, p]) => p !== null && verdictAt(p, provenance) !== own);
    const lost = told.filter(([, p]) => p === null);
    if (changed.length) return SENTENCES.frame_changed.replace("{treatments}", named(changed));
    if (lost.length) return SENTENCES.frame_lost.replace("{treatments}", named(lost));
    return told.length ? SENTENCES.frame_steady : "";
  };
  const meaning = (face, provenance) => {
    const why = (face.unclear_because || []).map((name) => REASONS[name]).join("; ");
    if (label(face) === "unclear") return SENTENCES.unclear.replace("{why}", () => why);
    const told = Object.entries(face.stability || {});
    if (face.evidence) return SENTENCES[label(face)].replace("{firm}", firmFrame(face.evidence, provenance));
    const named = (chosen) => listed(chosen.map(([name]) => TREATMENTS[name]));
    const changed = told.filter(([, p]) => p !== null && verdictAt(p, provenance) !== label(face));
    const lost = told.filter(([, p]) => p === null);
    if (changed.length) return SENTENCES[`${label(face)}_changed`].replace("{treatments}", named(changed));
    const firm = lost.length ? SENTENCES.lost.replace("{treatments}", named(lost)) : told.length ? SENTENCES.steady : "";
    return SENTENCES[label(face)].replace("{firm}", firm);
  };
  const figures = (face, provenance) => {
    const shown = face.evidence, stability = (shown || face).stability, alone = (shown || face).fake_probability;
    const told = Object.values(stability || {}).filter((p) => p !== null), range = [alone, ...told];
    const what = shown ? "frame that is shown" : "picture as it is";
    const moves = stability && `${Math.min(...range).toFixed(3)} to ${Math.max(...range).toFixed(3)}, over the ${what} and ${plural(told.length, "treated picture")}`;
    const formed = shown && `formed over ${plural(face.seen_frames, "frame")}`;
    const [, , width, height] = (shown || face).bbox;
    return [
      ["P(fake)", `${face.fake_probability.toFixed(3)}; forged from ${provenance.fake_threshold} on`],
      ["Its uncertainty", [formed, moves || (shown ? null : "not measured: see the options above")].filter(Boolean).join("; ")],
      ...(shown ? [] : [["Score", `${face.score.toFixed(3)}: how sure it is that there is a face`]]),
      ["Size", `${Math.round(width)} × ${Math.round(height)} pixels`],
      ...(shown ? [
        ["Seen", `${span([face.first_time_s, face.last_time_s])}, forged in ${face.forged_frames} of ${plural(face.seen_frames, "frame")}`],
        ["Shown", `the frame at ${clock(shown.time_s)}, where it looks most forged: P(fake) ${alone.toFixed(3)} alone`],
      ] : []),
      ...Object.entries(stability || {}).map(([name, value]) => [
        capital(TREATMENTS[name]), value === null ? "the face is not found again" : `P(fake) ${value.toFixed(3)}: ${verdictAt(value, provenance)}`]),
      ...(face.unclear_because ? [["Unclear because", face.unclear_because.map((name) => REASONS[name]).join("; ")]] : []),
    ];
  };
  // face: of a picture, or a person of a video with its evidence; image: the picture or frame, its
  // source (null: this browser cannot show it) and the file to compare with an original
  const showFace = (face, what, image, provenance) => {
    const at = { ...(face.evidence || face), verdict: face.verdict };
    const [x, y, w, h] = at.bbox, border = 0.15 * Math.max(w, h);
    const left = Math.max(0, Math.floor(x - border)), top = Math.max(0, Math.floor(y - border));
    const right = Math.min(image.width, Math.ceil(x + w + border)), bottom = Math.min(image.height, Math.ceil(y + h + border));
    const view = (caption, ...over) => {
      const picture = drawn("image", { href: image.source, width: image.width, height: image.height, preserveAspectRatio: "none" });
      const frame = drawn("svg", { viewBox: `${left} ${top} ${right - left} ${bottom - top}`, role: "img", "aria-label": caption }, picture, ...over);
      return element("figure", {}, frame, element("figcaption", {}, caption));
    };
    const mask = drawMask(at), heat = drawHeat(at);
    byId("face-views").replaceChildren(...(image.source === null
      ? [element("p", { className: "quiet" }, "This browser cannot show this frame.")]
      : [
        view("As it is, nothing drawn on it"),
        ...(mask.length ? [view("With its mask: what was judged as the face", ...mask)] : []),
        ...(heat.length ? [view("Heat map: the more yellow, the more the face method goes by it", ...heat)] : []),
      ]));
    byId("face-heading").replaceChildren(
      element("span", { className: `verdict ${label(face)}` }, capital(label(face))), ` ${what}`);
    byId("face-meaning").textContent = meaning(face, provenance);
    byId("face-facts").replaceChildren(...figures(face, provenance).flatMap(
      ([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
    byId("face-compare").parentElement.hidden = !image.file;
    byId("face-compare").onclick = (event) => { event.preventDefault(); compareWith(image.file); };
    byId("face").showModal();
  };
  // A frame of a video as a picture, as this browser decodes it; null where it does not
  const frameOf = (file, time) => new Promise((resolve) => {
    const video = element("video", { muted: true, playsInline: true, preload: "auto" });
    const giveUp = setTimeout(() => resolve(null), FRAME_MS);
    const end = (blob) => { clearTimeout(giveUp); resolve(blob); };
    video.onerror = () => end(null);
    video.onloadeddata = () => { video.currentTime = time + 0.001; };
    video.onseeked = () => {
      const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob(end, "image/png");
    };
    video.src = address(file);
  });
  const showPerson = async (track, file, results) => {
    const { width, height, frame, time_s: time } = track.evidence, name = results.files[0].file_name;
    const picture = await frameOf(file, time);
    const copy = picture && new File([picture], `${name} frame ${frame}.png`, { type: "image/png" });
    const image = { width, height, source: picture && address(picture), file: copy };
    showFace(track, `Person ${track.track_id} of ${name}`, image, results.provenance);
  };

  // Comparing a picture with an original: the server lays one over the other
  const compareWith = (file) => {
    const held = new DataTransfer();
    held.items.add(file);
    byId("compare-picture").files = held.files;
    byId("face").close();
    byId("compare").open = true;
    byId("compare-original").focus();
  };
  const compare = async () => {
    const tell = (text, isError = false) => {
      byId("compare-status").replaceChildren(text);
      byId("compare-status").classList.toggle("error", isError);
    };
    const body = new FormData(byId("compare-form"));
    if (body.get("picture").size + body.get("original").size > Number(form.dataset.bytes)) {
      return tell(`The two have more than ${bytes(Number(form.dataset.bytes))}.`, true);
    }
    tell("Comparing …");
    try {
      const answer = await fetch("/api/compare", { method: "POST", body }), content = await answer.json();
      if (!answer.ok) return tell(content.error.message, true);
      const page = URL.createObjectURL(new Blob([content.page], { type: "text/html" })); // kept: it may be open
      tell(`${content.sentence} `);
      byId("compare-status").append(element("a", { href: page, target: "_blank" }, "Look at the comparison"));
    } catch { tell("The server cannot be reached, or its answer cannot be read.", true); }
  };

  const show = (file, results) => {
    byId("show-heat").parentElement.hidden = !results.results.some((face) => face.heat_map);
    for (const url of addresses) URL.revokeObjectURL(url);
    addresses = [];
    const outcome = results.files[0], frames = byFrame(results), isVideo = outcome.kind === "video";
    byId("verdict").className = `verdict ${outcome.verdict}`;
    byId("verdict").textContent = VERDICTS[outcome.verdict];
    const told = [outcome.file_name];
    if (isVideo) {
      const tracks = outcome.track_verdicts || [], last = frames.length ? frames[frames.length - 1].time_s : 0;
      const unclear = outcome.unclear_tracks ? `, ${outcome.unclear_tracks} unclear` : "";
      told.push(`${plural(outcome.tracks || 0, "face")} followed through ${plural(outcome.analysed_frames, "frame")}, ${outcome.forged_tracks || "none"} forged${unclear}`);
      if (outcome.fake_probability !== undefined) told.push(`P(fake) ${outcome.fake_probability.toFixed(3)}`);
      showVideo(file, withTrackVerdicts(frames, tracks));
      showTimeline(tracks.map((track) => pointsOf(frames, track)), last, results.provenance.fake_threshold);
      fillTable(["Face", "Verdict", "P(fake)", "Seen", "Looks forged in", "Forged moments", "Why unclear"],
        tracks.map((track) => [
          !track.evidence ? `#${track.track_id}` : element("button", {
            type: "button", ariaLabel: `Look at person ${track.track_id}`, onclick: () => showPerson(track, file, results),
          }, `#${track.track_id}`), capital(track.verdict), track.fake_probability.toFixed(3),
          span([track.first_time_s, track.last_time_s]), `${track.forged_frames} of ${plural(track.seen_frames, "frame")}`,
          track.forged_moments.map(span).join(", "),
          (track.unclear_because || []).map((name) => REASONS[name]).join("; "),
        ]));
    } else {
      const unclear = outcome.unclear_faces ? `, ${outcome.unclear_faces} unclear` : "";
      told.push(`${plural(outcome.faces, "face")}, ${outcome.forged_faces || "none"} forged${unclear}`);
      const source = showPicture(file, frames[0]);
      byId("timeline").hidden = true;
      fillTable(["Face", "Verdict", "P(fake)", "Score", "Size", "Why unclear"], frames[0].faces.map((face, position) => [
        element("button", {
          type: "button", ariaLabel: `Look at face ${position + 1}`,
          onclick: () => showFace(
            face, `Face ${position + 1} of ${frames[0].file_name}`, { ...frames[0], source, file }, results.provenance),
        }, String(position + 1)), capital(label(face)), face.fake_probability.toFixed(3),
        face.score.toFixed(3), `${Math.round(face.bbox[2])} × ${Math.round(face.bbox[3])}`,
        (face.unclear_because || []).map((name) => REASONS[name]).join("; "),
      ]));
    }
    if (outcome.reason) told.push(outcome.reason);
    byId("summary").textContent = told.join(" · ");
    const { model, weights_sha256: hash, fake_threshold: threshold, calibration, knowledge } = results.provenance;
    byId("origin").textContent = [
      `Model: ${model}`, hash && `SHA-256 ${hash.slice(0, 12)}…`, `forged from P(fake) = ${threshold}`,
      calibration && calibration.state,
    ].filter(Boolean).join(", ") + (knowledge ? `. ${knowledge}` : "");
    byId("download").href = address(new Blob([JSON.stringify(results, null, 1)], { type: "application/json" }));
    byId("result").hidden = false;
    byId("result").focus();
  };

  // XMLHttpRequest, for it alone tells how much has been sent
  const post = (path, body, signal, onProgress, onSent) => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "text";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.upload.onload = onSent;
    request.onload = () => {
      try {
        resolve({ ok: request.status >= 200 && request.status < 300, content: JSON.parse(request.responseText) });
      } catch { reject(new Error("no JSON")); }
    };
    request.onerror = () => reject(new Error("no answer"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });

  // Says how many files come before this one, as long as that is so
  const tellPlace = async (file, ticket, signal) => {
    while (!signal.aborted) {
      await new Promise((resolve) => setTimeout(resolve, ASK_MS));
      if (signal.aborted) return;
      try {
        const answer = await fetch(`/api/queue/${ticket}`, { signal });
        if (signal.aborted || !answer.ok) continue;
        const { ahead } = await answer.json();
        if (!signal.aborted) say(ahead ? `${file.name} waits: ${plural(ahead, "file")} before it in the queue.` : `Looking at ${file.name} …`);
      } catch { return; }
    }
  };

  const listUpload = (file) => {
    const state = element("span", { className: "state quiet" }, "waits");
    const item = element("li", {}, element("span", { className: "name" }, file.name), element("span", { className: "quiet" }, bytes(file.size)), state);
    byId("uploads").append(item);
    return (text, results = null, isError = false) => {
      state.replaceChildren(text);
      state.className = isError ? "state error" : "state";
      if (!results) return;
      state.className = `state verdict ${results.files[0].verdict}`;
      const button = element("button", { type: "button", onclick: () => show(file, results) }, "Show");
      button.ariaLabel = `Show ${file.name}`;
      item.append(button);
    };
  };

  const send = async ({ file, tell }, mine) => {
    if (file.size > Number(form.dataset.bytes)) {
      const text = `it has ${bytes(file.size)}, more than the ${bytes(Number(form.dataset.bytes))} allowed.`;
      tell(text, null, true);
      say(`${file.name}: ${text}`, true);
      return false;
    }
    const ended = new AbortController(), ticket = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const bar = byId("progress");
    bar.value = 0;
    bar.hidden = false;
    say(`Sending ${file.name} …`);
    tell("is sent");
    try {
      const body = new FormData();
      if (byId("stability").checked) body.append("stability", "true");
      if (byId("heat") && byId("heat").checked) body.append("heat_maps", "true");
      body.append("file", file);
      const { ok, content } = await post(`/api/detect?ticket=${ticket}`, body, mine.signal, (share) => { bar.value = share; }, () => {
        bar.hidden = true;
        if (mine.signal.aborted) return;
        say(`Looking at ${file.name} …`);
        tell("is looked at");
        tellPlace(file, ticket, ended.signal);
      });
      ended.abort();
      if (!ok) throw new Error(content.error.message);
      tell(VERDICTS[content.files[0].verdict], content);
      if (byId("result").hidden) show(file, content); // of several the first; the list shows the others
      return true;
    } catch (error) {
      if (error.name === "AbortError") throw error;
      const known = { "no answer": "the server cannot be reached, or closed the connection.", "no JSON": "the server's answer cannot be read." };
      const text = known[error.message] || error.message;
      tell(text, null, true);
      say(`${file.name}: ${text}`, true);
      return false;
    } finally {
      ended.abort();
      bar.hidden = true;
    }
  };

  const work = async () => {
    const mine = running = new AbortController();
    byId("cancel").hidden = false;
    counts = { done: 0, failed: 0 };
    try {
      while (waiting.length) {
        const next = waiting.shift();
        current = next;
        counts[await send(next, mine) ? "done" : "failed"] += 1;
      }
      const { done, failed } = counts;
      if (done && failed) say(`Done: ${plural(done, "file")}; ${failed} failed, see the list.`);
      else if (done) say(done > 1 ? `Done: ${plural(done, "file")}.` : "Done.");
      else if (failed > 1) say(`${plural(failed, "file")} failed, see the list.`, true);
    } catch {
      for (const each of [current, ...waiting]) each.tell("cancelled");
      waiting = [];
      say("Cancelled.");
    }
    running = null;
    byId("cancel").hidden = true;
  };

  let current = null;
  const add = (files) => {
    if (!files.length) return;
    if (!running) byId("result").hidden = true;
    waiting.push(...[...files].map((file) => ({ file, tell: listUpload(file) })));
    if (!running) work();
  };
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["show-masks", "show-heat"]) byId(name).addEventListener("change", () => redraw());
  byId("zoom").addEventListener("change", (event) => byId("face").classList.toggle("zoomed", event.target.checked));
  byId("compare-form").addEventListener("submit", (event) => { event.preventDefault(); compare(); });
  byId("cancel").addEventListener("click", () => running && running.abort());
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    window.addEventListener(name, (event) => {
      event.preventDefault(); // or the browser would open the file itself
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  window.addEventListener("drop", (event) => add(event.dataTransfer.files));
  window.addEventListener("paste", (event) => add(event.clipboardData.files));
})();
