// Runs an artifact in one build of onnxruntime-web, on one thread: a prompt, then one token over its past. Prints JSON.
// npm install onnxruntime-web, then: node check.mjs NODE_MODULES BUILD ARTIFACT_FOLDER (table.py does it for all of them)
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const PROMPT = Array.from({ length: 24 }, (_, place) => 3 + 37 * place);
const LAST = 500;

const [modules, build, folder] = process.argv.slice(2);
const home = resolve(modules, "onnxruntime-web");
const ort = createRequire(import.meta.url)(home);
const { version } = JSON.parse(readFileSync(resolve(home, "package.json")));
// Each import of the package has a WebAssembly file of its own: /wasm "", the plain one .jsep, /webgpu .asyncify.
const binary = (suffix) => pathToFileURL(resolve(home, "dist", `ort-wasm-simd-threaded${build}.${suffix}`)).href;
ort.env.wasm.wasmPaths = { mjs: binary("mjs"), wasm: binary("wasm") };
ort.env.wasm.numThreads = 1;

const int64 = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

function step(session, ids, first, past) {
  const feeds = {
    input_ids: int64(ids),
    attention_mask: int64(Array(first + ids.length).fill(1)),
    position_ids: int64(ids.map((_, place) => first + place)),
    ...past,
  };
  return session.run(Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]])));
}

function emptyPast(session) {
  const caches = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
  const shape = (dimensions) => [1, dimensions[1], 0, dimensions[3]];
  const nothing = (type) => (type === "float16" ? new Uint16Array(0) : []);
  return Object.fromEntries(
    caches.map(({ name, type, shape: dimensions }) => [name, new ort.Tensor(type, nothing(type), shape(dimensions))]),
  );
}

async function allLogits() {
  const [graph, beside] = ["model.onnx", "model.onnx.data"].map((name) => resolve(folder, name));
  const session = await ort.InferenceSession.create(readFileSync(graph), {
    executionProviders: ["wasm"],
    externalData: existsSync(beside) ? [{ path: "model.onnx.data", data: readFileSync(beside) }] : [],
  });
  const prompt = await step(session, PROMPT, 0, emptyPast(session));
  const past = Object.fromEntries(
    session.outputNames
      .filter((name) => name.startsWith("present."))
      .map((name) => [name.replace("present", "past_key_values"), prompt[name]]),
  );
  const last = await step(session, [LAST], PROMPT.length, past);
  return [prompt, last].flatMap(({ logits }) => Array.from(logits.data, Number));
}

let answer;
try {
  answer = { logits: await allLogits() };
} catch (error) {
  answer = { message: String(error.message ?? error) };
}
writeFileSync(1, JSON.stringify({ version, ids: [...PROMPT, LAST], ...answer }));
process.kill(process.pid, "SIGKILL"); // some builds neither end by themselves nor by process.exit
