// @chainsafe/libp2p-yamux put through scripts (see conversations.py). A message either way is its
// length (4 bytes, big-endian) and JSON; what it answers is an `Observed` of sides.py.
import { createHash } from 'node:crypto'

Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}
const { yamux } = await import('@chainsafe/libp2p-yamux')

const log = () => {}
Object.assign(log, { trace: log, error: log, newScope: () => log })
const settled = () => new Promise(resolve => setImmediate(resolve))

class Connection extends EventTarget {
  constructor (dialer) {
    super()
    this.log = log
    this.direction = dialer ? 'outbound' : 'inbound'
    this.sent = []
    this.aborted = false
  }

  send (bytes) { this.sent.push(Buffer.from(bytes.subarray())); return true }
  abort () { this.aborted = true }
}

class Side {
  constructor ({ dialer }) {
    this.connection = new Connection(dialer)
    this.muxer = yamux({ enableKeepAlive: false })().createStreamMuxer(this.connection)
    this.streams = []
    this.counts = {}
    this.muxer.addEventListener('stream', event => this.watch(event.detail, false))
  }

  get ended () { return this.muxer.status !== 'open' }

  watch (stream, ours) {
    const times = this.counts[stream.streamId] = (this.counts[stream.streamId] ?? 0) + 1
    const seen = { key: `${stream.streamId}.${times}`, ours, stream, hash: createHash('sha256'), received: 0, end: 'open' }
    this.streams.push(seen)
    const end = how => { if (seen.end === 'open') seen.end = how }
    stream.addEventListener('message', event => {
      seen.hash.update(event.data.subarray())
      seen.received += event.data.byteLength
    })
    stream.addEventListener('remoteCloseWrite', () => end('fin'))
    stream.addEventListener('close', event => end(this.ended ? 'lost' : event.error == null ? 'fin' : 'reset'))
  }

  async step (step) {
    if (this.ended) return
    if (step.bytes !== undefined) {
      const event = new Event('message')
      event.data = Buffer.from(step.bytes, 'base64')
      this.connection.dispatchEvent(event)
      return
    }
    if (step.verb === 'open') {
      this.watch(await this.muxer.createStream(), true)
    } else {
      const seen = this.streams.findLast(one => one.stream.streamId === step.stream_id)
      if (step.verb === 'close') seen?.stream.close().catch(() => {})
      if (step.verb === 'write') {
        try { seen?.stream.send(Buffer.alloc(step.size)) } catch { /* what arrives is what counts */ }
      }
      if (step.verb === 'reset') seen?.stream.abort(new Error('given up'))
    }
    await settled()
  }

  observed () {
    return {
      ended: this.ended,
      sent: Buffer.concat(this.connection.sent).toString('base64'),
      streams: this.streams.map(({ key, ours, received, hash, end }) =>
        ({ key, ours, received, digest: hash.digest('hex').slice(0, 16), end: end === 'open' && this.ended ? 'lost' : end }))
    }
  }
}

async function answer (script) {
  const side = new Side(script)
  for (const step of script.steps) await side.step(step)
  await settled()
  return side.observed()
}

let waiting = Buffer.alloc(0)
for await (const chunk of process.stdin) {
  waiting = Buffer.concat([waiting, chunk])
  while (waiting.length >= 4 && waiting.length >= 4 + waiting.readUInt32BE(0)) {
    const end = 4 + waiting.readUInt32BE(0)
    const question = JSON.parse(waiting.subarray(4, end).toString())
    waiting = waiting.subarray(end)
    let said
    try { said = await answer(question) } catch (error) { said = { failed: `${error.stack}` } }
    const body = Buffer.from(JSON.stringify(said))
    const length = Buffer.alloc(4)
    length.writeUInt32BE(body.length)
    process.stdout.write(Buffer.concat([length, body]))
  }
}
