"use strict";
// Sends a file to /api/detect and shows what comes back. Text goes into the page as text only.
(() => {
  const byId = (id) => document.getElementById(id);
  const form = byId("form"), input = byId("file"), drop = byId("drop"), stage = byId("stage");
  const SVG = "http://www.w3.org/2000/svg";
  const VERDICTS = {
    no_face_found: "No face found", no_forgery_found: "No forgery found", unclear: "Unclear",
    forged_face_found: "Forged face found",
  };
  const REASONS = JSON.parse(form.dataset.reasons); // why a verdict is unclear
  const LINES = 5; // styles of lines
  let running = null; // of the upload at hand: what ends it
  let addresses = []; // of blobs, to be given back

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
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
  const label = (face) => face.verdict;
  const capital = (word) => word[0].toUpperCase() + word.slice(1);
  const labelText = (face) => {
    const p = face.fake_probability;
    if (label(face) !== "real") return `${label(face).toUpperCase()} ${percent(p)}`;
    return p > 0.5 ? `REAL? FAKE ${percent(p)}` : `REAL ${percent(1 - p)}`;
  };

  const boxes = (faces, width, height) => {
    const overlay = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    const size = Math.max(11, Math.sqrt(width * height) * 0.03);
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
      element("tr", {}, ...cells.map((text) => element("td", {}, text)))));
    table.hidden = !rows.length;
  };

  const show = (file, results) => {
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
          `#${track.track_id}`, capital(track.verdict), track.fake_probability.toFixed(3),
          span([track.first_time_s, track.last_time_s]), `${track.forged_frames} of ${plural(track.seen_frames, "frame")}`,
          track.forged_moments.map(span).join(", "),
          (track.unclear_because || []).map((name) => REASONS[name]).join("; "),
        ]));
    } else {
      const unclear = outcome.unclear_faces ? `, ${outcome.unclear_faces} unclear` : "";
      told.push(`${plural(outcome.faces, "face")}, ${outcome.forged_faces || "none"} forged${unclear}`);
      showPicture(file, frames[0]);
      byId("timeline").hidden = true;
      fillTable(["Face", "Verdict", "P(fake)", "Score", "Size", "Why unclear"], frames[0].faces.map((face, position) => [
        String(position + 1), capital(label(face)), face.fake_probability.toFixed(3),
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

  const send = async (file) => {
    if (running) running.abort();
    byId("result").hidden = true;
    if (file.size > Number(form.dataset.bytes)) {
      say(`${file.name} has ${file.size} bytes, more than the ${form.dataset.bytes} allowed.`, true);
      return;
    }
    const mine = running = new AbortController();
    byId("cancel").hidden = false;
    say(`Looking at ${file.name} …`);
    try {
      const body = new FormData();
      body.append("file", file);
      const answer = await fetch("/api/detect", { method: "POST", body, signal: mine.signal });
      const content = await answer.json();
      if (running !== mine) return;
      if (answer.ok) {
        show(file, content);
        say("Done.");
      } else {
        say(`${file.name}: ${content.error.message}`, true);
      }
    } catch (error) {
      if (running !== mine) return;
      say(error.name === "AbortError" ? "Cancelled." : "The server cannot be reached, or closed the connection.", true);
    }
    running = null;
    byId("cancel").hidden = true;
  };

  const sendFirst = (files) => {
    if (files.length > 1) say("One file at a time.", true);
    else if (files.length) send(files[0]);
  };
  input.addEventListener("change", () => { sendFirst(input.files); input.value = ""; });
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("cancel").addEventListener("click", () => running && running.abort());
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    window.addEventListener(name, (event) => {
      event.preventDefault(); // or the browser would open the file itself
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  window.addEventListener("drop", (event) => sendFirst(event.dataTransfer.files));
  window.addEventListener("paste", (event) => sendFirst(event.clipboardData.files));
})();
