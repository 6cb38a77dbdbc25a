// Runs model.onnx on pictures with onnxruntime-web. What the model takes, and how its tasks are drawn, is in model.json.

const get = (id) => document.getElementById(id);
const say = (status, error = "") => {
  get("status").textContent = status;
  get("error").textContent = error;
};

async function fetched(url, integrity = "") {
  const answer = await fetch(url, { integrity });
  if (!answer.ok) throw new Error(`${url} is missing (${answer.status})`);
  return answer;
}

async function load() {
  const about = await (await fetched("model.json")).json();
  const ort = await import("onnxruntime-web");
  const [runtime, model] = await Promise.all([fetched(about.runtime.wasm, about.runtime.integrity), fetched("model.onnx")]);
  ort.env.wasm.wasmBinary = await runtime.arrayBuffer();
  // More threads need headers that few static sites send.
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new Uint8Array(await model.arrayBuffer()));
  return { about, ort, session };
}

// Python's round: halves to the even neighbour.
function round(value) {
  const up = Math.floor(value + 0.5);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

// Width and height with sides of at most maxSize.
export function fittedSize(width, height, maxSize) {
  const longest = Math.max(width, height);
  if (longest <= maxSize) return [width, height];
  return [width, height].map((side) => Math.max(round(side * (maxSize / longest)), 1));
}

// The pixels (R, G, B, A) of a file, upright, over white, without colour management: as demt reads it.
async function pixels(file, maxPixels) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  try {
    // The size is known before the picture is decoded.
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject, src: url }));
  } catch {
    throw new Error(`${file.name} is no picture that this browser can read; use JPEG, PNG or WebP`);
  } finally {
    URL.revokeObjectURL(url);
  }
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  if (width * height > maxPixels) {
    throw new Error(`${file.name} has ${width} x ${height} pixels; use a picture of at most ${maxPixels} pixels`);
  }
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, width, height);
  } catch {
    throw new Error(`${file.name} (${width} x ${height} pixels) cannot be decoded: it is damaged, or too large for this browser`);
  }
}

// For each of `to` pixels: the first of the `from` pixels that it is the mean of, and their weights (a triangle).
function weights(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, index) => {
    const centre = scale * (index + 0.5);
    const [first, end] = [Math.max(Math.floor(centre - scale + 0.5), 0), Math.min(Math.floor(centre + scale + 0.5), from)];
    const values = Array.from({ length: end - first }, (_, k) => Math.max(1 - Math.abs((first + k - centre + 0.5) / scale), 0));
    const total = values.reduce((sum, value) => sum + value, 0);
    return [first, values.map((value) => value / total)];
  });
}

// A picture as the input of the network, (3, height, width): shrunk as torch does with antialias, and normalised.
export function prepare(image, about) {
  const [width, height] = fittedSize(image.width, image.height, about.max_size);
  const [across, down] = [weights(image.width, width), weights(image.height, height)];
  const [narrow, input] = [new Float32Array(image.height * width), new Float32Array(3 * height * width)];
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < width; x++) {
        const [first, factors] = across[x];
        let sum = 0;
        for (let k = 0, at = 4 * (y * image.width + first) + channel; k < factors.length; k++, at += 4) sum += factors[k] * image.data[at];
        narrow[y * width + x] = sum / 255;
      }
    }
    for (let y = 0; y < height; y++) {
      const [first, factors] = down[y];
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let k = 0, at = first * width + x; k < factors.length; k++, at += width) sum += factors[k] * narrow[at];
        input[(channel * height + y) * width + x] = (sum - about.mean[channel]) / about.std[channel];
      }
    }
  }
  return { input, width, height };
}

// What logits (channels, count) of a task stand for, as demt's Task.predict has it.
function prediction(task, logits, count) {
  const each = (value) => Float32Array.from({ length: count }, (_, i) => value(i));
  const channel = (c, i) => logits[c * count + i];
  const channels = Array.from({ length: task.channels }, (_, c) => c);
  switch (task.activation) {
    case "argmax":
      return [each((i) => channels.reduce((best, c) => (channel(c, i) > channel(best, i) ? c : best), 0))];
    case "foreground":
      return [each((i) => 1 / (1 + Math.exp(channel(0, i) - channel(1, i))))];
    case "sigmoid":
      return channels.map((c) => each((i) => 1 / (1 + Math.exp(-channel(c, i)))));
    case "unit": {
      const length = each((i) => Math.max(Math.hypot(...channels.map((c) => channel(c, i))), 1e-12));
      return channels.map((c) => each((i) => channel(c, i) / length[i]));
    }
    default:
      return channels.map((c) => each((i) => channel(c, i)));
  }
}

// A prediction in colours, and the entries [colour, text] of its legend: as demt.viz draws it.
function drawn(task, maps, count, about) {
  const data = new Uint8ClampedArray(4 * count).fill(255);
  const paint = (colour) => {
    for (let i = 0; i < count; i++) data.set(colour(i), 4 * i);
  };
  if (task.activation === "argmax") {
    const sizes = new Map();
    for (const id of maps[0]) sizes.set(id, (sizes.get(id) ?? 0) + 1);
    paint((i) => task.palette[maps[0][i]]);
    const largest = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a));
    return { data, legend: largest.map((id) => [task.palette[id], task.classes?.[id] ?? `class ${id}`]) };
  }
  if (["sigmoid", "foreground"].includes(task.activation) && maps.length === 1) {
    paint((i) => Array(3).fill(round(255 * maps[0][i])));
    return { data, legend: [[[0, 0, 0], "0"], [[255, 255, 255], "1"]] };
  }
  if (task.activation === "unit" && maps.length === 3) {
    paint((i) => maps.map((values) => round((255 * (values[i] + 1)) / 2)));
    return { data, legend: [[[255, 128, 128], "+x"], [[128, 255, 128], "+y"], [[128, 128, 255], "+z"]] };
  }
  const values = Float32Array.from({ length: count }, (_, i) => maps.reduce((sum, map) => sum + map[i], 0) / maps.length);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const last = about.ramp.length - 1;
  paint((i) => {
    const place = ((values[i] - low) / (high > low ? high - low : 1)) * last;
    const below = Math.min(Math.floor(place), last - 1);
    return [0, 1, 2].map((c) => round(about.ramp[below][c] + (place - below) * (about.ramp[below + 1][c] - about.ramp[below][c])));
  });
  const ends = [low, high].map((value) => `${Number(value.toPrecision(3))} ${task.unit ?? ""}`);
  return { data, legend: [[about.ramp[0], ends[0]], [about.ramp[last], ends[1]]] };
}

let loading;

// The input, the raw outputs by task, and the milliseconds of one run on a picture.
export async function run(file) {
  const { about, ort, session } = await (loading ??= load());
  const image = await pixels(file, about.max_pixels);
  const { input, width, height } = prepare(image, about);
  const start = performance.now();
  const outputs = await session.run({ images: new ort.Tensor("float32", input, [1, 3, height, width]) });
  const milliseconds = performance.now() - start;
  const logits = Object.fromEntries(about.tasks.map((task) => [task.name, outputs[task.name].data]));
  return { about, image, input, width, height, logits, milliseconds };
}

function paint(canvas, data, width, height) {
  Object.assign(get(canvas), { width, height });
  get(canvas).getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

let result;

function show(name) {
  const { about, logits, width, height } = result;
  const task = about.tasks.find((each) => each.name === name);
  const { data, legend } = drawn(task, prediction(task, logits[name], width * height), width * height, about);
  paint("map", data, width, height);
  get("caption").textContent = task.title;
  get("legend").replaceChildren(
    ...legend.map(([colour, text]) => {
      const [entry, swatch] = [document.createElement("li"), document.createElement("span")];
      swatch.style.background = `rgb(${colour.join(" ")})`;
      entry.append(swatch, text);
      return entry;
    }),
  );
}

function chooseTask(tasks, chosen) {
  get("tasks").replaceChildren(
    ...tasks.map((task) => {
      const [label, button] = [document.createElement("label"), document.createElement("input")];
      Object.assign(button, { type: "radio", name: "task", value: task.name, checked: task.name === chosen });
      button.addEventListener("change", () => show(task.name));
      label.append(button, ` ${task.title}`);
      return label;
    }),
  );
}

async function take(file) {
  if (!file) return say("", "That is no file; drop a picture from this computer");
  try {
    say(`Running on ${file.name} …`);
    // So that the browser shows the line before it is busy.
    await new Promise((resolve) => setTimeout(resolve, 50));
    const chosen = document.querySelector("[name=task]:checked")?.value;
    result = await run(file);
    const { about, image, width, height, milliseconds } = result;
    paint("picture", image.data, image.width, image.height);
    chooseTask(about.tasks, chosen ?? about.tasks[0].name);
    show(chosen ?? about.tasks[0].name);
    get("result").hidden = false;
    say(`${file.name}: ${width} x ${height} pixels in ${(milliseconds / 1000).toFixed(2)} s`);
  } catch (error) {
    say("", error.message);
  }
}

const drop = get("drop");
// One picture after the other.
let turn = Promise.resolve();
const next = (file) => (turn = turn.then(() => take(file)));
get("file").addEventListener("change", ({ target }) => target.files.length && next(target.files[0]));
for (const kind of ["dragover", "drop", "dragleave"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") next(event.dataTransfer.files[0]);
  });
}

say("Loading …");
loading = load();
loading.then(
  () => say("Ready."),
  (error) => {
    loading = undefined;
    say("", `The model cannot be loaded: ${error.message}`);
  },
);
