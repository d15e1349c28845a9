// A WebSocket server of Node `ws` on a port that the system picks. It tells its address, then one record for
// each connection that ended, and after "stop" how many were still open.

import { Connection, onStop, say, WebSocketServer } from './traffic.mjs';

const open = new Set();
const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  maxPayload: 4 << 20,
  perMessageDeflate: { threshold: 64 },
  // The second choice of the client, so that a gateway which answers by itself is noticed.
  handleProtocols: (offered) => (offered.has('interop.v1') ? 'interop.v1' : false),
});

server.on('listening', () => say({ listening: `127.0.0.1:${server.address().port}` }));
server.on('connection', (ws, request) => {
  const query = new URL(request.url, 'http://endpoint').searchParams;
  const connection = new Connection(ws, query.get('label'), { dribble: query.get('dribble') === '1' });
  open.add(connection);
  ws.on('error', (error) => (connection.error = String(error)));
  ws.on('close', (code, reason) => {
    open.delete(connection);
    say({ record: connection.record(code, reason.toString()) });
  });
  connection.talk(() => false).catch((error) => (connection.error = String(error)));
});

onStop(() => {
  say({ done: true, open: open.size });
  process.exit(0);
});
