// Calls a server of test_transport.py with @grpc/grpc-js, and prints one line of JSON for each call: what came of it.
//
//     node calls.mjs ADDRESS WHERE-NODE-MODULES-ARE PROTOS
import { createRequire } from "node:module";

const [address, modules, protos] = process.argv.slice(2);
const require = createRequire(`${modules}/package.json`);
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const definition = loader.loadSync("keyd/v1/signing_service.proto", { includeDirs: [protos], keepCase: true, longs: Number });
const { SigningService } = grpc.loadPackageDefinition(definition).keyd.v1;
const client = new SigningService(address, grpc.credentials.createInsecure());
const compressing = new SigningService(address, grpc.credentials.createInsecure(), {
  "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
});
const say = (name, value) => console.log(JSON.stringify({ name, ...value }));
const failed = (error) => ({ code: error.code, details: error.details, more: error.metadata.get("grpc-status-details-bin").length });

const unary = (name, request, options = {}, through = client) =>
  new Promise((resolve) => {
    const call = through.Sign(request, new grpc.Metadata(), options, (error, answer) => {
      say(name, error ? failed(error) : { kid: answer.kid });
      resolve();
    });
    if (name === "cancelled") setTimeout(() => call.cancel(), 100);
  });

const stream = (name, call, requests) =>
  new Promise((resolve) => {
    const ids = [];
    call.on("data", (answer) => {
      ids.push(answer.id ?? answer.key.key);
      if (requests?.length) call.write(requests.shift());
      else if (requests) call.end();
    });
    call.on("error", (error) => resolve(say(name, failed(error))));
    call.on("end", () => resolve(say(name, { ids })));
    if (requests) call.write(requests.shift());
  });

await unary("answered", { key: "fine" });
await unary("refused", { key: "refused" });
await unary("late", { key: "hang" }, { deadline: Date.now() + 300 });
await unary("cancelled", { key: "hang" });
await unary("compressed", { key: "z".repeat(5000) }, {}, compressing);
await unary("large", { key: "l".repeat(100_000) });
await stream("watched", client.WatchKeys({ keys: ["a", "b"] }));
await stream("streamed", client.SignStream(), [{ id: 1 }, { id: 2 }, { id: 3 }]);
client.close();
compressing.close();
