// A member of a grid that is none of our code, told what to do in lines of JSON: see test_js_member.py.
// It joins by invitation, hears gossip, and asks the DHT by js-libp2p; it believes what
// `@digitalbazaar/vc` verifies, and knows of SPEC.md the messages that it says and hears.
import { createInterface } from 'node:readline'
import { decode as unpack, encode as pack } from '@msgpack/msgpack'
import { base58btc } from 'multiformats/bases/base58'
import { contexts, lists, verify } from './credentials.mjs'
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
const { sha256 } = await import('multiformats/hashes/sha2')

const JOIN = '/aigrid/join/1'
const RPC = '/aigrid/rpc/1'
const ED25519 = [0xed, 0x01]
const text = bytes => Buffer.from(bytes).toString('utf8')
const heard = []
let node, membership

const didOf = peer => 'did:key:' + base58btc.encode(Uint8Array.from([...ED25519, ...peer.publicKey.raw]))

// Messages of the join protocol: the length in four bytes, then msgpack.
async function writeMessage (stream, message) {
  const body = Buffer.from(pack(message))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(body.length)
  await write(stream, Buffer.concat([length, body]))
}

async function readMessage (reader) {
  const length = (await reader.exactly(4)).readUInt32BE(0)
  return unpack(await reader.exactly(length))
}

async function exchange (peer, message) {
  const stream = await node.dialProtocol(peer, JOIN)
  const reader = new Reader(stream)
  await writeMessage(stream, message)
  const answer = await readMessage(reader)
  await stream.close()
  if (answer.type === 'refused') throw new Error(`${answer.code}: ${answer.message}`)
  return answer
}

// What a record says, once it is verified as a credential of `issuer`.
async function believed (raw, issuer) {
  const credential = JSON.parse(text(raw))
  const why = await verify(credential, new Date(), true)
  if (why !== null) throw new Error(why)
  if (credential.issuer !== issuer) throw new Error(`issued by ${credential.issuer}`)
  return credential
}

function takeLists (raws) {
  for (const raw of raws ?? []) {
    const list = JSON.parse(text(raw))
    lists.set(list.credentialSubject.id, list)
  }
}

// A membership of this grid that is the peer's: SPEC.md 7.2.
async function checkMembership (raw, grid, did) {
  const { type, credentialSubject: said } = await believed(raw, grid)
  if (!type.includes('Membership') || said.grid !== grid || said.id !== did) throw new Error('no membership of it')
}

// Others present their membership when they connect: ours is the answer.
async function servePresent (stream, reader) {
  const message = await readMessage(reader)
  takeLists(message.lists)
  await checkMembership(message.membership, membership.grid, membership.hostDid)
  await writeMessage(stream, { type: 'welcome', membership: message.membership, ours: membership.raw })
  await stream.close()
}

// Of requests only the one that asks whether we live.
async function serveRpc (stream, reader) {
  const [kind, body] = await readFrame(reader)
  if (kind !== REQUEST || unpack(body).type !== 'ping') throw new Error('not served here')
  const pong = Buffer.from(pack({ type: 'pong', wall_ms: Date.now() }))
  await write(stream, Buffer.concat([frame(DATA, pong), frame(END, Buffer.alloc(0))]))
  await stream.close()
}

const calls = {
  async context ({ url, document }) { contexts.set(url, document) },
  async start () {
    node = await createLibp2p({
      addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      services: {
        identify: identify(),
        ping: ping(),
        pubsub: gossipsub({ allowPublishToZeroTopicPeers: true }),
        dht: kadDHT({ protocol: '/aigrid/kad/1.0.0', peerInfoMapper: passthroughMapper, clientMode: true })
      }
    })
    for (const [protocol, serve] of [[JOIN, servePresent], [RPC, serveRpc]]) {
      await node.handle(protocol, async one => {
        const stream = one.stream ?? one
        try { await serve(stream, new Reader(stream)) } catch (error) { stream.abort(error) }
      })
    }
    node.services.pubsub.addEventListener('gossipsub:message', ({ detail }) => {
      const message = unpack(detail.msg.data)
      if (detail.msg.topic.startsWith('records') && message.type === 'records') heard.push(...message.records.map(text))
    })
    return { peer_id: node.peerId.toString(), did: didOf(node.peerId), address: node.getMultiaddrs()[0].decapsulate('/p2p').toString() }
  },
  // SPEC.md 7.3, the joiner's part; the membership that it got, as text.
  async join ({ invitation }) {
    const raw = Buffer.from(invitation.replace(/\s/g, '').replace(/^aigrid-invitation-/, ''), 'base64url')
    const { issuer: grid } = JSON.parse(text(raw))
    const { type, credentialSubject: said } = await believed(raw, grid)
    if (!type.includes('Invitation') || said.grid !== grid || said.id !== didOf(node.peerId)) throw new Error('the invitation is not ours')
    const host = multiaddr(`${said.addresses[0]}/p2p/${said.peerId}`)
    const { remotePeer } = await node.dial(host)
    const answer = await exchange(host, { type: 'redeem', invitation: raw })
    takeLists(answer.lists)
    await checkMembership(answer.membership, grid, didOf(node.peerId))
    await checkMembership(answer.ours, grid, didOf(remotePeer))
    membership = { raw: answer.membership, grid, hostDid: didOf(remotePeer) }
    // Its DHT may have tried this connection while we were strangers, and takes it out for good then.
    await node.hangUp(remotePeer)
    await node.dial(host)
    return { grid, membership: text(answer.membership), host: text(answer.ours) }
  },
  async subscribe ({ topic }) { node.services.pubsub.subscribe(topic) },
  async mesh ({ topic }) { return node.services.pubsub.getMeshPeers(topic).length },
  async heard () { return heard.splice(0) },
  // For each credential null if it is believed, else why it is not.
  async verify ({ credentials }) {
    const answers = []
    for (const one of credentials) answers.push(await verify(JSON.parse(one), new Date(), true))
    return answers
  },
  async providers ({ key }) {
    const cid = CID.createV1(0x55, await sha256.digest(new TextEncoder().encode(key)))
    const found = new Set()
    for await (const event of node.services.dht.findProviders(cid)) {
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
