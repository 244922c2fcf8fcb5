// A js-libp2p node that does what it is told in lines of JSON; see peers.py for the calls.
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { DATA, END, REQUEST, Reader, frame, readFrame, write } from './js_streams.mjs'

const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { ping } = await import('@libp2p/ping')
const { kadDHT, passthroughMapper } = await import('@libp2p/kad-dht')
const { gossipsub } = await import('@libp2p/gossipsub')
const { multiaddr } = await import('@multiformats/multiaddr')
const { CID } = await import('multiformats/cid')
const { decode } = await import('multiformats/hashes/digest')

const PIECE = 65536
const pattern = Buffer.alloc(PIECE, Buffer.from(Array.from({ length: 256 }, (_, i) => i)))

async function writePattern (stream, count) {
  for (let left = count; left > 0; left -= PIECE) {
    await write(stream, pattern.subarray(0, Math.min(left, PIECE)))
  }
}

async function digestOf (reader, count) {
  const hash = createHash('sha256')
  for (let left = count; left > 0;) {
    const part = await reader.some()
    if (part.length === 0) throw new Error(`ended ${left} bytes early`)
    hash.update(part)
    left -= part.length
  }
  return hash.digest('hex')
}

function lengthOf (count) {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(count))
  return bytes
}

// Streams of a protocol. The library's own bounds are 32 in and 64 out: what it gave up by itself
// would make room for the next, and nothing would be refused here.
const AT_ONCE = 1000

const heard = []
const served = []
let node, target

const handlers = {
  '/test/echo/1': async (stream, reader) => {
    for (let part; (part = await reader.some()).length > 0;) await write(stream, part)
    await stream.close()
  },
  '/test/sink/1': async (stream, reader) => {
    const count = Number((await reader.exactly(8)).readBigUInt64BE(0))
    await write(stream, Buffer.from(await digestOf(reader, count), 'hex'))
    await stream.close()
  },
  '/test/source/1': async (stream, reader) => {
    await writePattern(stream, Number((await reader.exactly(8)).readBigUInt64BE(0)))
    await stream.close()
  },
  '/aigrid/rpc/1': async (stream, reader) => {
    while (true) {
      const [kind, body] = await readFrame(reader)
      if (kind === REQUEST) await write(stream, Buffer.concat([frame(DATA, body), frame(END, Buffer.alloc(0))]))
    }
  }
}

const open = async protocol => {
  const stream = await node.dialProtocol(target, protocol, { maxOutboundStreams: AT_ONCE })
  return [stream, new Reader(stream)]
}

const calls = {
  async start () {
    node = await createLibp2p({
      addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      // Hundreds at once on a machine where others work: ten seconds may be too few.
      connectionManager: { inboundStreamProtocolNegotiationTimeout: 60_000, outboundStreamProtocolNegotiationTimeout: 60_000 },
      services: {
        identify: identify(),
        ping: ping(),
        // All nodes that it meets have one address; more than ten would lose their score for that.
        pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, scoreParams: { IPColocationFactorWeight: 0 } }),
        dht: kadDHT({ protocol: '/aigrid/kad/1.0.0', peerInfoMapper: passthroughMapper, clientMode: false })
      }
    })
    for (const [protocol, serve] of Object.entries(handlers)) {
      await node.handle(protocol, async one => {
        const stream = one.stream ?? one
        try {
          await serve(stream, new Reader(stream))
          served.push(`${protocol} end`)
        } catch (error) {
          served.push(`${protocol} broken`)
          stream.abort(error)
        }
      }, { maxInboundStreams: AT_ONCE, maxOutboundStreams: AT_ONCE })
    }
    node.services.pubsub.addEventListener('gossipsub:message', event => heard.push(Buffer.from(event.detail.msg.data).toString('hex')))
    return { peer_id: node.peerId.toString(), address: node.getMultiaddrs()[0].decapsulate('/p2p').toString() }
  },
  async dial ({ address }) { target = multiaddr(address); await node.dial(target) },
  async use ({ address }) { target = multiaddr(address) },
  async ping () { return await node.services.ping.ping(target) >= 0 },
  async echo ({ count }) {
    for (let i = 0; i < count; i++) {
      const [stream, reader] = await open('/test/echo/1')
      await write(stream, pattern.subarray(0, 1024))
      await stream.close()
      await reader.exactly(1024)
      if ((await reader.some()).length > 0) throw new Error('too much')
    }
    return count
  },
  // All open at the same time; how many of these were refused, and are to be asked for again.
  async together ({ count }) {
    const sent = await Promise.allSettled(Array.from({ length: count }, async () => {
      const [stream, reader] = await open('/test/echo/1')
      await write(stream, pattern.subarray(0, 1024))
      return [stream, reader]
    }))
    const opened = sent.filter(one => one.status === 'fulfilled').map(one => one.value)
    const echoed = await Promise.allSettled(opened.map(async ([stream, reader]) => {
      const echo = await reader.exactly(1024)
      if (!echo.equals(pattern.subarray(0, 1024))) throw new Error('another echo')
      return stream
    }))
    for (const one of echoed) if (one.status === 'fulfilled') await one.value.close()
    return count - echoed.filter(one => one.status === 'fulfilled').length
  },
  async rpc ({ count }) {
    const [stream, reader] = await open('/aigrid/rpc/1')
    for (let i = 0; i < count; i++) {
      await write(stream, frame(REQUEST, pattern.subarray(0, 1024)))
      const [kind, body] = await readFrame(reader)
      if (kind !== DATA || !body.equals(pattern.subarray(0, 1024))) throw new Error(`kind ${kind}`)
      if ((await readFrame(reader))[0] !== END) throw new Error('no end')
    }
    await stream.close()
    return count
  },
  async push ({ bytes }) {
    const [stream, reader] = await open('/test/sink/1')
    await write(stream, lengthOf(bytes))
    await writePattern(stream, bytes)
    const digest = (await reader.exactly(32)).toString('hex')
    await stream.close()
    return digest
  },
  async pull ({ bytes }) {
    const [stream, reader] = await open('/test/source/1')
    await write(stream, lengthOf(bytes))
    const digest = await digestOf(reader, bytes)
    await stream.close()
    return digest
  },
  async abort ({ bytes }) {
    const [stream, reader] = await open('/test/source/1')
    await write(stream, lengthOf(bytes))
    await reader.exactly(1024)
    stream.abort(new Error('given up'))
  },
  async served () { return served.splice(0) },
  async subscribe ({ topic }) { node.services.pubsub.subscribe(topic) },
  async mesh ({ topic }) { return node.services.pubsub.getMeshPeers(topic).length },
  async publish ({ topic, data }) { await node.services.pubsub.publish(topic, Buffer.from(data, 'hex')) },
  async heard () { return heard.splice(0) },
  async provide ({ key }) {
    for await (const _ of node.services.dht.provide(CID.createV1(0x55, decode(Buffer.from(key, 'hex'))))) { /* until done */ }
  },
  async providers ({ key }) {
    const found = new Set()
    for await (const event of node.services.dht.findProviders(CID.createV1(0x55, decode(Buffer.from(key, 'hex'))))) {
      if (event.name === 'PROVIDER') for (const one of event.providers) found.add(one.id.toString())
    }
    return [...found]
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...more } = JSON.parse(line)
  let said
  try { said = { answer: await calls[call](more) ?? null } } catch (error) { said = { error: `${call}: ${error.stack}` } }
  process.stdout.write(JSON.stringify(said) + '\n')
}
