// Probabilities of every next token by llama.cpp, without and with an adapter.
// Usage: logprobs.mjs PACKAGES MODEL ADAPTER IDS OUT [METADATA]. IDS: a JSON list of token ids.
// METADATA: a JSON object that replaces metadata of the model; a whole number replaces integers only.
// OUT: {base, adapter}, for each position a list of [token, probability], as JSON.
import fs from "node:fs";
import {pathToFileURL} from "node:url";

const [packages, modelPath, filePath, ids, out, metadata = "{}"] = process.argv.slice(2);
const metadataOverrides = JSON.parse(metadata);
const {getLlama} = await import(pathToFileURL(`${packages}/node_modules/node-llama-cpp/dist/index.js`));
const llama = await getLlama({gpu: false, build: "never", logLevel: "warn", maxThreads: 1});
const model = await llama.loadModel({modelPath, checkTensors: false, metadataOverrides});
const options = {temperature: 1, topK: 0, topP: 1, minP: 0};
const inputs = JSON.parse(fs.readFileSync(ids)).map((id) => [id, {generateNext: {probabilities: true, options}}]);
const results = {};
for (const [name, lora] of [["base", {}], ["adapter", {lora: {adapters: [{filePath, scale: 1}]}}]]) {
    const context = await model.createContext({contextSize: 256, threads: 1, flashAttention: false, ...lora});
    const outputs = await context.getSequence().controlledEvaluate(inputs);
    results[name] = outputs.map((output) => [...output.next.probabilities.entries()]);
    await context.dispose();
}
fs.writeFileSync(out, JSON.stringify(results));
process.exit(0);
