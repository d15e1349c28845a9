// WebSocket clients of Node `ws`, each of which comes back as soon as it was closed. Argument: JSON
// `{"clients": [{"name", "url", "deflate": "off" | "takeover" | "no_takeover", "dribble"}]}`.
// Prints one record for each connection that ended; after "stop" every client closes with 4000.

import { Connection, onStop, say, WebSocket } from './traffic.mjs';

const OWN_CODE = 4000;
let stopping = false;

const offers = {
  off: false,
  takeover: { threshold: 64 },
  no_takeover: { threshold: 64, clientNoContextTakeover: true, serverNoContextTakeover: true },
};

function stay(client, number) {
  return new Promise((resolve) => {
    const label = `${client.name}/${number}`;
    const url = `${client.url}?label=${label}&dribble=${client.dribble ? 1 : 0}`;
    const ws = new WebSocket(url, ['interop.v2', 'interop.v1'], {
      perMessageDeflate: offers[client.deflate],
      maxPayload: 4 << 20,
    });
    let connection = null;
    ws.on('open', () => {
      connection = new Connection(ws, label, { dribble: client.dribble });
      // Now and then the client leaves by itself: that Close passes end to end.
      const life = Math.random() < 0.15 ? 20 : Infinity;
      connection
        .talk(() => stopping || connection.sent.length >= life)
        .then(() => ws.readyState === WebSocket.OPEN && ws.close(OWN_CODE, 'enough'))
        .catch((error) => (connection.error = String(error)));
    });
    ws.on('error', (error) => {
      if (connection) connection.error = String(error);
      else say({ refused: `${label}: ${error}` });
    });
    ws.on('close', (code, reason) => {
      if (connection) say({ record: connection.record(code, reason.toString()) });
      setTimeout(resolve, connection ? 0 : 50);
    });
  });
}

async function run(client) {
  for (let number = 0; !stopping; number++) await stay(client, number);
}

onStop(() => (stopping = true));
await Promise.all(JSON.parse(process.argv[2]).clients.map(run));
say({ done: true, open: 0 });
process.exit(0);
