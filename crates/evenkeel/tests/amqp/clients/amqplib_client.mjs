// The client amqplib of Node.js: jobs on one event loop, and calls that name a method of a channel and answer with
// what it resolves to. Not here: any judgement, and any retry: an error is written down and ends the job.

import { createHash, randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const amqp = createRequire(join(process.env.EVENKEEL_INTEROP_DIR, 'x'))('amqplib');

const PATIENCE = 30000; // ms
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const digest = (bytes) => createHash('sha1').update(bytes).digest('hex').slice(0, 16);

// Who sent it as which, the digest of the rest, the rest.
function body(publisher, number, size) {
  const rest = randomBytes(size);
  return Buffer.concat([Buffer.from(`${publisher} ${number} ${digest(rest)}\n`), rest]);
}

function read(data) {
  const end = data.indexOf(10);
  const [publisher, number, want] = data.subarray(0, end).toString().split(' ');
  return [publisher, Number(number), digest(data.subarray(end + 1)) === want];
}

// Messages of each queue that were published here and not acknowledged here: publishers keep it bounded, and consumers
// keep it above a bound, so that their prefetch stays full.
const published = {};
const consumed = {};
const settled = {};
const arrived = {}; // confirmed, or published where nobody asks for confirms
const ending = new Set(); // queues to which nobody publishes any more
const backlog = (queue) => (published[queue] ?? 0) - (settled[queue] ?? 0);

class Job {
  confirms = true;
  outstanding = 20;
  backlog = 0;
  fill = 0;
  sizes = [64];
  channels = 1;
  mandatory = false;
  prefetch = 20;
  ack = 'single';
  type = 'classic';
  limit = 0;
  key = null;
  stopping = 0;
  waiting = 0;
  sent = {};
  outcomes = [];
  confirmsSeen = {};
  consumed = [];
  problems = [];
  constructor(order) {
    Object.assign(this, order);
  }
  hasRoom() {
    const all = Object.values(this.sent).reduce((a, b) => a + b, 0);
    if (this.stopping || (this.limit && all >= this.limit)) return false;
    const within = this.backlog === 0 || backlog(this.queue) < this.backlog;
    return within && (!this.confirms || this.waiting < this.outstanding);
  }
  nextMessage(channel) {
    const label = `${this.name}.${channel}`;
    const number = this.sent[label] ?? 0;
    this.sent[label] = number + 1;
    published[this.queue] = (published[this.queue] ?? 0) + 1;
    if (this.confirms) this.waiting++;
    else arrived[this.queue] = (arrived[this.queue] ?? 0) + 1;
    return [label, number, body(label, number, this.sizes[number % this.sizes.length])];
  }
  outcome(label, number, what) {
    this.outcomes.push([label, number, what]);
    if (what === 'return') return;
    this.waiting--;
    arrived[this.queue] = (arrived[this.queue] ?? 0) + 1;
  }
  took(message) {
    const [label, number, good] = read(message.content);
    this.consumed.push([label, number, Number(message.fields.redelivered), Number(good)]);
    consumed[this.queue] = (consumed[this.queue] ?? 0) + 1;
    if (this.ack === 'none') settled[this.queue] = (settled[this.queue] ?? 0) + 1;
  }
  // How many of so many unacknowledged messages may be acknowledged now; they then count as that.
  ripe(unsettled) {
    let many = this.ack === 'none' ? 0 : unsettled;
    const ready = (arrived[this.queue] ?? 0) - (settled[this.queue] ?? 0);
    if (this.fill && !ending.has(this.queue)) many = Math.max(0, Math.min(many, ready - this.fill));
    settled[this.queue] = (settled[this.queue] ?? 0) + many;
    return many;
  }
  stop() {
    this.stopping = Date.now();
    if (this.role === 'publish') ending.add(this.queue);
  }
  tell() {
    const { name, role, queue, problems } = this;
    const seen =
      role === 'publish'
        ? { sent: this.sent, confirmed: this.confirms, outcomes: this.outcomes, confirms: this.confirmsSeen }
        : { consumed: this.consumed };
    say({ record: { name, role, queue, problems, ...seen } });
  }
}

function dial(order) {
  const { port, vhost = '/', user = 'guest', password = 'guest', frame_max, heartbeat = 60 } = order;
  const address = { protocol: 'amqp', hostname: '127.0.0.1', port, username: user, password, vhost, heartbeat };
  if (frame_max) address.frameMax = frame_max;
  return amqp.connect(address);
}

class Connection {
  closing = false;
  open = 0;
  constructor(jobs) {
    this.jobs = jobs;
  }
  complain(text) {
    for (const job of this.jobs) job.problems.push(text);
  }
  async start() {
    try {
      this.link = await dial(this.jobs[0]);
      this.link.on('error', (error) => this.complain(`connection error: ${error.message}`));
      this.link.on('close', () => this.closing || this.complain('connection closed'));
      this.link.on('blocked', (reason) => this.complain(`blocked: ${reason}`));
      this.link.on('unblocked', () => this.complain('unblocked'));
      for (const job of this.jobs) await (job.role === 'publish' ? this.publisher(job) : this.consumer(job));
      return true;
    } catch (error) {
      this.complain(String(error));
      for (const job of this.jobs) job.tell();
      return false;
    }
  }
  async channel(job) {
    const channel = await (job.role === 'publish' && job.confirms ? this.link.createConfirmChannel() : this.link.createChannel());
    channel.on('error', (error) => job.problems.push(`channel error: ${error.message}`));
    channel.on('close', () => this.closing || job.problems.push('channel closed'));
    await channel.assertQueue(job.queue, { durable: true, arguments: { 'x-queue-type': job.type } });
    return channel;
  }
  background(job, work) {
    this.open++;
    work
      .catch((error) => job.problems.push(String(error)))
      .then(async () => {
        if (--this.open > 0) return;
        this.closing = true;
        await this.link.close().catch((error) => this.complain(`close: ${error}`));
        for (const each of this.jobs) each.tell();
      });
  }
  async publisher(job) {
    const channels = [];
    for (let at = 0; at < job.channels; at++) {
      const channel = await this.channel(job);
      const seen = (job.confirmsSeen[`${job.name}.${at}`] = []);
      const note = ({ deliveryTag, multiple }) => seen.push([deliveryTag, Number(multiple)]);
      channel.on('ack', note);
      channel.on('nack', note);
      channel.on('return', (message) => {
        const [label, number] = read(message.content);
        job.outcome(label, number, 'return');
      });
      channels.push(channel);
    }
    this.background(job, this.publish(job, channels));
  }
  async publish(job, channels) {
    let turn = 0;
    while (!job.stopping) {
      if (!job.hasRoom()) {
        await pause(2);
        continue;
      }
      turn = (turn + 1) % channels.length;
      const [label, number, data] = job.nextMessage(turn);
      const options = { persistent: true, mandatory: job.mandatory };
      const done = (error) => job.outcome(label, number, error ? 'nack' : 'ack');
      const taken = job.confirms
        ? channels[turn].publish('', job.key ?? job.queue, data, options, done)
        : channels[turn].publish('', job.key ?? job.queue, data, options);
      if (!taken) await Promise.race([new Promise((resolve) => channels[turn].once('drain', resolve)), pause(1000)]);
      else if (job.waiting % 8 === 0) await pause(0);
    }
    while (job.waiting > 0 && Date.now() < job.stopping + PATIENCE) await pause(5);
    if (job.waiting > 0) job.problems.push(`${job.waiting} messages were not confirmed in time`);
  }
  async consumer(job) {
    const channel = await this.channel(job);
    await channel.prefetch(job.prefetch);
    const unsettled = [];
    const settle = () => {
      const ripe = unsettled.splice(0, job.ripe(unsettled.length));
      const multiple = job.ack === 'multiple';
      for (const message of multiple ? ripe.slice(-1) : ripe) channel.ack(message, multiple);
    };
    const take = (message) => {
      if (!message) return job.problems.push('consumer cancelled');
      job.took(message);
      unsettled.push(message);
      if (job.ack === 'single' || unsettled.length >= Math.max(1, job.prefetch >> 1)) settle();
    };
    const { consumerTag } = await channel.consume(job.queue, take, { noAck: job.ack === 'none' });
    const untilStopped = async () => {
      while (!job.stopping) {
        await pause(5);
        settle();
      }
      await channel.cancel(consumerTag);
    };
    this.background(job, untilStopped());
  }
}

// Connections and channels of the driver's own, by name.
const links = {};
const channels = {};
const taken = {};

const delivery = (message) => ({
  tag: message.fields.deliveryTag,
  redelivered: message.fields.redelivered,
  body: message.content.subarray(0, 200).toString('latin1'),
  length: message.content.length,
});

async function call(order) {
  if (order.do === 'connect') {
    links[order.connection] = await dial(order);
    links[order.connection].on('error', () => {});
    return null;
  }
  if (order.do === 'disconnect') return void (await links[order.connection].close());
  if (order.do === 'secret') return void (await links[order.connection].updateSecret(Buffer.from(order.secret), 'renewed'));
  const { channel: name } = order;
  if (order.do === 'channel') {
    const link = links[order.connection];
    const channel = await (order.confirms ? link.createConfirmChannel() : link.createChannel());
    taken[name] = [];
    channels[name] = channel;
    channel.on('return', (m) => taken[name].push({ return: m.content.toString('latin1'), code: m.fields.replyCode }));
    channel.on('ack', (f) => taken[name].push({ ack: f.deliveryTag, multiple: f.multiple }));
    channel.on('error', (error) => taken[name].push({ error: error.message, code: error.code }));
    return null;
  }
  if (order.do === 'take') {
    const end = Date.now() + (order.within ?? 10) * 1000;
    while (taken[name].length < order.count && Date.now() < end) await pause(5);
    return taken[name].splice(0, order.all ? taken[name].length : order.count);
  }
  return method(order, channels[name], taken[name]);
}

async function method(order, channel, list) {
  const given = order.with ?? [];
  switch (order.method) {
    case 'consume': // queue, options
      return channel.consume(given[0], (m) => list.push(m ? delivery(m) : { cancel: true }), given[1]);
    case 'publish': // exchange, key, text, options
      return void channel.publish(given[0], given[1], Buffer.from(given[2], 'latin1'), given[3]);
    case 'ack': // tag, multiple
      return void channel.ack({ fields: { deliveryTag: given[0] } }, given[1]);
    case 'nack': // tag, multiple, requeue
      return void channel.nack({ fields: { deliveryTag: given[0] } }, given[1], given[2]);
    case 'reject': // tag, requeue
      return void channel.reject({ fields: { deliveryTag: given[0] } }, given[1]);
    case 'get': {
      const message = await channel.get(...given);
      return message ? delivery(message) : null;
    }
    default:
      return (await channel[order.method](...given)) ?? null;
  }
}

const jobs = {};

async function start(order) {
  const groups = {};
  for (const one of order.jobs) {
    jobs[one.name] = new Job(one);
    (groups[one.connection ?? one.name] ??= []).push(jobs[one.name]);
  }
  const started = await Promise.all(Object.values(groups).map((group) => new Connection(group).start()));
  return started.every(Boolean);
}

async function obey(order) {
  if (order.do === 'start') return start(order);
  if (order.do === 'count') return consumed;
  if (order.do !== 'stop') return call(order);
  for (const name of order.jobs) jobs[name].stop();
  return null;
}

// One order after the other, as the driver sends them.
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  await obey(order).then(
    (result) => say({ id: order.id, result }),
    (error) => say({ id: order.id, error: { type: error.name, code: error.code ?? 0, text: error.message } }),
  );
}
process.exit(0);
