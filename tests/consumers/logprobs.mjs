// Probabilities of every next token by llama.cpp, without and with an adapter, for several models in one process.
// Usage: logprobs.mjs PACKAGES JOBS. JOBS: the file of a JSON list of objects, each with the paths model and adapter,
// ids (a list of token ids), out, and optionally metadata (an object that replaces metadata of the model; a whole
// number replaces integers only). out: {base, adapter}, for each position a list of [token, probability], as JSON; or
// {error}.
import fs from "node:fs";
import {pathToFileURL} from "node:url";

const [packages, jobs] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(`${packages}/node_modules/node-llama-cpp/dist/index.js`));
const llama = await getLlama({gpu: false, build: "never", logLevel: "warn", maxThreads: 1});
const options = {temperature: 1, topK: 0, topP: 1, minP: 0};

async function probabilities({model: modelPath, adapter: filePath, ids, metadata: metadataOverrides = {}}) {
    const model = await llama.loadModel({modelPath, checkTensors: false, metadataOverrides});
    const inputs = ids.map((id) => [id, {generateNext: {probabilities: true, options}}]);
    const results = {};
    for (const [name, lora] of [["base", {}], ["adapter", {lora: {adapters: [{filePath, scale: 1}]}}]]) {
        const context = await model.createContext({contextSize: 256, threads: 1, flashAttention: false, ...lora});
        const outputs = await context.getSequence().controlledEvaluate(inputs);
        results[name] = outputs.map((output) => [...output.next.probabilities.entries()]);
        await context.dispose();
    }
    await model.dispose();
    return results;
}

for (const job of JSON.parse(fs.readFileSync(jobs))) {
    console.error(`model ${job.model}`); // the last one is that of an abort
    const result = await probabilities(job).catch((error) => ({error: String(error)}));
    fs.writeFileSync(job.out, JSON.stringify(result));
}
process.exit(0);
