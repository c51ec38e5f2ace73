// A device by AMQP that does all that a device can, as the official SDK does it.
// Usage: node amqp.js tcp|ws CONNECTION-STRING CA-FILE [FOLDER]
// FOLDER holds certificate and key of a device that has them. It prints what it is
// told, and goes after the message whose ID is "last".
'use strict';
const fs = require('fs');
const path = require('path');
const { Client, Message } = require('azure-iot-device');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');

const [door, connectionString, ca, folder] = process.argv.slice(2);

async function main() {
  const client = Client.fromConnectionString(connectionString, door === 'ws' ? AmqpWs : Amqp);
  const options = { ca: fs.readFileSync(ca, 'utf8') };
  if (folder) {
    options.cert = fs.readFileSync(path.join(folder, 'chain.pem'), 'utf8');
    options.key = fs.readFileSync(path.join(folder, 'device.key'), 'utf8');
  }
  await client.setOptions(options);
  await client.open();

  const message = new Message(JSON.stringify({ temperature: 21.5 }));
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.messageId = 'm-1';
  message.properties.add('alarm', 'a&b/c=d e+f');
  await client.sendEvent(message);
  console.log('sent: acknowledged, hence on disk');
  await Promise.all([...Array(200).keys()].map((n) => client.sendEvent(new Message(`more ${n}`))));
  console.log('sent 200 more');

  client.onDeviceMethod('start', (request, response) => {
    console.log(`method ${request.methodName} ${JSON.stringify(request.payload)}`);
    response.send(210, { started: true }, (err) => { if (err) console.log(`answer: ${err.message}`); });
  });

  const twin = await client.getTwin();
  console.log(`twin desired ${JSON.stringify(twin.properties.desired)}`);
  twin.on('properties.desired', (delta) => console.log(`desired ${JSON.stringify(delta)}`));
  await new Promise((resolve, reject) => {
    twin.properties.reported.update({ firmware: '1.2.3' }, (err) => (err ? reject(err) : resolve()));
  });
  console.log('reported');
  await new Promise((resolve) => {
    twin.properties.reported.update({ $bad: 1 }, (err) => { console.log(`refused: ${err && err.name}`); resolve(); });
  });

  // One after the other: rhea 1 says complete of a message that is rejected in the same
  // turn as the one before it is completed.
  let last = Promise.resolve();
  client.on('message', (m) => { last = last.then(() => take(m)).then(() => new Promise((resolve) => setTimeout(resolve, 10))); });
  const take = async (m) => {
    const properties = {};
    for (let i = 0; i < m.properties.count(); i++) {
      const p = m.properties.getItem(i);
      properties[p.key] = p.value;
    }
    console.log(JSON.stringify({
      id: m.messageId, to: m.to, correlation: m.correlationId, type: m.contentType, encoding: m.contentEncoding,
      expiry: m.expiryTimeUtc && new Date(m.expiryTimeUtc).toISOString(), ack: m.ack, properties, body: m.getBytes().toString(),
    }));
    try {
      switch (m.getBytes().toString()) {
        case 'reject': await client.reject(m); break;
        case 'abandon': await client.abandon(m); break;
        default: await client.complete(m);
      }
    } catch (err) {
      console.log(`${err.name}: ${err.message}`);
    }
    if (m.messageId === 'last') {
      setTimeout(async () => { await client.close(); process.exit(0); }, 200);
    }
  };
  client.on('error', (err) => console.log(`error ${err.name}: ${err.message}`));
  console.log('listens');
}

main().catch((err) => {
  console.log(`${err.name}: ${err.message} ${(err.amqpError && err.amqpError.description) || ''}`);
  process.exit(1);
});
