// node client.mjs ADDRESS PROTO_FOLDER: publishes, reads and follows, and prints what it saw as JSON.
import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'

const [address, protoFolder] = process.argv.slice(2)
const definition = protoLoader.loadSync('trivium/v1/messages.proto', {
  includeDirs: [protoFolder],
  arrays: true,
  longs: Number,
  oneofs: true
})
const { Messages } = grpc.loadPackageDefinition(definition).trivium.v1
const client = new Messages(address, grpc.credentials.createInsecure())

const call = (rpc, request) =>
  new Promise((resolve, reject) =>
    client[rpc](request, (error, answer) => (error ? reject(error) : resolve(answer)))
  )
const refused = (rpc, request) =>
  call(rpc, request).then(
    () => null,
    error => ({
      code: error.code,
      details: error.details,
      rich: error.metadata.get('grpc-status-details-bin').length
    })
  )

// Follows `topic` from the start, and calls `started` once the first answer is there.
const follow = (topic, last, started) =>
  new Promise((resolve, reject) => {
    const seen = []
    const stream = client.Follow({ topic, after: 0 })
    stream.once('data', started)
    stream.on('data', answer => {
      seen.push(...answer.messages.map(message => message.offset))
      if (answer.next >= last) {
        stream.cancel()
        resolve(seen)
      }
    })
    stream.on('error', error => (error.code === grpc.status.CANCELLED ? null : reject(error)))
  })

// Publishes `count` messages on one stream without waiting for answers.
const publishAll = (topic, count) =>
  new Promise((resolve, reject) => {
    const offsets = []
    const stream = client.PublishStream()
    stream.on('data', answer => offsets.push(...answer.messages.map(message => message.offset)))
    stream.on('error', reject)
    stream.on('end', () => resolve(offsets))
    for (let index = 0; index < count; index++) {
      stream.write({ topic, messages: [{ data: Buffer.from(`${index}`) }] })
    }
    stream.end()
  })

const message = { id: 'one', subject: 'né', data: Buffer.from('hello'), attributes: { origin: 'node' } }
const seen = {}
seen.greeting = (await call('GetData', {})).greeting
seen.published = (await call('Publish', { topic: 'node', messages: [message] })).messages
seen.repeated = (await call('Publish', { topic: 'node', messages: [message] })).messages
seen.refused = await refused('Publish', { topic: 'node', messages: [{ ...message, data: Buffer.from('other') }] })
let publishing
const following = follow('node', 101, () => (publishing = publishAll('node', 100)))
seen.followed = await following
seen.streamed = await publishing
const page = await call('ReadMessages', { topic: 'node', limit: 1 })
seen.read = page.messages.map(({ id, subject, data, attributes }) => ({ id, subject, data: `${data}`, attributes }))
seen.next = page.next
seen.topics = (await call('ListTopics', {})).topics
console.log(JSON.stringify(seen))
client.close()
