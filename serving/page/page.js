// What the page does: photos in, a card with an answer for each.
//
// A request holds one photo, so that a bad one leaves the others alone. What comes from the server
// or from a file's name is set as text, never as HTML.

const AT_ONCE = 4; // photos being asked about
const TRIES = 5; // of one request, where the server is busy or wants a token
const AGAIN = 5; // seconds until the model is asked for again, where there is none
const SHOWN = 5; // classes on a card
const NAMED = 12; // classes below the heading
const TOKEN = "lookout-token"; // in sessionStorage
const PASSING = [408, 429, 500, 502, 503, 504]; // the same photo may well be answered later
const LEGEND = "The brighter a place, the more the answer depends on it.";

const byId = (id) => document.getElementById(id);
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

let model = null; // as GET /model told it
let connecting = null; // the promise of a model, while it is asked for
let photos = []; // one a card, in the order in which they were dropped
let queue = []; // those of them that wait
let working = 0; // workers that take from the queue
let cleared = new AbortController(); // stops what is under way for cards that are gone

/** A request without an answer; the message is the sentence for the person. */
class Refusal extends Error {
  constructor(sentence, passing = false) {
    super(sentence);
    this.passing = passing;
  }
}

// The server

function wait(seconds, signal) {
  return new Promise((done) => {
    setTimeout(done, seconds * 1000);
    signal?.addEventListener("abort", done, { once: true });
  });
}

async function send(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal("The server cannot be reached.", true);
  }
}

async function sentence(answer) {
  const told = await answer.json().catch(() => null); // a proxy in between answers in HTML
  return told?.message ?? `The server refused with status ${answer.status}.`;
}

/** The answer to a request, tried again while the server is busy, or once it has its token. */
async function request(path, options) {
  for (let tries = 1; ; tries += 1) {
    const answer = await send(path, options);
    if (answer.ok) return answer;
    const again = tries < TRIES && !options.signal?.aborted;
    if (again && answer.status === 503) {
      const seconds = Number(answer.headers.get("Retry-After")) || 2;
      await wait(Math.min(seconds, 60), options.signal);
    } else if (again && answer.status === 401) {
      await connect();
    } else {
      throw new Refusal(await sentence(answer), PASSING.includes(answer.status));
    }
  }
}

function post(path, body, type) {
  const headers = type === undefined ? {} : { "Content-Type": type || "application/octet-stream" };
  return request(path, { method: "POST", body, headers, signal: cleared.signal });
}

// The model

/** Resolves when the server has named its model: once its token is here, once it has a model. */
function connect() {
  connecting ??= greet().finally(() => (connecting = null));
  return connecting;
}

async function greet() {
  for (;;) {
    const answer = await send("model").catch((refusal) => refusal);
    if (answer.ok) {
      introduce(await answer.json());
      return;
    }
    if (answer.status === 401) {
      await askForToken();
    } else {
      notice(answer instanceof Refusal ? answer.message : await sentence(answer));
      await wait(AGAIN);
    }
  }
}

function introduce(told) {
  const asked = !byId("token-form").hidden;
  model = told;
  byId("token-form").hidden = true;
  byId("drop").hidden = false;
  notice("");
  heading();
  byId("classes").textContent = `Answers with ${choices(told.classes)}.`;
  if (asked) byId("files").focus();
}

function choices(classes) {
  const named = classes.slice(0, NAMED);
  if (classes.length > NAMED) named.push(`one of ${classes.length - NAMED} others`);
  return new Intl.ListFormat("en", { type: "disjunction" }).format(named);
}

function heading() {
  byId("name").textContent = model.name;
  byId("version").textContent = `version ${model.version}`;
  byId("version").hidden = false;
  document.title = `${model.name}, version ${model.version}`;
}

function follow(told) {
  if (told.name === model.name && told.version === model.version) return;
  model = { ...model, ...told };
  heading();
  connect(); // for its classes
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function askForToken() {
  const wrong = sessionStorage.getItem(TOKEN) !== null;
  notice("");
  byId("token-form").hidden = false;
  byId("token-error").textContent = wrong ? "The server does not know this token." : "";
  byId("token").value = "";
  byId("token").focus();
  return new Promise((done) => {
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN, byId("token").value.trim());
      done();
    };
  });
}

// Photos

function add(files) {
  const added = [...files].map((file) => new Photo(file));
  if (!added.length) return;
  photos.push(...added);
  byId("cards").append(...added.map((photo) => photo.card));
  document.body.classList.add("answering");
  byId("results").hidden = false;
  added[0].alone = added.length === 1;
  added[0].card.scrollIntoView({ block: "nearest" });
  enqueue(added);
}

function enqueue(added) {
  queue.push(...added);
  while (working < AT_ONCE && queue.length) work();
  summarise();
}

async function work() {
  working += 1;
  while (queue.length) {
    await queue.shift().classify();
    summarise();
  }
  working -= 1;
}

function clear() {
  cleared.abort();
  cleared = new AbortController();
  photos.forEach((photo) => photo.forget());
  photos = [];
  queue = [];
  byId("cards").replaceChildren();
  byId("results").hidden = true;
  byId("told").textContent = "";
  document.body.classList.remove("answering");
  byId("files").focus();
}

/** A photo with its card. */
class Photo {
  constructor(file) {
    this.file = file;
    this.urls = [];
    this.card = byId("card").content.firstElementChild.cloneNode(true);
    this.part(".file").textContent = file.name;
    this.part(".file").title = file.name;
    this.part(".why").setAttribute("aria-label", `Why? ${file.name}`);
    this.part(".why").onclick = () => this.explain();
    this.part(".again").onclick = () => this.again();
    this.part(".wrong").setAttribute("aria-label", `Wrong? ${file.name}`);
    this.part(".wrong").onclick = () => this.offerClasses();
    this.part("form").onsubmit = (event) => this.correct(event);
    this.preview();
  }

  part(selector) {
    return this.card.querySelector(selector);
  }

  url(blob) {
    this.urls.push(URL.createObjectURL(blob));
    return this.urls.at(-1);
  }

  forget() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
  }

  preview() {
    const image = this.part(".photo");
    image.alt = this.file.name;
    image.onload = () => {
      const ratio = image.naturalWidth / image.naturalHeight || 1;
      this.part(".frame").style.setProperty("--ratio", ratio);
    };
    image.onerror = () => {
      this.part(".frame").hidden = true;
      this.part(".placeholder").hidden = false;
      this.part(".why").hidden = true; // an overlay of nothing
    };
    image.src = this.url(this.file);
  }

  async classify() {
    const { signal } = cleared;
    try {
      if (!model) await connect();
      await this.check();
      signal.throwIfAborted();
      const answer = await (await post("predict", this.file, this.file.type)).json();
      if (!signal.aborted) this.show(answer);
    } catch (error) {
      if (!signal.aborted) this.refuse(error);
    }
  }

  async check() {
    const bound = model.bounds.bytes;
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    if (this.file.size > bound) {
      const sizes = `${megabytes(this.file.size)} MB, more than the ${megabytes(bound)} MB`;
      throw new Refusal(`The file has ${sizes} that the server takes.`);
    }
    await this.file.slice(0, 1).arrayBuffer().catch(() => {
      throw new Refusal("The file cannot be read; of a folder, drop the photos in it.");
    });
  }

  show(answer) {
    [this.answer] = answer.predictions;
    this.id = answer.request_id;
    follow(answer.model);
    this.part(".waiting").hidden = true;
    this.part(".answer").hidden = false;
    this.part(".label").textContent = this.answer.label;
    this.part(".confidence").textContent = percent(this.answer.confidence);
    this.part(".wrong").hidden = !model.feedback;
    const ranked = Object.entries(this.answer.probabilities).sort((a, b) => b[1] - a[1]);
    this.part(".bars").replaceChildren(...ranked.slice(0, SHOWN).map(bar));
    if (this.alone && !this.part(".why").hidden) this.explain();
  }

  refuse(error) {
    if (!(error instanceof Refusal)) console.error(error);
    this.refused = true;
    this.part(".waiting").hidden = true;
    this.part(".refusal").hidden = false;
    this.part(".refusal .error").textContent = error.message;
    this.part(".again").hidden = !error.passing;
  }

  again() {
    this.refused = false;
    this.part(".waiting").hidden = false;
    this.part(".refusal").hidden = true;
    enqueue([this]);
  }

  /** Shows or hides what the answer depends on; asked for once. */
  async explain() {
    const button = this.part(".why");
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    this.explanation ??= this.saliency();
    this.part(".legend").textContent = shown ? "Looking …" : "";
    const refusal = await this.explanation;
    if (button.getAttribute("aria-pressed") !== String(shown)) return; // pressed meanwhile
    this.part(".legend").textContent = shown ? (refusal ?? LEGEND) : "";
    this.part(".overlay").hidden = !shown || refusal !== null;
    this.card.classList.toggle("explained", shown && refusal === null);
  }

  /** The sentence of a refusal; null where the overlay is there. */
  async saliency() {
    const path = `explain?label=${encodeURIComponent(this.answer.label)}`;
    try {
      const overlay = await (await post(path, this.file, this.file.type)).blob();
      this.part(".overlay").src = this.url(overlay);
      return null;
    } catch (error) {
      this.explanation = undefined; // the next press asks again
      return error.message;
    }
  }

  /** Shows or hides the form; its classes come late: a thousand on each card would be many. */
  offerClasses() {
    const form = this.part("form");
    const select = this.part("select");
    form.hidden = !form.hidden;
    this.part(".wrong").setAttribute("aria-expanded", !form.hidden);
    if (form.hidden || select.options.length) return;
    const others = model.classes.filter((name) => name !== this.answer.label);
    select.append(new Option("Choose …", ""), ...others.map((name) => new Option(name, name)));
  }

  async correct(event) {
    event.preventDefault();
    const saved = this.part(".saved");
    const form = new FormData();
    form.append("image", this.file);
    form.append("label", this.part("select").value);
    form.append("request_id", this.id);
    saved.classList.remove("error");
    saved.textContent = "Saving …";
    try {
      await post("feedback", form);
      saved.textContent = "Saved, thank you.";
    } catch (error) {
      saved.classList.add("error");
      saved.textContent = error.message;
    }
  }
}

function bar([name, probability]) {
  const row = byId("class").content.firstElementChild.cloneNode(true);
  row.querySelector(".class").textContent = name;
  row.querySelector(".fill").style.width = `${100 * probability}%`;
  row.querySelector(".percent").textContent = percent(probability);
  return row;
}

/** A fraction 0..1 in percent; what is not quite all or nothing never reads as if it were. */
function percent(fraction) {
  if (fraction > 0.999 && fraction < 1) return ">99.9%";
  if (fraction < 0.001 && fraction > 0) return "<0.1%";
  return `${(100 * fraction).toFixed(1)}%`;
}

// All of them

function summarise() {
  const done = photos.filter((photo) => photo.answer || photo.refused);
  const busy = done.length < photos.length;
  byId("progress").hidden = !busy || photos.length === 1;
  byId("progress-value").max = photos.length;
  byId("progress-value").value = done.length;
  byId("progress-text").textContent = `${done.length} of ${photos.length}`;
  const counts = photos.length > 1 ? countsPerLabel() : [];
  byId("counts").replaceChildren(...counts.map(chip));
  byId("csv").hidden = !done.length;
  if (!busy) tell(counts);
}

function countsPerLabel() {
  const counts = new Map();
  for (const { answer, refused } of photos) {
    const label = answer ? answer.label : refused && "without an answer";
    if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => `${count} ${label}`);
}

function chip(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}

/** Once at the end, for who hears the page: every answer on its own would be a torrent. */
function tell(counts) {
  if (!photos.length) return;
  const [{ file, answer, card }] = photos;
  const one = answer
    ? `${answer.label}, ${percent(answer.confidence)}`
    : card.querySelector(".refusal .error").textContent;
  byId("told").textContent = counts.length
    ? `${counted(photos.length, "photo")}: ${counts.join(", ")}.`
    : `${file.name}: ${one}`;
}

function csv() {
  const rows = photos.map(({ file, answer }) => [file.name, answer?.label, answer?.confidence]);
  const text = [["file", "label", "confidence"], ...rows].map((row) => row.map(cell).join(","));
  return new Blob(["\ufeff", text.join("\r\n"), "\r\n"], { type: "text/csv" }); // BOM: for Excel
}

function cell(value) {
  const text = String(value ?? "");
  const inert = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // else a spreadsheet's formula
  return `"${inert.replaceAll('"', '""')}"`;
}

// What the person does

byId("files").onchange = (event) => {
  add(event.target.files);
  event.target.value = ""; // so that the same photo can be chosen again
};
byId("clear").onclick = clear;
byId("csv").onclick = (event) => {
  URL.revokeObjectURL(event.target.href);
  event.target.href = URL.createObjectURL(csv());
};

// On the whole page: a photo dropped beside the zone would else replace it.
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("over");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
};
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
};
document.onpaste = (event) => add(event.clipboardData.files);

connect();
