// What both Node scripts share: numbered messages of every shape, the record of one connection, one-byte
// writes. The WebSocket library is `ws`, which is not ours: a protocol error raises there.
//
// Not here: any judgement. The Rust driver compares the records of the two ends of a connection.

import { createHash, randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { join } from 'node:path';

export const { WebSocket, WebSocketServer } = createRequire(join(process.env.EVENKEEL_INTEROP_DIR, 'x'))('ws');

const BLOCK = 4096; // bytes of the stream that share a hash
const WORDS = ['level', 'the', 'keel', 'Schiff', 'größer', '海', 'wind', '⛵', 'over', 'and'];

const hash = (bytes) => createHash('sha256').update(bytes).digest('hex').slice(0, 16);
const below = (n) => Math.floor(Math.random() * n);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');

// The raw bytes of one direction after the handshake, as hashes of blocks, so that two ends can be compared.
class Tape {
  bytes = 0;
  blocks = [];
  block = Buffer.alloc(BLOCK);
  end = Buffer.alloc(0); // the end of the block before this one
  add(chunk) {
    for (let at = 0; at < chunk.length; ) {
      const filled = this.bytes % BLOCK;
      const step = Math.min(BLOCK - filled, chunk.length - at);
      chunk.copy(this.block, filled, at, at + step);
      at += step;
      this.bytes += step;
      if (this.bytes % BLOCK === 0) {
        this.blocks.push(hash(this.block));
        this.end = Buffer.from(this.block.subarray(-64));
      }
    }
  }
  report() {
    const rest = this.block.subarray(0, this.bytes % BLOCK);
    const end = Buffer.concat([this.end, rest]).subarray(-64);
    return { bytes: this.bytes, blocks: this.blocks, rest: hash(rest), end: end.toString('hex') };
  }
}

// One send(2) a byte: no corking, no writev, no Nagle.
function dribble(socket) {
  socket.setNoDelay(true);
  socket.cork = socket.uncork = () => {};
  socket._writev = null;
  const write = socket.write.bind(socket);
  socket.write = (data, encoding, callback) => {
    const done = typeof encoding === 'function' ? encoding : callback;
    const bytes = Buffer.isBuffer(data) ? data : Buffer.from(data);
    for (let i = 0; i < bytes.length - 1; i++) write(bytes.subarray(i, i + 1));
    return write(bytes.subarray(-1), done);
  };
}

function payload(number, text, slow) {
  const die = below(slow ? 60 : 80);
  const size =
    die === 0 && !slow ? 1 << 20 : die < 3 ? 0 : die < 6 ? 125 + below(3) : die < 9 && !slow ? 65534 + below(4) : below(slow ? 300 : 3000);
  if (size === 0) return Buffer.alloc(0);
  if (!text) return Buffer.concat([Buffer.from(`${number}:`), randomBytes(size)]).subarray(0, size);
  let words = `${number}:`;
  const unit = Array.from({ length: 12 }, () => WORDS[below(WORDS.length)] + below(1000)).join(' ');
  words += unit.repeat(Math.ceil(size / unit.length));
  const bytes = Buffer.from(words.slice(0, size));
  // Text may end only between characters: cut at a length that stays within 1 MiB and is valid UTF-8.
  let cut = Math.min(size, bytes.length);
  while (cut > 0 && cut < bytes.length && (bytes[cut] & 0xc0) === 0x80) cut--;
  return bytes.subarray(0, cut);
}

// Follows one connection from its opening; `finish` gives its record once 'close' was seen.
export class Connection {
  sent = [];
  received = [];
  pings = 0;
  pongs = 0;
  error = null;
  unfinished = false; // closed between two fragments of a message of its own
  constructor(ws, label, options) {
    this.ws = ws;
    this.label = label;
    this.slow = options.dribble;
    this.out = new Tape();
    this.in = new Tape();
    const socket = ws._socket;
    if (options.dribble) dribble(socket);
    const write = socket.write.bind(socket);
    socket.write = (data, ...more) => {
      this.out.add(Buffer.isBuffer(data) ? data : Buffer.from(data));
      return write(data, ...more);
    };
    // Before the library's own listener, which unmasks in place.
    socket.prependListener('data', (chunk) => this.in.add(chunk));
    ws.on('message', (data, binary) => this.received.push([binary ? 'b' : 't', data.length, hash(data)]));
    ws.on('pong', () => this.pongs++);
  }
  // Sends until the connection closes or `until()` says so.
  async talk(until) {
    for (let number = 0; this.ws.readyState === WebSocket.OPEN && !until(); number++) {
      await this.message(number);
      if (below(3) === 0) await pause(5 + below(60));
    }
  }
  async message(number) {
    const text = below(2) === 0;
    const data = payload(number, text, this.slow);
    const record = [text ? 't' : 'b', data.length, hash(data)];
    const fragments = below(3) === 0 ? 2 + below(4) : 1;
    const step = Math.ceil(data.length / fragments);
    for (let i = 0; i < fragments; i++) {
      const fin = i === fragments - 1;
      if (this.ws.readyState !== WebSocket.OPEN) return;
      this.ws.send(data.subarray(i * step, fin ? data.length : (i + 1) * step), { binary: !text, fin });
      this.unfinished = !fin;
      if (!fin && below(2) === 0) {
        this.ws.ping(`${number}.${i}`);
        this.pings++;
      }
      if (!fin) await pause(below(8));
    }
    this.sent.push(record);
    // The socket takes what it can; waiting here keeps memory bounded.
    while (this.ws.bufferedAmount > 1 << 20 && this.ws.readyState === WebSocket.OPEN) await pause(2);
  }
  record(code, reason) {
    const clean = this.ws._closeFrameReceived && this.ws._closeFrameSent;
    return {
      label: this.label, library: 'node ws', sent: this.sent, in_doubt: null, received: this.received,
      pings: this.pings, pongs: this.pongs, code, reason, clean, error: this.error, unfinished: this.unfinished,
      protocol: this.ws.protocol, extensions: this.ws.extensions,
      out: this.out.report(), in: this.in.report(),
    };
  }
}

// Calls `stop` when the driver says so or goes away.
export function onStop(stop) {
  process.stdin.once('data', stop);
  process.stdin.once('end', stop);
}
