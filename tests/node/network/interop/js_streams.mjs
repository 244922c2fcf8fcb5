// Streams of js-libp2p read and written piece by piece, and the frames of our RPC on them.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}

export class Reader {
  constructor (stream) {
    this.waiting = Buffer.alloc(0)
    this.wake = Promise.withResolvers()
    const changed = () => { this.wake.resolve(); this.wake = Promise.withResolvers() }
    stream.addEventListener('message', event => {
      this.waiting = Buffer.concat([this.waiting, event.data.subarray()])
      changed()
    })
    stream.addEventListener('remoteCloseWrite', () => { this.end ??= 'end'; changed() })
    stream.addEventListener('close', event => { this.end ??= event.error == null ? 'end' : 'reset'; changed() })
  }

  // At least one byte; none at the end. Throws where the stream was reset.
  async some () {
    while (this.waiting.length === 0) {
      if (this.end === 'end') return this.waiting
      if (this.end === 'reset') throw new Error('reset')
      await this.wake.promise
    }
    const all = this.waiting
    this.waiting = Buffer.alloc(0)
    return all
  }

  async exactly (count) {
    const parts = []
    for (let left = count; left > 0;) {
      const part = await this.some()
      if (part.length === 0) throw new Error('ended early')
      parts.push(part.subarray(0, left))
      this.waiting = Buffer.from(part.subarray(left))
      left -= parts.at(-1).length
    }
    return Buffer.concat(parts)
  }
}

export async function write (stream, bytes) {
  if (!stream.send(bytes)) await stream.onDrain()
}

export const frame = (kind, body) => {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(body.length + 1)
  head[4] = kind
  return Buffer.concat([head, body])
}
export const readFrame = async reader => {
  const length = (await reader.exactly(4)).readUInt32BE(0)
  const all = await reader.exactly(length)
  return [all[0], all.subarray(1)]
}
export const [REQUEST, DATA, END] = [1, 3, 4]
