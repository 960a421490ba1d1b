// Transformers.js as its users call it, from the folder of a Node project: {folder, dtype, prompts, batch, mask, new_tokens,
// text} on stdin, the tokens on stdout.
import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const home = join(process.cwd(), "node_modules/@huggingface/transformers");
const { AutoModelForCausalLM, AutoTokenizer, Tensor, env } = await import(
  pathToFileURL(join(home, "dist/transformers.node.mjs"))
);
const request = JSON.parse(readFileSync(0));
env.allowRemoteModels = false;
env.localModelPath = dirname(request.folder);
const name = basename(request.folder);

// Without a dtype asked for, that of config.json is what loads.
const model = await AutoModelForCausalLM.from_pretrained(name, request.dtype ? { dtype: request.dtype } : {});
const tokenizer = await AutoTokenizer.from_pretrained(name);

async function generate(rows, mask) {
  const tensor = (values) => new Tensor("int64", BigInt64Array.from(values.flat().map(BigInt)), [rows.length, rows[0].length]);
  const output = await model.generate({
    input_ids: tensor(rows),
    attention_mask: tensor(mask),
    max_new_tokens: request.new_tokens,
    do_sample: false,
  });
  return output.tolist().map((row) => row.slice(rows[0].length).map(Number));
}

const alone = [];
for (const prompt of request.prompts) alone.push((await generate([prompt], [prompt.map(() => 1)]))[0]);
const { version } = JSON.parse(readFileSync(join(home, "package.json")));
console.log(
  JSON.stringify({
    alone,
    batch: await generate(request.batch, request.mask),
    encoded: tokenizer(request.text).input_ids.tolist()[0].map(Number),
    decoded: tokenizer.decode(alone[0], { skip_special_tokens: true }),
    version,
  }),
);
