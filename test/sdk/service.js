// A back end that sends messages to a device by AMQP, and is told of their ends.
// Usage: node service.js amqp|ws CONNECTION-STRING DEVICE
'use strict';
const { Amqp, AmqpWs, Client } = require('azure-iothub');

const { Message, NoRetry } = require('azure-iot-common');

const [door, connectionString, device] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(connectionString, door === 'ws' ? AmqpWs : Amqp);
  await client.open();
  client.setRetryPolicy(new NoRetry()); // what is refused is to be seen
  const receiver = await new Promise((resolve, reject) => client.getFeedbackReceiver((err, r) => (err ? reject(err) : resolve(r))));
  let abandoned = false;
  const told = new Promise((resolve, reject) => {
    const outcomes = {};
    receiver.on('error', reject);
    receiver.on('message', async (batch) => {
      const records = JSON.parse(batch.data.toString());
      if (!abandoned) { // once: it comes again
        abandoned = true;
        console.log('abandons');
        await receiver.abandon(batch);
        return;
      }
      for (const r of records) outcomes[r.originalMessageId] = `${r.deviceId} ${r.statusCode}`;
      await receiver.complete(batch);
      if (Object.keys(outcomes).length === 2) resolve(outcomes);
    });
  });

  const send = async (to, id, body, properties) => {
    const m = new Message(body);
    m.messageId = id;
    m.ack = 'full';
    m.correlationId = 'c-1';
    m.contentType = 'application/json';
    m.expiryTimeUtc = Date.now() + 600000; // of a Date this SDK can make no timestamp
    for (const [name, value] of Object.entries(properties || {})) m.properties.add(name, value);
    try {
      await client.send(to, m);
      console.log(`${id} sent`);
    } catch (err) {
      console.log(`${id} ${err.name} ${err.amqpError ? err.amqpError.condition : ''}: ${err.amqpError ? err.amqpError.description : err.message}`);
    }
  };
  await send('nobody', 'm-0', 'hello');
  await send(device, 'm-big', Buffer.alloc(65 * 1024));
  await send(device, 'm-1', JSON.stringify({ t: 99 }), { level: '3', note: 'a&b=c' });
  await send(device, 'last', 'bye');
  console.log(JSON.stringify(await told));
  // What is refused ends the connection of this SDK, once it has the link.
  const gone = new Promise((resolve) => client.on('disconnect', (d) => resolve(d.reason)));
  client.getFileNotificationReceiver(() => {});
  const reason = await gone;
  console.log(`${reason.name} ${(reason.amqpError || reason).condition}`);
}

main().then(() => process.exit(0), (err) => {
  console.log(`${err.name}: ${err.message} ${err.amqpError ? err.amqpError.description : ''}`);
  process.exit(1);
});
