// The model of this folder, greedily, in the browser. What it says of size and perplexity it reads from qexport.json.
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  InterruptableStoppingCriteria,
  TextStreamer,
  env,
} from "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1/dist/transformers.min.js";

// The folder itself is the model. A cache by address alone would go on answering with a model that was replaced since.
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL(".", document.baseURI).pathname;
env.useBrowserCache = false;
const HERE = ".";

const digits3 = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });
const $ = (id) => document.getElementById(id);
const stopping = new InterruptableStoppingCriteria();
let manifest, settings, tokenizer, model;

function say(text, { error = false } = {}) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

async function read(name) {
  const answer = await fetch(name, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.json();
}

function deployed() {
  return manifest.artifacts[settings.dtypes.indexOf($("dtype").value)];
}

function showFacts() {
  const artifact = deployed();
  const files = manifest.files.filter((file) => file.path === artifact.model || file.path === `${artifact.model}_data`);
  const bytes = files.reduce((sum, file) => sum + file.size_bytes, 0);
  const { recipe, engine, model: source, quantized } = artifact.manifest;
  const made = quantized.length ? `, ${quantized.length} weights quantized` : "";
  $("name").textContent = document.title = source.name;
  $("recipe").textContent = `${recipe}${engine ? ` by ${engine}` : ""}${made}`;
  $("size").textContent = `${digits3.format(bytes / 1e6)} MB`;
  showEvidence(artifact.evidence, recipe);
}

function showEvidence(evidence, recipe) {
  if (!evidence) {
    $("ratio").textContent = "not measured";
    $("evidence").textContent = "Deploy with --records and the folder of a `qexport compare` to see it here.";
    return;
  }
  const { perplexity, ratio } = evidence;
  const digits = (figure) => Number(figure).toFixed(4); // a broken model's are strings: "NaN", "Infinity"
  if (ratio) $("ratio").innerHTML = `${digits(ratio.value)} <small>${digits(ratio.low)} to ${digits(ratio.high)}</small>`;
  else $("ratio").textContent = recipe === "fp32" ? "1, this is fp32" : "–";
  $("evidence").textContent =
    `Perplexity ${Number(perplexity.value).toFixed(3)} over ${evidence.tokens} tokens of ${evidence.text}, with 95 % intervals; ` +
    `measured with ${evidence.runtime}.`;
}

async function load() {
  $("run").disabled = true;
  say("loading the model");
  await model?.dispose();
  let loading = true; // where one file fails, others go on arriving
  try {
    model = await AutoModelForCausalLM.from_pretrained(HERE, {
      device: "wasm",
      dtype: $("dtype").value,
      progress_callback: ({ status, file, progress }) => {
        if (loading && status === "progress") say(`loading ${file}, ${Math.round(progress)} %`);
      },
    });
  } finally {
    loading = false;
  }
  say("ready");
  $("run").disabled = false;
}

function encode(text) {
  if (!settings.chat) return tokenizer(text);
  const messages = [{ role: "user", content: text }];
  return tokenizer.apply_chat_template(messages, { add_generation_prompt: true, return_dict: true });
}

async function generate() {
  const inputs = encode($("prompt").value);
  const given = inputs.input_ids.tolist()[0].map(Number);
  if (!given.length) return say("write a prompt first", { error: true });
  $("ids-in").textContent = given.join(" ");
  $("ids-out").textContent = "";
  const prompt = Object.assign(document.createElement("span"), { className: "given", textContent: $("prompt").value });
  const answer = document.createElement("span");
  $("answer").replaceChildren(prompt, answer);

  let first, last;
  const ids = [];
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => answer.append(text),
    token_callback_function: (tokens) => {
      last = performance.now();
      first ??= last;
      ids.push(...tokens.map(Number));
      // The first token has the prompt's time in it.
      if (ids.length > 1) $("speed").textContent = digits3.format(((ids.length - 1) * 1000) / (last - first));
    },
  });
  stopping.reset();
  const length = Number($("length").value);
  const output = await model.generate({
    ...inputs,
    max_new_tokens: length,
    do_sample: false,
    streamer,
    stopping_criteria: stopping,
  });
  const written = output.tolist()[0].slice(given.length).map(Number);
  $("ids-out").textContent = written.join(" ");
  const why = stopping.interrupted ? "stopped" : written.length < length ? "the model ended its text" : "done";
  say(`${why}: ${written.length} tokens after ${given.length}`);
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    console.error(error);
    say(error.message ?? String(error), { error: true });
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(async () => {
    $("run").disabled = true;
    $("stop").hidden = false;
    say("writing");
    try {
      await generate();
    } finally {
      $("stop").hidden = true;
      $("run").disabled = false;
    }
  });
});
$("stop").addEventListener("click", () => stopping.interrupt());
$("dtype").addEventListener("change", () => guarded(async () => (showFacts(), await load())));

guarded(async () => {
  [manifest, settings] = await Promise.all([read("qexport.json"), read("demo.json")]);
  $("dtype").replaceChildren(...settings.dtypes.map((dtype) => new Option(dtype)));
  $("choice").hidden = settings.dtypes.length < 2;
  showFacts();
  tokenizer = await AutoTokenizer.from_pretrained(HERE);
  await load();
});
