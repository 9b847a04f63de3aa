// Lists the services of a running keyd and the methods of one, by reflection: no proto files are needed.
//
// Environment: KEYD_ADDRESS; REFLECTION, v1 (the default) or v1alpha.

import { credentials } from '@grpc/grpc-js';
import { GrpcReflection } from 'grpc-js-reflection-client';

const { KEYD_ADDRESS = 'unix:/run/keyd/keyd.sock', REFLECTION = 'v1' } = process.env;
const reflection = new GrpcReflection(KEYD_ADDRESS, credentials.createInsecure(), {}, REFLECTION);
for (const service of await reflection.listServices()) console.log(service);
for (const { name, definition } of await reflection.listMethods('keyd.v1.SigningService')) console.log(`${definition.path} ${name}`);
process.exit(0); // the client has no way to close its channel
